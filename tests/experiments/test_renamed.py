"""Settings by their old names: they work, one line says the new one, and both at once are refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from experiments.config.renamed import OLD_NAMES, RenamedSetting
from experiments.config.schema import parse
from experiments.errors import UserError
from experiments.workloads.loading import load


@pytest.mark.parametrize(("section", "old"), OLD_NAMES)
def test_an_old_name_is_the_new_one(section: str, old: str, tmp_path: Path) -> None:
    new = OLD_NAMES[section, old]
    expected = load("quickstart", [f"{section}.{new}=7ms"])
    assert getattr(getattr(expected, section), new) == 0.007
    with pytest.warns(RenamedSetting, match=rf"^{section}\.{old} is called {section}\.{new} now") as told:
        assert load("quickstart", [f"{section}.{old}=7ms"]) == expected
    assert len(told) == 1
    assert old not in type(getattr(expected, section)).model_fields
    file = tmp_path / "quickstart.toml"
    file.write_text(f'[workload]\npreset = "mixed"\nrate_rps = 1\n[{section}]\n{old} = "7ms"\n')
    with pytest.warns(RenamedSetting):
        assert getattr(getattr(load(str(file)), section), new) == 0.007


def test_both_names_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"^encode has poll_interval_s and turn_s, its old name; it must have only poll_"
    ):
        parse({"encode": {"turn_s": 0.001, "poll_interval_s": 0.001}})


def test_a_command_says_it_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "experiments", "sim", "seed-small", "--set", "language.turn_s=2ms", "--out", "run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=_environment())
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stderr.splitlines() if "turn_s" in line]
    assert told == [
        "bufferlab: language.turn_s is called language.poll_interval_s now; the old name works until the next release"
    ]
    assert "poll_interval_s = 0.002" in (tmp_path / "run" / "config.toml").read_text()


def _environment() -> dict[str, str]:
    import os

    return os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
