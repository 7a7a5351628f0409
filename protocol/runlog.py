"""From records to the rows and figures of a run, the same for a simulated and a measured one.

``RunLog`` is a Recorder that keeps one small entry per unfinished request and the running integrals of the pools, so
its memory does not grow with the length of a run. Records must come in order of time over all ranks; a measured run is
merged before it is fed.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from protocol.recording import Event, Record
from protocol.scenario import Request, Scenario
from protocol.status import Status, group_status
from protocol.topology import RankId, Side


class RequestRow(msgspec.Struct, frozen=True):
    """One row of requests.parquet without its replication. Seconds from the run's start; None: never happened.

    ``encoded_s``: the last encode rank had the embedding. ``first_chunk_s``: the last encode rank knew that all its
    destinations hold chunk 0. ``delivered_s``, ``released_s``: the last language rank delivered it, freed its blocks.
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


class PoolUse(msgspec.Struct):
    """Use of one side's pools, over all its ranks; block-seconds and blocks are sums over the ranks.

    ``held_token_s``: integral of the capacity (tokens) rooms hold; ``used_token_s``: the part of it that real tokens
    were granted for; the rest was wasted. ``blocked_s``: seconds rooms waited for blocks, summed over rank 0's rooms.
    """

    pool_blocks: int
    held_block_s: float = 0.0
    peak_blocks: int = 0
    held_token_s: float = 0.0
    used_token_s: float = 0.0
    blocked_s: float = 0.0


class _Hold:
    """What one room holds on one rank at present."""

    __slots__ = ("blocks", "capacity_tokens", "since_s", "useful_tokens")

    def __init__(self, since_s: float, blocks: int, capacity_tokens: int, useful_tokens: int) -> None:
        self.since_s = since_s
        self.blocks = blocks
        self.capacity_tokens = capacity_tokens
        self.useful_tokens = useful_tokens


class _Progress:
    """What is known of one request while it runs."""

    __slots__ = (
        "chunks",
        "delivered_s",
        "encoded_s",
        "failure",
        "first_allocation",
        "first_chunk_s",
        "left",
        "received",
        "released_s",
        "request",
        "statuses",
        "waiting_since",
    )  # fmt: skip

    def __init__(self, request: Request, ranks: int) -> None:
        self.request = request
        self.first_allocation: int | None = None
        self.chunks = 0
        self.encoded_s: float | None = None
        self.first_chunk_s: float | None = None
        self.delivered_s: float | None = None
        self.released_s: float | None = None
        self.failure = ""
        self.received: dict[RankId, int] = {}
        self.waiting_since: dict[RankId, float] = {}
        self.statuses: dict[RankId, Status] = {}
        self.left = ranks  # ranks that have not released the room yet


