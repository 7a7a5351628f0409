"""From records to the rows and figures of a run, the same for a simulated and a measured one.

``RunLog`` is a Recorder that keeps one small entry per unfinished request and the running integrals of the pools, so
its memory does not grow with the length of a run. Records must come in order of time over all ranks; a measured run is
merged before it is fed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from protocol.disciplines import make_discipline
from protocol.emulation.scenario import Request, Scenario
from protocol.observe.pooluse import PoolUse
from protocol.observe.progress import OnRank, Progress, RequestRow
from protocol.observe.stageuse import StageUse
from protocol.recording import Event, Record
from protocol.status import Status
from protocol.topology import RankId, Side, destinations

ENCODE, LANGUAGE = Side  # by names of this module: a global is found many times as fast as a member of an Enum


_Take = Callable[[Progress, OnRank, float, RankId, int, str], None]
"""Takes what happened to a request on a rank: when, to which rank, the tokens and the detail of the record."""


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
    longer than the next iteration of their loop.
    """

    wants_details = False

    def __init__(
        self, scenario: Scenario, on_request: Callable[[RequestRow], None], *, warmup_requests: int = 0
    ) -> None:
        self._layout = scenario.layout
        self._encode_tp, self._language_tp = scenario.encode_tp, scenario.language_tp
        self._on_request = on_request
        self._open: dict[int, Progress] = {}
        # Ranks that a delivered request waits for until it is prefilled.
        self._prefilling = scenario.language_tp if scenario.services.prefills else 0
        self._warmup_left = warmup_requests
        self.window_start_s = math.inf
        self.window_end_s = 0.0
        self.pools = {
            Side.ENCODE: PoolUse(scenario.encode_blocks * scenario.encode_tp * scenario.encode_instances),
            Side.LANGUAGE: PoolUse(scenario.language_blocks * scenario.language_tp * scenario.language_instances),
        }
        for use in self.pools.values():
            use.count_from(math.inf)
        self._encode_pool, self._language_pool = self.pools[ENCODE], self.pools[LANGUAGE]
        self._poll_interval_s = {side: scenario.services.poll_interval_s(side) for side in Side}
        self._preparing = scenario.services.preprocess_workers
        workers = scenario.transfer_workers
        # Of each rank that is written to, by its name, the worker that does; empty where there is but one.
        self._worker_of = {str(one): one.instance % workers for one in scenario.language_ids()} if workers > 1 else {}
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
        # Where the encode side says the length first, a room cannot wait for blocks before that.
        announces = make_discipline(scenario.discipline).announces_length
        self._of_language: dict[Event, _Take] = {
            Event.SUBMITTED: self._came if announces else self._came_and_waits,
            Event.ALLOCATED: self._allocated,
            Event.CHUNK_RECEIVED: self._received,
            Event.DELIVERED: self._delivered,
            Event.FAILED: self._failed,
            Event.RELEASED: self._released,
            Event.PREFILLED: self._prefilled,
        }
        if announces:
            self._of_language[Event.ANNOUNCED] = self._waits
        self._of_encode: dict[Event, _Take] = {
            Event.OFFERS_COMPLETE: self._offers_complete,
            Event.ENCODE_STARTED: self._encode_started,
            Event.ENCODED: self._encoded,
            Event.CHUNK_STARTED: self._chunk_started,
            Event.WRITE_DONE: self._write_done,
            Event.CHUNK_DONE: self._chunk_done,
            Event.FAILED: self._failed,
            Event.RELEASED: self._released,
        }
        if self.preprocessing is not None:
            self._of_encode[Event.SUBMITTED] = self._preprocessed

    def expect(self, request: Request) -> None:
        """Announce a request. A room number may come again once its earlier request is finished.

        Of one that is not, which waits for a prefill that its process took along, nothing more is expected then.
        """
        earlier = self._open.get(request.room)
        if earlier is not None:
            self._on_request(earlier.row())
        self._open[request.room] = Progress(request, self._encode_tp, self._language_tp, self._prefilling)
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
        side, _, number = rank_id
        if side is LANGUAGE:
            rank = progress.language[number]
            if status is not None:
                rank.status = status
            take = self._of_language.get(event)
        else:
            rank = progress.encode[number]
            take = self._of_encode.get(event)
        if take is not None:
            take(progress, rank, time_s, rank_id, tokens, detail)

    def _end(self, progress: Progress, time_s: float) -> None:
        """All of its ranks are done with a request."""
        del self._open[progress.request.room]
        self.window_end_s = time_s
        if not self._open:
            for use in self.pools.values():
                use.keep(time_s)
        self._on_request(progress.row())

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
            self._on_request(progress.row())
        self._open.clear()

    # --- what happens on the language side ---

    def _came(self, progress: Progress, rank: OnRank, time_s: float, rank_id: RankId, tokens: int, detail: str) -> None:
        progress.came_s = time_s

    def _came_and_waits(
        self, progress: Progress, rank: OnRank, time_s: float, rank_id: RankId, tokens: int, detail: str
    ) -> None:
        progress.came_s = time_s
        self._wait(rank, time_s, rank_id)

    def _waits(
        self, progress: Progress, rank: OnRank, time_s: float, rank_id: RankId, tokens: int, detail: str
    ) -> None:
        self._wait(rank, time_s, rank_id)

    def _allocated(
        self, progress: Progress, rank: OnRank, time_s: float, rank_id: RankId, tokens: int, detail: str
    ) -> None:
        if tokens and rank.waits_since_s is not None:
            self._stop_waiting(rank, time_s, rank_id)
        if progress.first_allocation is None:
            progress.first_allocation = tokens
        useful = min(tokens, progress.request.total_tokens - rank.received)
        self._hold(self._language_pool, rank, time_s, self._layout.blocks_for(tokens), tokens, useful)

    def _received(
        self, progress: Progress, rank: OnRank, time_s: float, rank_id: RankId, tokens: int, detail: str
    ) -> None:
        rank.received = tokens
        if rank_id.rank == 0:
            progress.chunks += 1
        if tokens < progress.request.total_tokens:
            self._wait(rank, time_s, rank_id)

    def _delivered(
        self, progress: Progress, rank: OnRank, time_s: float, rank_id: RankId, tokens: int, detail: str
    ) -> None:
        progress.delivered_s = time_s

    def _prefilled(
        self, progress: Progress, rank: OnRank, time_s: float, rank_id: RankId, tokens: int, detail: str
    ) -> None:
        if rank_id.rank == 0 and self.prefill is not None and progress.delivered_s is not None:
            self.prefill.serve(rank_id.instance, progress.delivered_s, time_s)
        progress.prefilling -= 1
        progress.prefilled_s = time_s
        if progress.left == 0 and not progress.prefilling:
            self._end(progress, time_s)

    # --- what happens on the encode side ---

    def _preprocessed(
        self, progress: Progress, rank: OnRank, time_s: float, rank_id: RankId, tokens: int, detail: str
    ) -> None:
        if self.preprocessing is not None and rank_id.rank == 0:
            self.preprocessing.serve_by_any(rank_id.instance, self._preparing, progress.came_s, time_s)

    def _offers_complete(
        self, progress: Progress, rank: OnRank, time_s: float, rank_id: RankId, tokens: int, detail: str
    ) -> None:
        if not rank.blocks:
            self._wait(rank, time_s, rank_id)

    def _encode_started(
        self, progress: Progress, rank: OnRank, time_s: float, rank_id: RankId, tokens: int, detail: str
    ) -> None:
        progress.encode_started_s = time_s
        if rank.waits_since_s is not None:
            self._stop_waiting(rank, time_s, rank_id)
        total = progress.request.total_tokens
        blocks = self._layout.blocks_for(total)
        self._hold(self._encode_pool, rank, time_s, blocks, blocks * self._layout.block_tokens, total)

    def _encoded(
        self, progress: Progress, rank: OnRank, time_s: float, rank_id: RankId, tokens: int, detail: str
    ) -> None:
        progress.encoded_s = time_s
        if rank_id.rank == 0:
            self.encoder.serve(rank_id.instance, progress.encode_started_s, time_s)

    def _chunk_started(
        self, progress: Progress, rank: OnRank, time_s: float, rank_id: RankId, tokens: int, detail: str
    ) -> None:
        rank.chunk_started_s = time_s

    def _write_done(
        self, progress: Progress, rank: OnRank, time_s: float, rank_id: RankId, tokens: int, detail: str
    ) -> None:
        if rank.chunk_started_s is not None:
            worker = self._worker_of.get(detail.partition(" ")[0], 0) if self._worker_of else 0
            self.writers.serve((rank_id, worker), rank.chunk_started_s, time_s)

    def _chunk_done(
        self, progress: Progress, rank: OnRank, time_s: float, rank_id: RankId, tokens: int, detail: str
    ) -> None:
        if progress.chunks == 0:
            progress.first_chunk_s = time_s

    # --- what happens on both ---

    def _failed(
        self, progress: Progress, rank: OnRank, time_s: float, rank_id: RankId, tokens: int, detail: str
    ) -> None:
        if rank.waits_since_s is not None:
            self._stop_waiting(rank, time_s, rank_id)
        progress.failure = progress.failure or detail

    def _released(
        self, progress: Progress, rank: OnRank, time_s: float, rank_id: RankId, tokens: int, detail: str
    ) -> None:
        if rank_id.side is LANGUAGE:
            progress.released_s = time_s
        self._hold(self.pools[rank_id.side], rank, time_s, 0, 0, 0)
        progress.left -= 1
        if progress.left:
            return
        for side, first in ((ENCODE, progress.encode[0]), (LANGUAGE, progress.language[0])):
            if first.waits_since_s is not None:
                first.waits_since_s = None
                self.pools[side].wait(time_s, -1)
        # A request that was delivered waits for its prefill, where that takes time.
        if not progress.prefilling or progress.status() is not Status.Success:
            self._end(progress, time_s)

    def _stages(self) -> list[StageUse]:
        stages = [self.encoder, self.writers, *self.waits.values()]
        return [*stages, *(one for one in (self.preprocessing, self.prefill) if one is not None)]

    # --- integrals ---

    def _wait(self, rank: OnRank, time_s: float, rank_id: RankId) -> None:
        if rank_id.rank == 0 and rank.waits_since_s is None:
            rank.waits_since_s = time_s
            self.pools[rank_id.side].wait(time_s, 1)

    def _stop_waiting(self, rank: OnRank, time_s: float, rank_id: RankId) -> None:
        """The room waits there, and does so no longer."""
        assert rank.waits_since_s is not None
        # An iteration of the loop is what a room waits for in any case.
        since_s = rank.waits_since_s + self._poll_interval_s[rank_id.side]
        rank.waits_since_s = None
        if time_s > since_s:
            self.waits[rank_id.side].serve(rank_id.instance, since_s, time_s)
        self.pools[rank_id.side].wait(time_s, -1)

    def _hold(self, pool: PoolUse, rank: OnRank, time_s: float, blocks: int, capacity: int, useful: int) -> None:
        pool.change(time_s, blocks - rank.blocks, capacity - rank.capacity, useful - rank.useful)
        rank.blocks, rank.capacity, rank.useful = blocks, capacity, useful
