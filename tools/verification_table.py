"""Writes the table of docs/verification.md: `python tools/verification_table.py [--check | --only ID]`.

Every closed form of tests/sim/theory is held against the simulator; the table between the two markers of the page says
what came out. Seeds are fixed, so it is the same on every machine, and the tests compare their results with it.
`--check` writes nothing and compares; `--only` prints the rows whose id begins so. All of it takes about two minutes.

Exit status: 0, 1 if the page is out of date or a closed form is missed, 2 for bad input.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bufferlab.experiments.errors import UserError
from bufferlab.experiments.figures.pages import MarkedPage

ROOT = Path(__file__).resolve().parent.parent
THEORY = ROOT / "tests" / "sim" / "theory"
PAGE = ROOT / "docs" / "verification.md"
BEGIN, END = "<!-- closed forms: begin -->\n", "<!-- closed forms: end -->"

SECTIONS = {
    "direct": ("Simulated directly", "The mean over independent replications of the whole simulator."),
    "by recursion": (
        "By way of a recursion",
        "Each request of a shorter run of the simulator leaves when the textbook's recursion says, to a part in 1e9. "
        "The value is that of the recursion over many more customers.",
    ),
    "exact": ("Exact", "No chance is involved; both values are equal to a part in 1e9."),
}
HEAD = (
    "| closed form | formula | source | what plays its part | load | theory | simulated | requests | recursion |\n"
    "|---|---|---|---|---|--:|--:|--:|--:|\n"
)


def load_cases() -> Any:
    """The module `queue_cases`."""
    if str(THEORY) not in sys.path:
        sys.path.append(str(THEORY))
    return importlib.import_module("queue_cases")


def table(cases: Any, begins: str = "") -> tuple[str, list[str]]:
    """The sections of the table, and what is wrong with them, one sentence each."""
    parts, wrong = [], []
    for kind, (title, what) in SECTIONS.items():
        chosen = [case for case in cases.CASES if case.kind == kind and case.id.startswith(begins)]
        if not chosen:
            continue
        parts.append(f"\n### {title}\n\n{what}\n\n{HEAD}")
        for case in chosen:
            result = cases.result_of(case.id)
            parts.append(cases.row(case, result) + "\n")
            wrong += [f"{case.id}: {sentence}" for sentence in cases.shortcomings(case, result)]
    return "".join(parts) + "\n", wrong


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Writes the table of docs/verification.md.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="write nothing; exit 1 if the page is out of date")
    what.add_argument("--only", metavar="ID", help="print the rows whose id begins so")
    given = parser.parse_args(arguments)
    page = MarkedPage(PAGE, BEGIN, END)
    try:
        if given.only is None:
            page.check()
    except UserError as error:
        print(f"verification_table: {error}", file=sys.stderr)
        return 2
    cases = load_cases()
    if given.only is not None and not any(case.id.startswith(given.only) for case in cases.CASES):
        known = ", ".join(case.id for case in cases.CASES)
        print(f"verification_table: no id begins with {given.only!r}; known: {known}", file=sys.stderr)
        return 2
    text, wrong = table(cases, given.only or "")
    for sentence in wrong:
        print(f"verification_table: {sentence}", file=sys.stderr)
    if given.only is not None:
        print(text)
        return 1 if wrong else 0
    if given.check:
        old = page.with_table(text) != PAGE.read_text(encoding="utf-8")
        if old:
            print(f"verification_table: {PAGE.name} is out of date; run python {Path(__file__).name}", file=sys.stderr)
        return 1 if old or wrong else 0
    if not wrong:
        page.put(text)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
