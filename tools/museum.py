"""Writes docs/museum.md, the historic faults and what finds them: `python tools/museum.py [--check | --show ID]`.

Every exhibit of tests/museum is searched twice: with its fault put back, up to the shortest schedule that breaks an
invariant, and as the core is, completely. The page holds counts and no times, so it is the same on every machine.
`--check` writes nothing and compares; `--show` prints the schedule of one exhibit instead.

Exit status: 0, 1 if docs/museum.md is out of date, 2 for bad input.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

os.environ["BUFFERLAB_COMPILED"] = "0"  # an exhibit puts its fault into a core, which no compiled one lets it do

from bufferlab.experiments.files import write_text
from bufferlab.protocol.checker.invariants import STATEMENTS
from bufferlab.protocol.checker.schedule import describe

ROOT = Path(__file__).resolve().parent.parent
EXHIBITION = ROOT / "tests" / "museum"
MODULES = ("status_faults", "buffer_faults", "topology_faults", "liveness_faults", "found_faults", "guard_faults")
PAGE = ROOT / "docs" / "museum.md"

SECTIONS = {
    "S": ("Status logic", "How far a transfer has come, and who says so."),
    "B": ("Buffers", "Who holds which blocks, and for how long."),
    "T": ("Ranks and topology", "Who serves whom, and what a group decides together."),
    "N": ("Liveness", "What happens when something fails, and whether anybody is told."),
    "F": (
        "Found here",
        "Faults of this project's own core. Each was there until the checker or the random fault runs found it.",
    ),
    "G": (
        "Guards",
        "Faults that no version had. Each breaks an invariant that no fault above breaks first, so that every one of "
        "the 27 invariants is seen to break.",
    ),
}

INTRODUCTION = """\
# The museum

The transfer protocol of the SGLang fork that this project studies went wrong in many ways. Each exhibit puts one of
those faults back into our core by a small patch and lets the checker (`bufferlab/protocol/checker`) search every order
of events of a small configuration. It stops at the first violated invariant, with a schedule that no other is shorter
than. The core without the patch then passes the same search, all of it, without a finding. A letter behind a number
marks another form of the same fault.

Columns: *breaks*, the invariant that the shortest counterexample breaks, and its *moves*; *searched*, the states seen
until then; *core*, the states of the core's complete search. For B1, B2 and B2b the discipline itself is the fault,
and the core is searched with `window`. The exhibits are in `tests/museum/*_faults.py`.

```sh
python tools/museum.py --show B10     # the counterexample of one exhibit, move by move
python tools/museum.py                # write this page; --check compares
```

"""


def load_exhibits() -> Any:
    """The module `exhibit`, whose list holds all exhibits."""
    if str(EXHIBITION) not in sys.path:
        sys.path.insert(0, str(EXHIBITION))
    for name in MODULES:
        importlib.import_module(name)
    return importlib.import_module("exhibit")


def place(id_: str) -> tuple[int, int, str]:
    """Where an id stands: by section, then by number, then by what follows it."""
    found = re.fullmatch(r"([A-Z])(\d+)(\w*)", id_)
    if found is None or found[1] not in SECTIONS:
        raise ValueError(f"exhibit {id_!r} belongs to no section")
    return list(SECTIONS).index(found[1]), int(found[2]), found[3]


def page() -> str:
    """The whole page."""
    module = load_exhibits()
    parts = [INTRODUCTION]
    exhibits = sorted(module.EXHIBITS, key=lambda exhibit: place(exhibit.id))
    for letter, (title, what) in SECTIONS.items():
        rows = [row(exhibit) for exhibit in exhibits if exhibit.id.startswith(letter)]
        parts.append(f"## {title}\n\n{what}\n\n")
        parts.append("| id | what goes wrong | how it is ruled out | breaks | moves | searched | core |\n")
        parts.append("|---|---|---|---|--:|--:|--:|\n")
        parts.append("".join(rows) + "\n")
    parts.append(
        "## Not shown\n\nThese rows of the hazard catalogue cannot be shown here.\n\n| id | reason |\n|---|---|\n"
    )
    parts += [f"| {id_} | {module.EXCLUDED[id_]} |\n" for id_ in sorted(module.EXCLUDED, key=place)]
    return "".join(parts)


def row(exhibit: Any) -> str:
    """The line of one exhibit."""
    fault, core = exhibit.explore_fault(), exhibit.explore_core()
    if not fault.findings or core.findings or not core.complete:
        raise RuntimeError(f"exhibit {exhibit.id} does not show what it should; run pytest tests/museum")
    found = fault.findings[0]
    name = STATEMENTS[found.invariant][0]
    cells = [
        exhibit.id,
        f"**{exhibit.title}.** {exhibit.wrong}",
        exhibit.ruled_out,
        f"{found.invariant}, {name}",
        f"{len(found.moves)}",
        f"{fault.states}",
        f"{core.states}",
    ]
    return f"| {' | '.join(cells)} |\n"


def show(exhibit: Any) -> str:
    """One exhibit with its schedule."""
    with pytest.MonkeyPatch.context() as patch:
        exhibit.variant(patch)
        told = describe(exhibit.explore_fault().findings[0], exhibit.bound)
    return f"{exhibit.id}, {exhibit.title}\n{exhibit.wrong}\nRuled out: {exhibit.ruled_out}\n\n{told}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Writes docs/museum.md from the exhibits in tests/museum.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="write nothing; exit 1 if the page is out of date")
    what.add_argument("--show", metavar="ID", help="print one exhibit and its schedule")
    given = parser.parse_args(arguments)
    if given.show is not None:
        exhibits = {exhibit.id: exhibit for exhibit in load_exhibits().EXHIBITS}
        if given.show not in exhibits:
            known = ", ".join(sorted(exhibits, key=place))
            print(f"museum: there is no exhibit {given.show}; known: {known}", file=sys.stderr)
            return 2
        print(show(exhibits[given.show]))
        return 0
    text = page()
    if not given.check:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        write_text(PAGE, text)
        return 0
    if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        print(f"museum: {PAGE.name} is out of date; run python tools/museum.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
