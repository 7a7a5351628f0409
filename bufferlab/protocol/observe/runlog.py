"""From records to the rows and figures of a run, the same for a simulated and a measured one.

``RunLog`` is a Recorder that keeps one small entry per unfinished request, the running integrals of the pools and, of
each request that is over, no more than its figures need; where rows are stored they are handed on. Records must come in
order of time over all ranks; a measured run is merged before it is fed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, final

from bufferlab.protocol.disciplines import make_discipline
from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.protocol.observe.columns import RequestColumns
from bufferlab.protocol.observe.pooluse import PoolUse
from bufferlab.protocol.observe.progress import NAMES, NEVER_S, SUCCESS, OnRank, Progress, RequestRow
from bufferlab.protocol.observe.requestrows import RequestRows
from bufferlab.protocol.observe.stageuse import StageUse
from bufferlab.protocol.recording import Event, Listener
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side, destinations

# By names of this module: a global is found many times as fast as a member of an Enum.
ENCODE: Final = Side.ENCODE
LANGUAGE: Final = Side.LANGUAGE
SUBMITTED: Final = Event.SUBMITTED
ANNOUNCED: Final = Event.ANNOUNCED
ALLOCATED: Final = Event.ALLOCATED
OFFERS_COMPLETE: Final = Event.OFFERS_COMPLETE
ENCODE_STARTED: Final = Event.ENCODE_STARTED
ENCODED: Final = Event.ENCODED
CHUNK_STARTED: Final = Event.CHUNK_STARTED
WRITE_DONE: Final = Event.WRITE_DONE
CHUNK_DONE: Final = Event.CHUNK_DONE
CHUNK_RECEIVED: Final = Event.CHUNK_RECEIVED
DELIVERED: Final = Event.DELIVERED
FAILED: Final = Event.FAILED
RELEASED: Final = Event.RELEASED
PREFILLED: Final = Event.PREFILLED
STATUS_FAILED: Final = Status.Failed


def _writers(scenario: Scenario) -> int:
    """Threads that have anybody to write to."""
    tp, language_tp = scenario.encode_tp, scenario.language_tp
    writing = sum(bool(destinations(rank, tp, 0, language_tp)) for rank in range(tp))
    return scenario.encode_instances * writing * min(scenario.transfer_workers, scenario.language_instances)


@final
class RunLog(Listener):
    """Builds the figures of requests and pools from records, and request rows where they are wanted.

    ``on_request`` and ``rows`` receive the row of each request, and ``columns`` what figures need of it, once: when all
    ranks are done with the request or at ``finish``. ``expect`` must be called for a request before its first record,
    in order of arrival.

    The *window* is the time in which requests were offered or unfinished; the use of the pools counts in it. It begins
    with the first arrival after ``warmup_requests``, and ends when all ranks are done with the last request: it has
    been delivered or has failed on each, holds nothing there any more, and waits for no prefill. With requests of which
    that is never said (a rank that died says nothing) it ends with the run. Rows are made of all requests.

    ``preprocessing``, ``encoder``, ``writers``, ``prefill``: how busy these stages were in the window, None where there
    is none. ``waits``: of each side, in the place of busy servers the instances where rooms waited for blocks, for
    longer than the next iteration of their loop.
    """

    def __init__(
        self,
        scenario: Scenario,
        on_request: Callable[[RequestRow], None] | None = None,
        *,
        columns: RequestColumns | None = None,
        rows: RequestRows | None = None,
        warmup_requests: int = 0,
    ) -> None:
        self.wants_details = False
        self._encode_tp, self._language_tp = scenario.encode_tp, scenario.language_tp
        self._block_tokens = scenario.layout.block_tokens
        self._on_request = on_request
        self._columns = columns
        self._rows = rows
        self._open: dict[int, Progress] = {}
        # The request of the last record, of which the next one often is as well; None if it is not open any more.
        self._last: Progress | None = None
        # Ranks that a delivered request waits for until it is prefilled.
        self._prefilling = scenario.language_tp if scenario.services.prefills else 0
        self._warmup_left = warmup_requests
        self.window_start_s = math.inf
        self.window_end_s = 0.0
        self._encode_pool = PoolUse(scenario.encode_blocks * scenario.encode_tp * scenario.encode_instances)
        self._language_pool = PoolUse(scenario.language_blocks * scenario.language_tp * scenario.language_instances)
        self.pools = {ENCODE: self._encode_pool, LANGUAGE: self._language_pool}
        self._encode_pool.count_from(math.inf)
        self._language_pool.count_from(math.inf)
        self._encode_poll_s = scenario.services.poll_interval_s(ENCODE)
        self._language_poll_s = scenario.services.poll_interval_s(LANGUAGE)
        self._preparing = scenario.services.preprocess_workers
        self._workers = scenario.transfer_workers
        # Of each rank that is written to, by its name, the worker that does; empty where there is but one.
        names = scenario.language_ids() if self._workers > 1 else ()
        self._worker_of = {str(one): one.instance % self._workers for one in names}
        prepares = scenario.services.preprocess_per_token_s > 0
        self.preprocessing = StageUse(scenario.encode_instances * self._preparing) if prepares else None
        self.encoder = StageUse(scenario.encode_instances)
        self.writers = StageUse(_writers(scenario))
        self.prefill = StageUse(scenario.language_instances) if scenario.services.prefills else None
        self._encode_waits = StageUse(scenario.encode_instances)
        self._language_waits = StageUse(scenario.language_instances)
        self.waits = {ENCODE: self._encode_waits, LANGUAGE: self._language_waits}
        self.records = 0
        self.last_time_s = 0.0
        # Where the encode side says the length first, a room cannot wait for blocks before that.
        self._announces = make_discipline(scenario.discipline).announces_length

    def expect(self, request: Request) -> None:
        """Announce a request. A room number may come again once its earlier request is finished.

        Of one that is not, which waits for a prefill that its process took along, nothing more is expected then.
        """
        room = request.room
        earlier = self._open.get(room)
        if earlier is not None:
            self._conclude(earlier)
            self._last = None
        self._open[room] = Progress(request, self._encode_tp, self._language_tp, self._prefilling)
        if self._warmup_left >= 0:
            self._warmup_left -= 1
            if self._warmup_left < 0:
                self.window_start_s = request.arrival_s
                for stage in self._stages():
                    stage.start_s = request.arrival_s
                self._encode_pool.count_from(request.arrival_s)
                self._language_pool.count_from(request.arrival_s)

    def tell(
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
        progress = self._last
        if progress is None or progress.room != room:
            progress = self._last = self._open.get(room)
            if progress is None:
                return
        if rank_id.side is LANGUAGE:
            self._on_language(progress, time_s, rank_id, event, status, tokens, detail)
        else:
            self._on_encode(progress, time_s, rank_id, event, tokens, detail)

    def finish(self, time_s: float) -> None:
        """End of the run at ``time_s``: integrals up to the end of the window, rows of the unfinished requests."""
        if self._open:
            self.window_end_s = time_s
        self.window_start_s = min(self.window_start_s, self.window_end_s)
        for use in (self._encode_pool, self._language_pool):
            use.finish(self.window_end_s, time_s)
        for stage in self._stages():
            stage.finish(self.window_end_s)
        for progress in self._open.values():
            self._conclude(progress)
        self._open.clear()
        self._last = None

    def _on_language(
        self,
        progress: Progress,
        time_s: float,
        rank_id: RankId,
        event: Event,
        status: Status | None,
        tokens: int,
        detail: str,
    ) -> None:
        instance, number = rank_id.instance, rank_id.rank
        rank = progress.language[number]
        if status is not None:
            rank.status = status
        if event is ALLOCATED:
            if tokens:
                self._stop_waiting_on_language(rank, time_s, instance)
            if progress.first_allocation < 0:
                progress.first_allocation = tokens
            useful = min(tokens, progress.total_tokens - rank.received)
            self._hold(self._language_pool, rank, time_s, self._blocks_for(tokens), tokens, useful)
        elif event is CHUNK_RECEIVED:
            rank.received = tokens
            if number == 0:
                progress.chunks += 1
                if tokens < progress.total_tokens:
                    self._wait(self._language_pool, rank, time_s)
        elif event is SUBMITTED:
            progress.came_s = time_s
            if number == 0 and not self._announces:
                self._wait(self._language_pool, rank, time_s)
        elif event is DELIVERED:
            progress.language_done_s = time_s
        elif event is RELEASED:
            progress.released_s = time_s
            self._hold(self._language_pool, rank, time_s, 0, 0, 0)
            self._released(progress, time_s)
        elif event is PREFILLED:
            if number == 0 and self.prefill is not None and not math.isnan(progress.language_done_s):
                self.prefill.serve(instance, progress.language_done_s, time_s)
            progress.prefilling -= 1
            progress.prefill_done_s = time_s
            if progress.left == 0 and progress.prefilling == 0:
                self._end(progress, time_s)
        elif event is ANNOUNCED:
            if number == 0 and self._announces:
                self._wait(self._language_pool, rank, time_s)
        elif event is FAILED:
            self._stop_waiting_on_language(rank, time_s, instance)
            progress.failure = progress.failure or detail

    def _on_encode(
        self, progress: Progress, time_s: float, rank_id: RankId, event: Event, tokens: int, detail: str
    ) -> None:
        instance, number = rank_id.instance, rank_id.rank
        rank = progress.encode[number]
        if event is WRITE_DONE:
            if not math.isnan(rank.chunk_started_s):
                worker = self._worker_of.get(detail.partition(" ")[0], 0) if self._worker_of else 0
                thread = (instance * self._encode_tp + number) * self._workers + worker
                self.writers.serve(thread, rank.chunk_started_s, time_s)
        elif event is CHUNK_STARTED:
            rank.chunk_started_s = time_s
        elif event is CHUNK_DONE:
            if progress.chunks == 0:
                progress.first_chunk_s = time_s
        elif event is SUBMITTED:
            if self.preprocessing is not None and number == 0:
                self.preprocessing.serve_by_any(instance, self._preparing, progress.came_s, time_s)
        elif event is OFFERS_COMPLETE:
            if number == 0 and not rank.blocks:
                self._wait(self._encode_pool, rank, time_s)
        elif event is ENCODE_STARTED:
            progress.encode_started_s = time_s
            self._stop_waiting_on_encode(rank, time_s, instance)
            total = progress.total_tokens
            blocks = self._blocks_for(total)
            self._hold(self._encode_pool, rank, time_s, blocks, blocks * self._block_tokens, total)
        elif event is ENCODED:
            progress.encoded_s = time_s
            if number == 0:
                self.encoder.serve(instance, progress.encode_started_s, time_s)
        elif event is RELEASED:
            self._hold(self._encode_pool, rank, time_s, 0, 0, 0)
            self._released(progress, time_s)
        elif event is FAILED:
            self._stop_waiting_on_encode(rank, time_s, instance)
            progress.failure = progress.failure or detail

    def _released(self, progress: Progress, time_s: float) -> None:
        """One more rank has freed what it held of a request."""
        progress.left -= 1
        if progress.left:
            return
        self._give_up_waiting(self._encode_pool, progress.encode[0], time_s)
        self._give_up_waiting(self._language_pool, progress.language[0], time_s)
        # A request that was delivered waits for its prefill, where that takes time.
        if progress.prefilling == 0 or progress.status() is not SUCCESS:
            self._end(progress, time_s)

    def _end(self, progress: Progress, time_s: float) -> None:
        """All of its ranks are done with a request."""
        del self._open[progress.room]
        self._last = None
        self.window_end_s = time_s
        if not self._open:
            self._encode_pool.keep(time_s)
            self._language_pool.keep(time_s)
        self._conclude(progress)

    def _conclude(self, progress: Progress) -> None:
        """Nothing more is recorded of a request."""
        status = progress.status()
        delivered_s, prefilled_s = progress.delivered_s(status), progress.prefilled_s(status)
        failure = progress.failure if status is STATUS_FAILED else ""
        if self._columns is not None:
            self._columns.add(
                progress.room,
                progress.arrival_s,
                progress.encoded_s,
                delivered_s,
                prefilled_s,
                progress.chunks,
                progress.total_tokens,
                status,
                failure,
            )
        if self._rows is not None:
            request = progress.request
            self._rows.add(
                progress.room,
                progress.arrival_s,
                request.text_tokens,
                request.images,
                progress.total_tokens,
                progress.first_allocation,
                progress.chunks,
                progress.encoded_s,
                progress.first_chunk_s,
                delivered_s,
                progress.released_s,
                NAMES[status],
                failure,
                prefilled_s,
            )
        if self._on_request is not None:
            self._on_request(progress.row())

    def _stages(self) -> list[StageUse]:
        stages = [self.encoder, self.writers, self._encode_waits, self._language_waits]
        return [*stages, *(one for one in (self.preprocessing, self.prefill) if one is not None)]

    # --- integrals; of waiting rooms, those of the first rank of a group ---

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self._block_tokens)

    def _wait(self, pool: PoolUse, rank: OnRank, time_s: float) -> None:
        if math.isnan(rank.waits_since_s):
            rank.waits_since_s = time_s
            pool.wait(time_s, 1)

    def _give_up_waiting(self, pool: PoolUse, rank: OnRank, time_s: float) -> None:
        if not math.isnan(rank.waits_since_s):
            rank.waits_since_s = NEVER_S
            pool.wait(time_s, -1)

    def _stop_waiting_on_language(self, rank: OnRank, time_s: float, instance: int) -> None:
        if not math.isnan(rank.waits_since_s):
            self._stop_waiting(self._language_pool, self._language_waits, self._language_poll_s, rank, time_s, instance)

    def _stop_waiting_on_encode(self, rank: OnRank, time_s: float, instance: int) -> None:
        if not math.isnan(rank.waits_since_s):
            self._stop_waiting(self._encode_pool, self._encode_waits, self._encode_poll_s, rank, time_s, instance)

    def _stop_waiting(
        self, pool: PoolUse, waits: StageUse, poll_interval_s: float, rank: OnRank, time_s: float, instance: int
    ) -> None:
        # An iteration of the loop is what a room waits for in any case.
        since_s = rank.waits_since_s + poll_interval_s
        rank.waits_since_s = NEVER_S
        if time_s > since_s:
            waits.serve(instance, since_s, time_s)
        pool.wait(time_s, -1)

    def _hold(self, pool: PoolUse, rank: OnRank, time_s: float, blocks: int, capacity: int, useful: int) -> None:
        pool.change(time_s, blocks - rank.blocks, capacity - rank.capacity, useful - rank.useful)
        rank.blocks, rank.capacity, rank.useful = blocks, capacity, useful
