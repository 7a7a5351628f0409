"""Qwen-Bailian's anonymised usage traces (github.com/alibaba-edu/qwen-bailian-usagetraces-anon, Apache-2.0).

timestamp counts seconds from the trace's start; type is text, search, image or file; chat_id, parent_chat_id and turn
tell conversations. How many images a request of type image has, and how much of it is text, is not published.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from bufferlab.experiments.workloads.readers.base import Head, register
from bufferlab.experiments.workloads.readers.columns import Fields
from bufferlab.experiments.workloads.readers.names import IMAGE_COLUMNS
from bufferlab.experiments.workloads.readers.tabular import Rows, TableReader
from bufferlab.experiments.workloads.readers.times import Documented, read_times

OWN = frozenset({"chat_id", "parent_chat_id", "turn", "type"})
"""Columns that tell these traces from Mooncake's."""
DOCUMENTED = Documented("s", "Bailian's times are", slowest_rps=0.01, fastest_rps=1000)


@register
class BailianTrace(TableReader):
    """chat_id, parent_chat_id, timestamp, input_length, output_length, type, turn, hash_ids."""

    title: ClassVar[str] = "a Qwen-Bailian trace"

    @classmethod
    def matches(cls, head: Head) -> bool:
        """By what only these traces have beside Mooncake's columns."""
        own = head.has("timestamp", "input_length") and bool(head.columns & OWN)
        return own and not head.columns & IMAGE_COLUMNS

    def rows(self, fields: Fields, options: Mapping[str, Any]) -> Rows:
        """The requests of a table with at least one row."""
        time, tokens = fields.named("timestamp", "arrival_s"), fields.named("input_length", "total_tokens")
        kinds = fields.named("type", "images")
        assert time is not None
        assert tokens is not None
        fields.ignore("chat_id", "parent_chat_id", "turn", "output_length", "hash_ids")
        times = read_times(time, chosen=options.get("time_unit", "auto"), documented=DOCUMENTED)
        totals = fields.whole(tokens, 1)
        told = [""] * len(totals) if kinds is None else kinds.texts()
        shows = np.fromiter((kind.lower() == "image" for kind in told), dtype=bool, count=len(totals))
        rows = Rows(
            arrival_s=times.seconds,
            total_tokens=totals,
            text_tokens=np.where(shows, 0, totals),
            more={"images": shows.astype(np.int64)},
            notes=times.notes,
        )
        if shows.any():
            rows.notes.append(
                f"{int(shows.sum())} requests of type image: how many images and how much text they have is not "
                f"published, taken as one image's tokens"
            )
        return rows
