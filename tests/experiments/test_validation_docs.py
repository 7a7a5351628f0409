"""docs/validation.md: its stages and tolerances are those of the code, and its examples run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from bufferlab.experiments.validation import TOLERANCES
from bufferlab.experiments.validation.stages import STAGES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "validation.md").read_text(encoding="utf-8")


def test_the_stages_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \|$", PAGE, re.MULTILINE)
    assert rows == [(name, begin, end) for name, (begin, end) in STAGES.items()]


def test_the_tolerances_are_those_of_the_code() -> None:
    told = ", ".join(f"{100 * tolerance:g} % for {name}" for name, tolerance in TOLERANCES.items())
    assert told.replace(", 3 %", " and 3 %") in PAGE


def test_the_examples_run(bufferlab: Any, capfd: pytest.CaptureFixture[str]) -> None:
    (commands,) = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    for line in commands.splitlines():
        ended = bufferlab(*shlex.split(line.removeprefix("$ bufferlab ")))
        assert ended.status == 0, ended.err
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(snippet, "docs/validation.md", "exec"), {})
    assert "no misses" in capfd.readouterr().out
    assert Path("runs/validation/validation.json").is_file()


def test_the_page_is_linked_and_its_links_lead_somewhere() -> None:
    assert "(docs/validation.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([\w.-]+\.md)\)", PAGE)
    assert links
    assert all((ROOT / "docs" / link).is_file() for link in links)
