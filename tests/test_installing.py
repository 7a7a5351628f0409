"""What is missing is installed by a line that works from a checkout and elsewhere: bufferlab is on no index."""

import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest

from bufferlab.experiments.installing import REAL, REQUIREMENTS, install_command
from tools import compile_core

ROOT = Path(__file__).resolve().parents[1]
EXTRAS: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def texts() -> list[Path]:
    folders = ("bufferlab", "docs", "notebooks", "tools")
    found = [path for name in folders for path in (ROOT / name).rglob("*") if path.suffix in {".py", ".md", ".ipynb"}]
    return [*found, *ROOT.glob("*.md"), ROOT / "Makefile"]


def test_no_message_and_no_page_installs_bufferlab_from_an_index() -> None:
    wrong = re.compile(r"(pip|pipx|uv|tool) install[^\n`]*[ '\"]bufferlab\b")
    assert [str(path) for path in texts() if wrong.search(path.read_text(encoding="utf-8"))] == []


def test_every_extra_that_a_page_names_is_one() -> None:
    named = {
        name
        for path in texts()
        for found in re.findall(r"install[^\n`]* '?\.\[([\w, -]+)\]", path.read_text(encoding="utf-8"))
        for name in found.split(",")
    }
    assert {"tune", "cluster"} <= named <= EXTRAS.keys()


def test_what_is_installed_is_what_the_extras_have() -> None:
    asked = {one for extra in EXTRAS.values() for one in extra}
    assert set(REQUIREMENTS.values()) <= asked
    assert set(compile_core.NEEDED.values()) == set(EXTRAS["compile"])
    assert {REQUIREMENTS[name] for name in ("SALib", "optuna")} == set(EXTRAS["tune"])
    assert [REQUIREMENTS["distributed"]] == EXTRAS["cluster"]
    assert {REQUIREMENTS[name] for name in REAL} == set(EXTRAS["real-cpu"])


@pytest.mark.parametrize("names", [("SALib",), REAL])
def test_the_line_is_for_the_python_at_hand_and_a_shell_takes_it(names: tuple[str, ...]) -> None:
    words = shlex.split(install_command(*names))
    assert words == [sys.executable, "-m", "pip", "install", *(REQUIREMENTS[name] for name in names)]
