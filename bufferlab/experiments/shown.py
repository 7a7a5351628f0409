"""Text as a terminal shows it best: tables with colours and no wider than the window; a file gets it as it is.

The text of a command is made once, plain. Only where somebody looks at it are its tables found again by the rule below
their heading, broken into blocks that fit, and a few words coloured. ``NO_COLOR`` and ``TERM=dumb`` keep it colourless,
``FORCE_COLOR`` colours it wherever it goes.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import TextIO

RULE = re.compile(r"-+(  -+)+")
GAP = "  "
LEAST_CELL = 8
STYLES = (
    (re.compile(r"\b(OVER CAPACITY|DEADLOCK\b|INVARIANTS VIOLATED|FAULT:|NO\b)"), "bold red"),
    (re.compile(r"^(over capacity|not served)\b", re.MULTILINE), "bold red"),
    (re.compile(r"\b\d+ not delivered\b|\bunfinished(?=  )"), "yellow"),
    (re.compile(r"^within capacity\b", re.MULTILINE), "green"),
    (re.compile(r"\brecommended$", re.MULTILINE), "bold green"),
)
"""Words that are worth seeing first. What they say is in the words: a colour adds nothing that is not there."""


def for_terminal(text: str, stream: TextIO | None = None) -> str:
    """The text as it is to be printed on a stream, stdout unless another one is given."""
    where = sys.stdout if stream is None else stream
    watched = _is_terminal(where)
    if watched:
        text = fitted(text, shutil.get_terminal_size().columns)
    return coloured(text) if wants_colour(where) else text


def wants_colour(stream: TextIO) -> bool:
    """Whether colours are wanted on this stream."""
    if os.environ.get("NO_COLOR"):
        return False
    forced = os.environ.get("FORCE_COLOR")
    if forced is not None:
        return forced not in {"", "0", "false"}
    return _is_terminal(stream) and os.environ.get("TERM") != "dumb"


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except (AttributeError, ValueError):  # no file at all, or a closed one
        return False


# --- tables ---


def fitted(text: str, width: int) -> str:
    """The same text, in which every table that is wider is in blocks beside its first column, one below the other."""
    lines = text.split("\n")
    made: list[str] = []
    at = 0
    while at < len(lines):
        if at + 1 < len(lines) and RULE.fullmatch(lines[at + 1]):
            end = at + 2 + _rows(lines[at + 2 :], lines[at + 1])
            if len(lines[at + 1]) > width:
                made += _blocks(lines[at:end], width)
                at = end
                continue
        made.append(lines[at])
        at += 1
    return "\n".join(made)


def _rows(lines: Sequence[str], rule: str) -> int:
    """How many of these lines are rows of the table with this rule: nothing stands between their columns."""
    gaps = [one.start() for one in re.finditer(GAP, rule)]
    for number, line in enumerate(lines):
        if not line or len(line) > len(rule) or any(line[gap : gap + 2].strip() for gap in gaps):
            return number
    return len(lines)


def _blocks(lines: Sequence[str], width: int) -> Iterator[str]:
    columns = [(one.start(), one.end()) for one in re.finditer("-+", lines[1])]
    cells = [[line[start:end].strip() for start, end in columns] for line in lines]
    widths = [max(len(row[column]) for row in (cells[0], *cells[2:])) for column in range(len(columns))]
    widths[0] = min(widths[0], max(width // 2, LEAST_CELL))
    room = max(width - widths[0] - len(GAP), LEAST_CELL)
    widths[1:] = [min(one, room) for one in widths[1:]]
    block: list[int] = []
    for column in range(1, len(columns)):
        if block and sum(widths[one] + len(GAP) for one in [*block, column]) > room + len(GAP):
            yield from _block(cells, block, widths)
            yield ""
            block = []
        block.append(column)
    yield from _block(cells, block, widths)


def _block(cells: Sequence[Sequence[str]], block: Sequence[int], widths: Sequence[int]) -> Iterator[str]:
    for number, row in enumerate(cells):
        if number == 1:
            yield GAP.join("-" * widths[column] for column in (0, *block))
            continue
        shown = [_cut(row[column], widths[column]) for column in (0, *block)]
        first, *others = shown
        right = (cell.rjust(widths[column]) for cell, column in zip(others, block, strict=True))
        yield GAP.join([first.ljust(widths[0]), *right]).rstrip()


def _cut(cell: str, width: int) -> str:
    return cell if len(cell) <= width else f"{cell[: width - 1]}…"


# --- colours ---


def coloured(text: str) -> str:
    """The same text with the codes of a terminal in it."""
    # Forty milliseconds, which only somebody at a terminal waits for.
    from rich.console import Console
    from rich.text import Text

    shown = Text(text)
    at = 0
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if RULE.fullmatch(line):
            shown.stylize("dim", at, at + len(line))
            if number:
                shown.stylize("bold", at - 1 - len(lines[number - 1]), at - 1)
        at += len(line) + 1
    for pattern, style in STYLES:
        for found in pattern.finditer(text):
            shown.stylize(style, *found.span())
    console = Console(
        file=io.StringIO(), force_terminal=True, color_system="standard", no_color=False, legacy_windows=False,
        width=max(map(len, lines)) + 1,
    )  # fmt: skip
    with console.capture() as capture:
        console.print(shown, end="", soft_wrap=True, highlight=False)
    return capture.get()
