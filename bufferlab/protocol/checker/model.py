"""The two sides as a transition system: states, and the moves possible in each.

A state is three things: where each rank is (a number in that rank's table of local states), what is under way (a bag of
numbers: messages, forward passes, writes, agreed iterations), and which faults have happened. It holds no order of
arrival and no time, so *every* order of arrival and completion is explored, not only those that a network is likely to
show.

The environment:

* every message, forward pass and write under way may be the next to arrive. Real channels are first-in first-out; any
  order includes that one;
* requests reach each rank in the order of their submission, whenever they like;
* a group agrees on an iteration at one moment and its ranks carry it out one by one. A rank that has agreed takes
  nothing else before it has carried out the iteration, as in ``real.run.rank``; with ``atomic_iterations`` all do so at
  once, as in ``sim.cluster.cluster``. An iteration that would change nothing is not a move;
* time passes only when nothing else can happen; then any timer may be the next to go off. A timer that goes off
  before that is a fault;
* a fault is a move like any other while the bound allows one more. When a rank is gone the others of its group hold no
  iteration any more and end as well, each some time after (``protocol.lifecycle``). A peer that stays declared down for
  a whole quarantine is gone, and what it had under way has arrived by then. Once it is up again the quarantine protects
  from nothing, so it may end at any moment.

What a rank does is in ``localsteps``, where a move leads in ``effects``, and what is wrong with a state in
``verdicts``.
"""

from __future__ import annotations

from collections.abc import Iterator

from bufferlab.protocol.checker.bounds import Bound, Fault
from bufferlab.protocol.checker.effects import Effects
from bufferlab.protocol.checker.invariants import Violation
from bufferlab.protocol.checker.localsteps import LocalSteps
from bufferlab.protocol.checker.states import DEAD, Branch, Move, State
from bufferlab.protocol.checker.steps import TimerGoesOff
from bufferlab.protocol.checker.verdicts import Verdicts
from bufferlab.protocol.messages import Abort
from bufferlab.protocol.rank import RoomKey


