"""From records to the rows and figures of a run, the same for a simulated and a measured one.

``RunLog`` is a Recorder that keeps one small entry per unfinished request and the running integrals of the pools, so
its memory does not grow with the length of a run. Records must come in order of time over all ranks; a measured run is
merged before it is fed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec

from protocol.disciplines import make_discipline
from protocol.emulation.scenario import Request, Scenario
from protocol.observe.pooluse import PoolUse
from protocol.observe.stageuse import StageUse
from protocol.recording import Event, Record
from protocol.status import Status, group_status
from protocol.topology import RankId, Side, destinations

_Hold = tuple[int, int, int]
"""Blocks, capacity in tokens, and the tokens of it that have a use: what one room holds on one rank."""
NOTHING_HELD: _Hold = (0, 0, 0)


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


class _Progress:
    """What is known of one request while it runs."""

    __slots__ = (
        "came_s",
        "chunk_started_s",
        "chunks",
        "delivered_s",
        "encode_started_s",
        "encoded_s",
        "failure",
        "first_allocation",
        "first_chunk_s",
        "left",
        "prefilled_s",
        "prefilling",
        "received",
        "released_s",
        "request",
        "statuses",
        "waiting",
    )  # fmt: skip

    def __init__(self, request: Request, ranks: int, prefilling: int) -> None:
        self.request = request
        self.first_allocation: int | None = None
        self.chunks = 0
        self.came_s = request.arrival_s
        self.chunk_started_s: dict[RankId, float] = {}
        self.encode_started_s = 0.0
        self.encoded_s: float | None = None
        self.first_chunk_s: float | None = None
        self.delivered_s: float | None = None
        self.prefilled_s: float | None = None
        self.released_s: float | None = None
        self.failure = ""
        self.received: dict[RankId, int] = {}
        self.waiting: dict[RankId, float] = {}
        self.statuses: dict[RankId, Status] = {}
        self.left = ranks  # ranks that have not released the room yet
        self.prefilling = prefilling  # those on which its prefill is not over


def _writers(scenario: Scenario) -> int:
    """Threads that have anybody to write to."""
    tp, language_tp = scenario.encode_tp, scenario.language_tp
    writing = sum(bool(destinations(rank, tp, 0, language_tp)) for rank in range(tp))
    return scenario.encode_instances * writing * min(scenario.transfer_workers, scenario.language_instances)


class RunLog:
    """Builds request rows and pool use from records.

    ``on_request`` receives each row once, when all ranks are done with the request or at ``finish``.
    ``expect`` must be called for a request before its first record, in order of arrival.

    The *window* is the time in which requests were offered or unfinished; the use of the pools counts in it. It begins
    with the first arrival after ``warmup_requests``, and ends when all ranks are done with the last request: it has
    been delivered or has failed on each, holds nothing there any more, and waits for no prefill. With requests of which
    that is never said (a rank that died says nothing) it ends with the run. Rows are made of all requests.

    ``preprocessing``, ``encoder``, ``writers``, ``prefill``: how busy these stages were in the window, None where there
    is none. ``waits``: of each side, in the place of busy servers the instances where rooms waited for blocks, for
    longer than the next turn of their loop.
    """

    def __init__(
        self, scenario: Scenario, on_request: Callable[[RequestRow], None], *, warmup_requests: int = 0
    ) -> None:
        self._layout = scenario.layout
        self._ranks = scenario.encode_tp + scenario.language_tp
        self._on_request = on_request
        self._open: dict[int, _Progress] = {}
        self._holds: dict[tuple[int, RankId], _Hold] = {}
        # Ranks that a delivered request waits for until it is prefilled.
        self._prefilling = scenario.language_tp if scenario.services.prefills else 0
        # Where the encode side says the length first, a room cannot wait for blocks before that.
        announces = make_discipline(scenario.discipline).announces_length
        self._waits_from = Event.ANNOUNCED if announces else Event.SUBMITTED
        self._warmup_left = warmup_requests
        self.window_start_s = math.inf
        self.window_end_s = 0.0
        self.pools = {
            Side.ENCODE: PoolUse(scenario.encode_blocks * scenario.encode_tp * scenario.encode_instances),
            Side.LANGUAGE: PoolUse(scenario.language_blocks * scenario.language_tp * scenario.language_instances),
        }
        for use in self.pools.values():
            use.count_from(math.inf)
        self._poll_interval_s = {side: scenario.services.poll_interval_s(side) for side in Side}
        self._preparing = scenario.services.preprocess_workers
        self._worker_of = {str(one): one.instance % scenario.transfer_workers for one in scenario.language_ids()}
        prepares = scenario.services.preprocess_per_token_s > 0
        self.preprocessing = StageUse(scenario.encode_instances * self._preparing) if prepares else None
        self.encoder = StageUse(scenario.encode_instances)
        self.writers = StageUse(_writers(scenario))
        self.prefill = StageUse(scenario.language_instances) if scenario.services.prefills else None
        self.waits = {
            Side.ENCODE: StageUse(scenario.encode_instances),
            Side.LANGUAGE: StageUse(scenario.language_instances),
        }
        self.records = 0
        self.last_time_s = 0.0

    def expect(self, request: Request) -> None:
        """Announce a request. A room number may come again once its earlier request is finished.

        Of one that is not, which waits for a prefill that its process took along, nothing more is expected then.
        """
        earlier = self._open.get(request.room)
        if earlier is not None:
            self._on_request(self._row(earlier))
        self._open[request.room] = _Progress(request, self._ranks, self._prefilling)
        if self._warmup_left >= 0:
            self._warmup_left -= 1
            if self._warmup_left < 0:
                self.window_start_s = request.arrival_s
                for stage in self._stages():
                    stage.start_s = request.arrival_s
                for use in self.pools.values():
                    use.count_from(request.arrival_s)

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
                for waiting in progress.waiting:
                    self.pools[waiting.side].wait(time_s, -1)
                progress.waiting.clear()
                if not self._waits_for_prefill(progress):
                    self._end(progress, time_s)
        elif event is Event.PREFILLED:
            if rank_id.rank == 0 and self.prefill is not None and progress.delivered_s is not None:
                self.prefill.serve(rank_id.instance, progress.delivered_s, time_s)
            progress.prefilling -= 1
            progress.prefilled_s = time_s
            if progress.left == 0 and not progress.prefilling:
                self._end(progress, time_s)

    def _waits_for_prefill(self, progress: _Progress) -> bool:
        if not progress.prefilling:
            return False
        return bool(progress.statuses) and group_status(progress.statuses.values()) is Status.Success

    def _end(self, progress: _Progress, time_s: float) -> None:
        """All of its ranks are done with a request."""
        del self._open[progress.request.room]
        self.window_end_s = time_s
        if not self._open:
            for use in self.pools.values():
                use.keep(time_s)
        self._on_request(self._row(progress))

    def finish(self, time_s: float) -> None:
        """End of the run at ``time_s``: integrals up to the end of the window, rows of the unfinished requests."""
        if self._open:
            self.window_end_s = time_s
        self.window_start_s = min(self.window_start_s, self.window_end_s)
        for use in self.pools.values():
            use.finish(self.window_end_s, time_s)
        for stage in self._stages():
            stage.finish(self.window_end_s)
        for progress in self._open.values():
            self._on_request(self._row(progress))
        self._open.clear()

    # --- the two sides ---

    def _language(
        self, progress: _Progress, time_s: float, rank_id: RankId, event: Event, tokens: int, detail: str
    ) -> None:
        room = progress.request.room
        if event is Event.SUBMITTED:
            progress.came_s = time_s
        if event is self._waits_from:
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
        if event is Event.WRITE_DONE:
            started_s = progress.chunk_started_s.get(rank_id)
            if started_s is not None:
                worker = self._worker_of.get(detail.partition(" ")[0], 0)
                self.writers.serve((rank_id, worker), started_s, time_s)
        elif event is Event.SUBMITTED:
            if self.preprocessing is not None and rank_id.rank == 0:
                self.preprocessing.serve_by_any(rank_id.instance, self._preparing, progress.came_s, time_s)
        elif event is Event.OFFERS_COMPLETE and (progress.request.room, rank_id) not in self._holds:
            self._wait(progress, rank_id, time_s)
        elif event is Event.ENCODE_STARTED:
            progress.encode_started_s = time_s
            self._stop_waiting(progress, rank_id, time_s)
            blocks = self._layout.blocks_for(total)
            capacity = blocks * self._layout.block_tokens
            self._change_hold(time_s, rank_id, progress.request.room, blocks, capacity, total)
        elif event is Event.ENCODED:
            progress.encoded_s = time_s
            if rank_id.rank == 0:
                self.encoder.serve(rank_id.instance, progress.encode_started_s, time_s)
        elif event is Event.CHUNK_STARTED:
            progress.chunk_started_s[rank_id] = time_s
        elif event is Event.CHUNK_DONE and progress.chunks == 0:
            progress.first_chunk_s = time_s
        elif event is Event.FAILED:
            self._stop_waiting(progress, rank_id, time_s)
            progress.failure = progress.failure or detail

    def _stages(self) -> list[StageUse]:
        stages = [self.encoder, self.writers, *self.waits.values()]
        return [*stages, *(one for one in (self.preprocessing, self.prefill) if one is not None)]

    # --- integrals ---

    def _wait(self, progress: _Progress, rank_id: RankId, time_s: float) -> None:
        if rank_id.rank == 0 and rank_id not in progress.waiting:
            progress.waiting[rank_id] = time_s
            self.pools[rank_id.side].wait(time_s, 1)

    def _stop_waiting(self, progress: _Progress, rank_id: RankId, time_s: float) -> None:
        since_s = progress.waiting.pop(rank_id, None)
        if since_s is not None:
            # A turn of the loop is what a room waits for in any case.
            since_s += self._poll_interval_s[rank_id.side]
            if time_s > since_s:
                self.waits[rank_id.side].serve(rank_id.instance, since_s, time_s)
            self.pools[rank_id.side].wait(time_s, -1)

    def _change_hold(self, time_s: float, rank_id: RankId, room: int, blocks: int, capacity: int, useful: int) -> None:
        held_blocks, held_tokens, used_tokens = self._holds.pop((room, rank_id), NOTHING_HELD)
        if blocks:
            self._holds[room, rank_id] = blocks, capacity, useful
        self.pools[rank_id.side].change(time_s, blocks - held_blocks, capacity - held_tokens, useful - used_tokens)

    def _prefilled_s(self, progress: _Progress, delivered_s: float | None) -> float | None:
        if not self._prefilling:
            return delivered_s
        return None if progress.prefilling else progress.prefilled_s

    def _row(self, progress: _Progress) -> RequestRow:
        request = progress.request
        status = group_status(progress.statuses.values()) if progress.statuses else Status.Bootstrapping
        delivered_s = progress.delivered_s if status is Status.Success else None
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
            delivered_s=delivered_s,
            released_s=progress.released_s,
            status=status.name,
            failure=progress.failure if status is Status.Failed else "",
            prefilled_s=self._prefilled_s(progress, delivered_s),
        )
