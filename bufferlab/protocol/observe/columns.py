"""What the figures of a run need of its requests: some numbers of each, in columns."""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Callable
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from bufferlab.protocol.observe.progress import NEVER_S
from bufferlab.protocol.status import Status

_ROW = np.dtype(
    [
        ("room", "<i8"),
        ("arrival_s", "<f8"),
        ("encoded_s", "<f8"),
        ("delivered_s", "<f8"),
        ("prefilled_s", "<f8"),
        ("chunks", "<i8"),
        ("tokens", "<i8"),
        ("timed_out", "?"),
    ]
)
_PACKED = "<qddddqq?"
"""The same, as ``struct`` has it."""


@final
class RequestColumns:
    """The requests of a run in the order in which they came to an end, and the unfinished ones after them.

    Of each its ``room``, ``arrival_s``, ``encoded_s``, ``delivered_s``, ``prefilled_s``, ``chunks``, ``tokens`` and
    whether it ``timed_out`` are a column. Times are in seconds from the run's start, NaN for what did not happen, and
    delivered_s and prefilled_s also for a request whose embedding was never known to be ready. ``statuses``: how many
    came to each; ``reasons``: how often each reason for a failure came.
    """

    def __init__(self) -> None:
        self.reasons: Counter[str] = Counter()
        self._statuses: dict[Status, int] = {}
        self._rows = bytearray()
        self._pack: Callable[[int, float, float, float, float, int, int, bool], bytes] = struct.Struct(_PACKED).pack

    def __len__(self) -> int:
        return len(self._rows) // _ROW.itemsize

    @property
    def statuses(self) -> Counter[str]:
        """How many requests came to each status, by its name."""
        return Counter({status.name: count for status, count in self._statuses.items()})

    def add(
        self,
        room: int,
        arrival_s: float,
        encoded_s: float,
        delivered_s: float,
        prefilled_s: float,
        chunks: int,
        tokens: int,
        status: Status,
        failure: str,
    ) -> None:
        """Take one finished or unfinished request. Times are NaN, and the failure empty, where there is none."""
        if math.isnan(delivered_s) or math.isnan(encoded_s):
            delivered_s = prefilled_s = NEVER_S
        timed_out = bool(failure) and "timed out" in failure
        self._rows += self._pack(room, arrival_s, encoded_s, delivered_s, prefilled_s, chunks, tokens, timed_out)
        self._statuses[status] = self._statuses.get(status, 0) + 1
        if failure:
            self.reasons[failure] += 1

    def column(self, name: str) -> NDArray[Any]:
        """One column. No request can be added as long as somebody holds it."""
        return np.frombuffer(self._rows, dtype=_ROW)[name]
