"""What is known of a request while its records come, and the row that is made of it in the end."""

from __future__ import annotations

import msgspec

from protocol.emulation.scenario import Request
from protocol.status import Status, group_status


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


class OnRank:
    """What is known of one request on one rank. ``waits_since_s``: from when it waits for blocks, if it does."""

    __slots__ = ("blocks", "capacity", "chunk_started_s", "received", "status", "useful", "waits_since_s")

    def __init__(self) -> None:
        self.status: Status | None = None
        self.received = 0
        self.blocks = 0
        self.capacity = 0  # in tokens, of these blocks
        self.useful = 0  # the tokens of that which have a use
        self.waits_since_s: float | None = None
        self.chunk_started_s: float | None = None


class Progress:
    """What is known of one request while it runs; ``encode`` and ``language`` have its ranks of each side in order."""

    __slots__ = (
        "came_s",
        "chunks",
        "delivered_s",
        "encode",
        "encode_started_s",
        "encoded_s",
        "failure",
        "first_allocation",
        "first_chunk_s",
        "language",
        "left",
        "prefilled_s",
        "prefilling",
        "prefills",
        "released_s",
        "request",
    )  # fmt: skip

    def __init__(self, request: Request, encode_tp: int, language_tp: int, prefilling: int) -> None:
        self.request = request
        self.encode = [OnRank() for _ in range(encode_tp)]
        self.language = [OnRank() for _ in range(language_tp)]
        self.first_allocation: int | None = None
        self.chunks = 0
        self.came_s = request.arrival_s
        self.encode_started_s = 0.0
        self.encoded_s: float | None = None
        self.first_chunk_s: float | None = None
        self.delivered_s: float | None = None
        self.prefilled_s: float | None = None
        self.released_s: float | None = None
        self.failure = ""
        self.left = encode_tp + language_tp  # ranks that have not released the room yet
        self.prefilling = prefilling  # those on which its prefill is not over
        self.prefills = prefilling > 0

    def status(self) -> Status | None:
        """Its status on the language side; None before that has any."""
        told = [rank.status for rank in self.language if rank.status is not None]
        return group_status(told) if told else None

    def row(self) -> RequestRow:
        """The row of a request of which nothing more is recorded."""
        request = self.request
        status = self.status() or Status.Bootstrapping
        delivered_s = self.delivered_s if status is Status.Success else None
        prefilled_s = (None if self.prefilling else self.prefilled_s) if self.prefills else delivered_s
        return RequestRow(
            room=request.room,
            arrival_s=request.arrival_s,
            text_tokens=request.text_tokens,
            images=request.images,
            total_tokens=request.total_tokens,
            first_allocation_tokens=self.first_allocation,
            chunks=self.chunks,
            encoded_s=self.encoded_s,
            first_chunk_s=self.first_chunk_s,
            delivered_s=delivered_s,
            released_s=self.released_s,
            status=status.name,
            failure=self.failure if status is Status.Failed else "",
            prefilled_s=prefilled_s,
        )
