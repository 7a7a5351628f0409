"""What the figures of a run need of its requests, in columns: some numbers of each."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from typing import final

from protocol.observe.progress import NEVER_S
from protocol.status import Status


@final
class RequestColumns:
    """The requests of a run in the order in which they came to an end, and the unfinished ones after them.

    Times are in seconds from the run's start, NaN for what did not happen, and ``delivered_s`` and ``prefilled_s`` also
    for a request whose embedding was never known to be ready. ``statuses``: how many came to each; ``reasons``: how
    often each reason for a failure came.
    """

    def __init__(self) -> None:
        self.room = array("q")
        self.arrival_s = array("d")
        self.encoded_s = array("d")
        self.delivered_s = array("d")
        self.prefilled_s = array("d")
        self.chunks = array("q")
        self.tokens = array("q")
        self.timed_out = array("b")
        self.reasons: Counter[str] = Counter()
        self._statuses: dict[Status, int] = {}

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
        delivered = not math.isnan(delivered_s) and not math.isnan(encoded_s)
        self.room.append(room)
        self.arrival_s.append(arrival_s)
        self.encoded_s.append(encoded_s)
        self.delivered_s.append(delivered_s if delivered else NEVER_S)
        self.prefilled_s.append(prefilled_s if delivered else NEVER_S)
        self.chunks.append(chunks)
        self.tokens.append(tokens)
        self.timed_out.append("timed out" in failure)
        self._statuses[status] = self._statuses.get(status, 0) + 1
        if failure:
            self.reasons[failure] += 1
