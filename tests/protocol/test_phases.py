"""The tables of phases: what they say, that the cores do just that, and that nothing else is possible."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import pytest
from harness import World, WorldSpec

from bufferlab.protocol.checker.bounds import NEED_TIMERS, Bound, Fault
from bufferlab.protocol.checker.explorer import explore
from bufferlab.protocol.checker.snapshot import freeze, frozen_room
from bufferlab.protocol.checker.steps import NOW
from bufferlab.protocol.disciplines import make_discipline
from bufferlab.protocol.encode import EncodeRank
from bufferlab.protocol.encode_phases import ENCODE_PHASES, EncodePhase, EncodeStep
from bufferlab.protocol.errors import IllegalStepError, ProtocolError
from bufferlab.protocol.language import LanguageRank
from bufferlab.protocol.language_phases import LANGUAGE_PHASES, LanguagePhase, LanguageStep
from bufferlab.protocol.layout import BufferLayout
from bufferlab.protocol.messages import ChunkStatus, EncodeRequest, LanguageRequest, Prefilled
from bufferlab.protocol.phases import Phase, Step, Table, Timer
from bufferlab.protocol.rank import NEVER_S, RankCore, Room
from bufferlab.protocol.sizing import Fixed
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side

TABLES: dict[Side, Table] = {Side.ENCODE: ENCODE_PHASES, Side.LANGUAGE: LANGUAGE_PHASES}
KINDS: dict[Side, tuple[type[Phase], type[Step]]] = {
    Side.ENCODE: (EncodePhase, EncodeStep),
    Side.LANGUAGE: (LanguagePhase, LanguageStep),
}
FIRST: dict[Side, set[Phase]] = {
    Side.ENCODE: {EncodePhase.AWAITING_FIRST_OFFERS},
    Side.LANGUAGE: {LanguagePhase.JOINING, LanguagePhase.AWAITING_LENGTH},
}
ENDED: dict[Side, Phase] = {Side.ENCODE: EncodePhase.ENDED, Side.LANGUAGE: LanguagePhase.ENDED}

each_side = pytest.mark.parametrize("side", Side, ids=lambda side: side.value)


# --- the tables by themselves ---


def reached_from(table: Table, phases: set[Phase]) -> set[Phase]:
    found, queue = set(phases), list(phases)
    for phase in queue:
        new = set(table[phase].steps.values()) - found
        found |= new
        queue += new
    return found


@each_side
def test_every_phase_has_a_row_and_every_step_a_place(side: Side) -> None:
    table, (phases, steps) = TABLES[side], KINDS[side]
    assert list(table) == list(phases)
    assert {step for row in table.values() for step in row.steps} == set(steps)
    assert all(set(row.runs_on) <= set(row.steps) for row in table.values())


@each_side
def test_every_phase_can_be_reached_and_left(side: Side) -> None:
    table = TABLES[side]
    assert reached_from(table, FIRST[side]) == set(table)
    for phase in table:
        assert ENDED[side] in reached_from(table, {phase}), f"{phase.name} cannot be left for good"
    assert table[ENDED[side]].steps == {}


@each_side
def test_a_room_that_is_over_stays_over(side: Side) -> None:
    table = TABLES[side]
    for phase, row in table.items():
        if row.over:
            assert all(table[to].over for to in row.steps.values()), phase.name


@each_side
def test_a_phase_without_a_timer_waits_for_nobody_who_may_be_gone(side: Side) -> None:
    """It waits for its own group, whose ranks live and die together, or for its own encoder, engine or prefill."""
    untimed = {row.what for row in TABLES[side].values() if row.timer is Timer.NONE and row.steps}
    local = {"failed and waiting for the encoder and its writes to end", "delivered and read by the prefill"}
    assert {what for what in untimed if "waiting for the other ranks" not in what} <= local


# --- what the cores do ---


class Taken(NamedTuple):
    """What was seen in an exploration: the steps taken, the timers that ran, and the inputs that changed a room."""

    steps: set[tuple[Phase, Step]]
    timed: set[Phase]
    heeded: set[tuple[Phase, str]]


def bounds() -> Iterator[Bound]:
    yield Bound(name="two chunks, two ranks", lengths=(3,), encode_tp=2, language_tp=2, atomic_iterations=True)
    yield Bound(name="a surplus rank", lengths=(1,), encode_tp=2, atomic_iterations=True)
    yield Bound(name="announced", lengths=(1,), discipline="exact_announce", language_tp=2, atomic_iterations=True)
    yield Bound(name="never fits", lengths=(3,), discipline="default_fail", encode_blocks=2)
    yield Bound(
        name="announced, never fits", lengths=(5,), discipline="exact_announce", encode_blocks=3, language_blocks=2
    )
    for fault in Fault:
        for discipline in ("window", "exact_announce"):
            yield Bound(
                name=f"{discipline}, {fault}", lengths=(3,), discipline=discipline, timers=fault in NEED_TIMERS,
                faults=(fault,), most_faults=2 if fault is Fault.SUSPECT else 1,
            )  # fmt: skip
    yield Bound(
        name="a surplus rank fails", lengths=(1,), encode_tp=2, timers=True, atomic_iterations=True,
        faults=(Fault.EARLY,), most_faults=1,
    )  # fmt: skip
    yield Bound(
        name="two rooms fail at once", lengths=(1, 1), encode_tp=2, language_tp=2, encode_blocks=1, language_blocks=1,
        arrivals_any=False, atomic_iterations=True, faults=(Fault.ABORT,), most_faults=2,
    )  # fmt: skip
    for fault in (Fault.ABORT, Fault.EARLY, Fault.SUSPECT):
        yield Bound(
            name=f"two in line, {fault}", lengths=(3, 1), discipline="alloc_then_free", encode_blocks=2,
            language_blocks=2, timers=True, faults=(fault,), most_faults=1,
        )  # fmt: skip
    yield Bound(
        name="two resumes, which time out", lengths=(3, 3), discipline="alloc_then_free", encode_blocks=4,
        language_blocks=2, timers=True,
    )  # fmt: skip
    yield Bound(
        name="one block for two", lengths=(1, 1), encode_blocks=2, language_blocks=1, timers=True,
        faults=(Fault.SUSPECT,), most_faults=1,
    )  # fmt: skip
    yield Bound(
        name="an abort, two ranks", lengths=(3,), encode_tp=2, language_tp=2, atomic_iterations=True,
        faults=(Fault.ABORT,), most_faults=1,
    )  # fmt: skip
    yield Bound(
        name="too large to resume", lengths=(5,), discipline="alloc_then_free", encode_blocks=3, language_blocks=2
    )
    yield Bound(
        name="a cancel that is lost", lengths=(1,), timers=True, faults=(Fault.ABORT, Fault.LOSE), most_faults=2,
    )  # fmt: skip
    yield Bound(
        name="given up and down again", lengths=(1,), timers=True, faults=(Fault.ABORT, Fault.SUSPECT), most_faults=2,
    )  # fmt: skip


@cache
def taken() -> Taken:
    steps: set[tuple[Phase, Step]] = set()
    timed: set[Phase] = set()
    heeded: set[tuple[Phase, str]] = set()
    step, handle = RankCore._step, {kind: kind.handle for kind in (EncodeRank, LanguageRank)}

    def noted_step(self: Any, room: Room, kind: Step, now: float) -> None:
        steps.add((room.phase, kind))
        step(self, room, kind, now)

    def noted_handle(self: Any, event: Any, now: float) -> list[Any]:
        before = {key: (room.phase, frozen_room(room)) for key, room in self.rooms.items()}
        actions = handle[type(self)](self, event, now)
        for room in self.rooms.values():
            if NOW < room.deadline < NEVER_S:
                timed.add(room.phase)
        for key, (phase, was) in before.items():
            answered = bool(actions) and (getattr(event, "room", -1), getattr(event, "incarnation", -1)) == key
            if answered or key not in self.rooms or frozen_room(self.rooms[key]) != was:
                heeded.add((phase, type(event).__name__))
        return actions

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RankCore, "_step", noted_step)
        for kind in (EncodeRank, LanguageRank):
            patch.setattr(kind, "handle", noted_handle)
        for bound in bounds():
            assert explore(bound, most_states=12_000).findings == (), bound.name
    return Taken(steps, timed, heeded)


ELSEWHERE = {
    (LanguagePhase.HOLDS_CHUNK, LanguageStep.DELIVERED_AND_KEPT): "the explored language side keeps nothing",
    (LanguagePhase.PREFILLING, LanguageStep.PREFILLED): "the explored language side keeps nothing",
    (EncodePhase.FAILED, EncodeStep.ALL_RANKS_READY): "a rank fails between its group's agreement and its iteration",
    (EncodePhase.FAILED, EncodeStep.SOURCE_GRANTED): "a rank fails between its group's agreement and its iteration",
}
"""What no exploration takes, each with the reason; the tests below do."""


@pytest.mark.interpreted
@each_side
def test_every_step_of_the_tables_is_taken_and_no_other(side: Side) -> None:
    allowed = {(phase, step) for phase, row in TABLES[side].items() for step in row.steps}
    seen = {(phase, step) for phase, step in taken().steps if isinstance(phase, KINDS[side][0])}
    assert seen <= allowed
    assert {one for one in allowed - seen if one not in ELSEWHERE} == set()


@pytest.mark.interpreted
@each_side
def test_a_timer_runs_only_in_a_phase_that_has_one(side: Side) -> None:
    timed = {phase for phase in taken().timed if isinstance(phase, KINDS[side][0])}
    assert timed == {phase for phase, row in TABLES[side].items() if row.timer is not Timer.NONE}


@pytest.mark.interpreted
@each_side
def test_what_a_phase_takes_is_what_changes_it(side: Side) -> None:
    heeded = {(phase, name) for phase, name in taken().heeded if isinstance(phase, KINDS[side][0])}
    takes = {(phase, name) for phase, row in TABLES[side].items() for name in row.takes}
    assert {one for one in heeded if one[1] != "Iteration"} <= takes
    assert takes - heeded <= UNSEEN


UNSEEN = {
    (LanguagePhase.PREFILLING, "Prefilled"),  # see ELSEWHERE
    (EncodePhase.READY, "Offer"),  # offers follow the announcement, which follows the source blocks
    (EncodePhase.AWAITING_SOURCE, "Offer"),
    (EncodePhase.CHUNK_WRITTEN, "PeerDown"),  # several ranks, several chunks and a peer: too many states for a test
}
"""Inputs that no exploration sees in the phase that takes them."""


def core_with_a_room(side: Side) -> Any:
    layout = BufferLayout(hidden=8, block_tokens=4)
    if side is Side.ENCODE:
        encode = EncodeRank(
            RankId(side, 0, 0), layout=layout, discipline=make_discipline("window"), pool_blocks=2, timeout_s=5.0
        )
        encode.handle(EncodeRequest(7, 2, 4), 0.0)
        return encode
    language = LanguageRank(
        RankId(side, 0, 0), layout=layout, discipline=make_discipline("window"), sizing=Fixed(tokens=4),
        pool_blocks=2, timeout_s=5.0, release_after_prefill=True,
    )  # fmt: skip
    language.handle(LanguageRequest(7, 2), 0.0)
    return language


@each_side
def test_a_step_that_is_not_in_the_table_raises_and_changes_nothing(side: Side) -> None:
    for phase, row in TABLES[side].items():
        for step in KINDS[side][1]:
            core = core_with_a_room(side)
            room = core.rooms[7, 2]
            room.landing = core._landings[phase]
            before, timers = freeze(core), list(core._timers)
            if step in row.steps:
                core._step(room, step, 1.0)
                assert room.phase is row.steps[step]
                continue
            with pytest.raises(IllegalStepError) as raised:
                core._step(room, step, 1.0)
            words = (phase.name, step.name)
            phase_said, step_said = (word.lower().replace("_", " ") for word in words)
            assert f"room 7 incarnation 2 is {phase_said} on {side.value}0.0; '{step_said}'" in str(raised.value)
            assert (freeze(core), core._timers) == (before, timers)
    assert issubclass(IllegalStepError, ProtocolError)


@each_side
def test_entering_a_phase_sets_its_timer_and_no_other(side: Side) -> None:
    seconds = {Timer.NONE: None, Timer.PHASE: 5.0, Timer.CANCEL_RETRY: 1.0, Timer.QUARANTINE: 60.0}
    for phase, row in TABLES[side].items():
        for step, to in row.steps.items():
            core = core_with_a_room(side)
            room = core.rooms[7, 2]
            room.landing, room.deadline = core._landings[phase], 123.0
            core._step(room, step, 10.0)
            delay_s = seconds[TABLES[side][to].timer]
            wanted = 123.0 if step in row.runs_on else NEVER_S if delay_s is None else 10.0 + delay_s
            assert room.deadline == wanted, (phase.name, step.name)
            assert room.over == TABLES[side][to].over


def test_a_delivered_room_keeps_its_blocks_in_a_phase_without_a_timer() -> None:
    core = core_with_a_room(Side.LANGUAGE)
    room = core.rooms[7, 2]
    core.handle(core.lone_iteration(), 0.0)
    core.handle(ChunkStatus(7, 2, 0, Status.Success, 4, 4), 0.0)
    core.handle(core.lone_iteration(), 0.0)
    assert (room.phase, room.deadline) == (LanguagePhase.PREFILLING, NEVER_S)
    core.handle(Prefilled(7, 2), 9.0)
    assert room.phase is LanguagePhase.ENDED
    assert core.pool.free == 2


def test_a_rank_that_fails_between_the_agreement_and_the_iteration_goes_on_with_its_group() -> None:
    world = World(WorldSpec(discipline="exact_announce"))
    (core,) = world.encode
    core.handle(EncodeRequest(7, 0, 1), 0.0)
    iteration = core.lone_iteration()
    room = core.rooms[7, 0]
    core._fail(room, "between the two", 0.0, [])
    actions = core.handle(iteration, 0.0)
    assert [type(action).__name__ for action in actions] == ["StartEncode"]
    assert (room.phase, room.deadline) == (EncodePhase.FAILED, NEVER_S)
    assert core.lone_iteration().failed == room.number
