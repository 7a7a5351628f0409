"""The requests of a measured run: handed out at their times, or as earlier ones end, and waited for until all ranks of
their instances have concluded them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from bufferlab.protocol.emulation.processors import Processors
from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side
from bufferlab.real.counts import Counts
from bufferlab.real.faults import RealFault, slowest_of
from bufferlab.real.run.commands import GiveUp, Submit
from bufferlab.real.run.outcome import Conclusion
from bufferlab.real.run.record_store import RecordStore
from bufferlab.real.run.state import RunState
from bufferlab.real.run.troubles import RequestKey


class Requests:
    """All requests of a run.

    ``concurrency``: how many are under way at a time in a closed loop; None for an open one. ``progress`` is told of
    each that is over. ``submitted``: those that were handed out or refused, in order. ``ended_early``: why the rest was
    not, if so.
    """

    def __init__(
        self,
        state: RunState,
        record_store: RecordStore,
        counts: Counts,
        plan: Sequence[RealFault],
        concurrency: int | None,
        progress: Callable[[int], None] | None,
    ) -> None:
        self.submitted: list[Request] = []
        self.conclusions: list[Conclusion] = []
        self.ended_early = ""
        self._state = state
        self._scenario = state.ranks.scenario
        self._record_store = record_store
        self._counts = counts
        self._plan = plan
        self._concurrency = concurrency
        self._progress = progress
        self._to_come: deque[Request] = deque()
        self._processors = {instance: self._make_processors() for instance in range(self._scenario.encode_instances)}

    # --- handing out ---

    @property
    def to_come(self) -> bool:
        """Whether there are requests that were not handed out yet."""
        return bool(self._to_come)

    def expect(self, requests: Iterable[Request]) -> None:
        """These are to be handed out."""
        self._to_come.extend(requests)

    def due_s(self) -> float:
        """When the next request is to be submitted; never while a closed loop is full."""
        if not self._to_come:
            return math.inf
        if self._concurrency is None:
            return self._to_come[0].arrival_s
        return 0.0 if len(self._state.waiting) < self._concurrency else math.inf

    def hand_out_due(self) -> None:
        """Submit the requests whose time has come."""
        while self._to_come and self.due_s() <= self._state.now_s():
            self._submit(self._to_come.popleft())

    def end_early(self, why: str) -> None:
        """Hand out nothing more."""
        count = len(self._to_come)
        self._to_come.clear()
        if count:
            at_s = self._state.now_s()
            self.ended_early = f"at {at_s:.1f} s {why}, so {count} requests were not handed out any more"

    def forget_images(self, instance: int) -> None:
        """An encode instance has ended, and what was being prepared on it is gone."""
        self._processors[instance] = self._make_processors()

    def _make_processors(self) -> Processors:
        """Those that prepare the images of one encode instance."""
        return Processors(self._scenario.services.preprocess_workers)

    def _submit(self, request: Request) -> None:
        state = self._state
        if self._concurrency is not None:
            request = request.arriving(state.now_s())
        self.submitted.append(request)
        self._counts.submissions += 1
        key = (request.room, request.incarnation)
        state.progress()
        groups = ((Side.ENCODE, request.encode_instance), (Side.LANGUAGE, request.language_instance))
        wanted = [rank_id for group in groups for rank_id in state.ranks.members(*group)]
        for group in groups:
            state.troubles.strike(group, key)
        refusal = state.instances.refusal(*groups)
        if refusal:
            # Its ranks may be known already and would be waited for, but do not take requests yet.
            for rank_id in wanted:
                self._record_store.refuse(rank_id, request.room, state.now_s(), refusal)
            self.conclusions.append(Conclusion(state.now_s(), *key, None, None, refusal))
            self._report_progress()
            return
        state.waiting[key] = set(wanted)
        self._hand_out(key, Side.LANGUAGE, Submit.of(self._scenario.language_request(request)))
        encode = Submit.of(self._scenario.encode_request(request))
        lasts_s = self._scenario.services.preprocess_s(request)
        if not lasts_s:
            self._hand_out(key, Side.ENCODE, encode)
            return
        instance = request.encode_instance
        lasts_s *= slowest_of(self._plan, Side.ENCODE, instance)
        ready_s = self._processors[instance].give(state.now_s(), lasts_s)
        state.agenda.add(ready_s, lambda: self._hand_out(key, Side.ENCODE, encode))

    def _hand_out(self, key: RequestKey, side: Side, command: Submit) -> None:
        """Give a request to the ranks of one side; those that ended since it came are not waited for any more."""
        for rank_id in sorted(self._state.waiting.get(key, ())):
            if rank_id.side is side:
                self._state.ranks.send(rank_id, command)

    # --- how they end ---

    def conclude(self, key: RequestKey, rank_id: RankId, status: Status | None, reason: str) -> None:
        """A request is over on a rank, with no status where the rank did not say so itself."""
        left = self._state.waiting.get(key)
        if left is None or rank_id not in left:
            return
        self.conclusions.append(Conclusion(self._state.now_s(), *key, rank_id, status, reason))
        left.remove(rank_id)
        if not left:
            del self._state.waiting[key]
            self._report_progress()

    def drop(self, keys: Iterable[RequestKey], reason: str) -> None:
        """Wait no longer for these requests."""
        for key in sorted(keys):
            for rank_id in sorted(self._state.waiting[key]):
                self.conclude(key, rank_id, None, reason)

    def give_up(self, rooms: Iterable[int], reason: str) -> None:
        """Tell all ranks that are not done with these rooms to end them."""
        given_up = set(rooms)
        for (room, incarnation), members in self._state.waiting.items():
            if room in given_up:
                for rank_id in sorted(members):
                    self._state.ranks.send(rank_id, GiveUp(room, incarnation, reason))

    def _report_progress(self) -> None:
        if self._progress is not None:
            self._progress(1)
