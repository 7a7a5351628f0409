"""Breadth-first search through every state of a bound, and what it finds.

Breadth first, so the first broken invariant comes with a schedule that no other is shorter than. States are kept whole,
not as hashes: what was explored was explored exactly.

When no invariant is violated, the graph of states tells about progress. From every state, without any further fault, a
done state must be reachable. Then every fair run ends (finitely many faults, nothing that is possible for ever is put
off for ever), and there is neither a deadlock nor a trap that a run could circle in.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable

import msgspec
import numpy

from bufferlab.protocol.checker.bounds import Bound, Fault
from bufferlab.protocol.checker.invariants import Violation
from bufferlab.protocol.checker.model import Model
from bufferlab.protocol.checker.states import Move, State

FAULTS = frozenset(str(fault) for fault in Fault)


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A violated invariant, with the shortest schedule that violates it."""

    invariant: int
    what: str
    moves: tuple[Move, ...]


class Exploration(msgspec.Struct, frozen=True, kw_only=True):
    """What came of exploring one bound.

    ``states``, ``transitions``: explored. ``local_steps``: distinct steps of single ranks among them. ``depth``: moves
    of the longest shortest schedule. ``complete``: every reachable state was explored. ``done``: states in which all
    has come to rest. ``stuck``: states from which nothing leads to a done state (0 unless complete).
    ``dead_ends``: states that nothing leads out of, within the language pool and across the two sides (only the first
    one unless the search keeps going).
    ``findings``: at most one for each invariant, the shortest schedule first found.
    """

    bound: Bound
    states: int
    transitions: int
    local_steps: int
    depth: int
    complete: bool
    done: int
    stuck: int
    dead_ends: tuple[int, int]
    findings: tuple[Finding, ...]

    @property
    def deadlock(self) -> Finding | None:
        """The shortest way into a state that nothing leads out of, if there is one."""
        return next((finding for finding in self.findings if finding.invariant == 21), None)


Progress = Callable[[int, int], bool]
"""Called now and then with the states explored and known; False ends the search."""

PROGRESS_EVERY = 2000


def explore(
    bound: Bound,
    *,
    most_states: int | None = None,
    progress: Progress | None = None,
    keep_going: bool = False,
) -> Exploration:
    """Explore ``bound`` until every state is done, ``most_states`` are known or ``progress`` says no.

    Stops at the first broken invariant, or with ``keep_going`` collects the shortest schedule for each of them.
    """
    return _Search(bound, most_states, progress, keep_going).run()


Goal = Callable[[Model, State], bool]
"""Whether a state is one that is looked for."""


def find(bound: Bound, goal: Goal, *, most_states: int | None = None) -> tuple[Move, ...] | None:
    """The shortest schedule to a state with ``goal``; None if no state (of the first ``most_states``) has it."""
    search = _Search(bound, most_states, None, keep_going=True)
    return search.find(goal)


