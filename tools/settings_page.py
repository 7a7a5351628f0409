"""Writes the tables of docs/settings.md from the sections of a configuration.

    python tools/settings_page.py [--check]

What stands between the marks of the page is replaced; with --check nothing is written.

Exit status: 0, 1 with --check if the page is out of date, 2 if a mark is missing.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from bufferlab.experiments.config.reference import REQUIRED, UNSET, Setting, Table, tables

PAGE = Path(__file__).resolve().parent.parent / "docs" / "settings.md"
BEGIN, END = "<!-- settings: begin -->\n", "<!-- settings: end -->"


def content() -> str:
    """All tables, each below the heading that a configuration file has for it."""
    return "\n\n".join(map(_part, tables()))


def _part(table: Table) -> str:
    lines = [f"## `{table.heading}`", "", linked(" ".join(table.what.split())), ""]
    lines += ["| key | default | unit | allowed | runs | meaning |", "|---|---|---|---|---|---|"]
    lines += map(_row, table.settings)
    return "\n".join(lines)


def _row(one: Setting) -> str:
    default = one.default if one.default in (REQUIRED, UNSET) or "(" in one.default else f"`{one.default}`"
    cells = [f"`{one.key}`", default, one.unit or "–", one.allowed, one.world, linked(one.meaning)]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def linked(text: str) -> str:
    """The text with code in single marks, and pages of docs/ as links."""
    parts = re.sub(r"``(.*?)``", r"`\1`", text).split("`")  # every second one is code
    parts[::2] = [re.sub(r"\[\[?[a-z_.]+\]\]?", r"`\g<0>`", part) for part in parts[::2]]
    return re.sub(r"docs/([a-z-]+\.md)", r"[\1](\1)", "`".join(parts))


def renewed(page: str) -> str:
    """The page with the tables as they are now. Raises ValueError if a mark is not there once."""
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"{PAGE.name} must have both marks of the settings once")
    head, rest = page.split(BEGIN)
    return f"{head}{BEGIN}\n{content()}\n\n{END}{rest.split(END)[1]}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, then write or compare the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if the page is out of date")
    options = parser.parse_args(arguments)
    page = PAGE.read_text(encoding="utf-8")
    try:
        wanted = renewed(page)
    except ValueError as error:
        print(f"settings_page: {error}", file=sys.stderr)
        return 2
    if options.check:
        if wanted != page:
            print(f"settings_page: {PAGE.name} is out of date; run python tools/settings_page.py", file=sys.stderr)
        return int(wanted != page)
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
