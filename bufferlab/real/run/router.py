"""The router of a measured run: hands out its requests, hears what the ranks say, and has each part look to its own.

* ``state``: what all parts know of the run;
* ``requests``: handed out, and waited for until all of their ranks have concluded them;
* ``processes``: those that end, and what ends with them; ``restarts``: instances that come back;
* ``inflicting``: the plan of faults, carried out;
* ``watching``: nobody stays silent and nothing stands still; ``deadlocks``: no rooms wait for each other for ever;
* ``ending``: the ranks report and leave; ``settlement``: what came of it all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.topology import RankId
from bufferlab.real.counts import Counts
from bufferlab.real.errors import EngineError, in_words
from bufferlab.real.faults import RealFault
from bufferlab.real.run.commands import Alive, Broken, Command, Concluded, Holdings, Ready, Records, Report, WriteBegins
from bufferlab.real.run.deadlocks import Deadlocks
from bufferlab.real.run.ending import Ending
from bufferlab.real.run.inflicting import FaultPlan
from bufferlab.real.run.outcome import RealOutcome
from bufferlab.real.run.patience import Patience
from bufferlab.real.run.processes import Processes
from bufferlab.real.run.ranks import POLL_S, Ranks
from bufferlab.real.run.record_store import RecordStore
from bufferlab.real.run.requests import Requests
from bufferlab.real.run.restarts import Restarts
from bufferlab.real.run.settlement import settle
from bufferlab.real.run.state import BREAKS, RunState
from bufferlab.real.run.usage import Meter, Part
from bufferlab.real.run.watching import Watching

LEAD_S = 0.05
"""Time between the order to start and time zero, so that every rank knows the zero before the first request."""


class Router:
    """Runs the requests of one run."""

    def __init__(
        self,
        ranks: Ranks,
        plan: Sequence[RealFault],
        progress: Callable[[int], None] | None,
        concurrency: int | None,
        patience: Patience,
        watch: Callable[[], object] = lambda: None,
    ) -> None:
        self._watch = watch
        # The router has no engine; what else has threads without a name here is a library that the caller uses.
        self._meter = Meter(unnamed=Part.OTHER)
        self._counts = Counts()
        self._ranks = ranks
        self._record_store = RecordStore()
        self._state = RunState(ranks)
        self._requests = Requests(self._state, self._record_store, self._counts, plan, concurrency, progress)
        self._processes = Processes(self._state, self._requests, self._record_store)
        self._restarts = Restarts(self._state, self._processes)
        self._faults = FaultPlan(plan, self._state, self._requests, self._processes, self._restarts)
        self._watching = Watching(patience, self._state, self._requests, self._processes, self._faults)
        self._deadlocks = Deadlocks(self._state, self._requests)
        self._ending = Ending(patience, self._state, self._processes, self._watching, self._hear)

    def run(self, requests: Sequence[Request]) -> RealOutcome:
        """Hand out the requests at their times, or as earlier ones end, wait for the end, collect."""
        try:
            return self._run(requests)
        except BaseException:
            # The exception holds this object until somebody drops it, and its files with it.
            self._record_store.close()
            raise

    def _run(self, requests: Sequence[Request]) -> RealOutcome:
        state = self._state
        self._watch()
        sent_before = self._ranks.hosts.sent_counters()
        state.zero_s = time.monotonic() + LEAD_S
        for rank_id in self._ranks.ids:
            self._ranks.begin(rank_id, state.zero_s)
        state.upheaval()
        self._faults.begin()
        self._requests.expect(requests)
        try:
            self._serve()
        except BREAKS as error:
            # What was delivered until now is not given away for what went wrong after it.
            state.troubles.add(state.now_s(), in_words(error), struck=state.waiting)
            self._requests.end_early("the run was broken off")
            self._requests.drop(set(state.waiting), in_words(error))
        end_s = state.now_s()
        usage = self._meter.stop(self._counts)
        self._watch()
        self._ending.end()
        self._faults.end()
        for rank_id in self._ranks.measure_again():
            if rank_id in state.reports:  # of one that has left it is told already
                state.note(f"the clock of {rank_id} was not measured again, so its drift is unknown")
        return settle(
            state,
            self._requests,
            self._record_store,
            end_s=end_s,
            deadlocks=self._deadlocks.found,
            usage=usage,
            sent_before=sent_before,
        )

    def _serve(self) -> None:
        """The main loop: until all requests are concluded, and everybody is back who is to come back."""
        state = self._state
        while self._requests.to_come or state.waiting or state.starting or state.paused:
            if not self._meter.started and state.now_s() >= 0:
                self._meter.start()
            self._requests.hand_out_due()
            state.do_due()
            due_s = min(self._requests.due_s(), state.agenda.next_s)
            for command in self._ranks.receive(min(POLL_S, due_s - state.now_s())):
                self._hear(command)
            self._processes.notice_ends()
            self._restarts.end_late()
            self._deadlocks.look()
            self._watching.look()

    def _hear(self, command: Command) -> None:
        """Hand what a rank says to the part whose business it is."""
        self._counts.inputs += 1
        speaker: RankId | None = getattr(command, "rank_id", None)
        if speaker is not None:
            self._watching.hear(speaker)
        match command:
            case Concluded(rank_id, room, incarnation, status, reason, generation, records):
                self._state.progress()
                self._deadlocks.concluded(rank_id)
                self._requests.conclude((room, incarnation), rank_id, status, reason)
                self._record_store.take(rank_id, generation, records)
            case Records():
                self._record_store.add(command)
            case WriteBegins(_, room):
                self._faults.write_begins(room)
            case Ready():
                self._restarts.welcome(command)
            case Holdings():
                self._deadlocks.take(command)
            case Alive():
                self._watching.answer(command)
            case Broken(rank_id, reason):
                self._processes.break_down(rank_id, reason)
            case Report(rank_id) if self._state.closing:
                self._state.reports[rank_id] = command
            case _:
                raise EngineError(f"a rank sent {type(command).__name__} in the middle of the run")