class Model:
    """The transition system of one bound. It is the same for every explorer of the same bound.

    ``steps``: what is known of its ranks. ``verdicts``: what is wrong with its states.
    """

    def __init__(self, bound: Bound, steps: LocalSteps | None = None) -> None:
        self.bound = bound
        self.steps = steps or LocalSteps(bound)
        self.verdicts = Verdicts(self.steps)
        self._effects = Effects(self.steps)

    def initial(self) -> tuple[State, tuple[Violation, ...]]:
        """The state before anything happened, and what is wrong with it."""
        steps = self.steps
        numbers: list[int] = []
        under_way: list[int] = []
        violations: list[Violation] = []
        for place, requests in enumerate(steps.requests):
            number = steps.untouched(place)
            if not self.bound.arrivals_any:
                for request in requests:
                    number, items, wrong = steps.step(place, number, request, request)
                    under_way += items
                    violations += wrong
            numbers.append(number)
        state = (tuple(numbers), tuple(sorted(under_way)), ())
        return state, (*violations, *self.verdicts.violations_in(state))

    def moves(self, state: State) -> Iterator[Branch]:
        """Every move possible in ``state``, and where it leads; those that are no faults first."""
        locals_, under_way, hits = state
        items, takers = self.steps.items, self.steps.takers
        blocked = {takers[number] for number in under_way if items[number].what == "iteration"}
        idle = True
        for found in self._progress(state, blocked):
            idle = False
            yield found
        if idle:
            for place, key in self._timers(locals_, blocked):
                yield self._timer(state, place, key)
        if len(hits) < self.bound.most_faults:
            yield from self._faults(state, blocked)

    # --- what is no fault ---

    def _progress(self, state: State, blocked: set[int]) -> Iterator[Branch]:
        locals_, under_way, _ = state
        steps, effects = self.steps, self._effects
        for place, number in enumerate(locals_):
            if number == DEAD or place in blocked:
                continue
            submitted = steps.locals[place][number].core._submitted
            if submitted < len(steps.requests[place]):
                request = steps.requests[place][submitted]
                yield effects.after(state, Move("submit", steps.ranks[place]), place, request, request)
        before = -1
        for number in under_way:
            if number == before:
                continue  # two of the same
            before = number
            if steps.takers[number] in blocked and steps.items[number].what != "iteration":
                continue
            yield effects.arrives(state, number)
        for place, number in enumerate(locals_):
            if number != DEAD and place not in blocked:
                for key in steps.armed(place, number)[1]:
                    yield self._timer(state, place, key)
        for members in steps.groups:
            if any(locals_[place] == DEAD for place in members):
                for place in members:
                    if locals_[place] != DEAD:
                        yield effects.dies(state, place, Move("follow", steps.ranks[place]), None)
                continue
            if any(place in blocked for place in members):
                continue
            iteration = steps.iteration_of(members, locals_)
            if iteration is not None:
                yield effects.iterations_over(state, members, iteration)

    def _timers(self, locals_: tuple[int, ...], blocked: set[int]) -> Iterator[tuple[int, RoomKey]]:
        for members in self.steps.groups:
            if any(locals_[place] == DEAD for place in members):
                continue  # nobody would hold the iteration that looks at the timers
            for place in members:
                if place not in blocked:
                    for key in self.steps.armed(place, locals_[place])[0]:
                        yield place, key

    def _timer(self, state: State, place: int, key: RoomKey) -> Branch:
        return self._effects.after(
            state, Move("timer", self.steps.ranks[place], room=key), place, TimerGoesOff(key), key
        )

    # --- faults ---

    def _faults(self, state: State, blocked: set[int]) -> Iterator[Branch]:
        yield from self._faults_of_items(state, blocked)
        for place, number in enumerate(state[0]):
            if number != DEAD:
                yield from self._faults_of_rank(state, place, blocked=place in blocked)

    def _faults_of_items(self, state: State, blocked: set[int]) -> Iterator[Branch]:
        locals_, under_way, _ = state
        kinds, steps, effects = self.bound.faults, self.steps, self._effects
        before = -1
        for number in under_way:
            if number == before:
                continue
            before = number
            item = steps.items[number]
            if item.what == "write" and steps.takers[number] not in blocked:
                for fault in (Fault.FAIL, Fault.LATE):
                    if fault in kinds and locals_[steps.places[item.content.destination]] != DEAD:
                        yield effects.write_fails(state, number, fault, (fault, item.content.room))
            elif item.what == "message":
                if Fault.LOSE in kinds:
                    yield effects.lost(state, number, (Fault.LOSE, item.content.room))
                if Fault.DUPLICATE in kinds:
                    yield effects.duplicated(state, number, (Fault.DUPLICATE, item.content.room))

    def _faults_of_rank(self, state: State, place: int, *, blocked: bool) -> Iterator[Branch]:
        locals_, _, hits = state
        kinds, steps, effects = self.bound.faults, self.steps, self._effects
        rank_id, number = steps.ranks[place], locals_[place]
        if Fault.DIE in kinds and not any(fault is Fault.DIE for fault, _ in hits):
            yield effects.dies(state, place, Move(Fault.DIE, rank_id), (Fault.DIE, None))
        if blocked:
            return
        core = steps.core(place, number)
        if Fault.ABORT in kinds:
            for key, room in core.rooms.items():
                if not room.over:
                    move = Move(Fault.ABORT, rank_id, room=key)
                    yield effects.after(state, move, place, Abort(*key), key, (Fault.ABORT, key[0]))
        if Fault.EARLY in kinds:
            for key in steps.armed(place, number)[0]:
                # A quarantine is as long as it must be.
                if not getattr(core.rooms[key], "writer_gone", False):
                    move = Move(Fault.EARLY, rank_id, room=key)
                    yield effects.after(state, move, place, TimerGoesOff(key), key, (Fault.EARLY, key[0]))
        if Fault.SUSPECT in kinds:
            for peer in steps.peers[place]:
                if peer not in core._down and locals_[steps.places[peer]] != DEAD:
                    yield effects.suspects(state, place, peer)
