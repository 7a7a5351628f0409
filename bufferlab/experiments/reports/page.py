"""What a page is made of, before it is HTML: parts, sections, tables, figures, and cells that carry their numbers."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bufferlab.experiments.reports.readings import count, interval_text, kind_of, shown, value_text
from bufferlab.experiments.stats.intervals import Estimate

Scalar = float | int | str | bool | None


@dataclass(frozen=True)
class Cell:
    """What one place of a table shows, and the number itself.

    ``path``: where that number stands in the JSON file of its source; an estimate has bounds as well, and ``interval``
    says whether they are shown under it. ``bar``: a share that is drawn behind the text.
    """

    text: str
    value: Scalar = None
    low: float | None = None
    high: float | None = None
    estimate: bool = False
    interval: str = ""
    path: str = ""
    bar: float | None = None
    badge: str = ""
    """A word with the look of a verdict: good, warn, bad or plain."""

    @property
    def data(self) -> str:
        """The value as the page carries it."""
        return exact(self.value)


def exact(value: Scalar) -> str:
    """A number to its last bit, a text as it is, nothing for None."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return repr(value) if isinstance(value, float) else str(value)


def text(value: Scalar, **more: Any) -> Cell:
    """A cell with a word."""
    return Cell("" if value is None else str(value), value, **more)


def whole(number: int | None, path: str = "", **more: Any) -> Cell:
    """A cell with a count."""
    return Cell("–" if number is None else count(number), number, path=path, **more)


def plain(value: float | None, kind: str = "number", path: str = "", *, signed: bool = False, **more: Any) -> Cell:
    """A cell with a number that has no interval."""
    return Cell(shown(value, kind, signed=signed), value, path=path, **more)


def estimated(estimate: Estimate | Mapping[str, Any], path: str = "", kind: str = "", **more: Any) -> Cell:
    """A cell with a number and its interval. ``more``: signed, and fields of the cell."""
    kind, signed = kind or kind_of(path), bool(more.pop("signed", False))
    exact_value = estimate["low"] == estimate["high"]
    return Cell(
        value_text(estimate, kind, signed=signed),
        estimate["value"],
        estimate["low"],
        estimate["high"],
        estimate=True,
        interval="" if exact_value else interval_text(estimate, kind, signed=signed),
        path=path,
        **more,
    )


def setting_text(value: Any) -> str:
    """The value of a setting as the page writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def setting(value: Any) -> Cell:
    """A cell with the value of a setting."""
    known = value if isinstance(value, int | float | str | bool) or value is None else str(value)
    return Cell("–" if value is None else setting_text(value), known)


@dataclass(frozen=True)
class Column:
    """The head of a column. ``unit``: of the numbers in the CSV file; ``name``: its heading there."""

    head: str
    name: str = ""
    hint: str = ""
    numeric: bool = False
    words: bool = False
    """Whether its cells are sentences, which need some width."""
    hidden: bool = False
    """Whether only the CSV file has it."""

    @property
    def called(self) -> str:
        """Its heading in a CSV file."""
        return self.name or self.head


@dataclass(frozen=True)
class Row:
    """A row of a table; ``mark`` is a word that sets it apart: best."""

    cells: Sequence[Cell]
    mark: str = ""


@dataclass(frozen=True)
class Table:
    """A table that sorts and is downloaded as ``file``."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    file: str
    note: str = ""
    key: int = 1
    """How many of the first columns name a row; the first stays where it is while the others scroll."""
    stacked: bool = True
    """Whether intervals stand under their values, else in a column of their own."""

    def csv(self) -> str:
        """All of it with every digit; an estimate has three columns."""
        wide = [any(row.cells[place].estimate for row in self.rows) for place in range(len(self.columns))]
        heads = [
            name
            for column, three in zip(self.columns, wide, strict=True)
            for name in ([column.called, f"{column.called}_low", f"{column.called}_high"] if three else [column.called])
        ]
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(heads)
        for row in self.rows:
            out: list[str] = []
            for cell, three in zip(row.cells, wide, strict=True):
                out += [exact(cell.value), exact(cell.low), exact(cell.high)] if three else [_csv(cell)]
            writer.writerow(out)
        return buffer.getvalue()


def _csv(cell: Cell) -> str:
    """What a CSV file says of a cell. A text that a spreadsheet would run as a formula is kept from it."""
    shown_text = exact(cell.value) if cell.value is not None else cell.text.replace("–", "")
    if isinstance(cell.value, str) and shown_text[:1] in {"=", "+", "-", "@"}:
        return f"'{shown_text}"
    return shown_text


@dataclass(frozen=True)
class Panel:
    """One picture: an SVG of its own, with what is said to those who cannot see it."""

    title: str
    description: str
    svg: str
    file: str
    wide: bool = False


@dataclass(frozen=True)
class Figure:
    """Pictures side by side and what they show."""

    caption: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Fact:
    """A word and what it stands for: ``value`` is shown as text, ``code`` as a program would take it."""

    name: str
    value: str
    code: bool = False


@dataclass(frozen=True)
class Facts:
    """A list of facts."""

    facts: Sequence[Fact]


@dataclass(frozen=True)
class Commands:
    """Commands to type, each with what it does."""

    lines: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Download:
    """A file that lies in the page."""

    file: str
    label: str
    content: str
    kind: str = "text/plain"


@dataclass(frozen=True)
class Prose:
    """Paragraphs."""

    paragraphs: Sequence[str]


@dataclass(frozen=True)
class Notice:
    """Something that must not be overlooked. ``tone``: bad, warn or plain."""

    text: str
    tone: str = "warn"

    @property
    def word(self) -> str:
        """What it begins with, for those who do not see its colour."""
        return {"bad": "Do not rely on it", "warn": "Take care", "plain": "Note"}[self.tone]


@dataclass(frozen=True)
class KeyFigure:
    """One of the few numbers that stand first."""

    label: str
    cell: Cell


@dataclass(frozen=True)
class Beside:
    """A picture with a table at its side, where there is room."""

    figure: Figure
    table: Table


Block = Prose | Table | Figure | Beside | Facts | Commands | Download


@dataclass(frozen=True)
class Section:
    """A heading and what follows it.

    ``front``: whether it belongs on the first sheet, beside the answer; the others then begin on another one in print.
    """

    title: str
    blocks: Sequence[Block]
    front: bool = False


@dataclass(frozen=True)
class Part:
    """All there is to say about one directory, or about several beside each other: the answer first."""

    title: str
    kicker: str
    """What it is, above the title."""
    verdict: tuple[str, str] | None
    """A word or two and its tone, beside what it is."""
    answer: Sequence[str]
    notices: Sequence[Notice] = ()
    figures: Sequence[KeyFigure] = ()
    sections: Sequence[Section] = ()
    file: str = ""
    """The JSON file that ``path`` of a cell leads into."""
    lead: int = 1
    """Which paragraph of the answer is larger than the others."""

    @property
    def verdict_words(self) -> str:
        """The verdict without its tone."""
        return "" if self.verdict is None else self.verdict[0]


@dataclass(frozen=True)
class Page:
    """The whole."""

    title: str
    parts: Sequence[Part] = field(default_factory=tuple)

    def blocks(self) -> Iterable[Block]:
        """Every block, in order; those that stand beside each other one after the other."""
        for part in self.parts:
            for section in part.sections:
                for block in section.blocks:
                    yield from (block.figure, block.table) if isinstance(block, Beside) else (block,)
