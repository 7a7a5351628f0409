"""Executes the notebooks and keeps their outputs: `python tools/run_notebooks.py [NAME…]`, all of them unless named.

A notebook is written as notebooks/NAME.py; this makes notebooks/NAME.ipynb of it, in a folder of its own, so that what
a notebook writes is gone with that. Look at the pictures before you commit them.

Exit status: 0, 1 if a cell fails.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "notebooks"
LIMIT_S = 600


def execute(
    script: Path,
    constants: Mapping[str, Any] | None = None,
    *,
    limit_s: int = LIMIT_S,
    folder: Path | None = None,
    until: str = "",
) -> Any:
    """The executed notebook of a script.

    ``constants``: values by name that take the place of those that its first cell sets, to make it short. ``folder``:
    where it runs and writes; one that goes with it unless given. ``until``: the last cell to execute, by what it has.
    """
    import jupytext
    import nbclient

    notebook = jupytext.read(script)
    notebook.metadata.get("jupytext", {}).pop("text_representation", None)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    cell = code[0]
    if until:
        last = next(one for one in code if until in one.source)
        del notebook.cells[notebook.cells.index(last) + 1 :]
    asked = cell.source
    cell.source = "\n".join([asked, *(f"{name} = {value!r}" for name, value in (constants or {}).items())])
    with tempfile.TemporaryDirectory() as own:
        # What ranks of another user's, or workers, import comes from here, whatever is installed.
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        client = nbclient.NotebookClient(
            notebook, timeout=limit_s, kernel_name="python3", resources={"metadata": {"path": str(folder or own)}}
        )
        client.execute()
    cell.source = asked
    for one in notebook.cells:
        one.metadata.pop("execution", None)  # when a cell ran is news in every commit
    return notebook


def main() -> int:
    """Execute what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="such as 03 or 03_resumes_and_deadlocks")
    names = tuple(parser.parse_args().names) or ("",)
    import jupytext
    import nbclient

    failed = 0
    for script in sorted(FOLDER.glob("*.py")):
        if not script.stem.startswith(names):
            continue
        began_s = time.monotonic()
        try:
            made = execute(script)
        except nbclient.exceptions.CellExecutionError as error:
            print(f"{script.stem}: {error}", file=sys.stderr)
            failed += 1
            continue
        jupytext.write(made, script.with_suffix(".ipynb"))
        print(f"{script.stem}: {time.monotonic() - began_s:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
