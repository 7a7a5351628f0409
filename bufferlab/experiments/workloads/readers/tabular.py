"""What all formats that are tables have in common: a row is a request."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bufferlab.experiments.errors import UserError
from bufferlab.experiments.units import format_duration
from bufferlab.experiments.workloads.readers.base import TABLE_OPTIONS, Reader, Reading
from bufferlab.experiments.workloads.readers.cells import Table
from bufferlab.experiments.workloads.readers.columns import Fields, options_for_columns
from bufferlab.experiments.workloads.readers.tables import read_table
from bufferlab.experiments.workloads.readers.ticks import spread_ticks
from bufferlab.sim.workload import Columns

if TYPE_CHECKING:
    from bufferlab.experiments.workloads.readers.cells import Column
    from bufferlab.sim.workload import Option


LEAST_FAR_OFF, RARE, FAR_OFF = 20, 1000, 10
"""Of so many rows at least, one in so many may be longer than the others by so many times without being told."""


@dataclass
class Rows:
    """The fields of the requests of a table, row by row. A field that the table does not have is None or absent."""

    arrival_s: np.ndarray
    total_tokens: np.ndarray
    text_tokens: np.ndarray
    more: dict[str, np.ndarray] = field(default_factory=dict)
    """Further fields of ``Columns`` by name."""
    client: list[str] | None = None
    notes: list[str] = field(default_factory=list)
    keep: np.ndarray | None = None
    """Which rows are requests; None if all are."""


class TableReader(Reader):
    """A format whose files are tables."""

    options: ClassVar[Mapping[str, Option]] = TABLE_OPTIONS
    finds_clients: ClassVar[bool] = True
    """Whether clients are taken from any column whose name says that it has them, which no published trace has."""

    @abstractmethod
    def rows(self, fields: Fields, options: Mapping[str, Any]) -> Rows:
        """The requests of a table with at least one row."""

    def read(self, path: Path, options: Mapping[str, Any]) -> Reading:
        """Its requests. Raises UserError naming the file, its column and line, and what is wrong."""
        return self.read_rows(read_table(path), options)

    def read_rows(self, table: Table, options: Mapping[str, Any]) -> Reading:
        """The requests of a table that was read already."""
        fields = Fields(table, options_for_columns(options))
        if not table.rows and table.columns:
            self.check_columns(fields)
        if not table.rows:
            raise UserError(f"workload.file is {str(table.path)!r}, it must have at least one row")
        rows = self.rows(fields, options)
        fields.check()
        if rows.client is None and self.finds_clients:
            # No published trace has them under these names, but a table of the same form may.
            client = fields.find("client")
            rows.client = None if client is None else client.texts()
        columns = _in_order(rows)
        if not len(columns):
            raise UserError(f"workload.file is {str(table.path)!r}, which has no row with tokens")
        return Reading(columns, table.rows, tuple(rows.notes + fields.notes() + _far_off(rows, table)))

    def check_columns(self, fields: Fields) -> None:
        """Raise UserError for a table without rows that lacks columns, too."""


def spread(rows: Rows, options: Mapping[str, Any], default: str = "spread") -> None:
    """Spread requests that share a coarse time stamp, unless the user or, failing that, ``default`` keeps them."""
    chosen = options.get("ticks", default)
    if "ticks" in options and chosen == "kept":
        return
    times = rows.arrival_s if rows.keep is None else rows.arrival_s[rows.keep]
    made = spread_ticks(times)
    if made is times:
        return
    stamps, sizes = np.unique(times, return_counts=True)
    apart = f"{format_duration(float(np.median(np.diff(stamps))))} apart"
    if chosen == "kept":
        rows.notes.append(
            f"{int(sizes[sizes > 1].sum())} requests share time stamps, {apart}, and come at once; "
            f'workload.options.ticks = "spread" spreads them evenly until the next'
        )
        return
    if rows.keep is None:
        rows.arrival_s = made
    else:
        rows.arrival_s = rows.arrival_s.copy()
        rows.arrival_s[rows.keep] = made
    rows.notes.append(
        f"requests that share a time stamp ({apart}) spread evenly until the next; "
        f'workload.options.ticks = "kept" leaves them'
    )


def tokens_or_nothing(fields: Fields, column: Column) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of a public trace, and which rows have any: a few rows of such traces have none."""
    column.check_whole("a whole number of tokens")
    numbers, bad = column.numbers()
    keep = ~(bad | (numbers == 0))
    texts = [column.told(int(row)) for row in np.flatnonzero(bad)[:1]]
    if texts and texts[0] != "empty" and texts[0].lower() != "nan":
        raise column.refuse(int(bad.argmax()), "a whole number of tokens")
    return fields.whole(column, 1, keep=keep), keep


def left_out(rows: Rows) -> None:
    """Say how many rows have no tokens and are no requests."""
    if rows.keep is not None and not rows.keep.all():
        count = int((~rows.keep).sum())
        rows.notes.append(f"{count} {'row' if count == 1 else 'rows'} without tokens left out")


def _far_off(rows: Rows, table: Table) -> list[str]:
    """Say which rows are so long that they may be slips: one of them can keep every setting from serving everything."""
    totals = rows.total_tokens if rows.keep is None else np.where(rows.keep, rows.total_tokens, 0)
    count = int((totals > 0).sum())
    if count < LEAST_FAR_OFF:
        return []
    others = int(np.sort(totals)[-1 - max(1, count // RARE)])
    far = np.flatnonzero(totals > FAR_OFF * others)
    if not len(far):
        return []
    first = int(far[0])
    where = table.columns[0].where(first).rpartition(", ")[2]
    more = {0: "", 1: "; so has 1 more row"}.get(len(far) - 1, f"; so have {len(far) - 1} more rows")
    return [
        f"{where} has {int(totals[first]):,} tokens, more than {FAR_OFF} times as many as the other rows have at most "
        f"({others:,}){more}; if that is a slip, mend it in the file"
    ]


def _in_order(rows: Rows) -> Columns:
    keep = np.ones(len(rows.arrival_s), dtype=bool) if rows.keep is None else rows.keep
    places = np.flatnonzero(keep)
    order = places[np.argsort(rows.arrival_s[places], kind="stable")]
    names = rows.client if rows.client is not None else [""] * len(keep)
    clients = tuple(sorted({names[place] for place in order.tolist()}))
    number = {name: place for place, name in enumerate(clients)}
    nothing, ones = np.zeros(len(keep), dtype=np.int64), np.ones(len(keep))
    more = {
        name: rows.more.get(name, ones if name.endswith("_factor") else nothing)[order]
        for name in ("images", "image_tokens_hint", "image_squares", "encode_factor", "prefill_factor")
    }
    return Columns(
        arrival_s=rows.arrival_s[order].astype(float),
        total_tokens=rows.total_tokens[order],
        text_tokens=rows.text_tokens[order],
        client=np.fromiter((number[names[place]] for place in order.tolist()), dtype=np.int64, count=len(order)),
        clients=clients,
        **more,
    )
