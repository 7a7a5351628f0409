"""The notebooks run in a fresh kernel, hold no logic of their own, and agree with their paired scripts."""

import ast
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from tools.run_notebooks import execute

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted((ROOT / "notebooks").glob("*.py"))
NEEDS = "needs the notebooks extra: pip install '.[notebooks]' in a checkout"

SHORT: dict[str, dict[str, Any]] = {
    "01_quickstart": {},
    "02_size_your_traffic": {"REQUESTS": 400, "REPLICATIONS": 6, "SIZES": [1024, 4096]},
    "03_resumes_and_deadlocks": {"REQUESTS": 60, "REPLICATIONS": 2},
    "04_calibrate_and_validate": {"REQUESTS": 40},
    "05_your_own": {"REQUESTS": 40, "REPLICATIONS": 2},
    "06_what_if": {"REQUESTS": 60},
}
"""What the first cell of each notebook sets in the tests, so that it takes seconds."""
PICTURES = {
    "01_quickstart": 4,
    "02_size_your_traffic": 2,
    "03_resumes_and_deadlocks": 6,
    "04_calibrate_and_validate": 3,
    "05_your_own": 2,
    "06_what_if": 4,
}
OWN_CODE = {"05_your_own"}
"""Those that show how to write code of one's own."""
MEASURE = {"04_calibrate_and_validate"}
"""Those that measure, and go on with a sentence where the machine is too busy for a profile of it."""
WRITE = {
    "02_size_your_traffic": "tuning.report(",
    "04_calibrate_and_validate": "calibrate([",
    "05_your_own": "write_text(",
}
"""Those that leave files, which must not keep them from being run again; and what the last cell that writes one has."""
MOST_BYTES = 1_500_000

LOGIC = (
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


def names(path: Path) -> str:
    return path.stem


def test_there_are_notebooks() -> None:
    stems = {path.stem for path in SCRIPTS}
    assert stems == {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} == set(SHORT) == set(PICTURES)
    listed = (ROOT / "docs" / "notebooks.md").read_text(encoding="utf-8")
    assert {stem for stem in stems if f"(../notebooks/{stem}.ipynb)" in listed} == stems


@pytest.mark.parametrize("script", SCRIPTS, ids=names)
def test_a_notebook_only_calls(script: Path) -> None:
    tree = ast.parse(script.read_text(encoding="utf-8"))
    # Where code of one's own is the matter, that stands in functions and classes; the rest only calls.
    whole = [node for node in tree.body if script.stem in OWN_CODE and isinstance(node, ast.FunctionDef | ast.ClassDef)]
    found = [node for one in tree.body if one not in whole for node in ast.walk(one) if isinstance(node, LOGIC)]
    refusals = [node for node in found if isinstance(node, ast.Try)] if script.stem in MEASURE else []
    assert len(refusals) <= 1
    found = [node for node in found if node not in refusals]
    assert [f"line {getattr(node, 'lineno', '?')}: {type(node).__name__}" for node in found] == []


@pytest.mark.parametrize("script", SCRIPTS, ids=names)
def test_the_pair_is_in_step_and_has_its_outputs(script: Path) -> None:
    jupytext = pytest.importorskip("jupytext", reason=NEEDS)
    stored_file = script.with_suffix(".ipynb")
    paired, stored = jupytext.read(script), jupytext.read(stored_file)
    again = f"run: python tools/run_notebooks.py {script.stem}"
    assert [(cell.cell_type, cell.source) for cell in stored.cells] == [
        (cell.cell_type, cell.source) for cell in paired.cells
    ], again
    assert all(cell.execution_count for cell in stored.cells if cell.cell_type == "code"), again
    check_outputs(stored, script.stem)
    text = stored_file.read_text(encoding="utf-8")
    assert len(text) < MOST_BYTES
    assert not re.search(r"/(?:home|root|work|Users)/", text), "an output names a folder of the machine it was made on"


@pytest.mark.parametrize("script", SCRIPTS, ids=names)
def test_a_notebook_runs_in_a_fresh_kernel_and_again(
    script: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module in ("jupytext", "nbclient", "ipykernel"):
        pytest.importorskip(module, reason=NEEDS)
    if script.stem in MEASURE and not importlib.util.find_spec("torch"):
        pytest.skip("needs torch to measure")
    monkeypatch.setenv("PYTHONPATH", "")  # restored after the call
    before = sorted(path for path in (ROOT / "notebooks").rglob("*") if "checkpoint" not in str(path))
    check_outputs(execute(script, SHORT[script.stem], limit_s=100, folder=tmp_path), script.stem)
    assert sorted(path for path in (ROOT / "notebooks").rglob("*") if "checkpoint" not in str(path)) == before
    # What it leaves stands where git does not look, and does not keep it from being run again.
    left = [path.name for path in tmp_path.iterdir()]
    assert left == (["runs"] if script.stem in WRITE else [])
    assert "/notebooks/runs/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    if script.stem in WRITE:
        execute(script, SHORT[script.stem], limit_s=100, folder=tmp_path, until=WRITE[script.stem])


def test_a_bar_in_a_notebook_leaves_a_line_that_is_true() -> None:
    """A page without widgets keeps what was shown last, which else is the bar as it began."""
    for module in ("nbclient", "ipykernel", "ipywidgets"):
        pytest.importorskip(module, reason=NEEDS)
    import nbclient
    import nbformat

    code = """
import time
from bufferlab.experiments.progress import bar
with bar("sweep", 1200, "runs", shown=True) as made:
    for _ in range(3):
        time.sleep(0.3)
        made.add(400)
with bar("soon over", 1, "runs", shown=True) as made:
    made.add(1)
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbclient.NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(ROOT)}}).execute()
    (shown,) = notebook.cells[0].outputs
    assert re.fullmatch(r"sweep: 1,200 of 1,200 runs in 00:0\d", shown["data"]["text/plain"])
    assert list(shown["data"]) == ["text/plain"]


def check_outputs(notebook: Any, stem: str) -> None:
    """Pictures are there, and nothing that should not be."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    said = [output for output in outputs if output.output_type in {"error", "stream"}]
    assert not [
        one for one in said if stem not in MEASURE or "UserWarning: this host is busy" not in one.get("text", "")
    ]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == PICTURES[stem]
