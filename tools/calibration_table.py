"""Writes the table of docs/calibration.md: `python tools/calibration_table.py FOLDER [--check]`.

FOLDER holds the published rows (``mori_io.csv``, ``mori_pr97_batch.csv``, ``mooncake_efa.csv``). Each of their tables
is fitted on its even rows; what stands between the two markers of the page is its error on the odd ones. No chance is
involved in it. `--check` writes nothing and compares.

Exit status: 0, 1 if the page is out of date, 2 for bad input.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bufferlab.experiments.calibration.command import calibrate
from bufferlab.experiments.calibration.report import errors_table
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.figures.pages import MarkedPage

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "calibration.md"
BEGIN, END = "<!-- held-out errors: begin -->\n", "<!-- held-out errors: end -->"
FILES = ("mori_io.csv", "mori_pr97_batch.csv", "mooncake_efa.csv")


def table(folder: Path) -> str:
    """The table in Markdown. Raises UserError for rows that cannot be read."""
    result = calibrate([folder / name for name in FILES], holdout="odd")
    heading, *lines = errors_table(result["tables"])
    shown = [heading, ("---", "---", *["--:"] * (len(heading) - 2)), *lines]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in shown)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or compare the page; the exit status."""
    parser = argparse.ArgumentParser(description="Writes the table of docs/calibration.md.")
    parser.add_argument("folder", type=Path, help="where the published rows are")
    parser.add_argument("--check", action="store_true", help="write nothing and compare")
    chosen = parser.parse_args(arguments)
    page = MarkedPage(PAGE, BEGIN, END)
    try:
        page.check()
        made = table(chosen.folder)
        if page.with_table(made) == PAGE.read_text(encoding="utf-8"):
            return 0
        if not chosen.check:
            page.put(made)
            return 0
    except UserError as error:
        print(f"calibration_table: {error}", file=sys.stderr)
        return 2
    print(f"calibration_table: {PAGE.name} is out of date, run python tools/calibration_table.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
