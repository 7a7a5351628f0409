"""The requests of a finished run as a workload: what was asked of it, at the times at which it was.

A run's requests.parquet says when its requests came and how long they were. What else belongs to them (what the
language side is told, what their passes cost) is not in it; ``requests.reading_of`` draws it again from the config.toml
beside it. A simulated and a measured run have the same columns, so each can be replayed as the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bufferlab.experiments.errors import UserError
from bufferlab.experiments.workloads.readers.base import Head, Reading, register
from bufferlab.experiments.workloads.readers.columns import Fields
from bufferlab.experiments.workloads.readers.tables import read_table
from bufferlab.experiments.workloads.readers.tabular import Rows, TableReader
from bufferlab.sim.workload import Option

MARKS = frozenset({"replication", "room", "arrival_s", "total_tokens"})
"""Columns by which such a table is known."""
REPLICATION = Option(default=0, least=0, most=9999, help="which replication of the run")


@register
class RecordedRun(TableReader):
    """A run's requests, in the order in which they came: its table has them in the order in which they ended."""

    title: ClassVar[str] = "a run's requests"
    options: ClassVar[Mapping[str, Option]] = {"replication": REPLICATION}
    finds_clients = False

    @classmethod
    def matches(cls, head: Head) -> bool:
        """By the columns of every such table."""
        return head.container == "parquet" and head.columns >= MARKS

    def read(self, path: Path, options: Mapping[str, Any]) -> Reading:
        """The requests of one replication. Raises UserError if there is none of its number."""
        reading = self.read_rows(read_table(path), options)
        number = int(options.get("replication", 0))
        note = f"replication {number} of a run, at the times at which they came"
        return Reading(reading.columns, len(reading.columns), (note,))

    def rows(self, fields: Fields, options: Mapping[str, Any]) -> Rows:
        """The requests of a table with at least one row."""
        found = {name: fields.named(name, name) for name in ("replication", "room", "arrival_s", "total_tokens")}
        columns = {name: column for name, column in found.items() if column is not None}
        number = options.get("replication", 0)
        numbers = fields.whole(columns["replication"], 0)
        keep = numbers == number
        if not keep.any():
            raise UserError(
                f"workload.options.replication is {number}, it must be one of those of the run, 0 to {numbers.max()}"
            )
        arrival_s = fields.positive(columns["arrival_s"])
        totals = fields.whole(columns["total_tokens"], 1)
        text, images = fields.named("text_tokens", "text_tokens"), fields.named("images", "images")
        # Those that came at once are told apart by their number.
        order = np.lexsort((fields.whole(columns["room"], 0, 2**62), arrival_s))
        return Rows(
            arrival_s=arrival_s[order],
            total_tokens=totals[order],
            text_tokens=(np.zeros_like(totals) if text is None else fields.whole(text, 0))[order],
            more={} if images is None else {"images": fields.whole(images, 0)[order]},
            keep=keep[order],
        )
