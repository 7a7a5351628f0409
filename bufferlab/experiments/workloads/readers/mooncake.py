"""Mooncake's traces: conversation, toolagent, synthetic (github.com/kvcache-ai/Mooncake, FAST25-release, Apache-2.0).

timestamp counts whole milliseconds from the trace's start, in ticks of three seconds but for the synthetic one;
input_length is the prompt; hash_ids name its blocks of 512 tokens. Text only. The published ones have a few requests a
second, so a file of this form with another unit shows by its rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from bufferlab.experiments.workloads.readers.bailian import OWN
from bufferlab.experiments.workloads.readers.base import TABLE_OPTIONS, TICKS, Head, register
from bufferlab.experiments.workloads.readers.columns import Fields
from bufferlab.experiments.workloads.readers.names import IMAGE_COLUMNS
from bufferlab.experiments.workloads.readers.tabular import Rows, TableReader, spread
from bufferlab.experiments.workloads.readers.times import Documented, read_times
from bufferlab.sim.workload import Option

DOCUMENTED = Documented("ms", "Mooncake's times are", whole=True, slowest_rps=0.01, fastest_rps=200)


@register
class MooncakeTrace(TableReader):
    """timestamp, input_length, output_length, hash_ids."""

    title: ClassVar[str] = "a Mooncake trace"
    options: ClassVar[Mapping[str, Option]] = {**TABLE_OPTIONS, "ticks": TICKS}

    @classmethod
    def matches(cls, head: Head) -> bool:
        """By its own way to call a prompt's length, without what only Bailian's traces and own tables have."""
        return head.has("timestamp", "input_length") and not head.columns & (OWN | IMAGE_COLUMNS)

    def rows(self, fields: Fields, options: Mapping[str, Any]) -> Rows:
        """The requests of a table with at least one row."""
        time, tokens = fields.named("timestamp", "arrival_s"), fields.named("input_length", "total_tokens")
        assert time is not None
        assert tokens is not None
        fields.ignore("output_length", "hash_ids")
        times = read_times(time, chosen=options.get("time_unit", "auto"), documented=DOCUMENTED)
        totals = fields.whole(tokens, 1)
        rows = Rows(times.seconds, totals, totals.copy(), notes=times.notes)
        spread(rows, options)
        return rows