class _Search:
    def __init__(self, bound: Bound, most_states: int | None, progress: Progress | None, keep_going: bool) -> None:
        self.model = Model(bound)
        self.most_states = most_states
        self.progress = progress
        self.keep_going = keep_going
        self.states: list[State] = []
        self.known: dict[State, int] = {}
        self.parent = array("l")
        self.by_move = array("l")
        self.moves: list[Move] = []
        self.move_numbers: dict[Move, int] = {}
        self.sources = array("l")
        self.targets = array("l")
        self.transitions = 0
        self.done: list[int] = []
        self.dead_ends = {False: 0, True: 0}
        self.findings: dict[int, Finding] = {}

    def run(self) -> Exploration:
        initial, violations = self.model.initial()
        self._add(initial, -1, -1)
        self._note(violations, 0)
        complete = self._search()
        stuck = 0
        if complete and (self.keep_going or not self.findings):
            stuck = self._check_progress()
        return Exploration(
            bound=self.model.bound,
            states=len(self.states),
            transitions=self.transitions,
            local_steps=self.model.steps.count,
            depth=len(self._path(len(self.states) - 1)),
            complete=complete,
            done=len(self.done),
            stuck=stuck,
            dead_ends=(self.dead_ends[False], self.dead_ends[True]),
            findings=tuple(self.findings.values()),
        )

    def find(self, goal: Goal) -> tuple[Move, ...] | None:
        self._add(self.model.initial()[0], -1, -1)
        at = 0
        while at < len(self.states) and (self.most_states is None or at < self.most_states):
            state = self.states[at]
            if goal(self.model, state):
                return self._path(at)
            for move, after, _ in self.model.moves(state):
                if after not in self.known:
                    self._add(after, at, self._move(move))
            at += 1
        return None

    def _search(self) -> bool:
        model, verdicts, known = self.model, self.model.verdicts, self.known
        at = 0
        while at < len(self.states):
            if self.findings and not self.keep_going:
                return False
            if at % PROGRESS_EVERY == 0 and self.progress is not None and not self.progress(at, len(self.states)):
                return False
            if self.most_states is not None and len(self.states) > self.most_states:
                return False
            state = self.states[at]
            moves_on = False
            for move, after, violations in model.moves(state):
                self.transitions += 1
                reached = known.get(after)
                if reached is None:
                    reached = self._add(after, at, self._move(move))
                    self._note(verdicts.violations_in(after), reached)
                if violations:
                    self._note(violations, at, move)
                if move.kind not in FAULTS:
                    moves_on = True
                    self.sources.append(at)
                    self.targets.append(reached)
            if verdicts.is_done(state):
                self.done.append(at)
                self._note(tuple(verdicts.violations_at_end(state)), at)
            elif not moves_on:  # a fault that may still happen helps nobody
                self.dead_ends[verdicts.waits_across(state)] += 1
                self._note((verdicts.deadlock(state),), at)
            at += 1
        return True

    def _add(self, state: State, parent: int, by_move: int) -> int:
        number = self.known[state] = len(self.states)
        self.states.append(state)
        self.parent.append(parent)
        self.by_move.append(by_move)
        return number

    def _move(self, move: Move) -> int:
        number = self.move_numbers.get(move)
        if number is None:
            number = self.move_numbers[move] = len(self.moves)
            self.moves.append(move)
        return number

    def _note(self, violations: tuple[Violation, ...], at: int, last: Move | None = None) -> None:
        for invariant, what in violations:
            if invariant not in self.findings:
                path = self._path(at) if last is None else (*self._path(at), last)
                self.findings[invariant] = Finding(invariant=invariant, what=what, moves=path)

    def _path(self, number: int) -> tuple[Move, ...]:
        path: list[Move] = []
        while self.parent[number] >= 0:
            path.append(self.moves[self.by_move[number]])
            number = self.parent[number]
        return tuple(reversed(path))

    # --- progress ---

    def _check_progress(self) -> int:
        """Find the states from which nothing leads to a done state; the count of them."""
        count = len(self.states)
        sources = numpy.frombuffer(self.sources, dtype=numpy.int64)
        targets = numpy.frombuffer(self.targets, dtype=numpy.int64)
        reaches = numpy.zeros(count, dtype=bool)
        reaches[self.done] = True
        order = numpy.argsort(targets, kind="stable")
        by_target = sources[order]
        starts = numpy.searchsorted(targets[order], numpy.arange(count + 1))
        front = numpy.array(self.done, dtype=numpy.int64)
        while len(front):
            into = [by_target[starts[node] : starts[node + 1]] for node in front.tolist()]
            found = numpy.unique(numpy.concatenate(into)) if into else front[:0]
            front = found[~reaches[found]]
            reaches[front] = True
        lost: list[int] = numpy.flatnonzero(~reaches).tolist()
        if lost and not {21, 22, 23}.intersection(self.findings):
            # No state is a dead end, so they circle for ever. States are numbered in order of their distance.
            fenced = (at for at in lost if self.model.verdicts.has_fences(self.states[at]))
            at = next(fenced, lost[0])
            self._note((self.model.verdicts.deadlock(self.states[at], for_ever=True),), at)
        return len(lost)
