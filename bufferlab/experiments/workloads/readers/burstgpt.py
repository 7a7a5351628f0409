"""BurstGPT: two months and more of ChatGPT and GPT-4 requests of a campus (github.com/HPMLL/BurstGPT, CC-BY 4.0).

Timestamp counts seconds from the first day of the collection; newer files have a Session ID and the Elapsed time. A
request's length is Request tokens; Total tokens has the answer in it. Text only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from bufferlab.experiments.workloads.readers.base import TABLE_OPTIONS, TICKS, Head, register
from bufferlab.experiments.workloads.readers.columns import Fields
from bufferlab.experiments.workloads.readers.names import IMAGE_COLUMNS
from bufferlab.experiments.workloads.readers.tabular import Rows, TableReader, left_out, spread, tokens_or_nothing
from bufferlab.experiments.workloads.readers.times import Documented, read_times
from bufferlab.sim.workload import Option

DOCUMENTED = Documented("s", "BurstGPT's times are", slowest_rps=0.002, fastest_rps=1000)


@register
class BurstGpt(TableReader):
    """Timestamp, Model, Request tokens, Response tokens, Total tokens, Log Type."""

    title: ClassVar[str] = "a BurstGPT trace"
    options: ClassVar[Mapping[str, Option]] = {**TABLE_OPTIONS, "ticks": TICKS}

    @classmethod
    def matches(cls, head: Head) -> bool:
        """By its own way to call the tokens of a request and of its answer."""
        return head.has("timestamp", "request_tokens", "response_tokens") and not head.columns & IMAGE_COLUMNS

    def rows(self, fields: Fields, options: Mapping[str, Any]) -> Rows:
        """The requests of a table with at least one row."""
        time, tokens = fields.named("timestamp", "arrival_s"), fields.named("request_tokens", "total_tokens")
        assert time is not None
        assert tokens is not None
        fields.ignore("total_tokens", "response_tokens", "session_id", "elapsed_time", "model", "log_type")
        times = read_times(time, chosen=options.get("time_unit", "auto"), documented=DOCUMENTED)
        totals, keep = tokens_or_nothing(fields, tokens)
        rows = Rows(times.seconds, totals, totals.copy(), notes=times.notes, keep=keep)
        spread(rows, options)
        left_out(rows)
        return rows
