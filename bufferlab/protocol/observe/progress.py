"""What is known of a request while its records come, and the row that is made of it in the end."""

from __future__ import annotations

import math
from typing import Final, final

import msgspec

from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.status import Status

BOOTSTRAPPING: Final = Status.Bootstrapping
SUCCESS: Final = Status.Success
FAILED: Final = Status.Failed
NAMES: Final = {status: status.name for status in Status}  # Enum looks for a name in Python


class RequestRow(msgspec.Struct, frozen=True):
    """One row of requests.parquet without its replication. Seconds from the run's start; None: never happened.

    ``encoded_s``: the last encode rank had the embedding. ``first_chunk_s``: the last encode rank knew that all its
    destinations hold chunk 0. ``delivered_s``, ``released_s``: the last language rank delivered it, freed its blocks.
    ``prefilled_s``: its prefill was over and its first token there; ``delivered_s`` where prefill takes no time.
    """

    room: int
    arrival_s: float
    text_tokens: int
    images: int
    total_tokens: int
    first_allocation_tokens: int | None
    chunks: int
    encoded_s: float | None
    first_chunk_s: float | None
    delivered_s: float | None
    released_s: float | None
    status: str
    failure: str
    prefilled_s: float | None = None


NEVER_S: Final = math.nan
"""Stands for the time of something that did not happen, which is before or after no other."""


@final
class OnRank:
    """What is known of one request on one rank. ``waits_since_s``: from when it waits for blocks. NaN: it does not;
    of ``chunk_started_s``: it has written nothing yet."""

    def __init__(self) -> None:
        self.status: Status | None = None
        self.received = 0
        self.blocks = 0
        self.capacity = 0  # in tokens, of these blocks
        self.useful = 0  # the tokens of that which have a use
        self.waits_since_s = NEVER_S
        self.chunk_started_s = NEVER_S


@final
class Progress:
    """What is known of one request while it runs; ``encode`` and ``language`` have its ranks of each side in order.

    Times are NaN until it happens. ``first_allocation`` is in tokens, -1 before it.
    """

    def __init__(self, request: Request, encode_tp: int, language_tp: int, prefilling: int) -> None:
        self.request = request
        self.room = request.room
        self.arrival_s = request.arrival_s
        self.total_tokens = request.total_tokens
        self.encode = [OnRank() for _ in range(encode_tp)]
        self.language = [OnRank() for _ in range(language_tp)]
        self.first_allocation = -1
        self.chunks = 0
        self.came_s = self.arrival_s
        self.encode_started_s = 0.0
        self.encoded_s = NEVER_S
        self.first_chunk_s = NEVER_S
        self.language_done_s = NEVER_S  # when the last language rank said that it was delivered
        self.prefill_done_s = NEVER_S
        self.released_s = NEVER_S
        self.failure = ""
        self.left = encode_tp + language_tp  # ranks that have not released the room yet
        self.prefilling = prefilling  # those on which its prefill is not over
        self.prefills = prefilling > 0

    def status(self) -> Status:
        """Its status on the language side, that before any where it has none yet."""
        lowest: Status | None = None
        for rank in self.language:
            status = rank.status
            if status is FAILED:
                return FAILED
            if status is not None and (lowest is None or status < lowest):
                lowest = status
        return BOOTSTRAPPING if lowest is None else lowest

    @property
    def failed_for(self) -> str:
        """Why it failed; empty if it did not."""
        return self.failure if self.status() is FAILED else ""

    def delivered_s(self, status: Status) -> float:
        """When it was delivered, if it is one of those that were, by its final status."""
        return self.language_done_s if status is SUCCESS else NEVER_S

    def prefilled_s(self, status: Status) -> float:
        """When its prefill was over, or when it was delivered where prefill takes no time."""
        if not self.prefills:
            return self.delivered_s(status)
        return NEVER_S if self.prefilling else self.prefill_done_s

    def row(self) -> RequestRow:
        """The row of a request of which nothing more is recorded."""
        request, status = self.request, self.status()
        return RequestRow(
            room=request.room,
            arrival_s=request.arrival_s,
            text_tokens=request.text_tokens,
            images=request.images,
            total_tokens=request.total_tokens,
            first_allocation_tokens=self.first_allocation if self.first_allocation >= 0 else None,
            chunks=self.chunks,
            encoded_s=_or_none(self.encoded_s),
            first_chunk_s=_or_none(self.first_chunk_s),
            delivered_s=_or_none(self.delivered_s(status)),
            released_s=_or_none(self.released_s),
            status=NAMES[status],
            failure=self.failed_for,
            prefilled_s=_or_none(self.prefilled_s(status)),
        )


def _or_none(time_s: float) -> float | None:
    return None if math.isnan(time_s) else time_s