class RunLog:
    """Builds request rows and pool use from records.

    ``on_request`` receives each row once, when all ranks are done with the request or at ``finish``.
    ``expect`` must be called for a request before its first record.
    """

    def __init__(self, scenario: Scenario, on_request: Callable[[RequestRow], None]) -> None:
        self._layout = scenario.layout
        self._ranks = scenario.encode_tp + scenario.language_tp
        self._on_request = on_request
        self._open: dict[int, _Progress] = {}
        self._holds: dict[tuple[int, RankId], _Hold] = {}
        self._held_blocks = dict.fromkeys(Side, 0)
        self.pools = {
            Side.ENCODE: PoolUse(scenario.encode_blocks * scenario.encode_tp * scenario.encode_instances),
            Side.LANGUAGE: PoolUse(scenario.language_blocks * scenario.language_tp * scenario.language_instances),
        }
        self.records = 0
        self.last_time_s = 0.0

    def expect(self, request: Request) -> None:
        """Announce a request. A room number may come again once its earlier request is finished."""
        self._open[request.room] = _Progress(request, self._ranks)

    def record(self, record: Record) -> None:
        """Take one record as a tuple."""
        self(*record)

    def __call__(
        self,
        time_s: float,
        rank_id: RankId,
        room: int,
        event: Event,
        status: Status | None,
        tokens: int,
        bytes_: int,
        detail: str,
    ) -> None:
        """Take one record; see ``recording.Record`` for the fields."""
        self.records += 1
        self.last_time_s = time_s
        progress = self._open.get(room)
        if progress is None:
            return
        if rank_id.side is Side.LANGUAGE:
            if status is not None:
                progress.statuses[rank_id] = status
            self._language(progress, time_s, rank_id, event, tokens, detail)
        else:
            self._encode(progress, time_s, rank_id, event, detail)
        if event is Event.RELEASED:
            self._change_hold(time_s, rank_id, room, 0, 0, 0)
            progress.left -= 1
            if progress.left == 0:
                del self._open[room]
                self._on_request(self._row(progress))

    def finish(self, time_s: float) -> None:
        """End of the run: integrals up to ``time_s``, rows of the unfinished requests."""
        for (room, rank_id), hold in list(self._holds.items()):
            self._change_hold(time_s, rank_id, room, hold.blocks, hold.capacity_tokens, hold.useful_tokens)
        for progress in self._open.values():
            for rank_id, since_s in progress.waiting_since.items():
                self.pools[rank_id.side].blocked_s += time_s - since_s
            self._on_request(self._row(progress))
        self._open.clear()

    # --- the two sides ---

    def _language(
        self, progress: _Progress, time_s: float, rank_id: RankId, event: Event, tokens: int, detail: str
    ) -> None:
        room = progress.request.room
        if event is Event.SUBMITTED or event is Event.ANNOUNCED:
            self._wait(progress, rank_id, time_s)
        elif event is Event.ALLOCATED:
            received = progress.received.get(rank_id, 0)
            if tokens:
                self._stop_waiting(progress, rank_id, time_s)
            if progress.first_allocation is None:
                progress.first_allocation = tokens
            useful = min(tokens, progress.request.total_tokens - received)
            self._change_hold(time_s, rank_id, room, self._layout.blocks_for(tokens), tokens, useful)
        elif event is Event.CHUNK_RECEIVED:
            progress.received[rank_id] = tokens
            if rank_id.rank == 0:
                progress.chunks += 1
            if tokens < progress.request.total_tokens:
                self._wait(progress, rank_id, time_s)
        elif event is Event.DELIVERED:
            progress.delivered_s = time_s
        elif event is Event.FAILED:
            self._stop_waiting(progress, rank_id, time_s)
            progress.failure = progress.failure or detail
        elif event is Event.RELEASED:
            progress.released_s = time_s

    def _encode(self, progress: _Progress, time_s: float, rank_id: RankId, event: Event, detail: str) -> None:
        total = progress.request.total_tokens
        if event is Event.OFFERS_COMPLETE and progress.encoded_s is None:
            self._wait(progress, rank_id, time_s)
        elif event is Event.ENCODE_STARTED:
            self._stop_waiting(progress, rank_id, time_s)
            blocks = self._layout.blocks_for(total)
            capacity = blocks * self._layout.block_tokens
            self._change_hold(time_s, rank_id, progress.request.room, blocks, capacity, total)
        elif event is Event.ENCODED:
            progress.encoded_s = time_s
        elif event is Event.CHUNK_DONE and progress.chunks == 0:
            progress.first_chunk_s = time_s
        elif event is Event.FAILED:
            self._stop_waiting(progress, rank_id, time_s)
            progress.failure = progress.failure or detail

    # --- integrals ---

    def _wait(self, progress: _Progress, rank_id: RankId, time_s: float) -> None:
        if rank_id.rank == 0:
            progress.waiting_since[rank_id] = time_s

    def _stop_waiting(self, progress: _Progress, rank_id: RankId, time_s: float) -> None:
        since_s = progress.waiting_since.pop(rank_id, None)
        if since_s is not None:
            self.pools[rank_id.side].blocked_s += time_s - since_s

    def _change_hold(self, time_s: float, rank_id: RankId, room: int, blocks: int, capacity: int, useful: int) -> None:
        use = self.pools[rank_id.side]
        hold = self._holds.pop((room, rank_id), None)
        if hold is not None:
            lasted_s = time_s - hold.since_s
            use.held_block_s += lasted_s * hold.blocks
            use.held_token_s += lasted_s * hold.capacity_tokens
            use.used_token_s += lasted_s * hold.useful_tokens
            self._held_blocks[rank_id.side] -= hold.blocks
        if blocks:
            self._holds[room, rank_id] = _Hold(time_s, blocks, capacity, useful)
            self._held_blocks[rank_id.side] += blocks
            use.peak_blocks = max(use.peak_blocks, self._held_blocks[rank_id.side])

    def _row(self, progress: _Progress) -> RequestRow:
        request = progress.request
        status = group_status(progress.statuses.values()) if progress.statuses else Status.Bootstrapping
        return RequestRow(
            room=request.room,
            arrival_s=request.arrival_s,
            text_tokens=request.text_tokens,
            images=request.images,
            total_tokens=request.total_tokens,
            first_allocation_tokens=progress.first_allocation,
            chunks=progress.chunks,
            encoded_s=progress.encoded_s,
            first_chunk_s=progress.first_chunk_s,
            delivered_s=progress.delivered_s if status is Status.Success else None,
            released_s=progress.released_s,
            status=status.name,
            failure=progress.failure if status is Status.Failed else "",
        )
