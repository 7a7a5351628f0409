"""Larger worlds than the exhaustive checker can search, played at random against the same invariants.

A stateful test: hypothesis picks the size of the world and then one rule after the other, on plain cores, with a clock.
The checker's model takes no part, only its predicates (``protocol.checker.invariants``) and its account of what really
happened. In the end everything is let go on, and every room must have ended and every block be free.

What a random schedule may not do is what no deployment does either:

* a message takes at most SLOWEST_S, and no rank gets a request more than SLOWEST_S after the first;
* time does not pass a deadline before the group has held the iteration that looks at it;
* a quarantine is as long as it must be: it does not end while the writer, which was never gone here, can still write.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from buffer_faults import double_free_after_retraction, no_fence, source_freed_while_read
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from liveness_faults import no_cancel
from topology_faults import decided_locally

from bufferlab.protocol.agreement import hold_iteration
from bufferlab.protocol.checker.bounds import CONTAINED, Bound, Fault
from bufferlab.protocol.checker.invariants import (
    Local,
    Step,
    Violation,
    Write,
    check_end,
    check_group,
    check_local,
    check_step,
    check_write,
)
from bufferlab.protocol.checker.model import Model
from bufferlab.protocol.checker.snapshot import clone, freeze
from bufferlab.protocol.checker.steps import Item, Landed, account, land, write_done
from bufferlab.protocol.disciplines import DISCIPLINES
from bufferlab.protocol.language import QUARANTINE_S, LanguageRoom
from bufferlab.protocol.messages import Abort, Encoded, PeerDown, PeerUp, Send, StartEncode, StartWrite, WriterQuiet
from bufferlab.protocol.rank import EARLY_LIFETIME_S
from bufferlab.protocol.topology import RankId, Side

SLOWEST_S = 20.0
"""Well below EARLY_LIFETIME_S, as the protocol demands."""
assert 2 * SLOWEST_S < EARLY_LIFETIME_S

ANY = st.integers(0, 2**16)
"""Which of the things that are possible; what is not there is taken modulo."""


class Thing:
    """Something under way since a moment."""

    def __init__(self, item: Item, since_s: float) -> None:
        self.item = item
        self.since_s = since_s


class Fleet:
    """All ranks of both sides, what is under way between them, and the account of what happened."""

    def __init__(self, bound: Bound) -> None:
        self.bound = bound
        self.now = 0.0
        model = Model(bound)
        model.initial()
        self.locals: dict[RankId, Local] = {}
        for place, rank_id in enumerate(model.steps.ranks):
            (start,) = model.steps.locals[place]
            self.locals[rank_id] = start._replace(core=bound.make_core(rank_id))
        self.groups = {Side.ENCODE: bound.encode_ids(), Side.LANGUAGE: bound.language_ids()}
        self.requests = {rank_id: bound.requests_for(rank_id) for rank_id in self.locals}
        self.first_given_s: dict[int, float] = {}
        self.under_way: list[Thing] = []
        self.hits: list[tuple[Fault, int | None]] = []

    def core(self, rank_id: RankId) -> Any:
        return self.locals[rank_id].core

    # --- what may happen ---

    def iterating(self) -> set[RankId]:
        """Ranks that have agreed on an iteration and take nothing else before they have carried it out."""
        return {thing.item.taker for thing in self.under_way if thing.item.what == "iteration"}

    def things(self, *kinds: str) -> list[Thing]:
        """What is under way and may be the next to arrive."""
        iterating = self.iterating()
        return [
            thing
            for thing in self.under_way
            if thing.item.what in kinds and (thing.item.what == "iteration" or thing.item.taker not in iterating)
        ]

    def waiting(self) -> list[RankId]:
        """Ranks that may get their next request."""
        iterating = self.iterating()
        return [
            rank_id
            for rank_id, requests in self.requests.items()
            if self.core(rank_id)._submitted < len(requests) and rank_id not in iterating
        ]

    def idle_groups(self) -> list[Side]:
        iterating = self.iterating()
        return [side for side, members in self.groups.items() if not iterating.intersection(members)]

    def moves(self) -> list[Callable[[], None]]:
        """All that goes well."""
        return [
            *(partial(self.submit, rank_id) for rank_id in self.waiting()),
            *(
                partial(self.arrive, thing)
                for thing in self.things("message", "encode", "write", "late", "iteration", "up")
            ),
            *(partial(self.begin_iteration, side) for side in self.idle_groups()),
        ]

    # --- moves ---

    def submit(self, rank_id: RankId) -> None:
        number = self.core(rank_id)._submitted
        self.first_given_s.setdefault(number, self.now)
        self.feed(rank_id, self.requests[rank_id][number])

    def begin_iteration(self, side: Side) -> None:
        members = self.groups[side]
        iteration = hold_iteration([self.core(member) for member in members])
        for member in members:
            if len(members) == 1:
                self.feed(member, iteration)
            else:
                self.add(Item("iteration", member, iteration, member))

    def arrive(self, thing: Thing) -> None:
        self.under_way.remove(thing)
        content, taker = thing.item.content, thing.item.taker
        match thing.item.what:
            case "encode":
                self.feed(taker, Encoded(content.room, content.incarnation))
            case "write":
                self.land(content, whole=True)
                self.feed(taker, write_done(content, ok=True))
            case "late":
                self.land(content, whole=True)
                self.feed(taker, WriterQuiet(content.room, content.incarnation, content.destination))
            case "up":
                self.feed(taker, PeerUp(content))
            case _:
                self.feed(taker, content)

    def fail_write(self, thing: Thing, *, late: bool) -> None:
        self.under_way.remove(thing)
        write = thing.item.content
        self.hits.append((Fault.LATE if late else Fault.FAIL, write.room))
        self.land(write, whole=False)
        if late:
            self.add(thing.item._replace(what="late"))
        self.feed(thing.item.taker, write_done(write, ok=False, quiet=not late))

    def lose(self, thing: Thing) -> None:
        self.under_way.remove(thing)
        self.hits.append((Fault.LOSE, thing.item.content.room))

    def duplicate(self, thing: Thing) -> None:
        self.under_way.append(Thing(thing.item, thing.since_s))
        self.hits.append((Fault.DUPLICATE, thing.item.content.room))

    def abort(self, rank_id: RankId, room: Any) -> None:
        self.hits.append((Fault.ABORT, room.key[0]))
        self.feed(rank_id, Abort(*room.key))

    def suspect(self, rank_id: RankId, peer: RankId) -> None:
        self.hits.append((Fault.SUSPECT, None))
        self.add(Item("up", rank_id, peer, peer))
        self.feed(rank_id, PeerDown(peer))

    def add(self, item: Item) -> None:
        self.under_way.append(Thing(item, self.now))

    def land(self, write: StartWrite, *, whole: bool) -> None:
        target = self.locals[write.destination]
        memory = land(target.ghost.memory, Landed(write, whole))
        self.locals[write.destination] = target._replace(ghost=target.ghost._replace(memory=memory))

    def feed(self, rank_id: RankId, given: Any) -> None:
        """Give one input to one rank, check the step and put what it asks for under way."""
        local = self.locals[rank_id]
        core, before = local.core, local._replace(core=clone(local.core))
        actions: list[Any] = []
        error = None
        try:
            actions = core.handle(given, self.now)
        except Exception as raised:  # a finding
            error = raised
        else:
            self.locals[rank_id] = local._replace(ghost=account(local.ghost, core, given, actions))
        nothing_broken(check_step(Step(before, given, actions, self.locals[rank_id], error)))
        for action in actions:
            match action:
                case Send(to, message):
                    self.add(Item("message", to, message, rank_id))
                case StartEncode():
                    self.add(Item("encode", rank_id, action, rank_id))
                case StartWrite():
                    self.add(Item("write", rank_id, action, rank_id))

    # --- time ---

    def let_time_pass(self) -> bool:
        """Up to the next thing that time brings about, which happens; False if there is none.

        That is the iteration which looks at a deadline that has come, or whatever takes no longer than it may.
        """
        for side, members in self.groups.items():
            if any((due := self.core(member).next_deadline()) is not None and due <= self.now for member in members):
                self.finish_iteration(side)
                self.begin_iteration(side)
                self.finish_iteration(side)
                return True
        self.prolong_quarantines()
        deadlines = [self.core(rank_id).next_deadline() for rank_id in self.locals]
        overdue = [thing for thing in self.under_way if thing.item.what in ("message", "up")]
        moments: list[tuple[float, Callable[[], object]]] = [
            (due, lambda: None) for due in deadlines if due is not None
        ]
        moments += [(thing.since_s + SLOWEST_S, partial(self.arrive_now, thing)) for thing in overdue]
        moments += [
            (self.first_given_s[number] + SLOWEST_S, partial(self.submit_now, rank_id))
            for rank_id, requests in self.requests.items()
            if (number := self.core(rank_id)._submitted) < len(requests) and number in self.first_given_s
        ]
        if not moments:
            return False
        moment, happens = min(moments, key=lambda one: one[0])
        self.now = max(self.now, moment)
        happens()
        return True

    def finish_iteration(self, side: Side) -> None:
        for thing in self.things("iteration"):
            if thing.item.taker.side is side:
                self.arrive(thing)

    def arrive_now(self, thing: Thing) -> None:
        self.finish_iteration(thing.item.taker.side)
        self.arrive(thing)

    def submit_now(self, rank_id: RankId) -> None:
        self.finish_iteration(rank_id.side)
        self.submit(rank_id)

    def prolong_quarantines(self) -> None:
        for rank_id in self.groups[Side.LANGUAGE]:
            core = self.core(rank_id)
            for room in core.rooms.values():
                if room.over and room.writer_gone and self.may_write(room):
                    core._arm(room, QUARANTINE_S, self.now)

    def may_write(self, room: LanguageRoom) -> bool:
        """Whether the writer of a room may still write into it, however late."""
        writer = self.core(room.writer)
        if writer._submitted <= self.bound.keys.index(room.key):
            return True
        known = writer.rooms.get(room.key)
        return (known is not None and (not known.failure or known.source_in_use)) or any(
            (thing.item.what, thing.item.content) == ("up", room.writer)
            or (thing.item.taker == room.writer and key_of(thing.item.content) == room.key)
            for thing in self.under_way
        )

    # --- the end ---

    def settle(self) -> None:
        """Let everything go on until only time could change anything."""
        for _ in range(500):
            before = [freeze(local.core) for local in self.locals.values()]
            while self.waiting() or self.things("message", "encode", "write", "late", "iteration", "up"):
                self.moves()[0]()
                self.check()
            for side in self.groups:
                self.begin_iteration(side)
                self.finish_iteration(side)
                self.check()
            if not self.under_way and [freeze(local.core) for local in self.locals.values()] == before:
                return
        raise AssertionError("it never comes to rest")

    def finish(self) -> None:
        """Everything goes on to its end, and the end is as it must be."""
        self.settle()
        if not self.bound.may_deadlock and CONTAINED.issuperset(fault for fault, _ in self.hits):
            self.check_rest()  # with no need of a timer
        for _ in range(1000):
            if not self.let_time_pass():
                break
            self.check()
            self.settle()
        self.check_rest()
        nothing_broken(check_end(self.bound, list(self.locals.values()), tuple(self.hits)))

    # --- what must hold ---

    def check(self) -> None:
        for local in self.locals.values():
            nothing_broken(check_local(local))
        for thing in self.under_way:
            item = thing.item
            if item.what in ("write", "late"):
                ends = self.locals[item.taker], self.locals[item.content.destination]
                nothing_broken(check_write(Write(item.content, *ends)))
        for side in self.idle_groups():
            nothing_broken(check_group([self.locals[member] for member in self.groups[side]]))

    def check_rest(self) -> None:
        for rank_id in self.locals:
            core = self.core(rank_id)
            assert core._submitted == len(self.requests[rank_id])
            assert not core.rooms, f"{rank_id} still has rooms {list(core.rooms)}"
            assert core.pool.free == core.pool.blocks, f"{rank_id} still holds blocks"


def key_of(content: Any) -> tuple[int, int] | None:
    return (content.room, content.incarnation) if hasattr(content, "room") else None


def nothing_broken(found: Any) -> None:
    told: list[Violation] = list(found)
    assert not told, "; ".join(f"invariant {violation.invariant}: {violation.what}" for violation in told)


@st.composite
def bounds(draw: st.DrawFn) -> Bound:
    def any_of(*values: Any) -> Any:
        return draw(st.sampled_from(values))

    count = draw(st.integers(1, 6))
    language_tp = any_of(1, 2, 3, 4)
    language_blocks = any_of(4, 3, 2, 5, 6, 8, 1)
    return Bound(
        name="a random one",
        lengths=tuple(any_of(3, 1, 2, 4, 5, 7, 5, 3, 9, 0) for _ in range(count)),
        discipline=any_of(*DISCIPLINES),
        rooms=any_of((), tuple(number % 2 for number in range(count)), (5,) * count),
        encode_tp=any_of(1, 2, 3),
        language_tp=language_tp,
        encode_blocks=any_of(5, 4, 6, 8, 3),
        language_blocks=language_blocks,
        # One for all ranks: ranks that allocate differently are agreed only with one writer and blocks for every room.
        default_tokens=(any_of(2, 4, 1, 6),),
        reserve_blocks=any_of(0, language_blocks // 3),
        resume_first=draw(st.booleans()),
        timers=True,
    )


class Machine(RuleBasedStateMachine):
    """The rules; each picks one of the things that are there."""

    fleet: Fleet
    kinds: frozenset[Fault]
    most_faults: int

    @initialize(
        bound=bounds(),
        at_once=st.booleans(),
        kinds=st.lists(st.sampled_from([fault for fault in Fault if fault is not Fault.DIE]), min_size=1, max_size=3),
        most_faults=st.sampled_from([2, 1, 4, 8, 0]),
    )
    def build(self, bound: Bound, at_once: bool, kinds: list[Fault], most_faults: int) -> None:
        self.fleet = Fleet(bound)
        self.kinds, self.most_faults = frozenset(kinds), most_faults
        if at_once:
            while waiting := self.fleet.waiting():
                self.fleet.submit(waiting[0])

    def _may(self, kind: Fault) -> bool:
        return kind in self.kinds and len(self.fleet.hits) < self.most_faults

    def _has(self, *kinds: str) -> bool:
        return bool(self.fleet.things(*kinds))

    def _one(self, pick: int, *kinds: str) -> Thing:
        found = self.fleet.things(*kinds)
        return found[pick % len(found)]

    @rule(picks=st.binary(min_size=1, max_size=12))
    def goes_on(self, picks: bytes) -> None:
        for pick in picks:
            moves = self.fleet.moves()
            if moves:
                moves[pick % len(moves)]()
                self.fleet.check()

    @precondition(lambda self: self.fleet.waiting())
    @rule(pick=ANY)
    def submit(self, pick: int) -> None:
        waiting = self.fleet.waiting()
        self.fleet.submit(waiting[pick % len(waiting)])

    @precondition(lambda self: self._has("message"))
    @rule(pick=ANY)
    def deliver(self, pick: int) -> None:
        self.fleet.arrive(self._one(pick, "message"))

    @precondition(lambda self: self._has("encode", "write", "late"))
    @rule(pick=ANY)
    def complete(self, pick: int) -> None:
        self.fleet.arrive(self._one(pick, "encode", "write", "late"))

    @precondition(lambda self: self.fleet.idle_groups())
    @rule(pick=ANY)
    def begin_iteration(self, pick: int) -> None:
        sides = self.fleet.idle_groups()
        self.fleet.begin_iteration(sides[pick % len(sides)])

    @precondition(lambda self: self._has("iteration"))
    @rule(pick=ANY)
    def carry_out_iteration(self, pick: int) -> None:
        self.fleet.arrive(self._one(pick, "iteration"))

    # --- what goes wrong ---

    def _write(self, pick: int) -> Thing | None:
        """A write under way; until there is one, everything else goes on for a while."""
        for _ in range(60):
            if self._has("write"):
                return self._one(pick, "write")
            moves = self.fleet.moves()
            moves[pick % len(moves)]()
            self.fleet.check()
        return None

    @precondition(lambda self: self._may(Fault.FAIL))
    @rule(pick=ANY)
    def fail_write(self, pick: int) -> None:
        if (write := self._write(pick)) is not None:
            self.fleet.fail_write(write, late=False)

    @precondition(lambda self: self._may(Fault.LATE))
    @rule(pick=ANY)
    def fail_write_that_lands_late(self, pick: int) -> None:
        if (write := self._write(pick)) is not None:
            self.fleet.fail_write(write, late=True)

    @precondition(lambda self: self._may(Fault.LOSE) and self._has("message"))
    @rule(pick=ANY)
    def lose(self, pick: int) -> None:
        self.fleet.lose(self._one(pick, "message"))

    @precondition(lambda self: self._may(Fault.DUPLICATE) and self._has("message"))
    @rule(pick=ANY)
    def duplicate(self, pick: int) -> None:
        self.fleet.duplicate(self._one(pick, "message"))

    def _rooms(self) -> list[tuple[RankId, Any]]:
        iterating = self.fleet.iterating()
        return [
            (rank_id, room)
            for rank_id in self.fleet.locals
            for room in self.fleet.core(rank_id).rooms.values()
            if rank_id not in iterating and not room.over
        ]

    @precondition(lambda self: self._may(Fault.ABORT) and self._rooms())
    @rule(pick=ANY)
    def abort(self, pick: int) -> None:
        rooms = self._rooms()
        self.fleet.abort(*rooms[pick % len(rooms)])

    def _believers(self) -> list[tuple[RankId, RankId]]:
        iterating, locals_ = self.fleet.iterating(), self.fleet.locals
        return [
            (rank_id, peer)
            for rank_id, local in locals_.items()
            for peer in locals_
            if peer.side is not rank_id.side and rank_id not in iterating and peer not in local.core._down
        ]

    @precondition(lambda self: self._may(Fault.SUSPECT) and self._believers())
    @rule(pick=ANY)
    def take_for_dead(self, pick: int) -> None:
        believers = self._believers()
        self.fleet.suspect(*believers[pick % len(believers)])

    @precondition(lambda self: self._has("up"))
    @rule(pick=ANY)
    def believe_again(self, pick: int) -> None:
        self.fleet.arrive(self._one(pick, "up"))

    @precondition(lambda self: Fault.EARLY in self.kinds and self.most_faults)
    @rule()
    def let_time_pass(self) -> None:
        """However often: a room times out as soon as it is not moved on."""
        self.fleet.hits.append((Fault.EARLY, None))
        self.fleet.let_time_pass()

    # --- what must hold ---

    @invariant()
    def nothing_is_broken(self) -> None:
        self.fleet.check()

    def teardown(self) -> None:
        if hasattr(self, "fleet"):
            self.fleet.finish()


def play(examples: int, steps: int, **more: Any) -> None:
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            **more,
        ),
    )


def test_random_worlds_hold_all_invariants() -> None:
    play(45, 40)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_random_worlds_hold_all_invariants() -> None:
    play(3000, 50)


@pytest.mark.interpreted
@pytest.mark.parametrize(
    "fault",
    [no_fence, source_freed_while_read, double_free_after_retraction, no_cancel, decided_locally],
    ids=lambda fault: fault.__name__,
)
def test_a_historic_fault_is_noticed(fault: Callable[[pytest.MonkeyPatch], None]) -> None:
    """The machine is able to fail."""
    with pytest.MonkeyPatch.context() as patch:
        fault(patch)
        with pytest.raises(AssertionError, match=r"invariant \d+|still "):
            play(300, 60, derandomize=True, database=None, phases=[Phase.generate], report_multiple_bugs=False)
