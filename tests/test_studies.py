"""Every study runs from its own files, at a small scale, and its pages say what its runs came to."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "studies"


@pytest.fixture(scope="module")
def tool() -> Any:
    spec = importlib.util.spec_from_file_location("study", ROOT / "tools" / "study.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    path = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = path
    return module


NAMES = sorted(path.parent.name for path in FOLDER.glob("*/settings.toml"))


def test_every_folder_is_a_study(tool: Any) -> None:
    assert sorted(tool.STUDIES) == NAMES


LARGE = "best-default"
"""Has 192 settings, which take seven seconds at any scale."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name == LARGE else []) for name in NAMES]
)
def test_a_study_runs_from_its_files_and_writes_its_page(
    tool: Any, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    scale = ["--requests", "60", "--replications", "2", "--jobs", "1"]
    assert tool.main([name, *scale, "--runs", str(tmp_path / "runs"), "--out", str(out)]) == 0
    answer = capsys.readouterr().out.strip().removeprefix(f"{name}: ")
    page, index = ((out / place).read_text(encoding="utf-8") for place in (f"{name}/README.md", "README.md"))
    assert answer in page
    assert answer in index
    assert (out / name / "figure.png").stat().st_size > 5000
    table, kept = (pd.read_csv(folder / name / "table.csv") for folder in (out, FOLDER))
    assert list(table) == list(kept)
    assert len(table) == len(kept)


@pytest.mark.parametrize("name", NAMES)
def test_the_page_of_all_quotes_the_page_of_each(name: str) -> None:
    def between(path: Path, mark: str) -> str:
        text = path.read_text(encoding="utf-8")
        return text.partition(f"<!-- {mark}: begin -->\n")[2].partition(f"\n<!-- {mark}: end -->")[0]

    answer = between(FOLDER / name / "README.md", "answer")
    assert "±" in answer
    assert between(FOLDER / "README.md", name) == answer


def test_other_runs_never_replace_those_of_the_docs(tool: Any, capsys: pytest.CaptureFixture[str]) -> None:
    before = (FOLDER / "README.md").read_bytes()
    assert tool.main(["announce", "--requests", "60"]) == 2
    assert "it must be another folder" in capsys.readouterr().err
    assert tool.main(["anounce"]) == 2
    assert "'anounce'" in capsys.readouterr().err
    assert (FOLDER / "README.md").read_bytes() == before


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=40), st.integers(1, 10_000))
def test_the_pinball_loss_is_least_at_its_quantile(tool: Any, lengths: list[int], guess: int) -> None:
    from tools.studies.regime_change import SHARE, pinball

    best = float(np.quantile(lengths, SHARE, method="inverted_cdf"))
    at_best, at_guess = (pinball(np.asarray(lengths) - one).sum() for one in (best, guess))
    assert at_best <= at_guess + 1e-6
