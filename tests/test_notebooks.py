"""The notebooks run in a fresh kernel, hold no logic of their own, and agree with their paired scripts."""

import ast
import os
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted((ROOT / "notebooks").glob("*.py"))
NEEDS = "needs the notebooks extra: pip install 'bufferlab[notebooks]'"


def names(path: Path) -> str:
    return path.stem


def test_there_are_notebooks() -> None:
    assert SCRIPTS
    assert {path.stem for path in SCRIPTS} == {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}


@pytest.mark.parametrize("script", SCRIPTS, ids=names)
def test_a_notebook_only_calls(script: Path) -> None:
    logic = (
        ast.FunctionDef,
        ast.ClassDef,
        ast.Lambda,
        ast.For,
        ast.While,
        ast.If,
        ast.Try,
        ast.With,
        ast.comprehension,
    )
    found = [node for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))) if isinstance(node, logic)]
    assert [f"line {getattr(node, 'lineno', '?')}: {type(node).__name__}" for node in found] == []


@pytest.mark.parametrize("script", SCRIPTS, ids=names)
def test_the_pair_is_in_step_and_without_outputs(script: Path) -> None:
    jupytext = pytest.importorskip("jupytext", reason=NEEDS)
    paired, stored = jupytext.read(script), jupytext.read(script.with_suffix(".ipynb"))
    assert [(cell.cell_type, cell.source) for cell in stored.cells] == [
        (cell.cell_type, cell.source) for cell in paired.cells
    ], f"run: jupytext --sync notebooks/{script.name}"
    # Figures would be different bytes on every machine; the test below makes them anew, so they are known to come out.
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


@pytest.mark.parametrize("place", [".", "notebooks"])
@pytest.mark.parametrize("script", SCRIPTS, ids=names)
def test_a_notebook_runs_in_a_fresh_kernel(script: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat", reason=NEEDS)
    nbclient = pytest.importorskip("nbclient", reason=NEEDS)
    pytest.importorskip("ipykernel", reason=NEEDS)
    before = sorted(path for path in (ROOT / "notebooks").rglob("*") if "checkpoint" not in str(path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=60, kernel_name="python3", resources={"metadata": {"path": str(ROOT / place)}}
    ).execute()
    outputs: list[Any] = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type in {"error", "stream"}]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4
    assert sorted(path for path in (ROOT / "notebooks").rglob("*") if "checkpoint" not in str(path)) == before
