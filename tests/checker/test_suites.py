"""The bounds that are searched cover what the protocol's specification asks for.

For each row of its list of adversarial schedules there is a bound in the standard suite whose search comes through the
very situation, found here by a search for the shortest way to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bufferlab.protocol.checker.bounds import Bound, Fault
from bufferlab.protocol.checker.explorer import explore, find
from bufferlab.protocol.checker.invariants import Local
from bufferlab.protocol.checker.model import Model
from bufferlab.protocol.checker.states import DEAD, State
from bufferlab.protocol.checker.suites import SUITES, deep, grid, quick, standard
from bufferlab.protocol.disciplines import DISCIPLINES
from bufferlab.protocol.language_phases import LanguagePhase
from bufferlab.protocol.messages import ChunkStatus, Offer
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import Side

Goal = Callable[[Model, State], bool]

STANDARD = {bound.name: bound for bound in standard()}


def ranks(model: Model, state: State, side: Side) -> Iterator[Local]:
    for place, number in enumerate(state[0]):
        if number != DEAD and model.steps.ranks[place].side is side:
            yield model.steps.locals[place][number]


def rooms(model: Model, state: State, side: Side) -> Iterator[Any]:
    for local in ranks(model, state, side):
        yield from local.core.rooms.values()


def under_way(model: Model, state: State, what: str) -> list[Any]:
    return [model.steps.items[number] for number in state[1] if model.steps.items[number].what == what]


def messages(model: Model, state: State, kind: type) -> list[Any]:
    return [item for item in under_way(model, state, "message") if isinstance(item.content, kind)]


def happened(state: State, fault: Fault) -> bool:
    return any(hit is fault for hit, _ in state[2])


def gone(model: Model, state: State, item: Any) -> bool:
    """Whether the receiver of a message has ended and forgotten its room."""
    place = model.steps.ranks.index(item.taker)
    if state[0][place] == DEAD:
        return False
    local = model.steps.locals[place][state[0][place]]
    key = (item.content.room, item.content.incarnation)
    return key not in local.core.rooms and key in dict(local.ghost.ends)


def rank_skew_at_resume(model: Model, state: State) -> bool:
    return any(room.epoch == 1 and len(room.offers) == 1 for room in rooms(model, state, Side.ENCODE))


def duplicate_offer(model: Model, state: State) -> bool:
    taken = {offer for room in rooms(model, state, Side.ENCODE) for offer in room.offers.values() if room.writing}
    return any(item.content in taken for item in messages(model, state, Offer))


def late_status_after_clear(model: Model, state: State) -> bool:
    return any(gone(model, state, item) for item in messages(model, state, ChunkStatus))


def offer_after_clear(model: Model, state: State) -> bool:
    return any(gone(model, state, item) for item in messages(model, state, Offer))


def room_used_again(model: Model, state: State) -> bool:
    old = {room.key[1] for room in rooms(model, state, Side.ENCODE)}
    return 0 in old and any(room.key[1] == 1 and room.outstanding for room in rooms(model, state, Side.LANGUAGE))


def lost_resume(model: Model, state: State) -> bool:
    waiting = any(room.outstanding and room.epoch == 1 for room in rooms(model, state, Side.LANGUAGE))
    asked = any(room.epoch == 1 and not room.offers for room in rooms(model, state, Side.ENCODE))
    return happened(state, Fault.LOSE) and waiting and asked and not messages(model, state, Offer)


def unequal_grants(model: Model, state: State) -> bool:
    capacities = [
        {offer.capacity_tokens for offer in room.offers.values()} for room in rooms(model, state, Side.ENCODE)
    ]
    return any(len(found) == 2 for found in capacities)


def abort_with_a_write_in_flight(model: Model, state: State) -> bool:
    fenced = any(room.over for room in rooms(model, state, Side.LANGUAGE))
    return happened(state, Fault.ABORT) and fenced and bool(under_way(model, state, "write"))


def abort_while_waiting_for_blocks(model: Model, state: State) -> bool:
    return happened(state, Fault.ABORT) and any(
        room.failure and room.phase is LanguagePhase.AWAITING_BLOCKS for room in rooms(model, state, Side.LANGUAGE)
    )


def abort_between_two_chunks(model: Model, state: State) -> bool:
    return happened(state, Fault.ABORT) and any(
        room.failure and room.status is Status.Transferring for room in rooms(model, state, Side.LANGUAGE)
    )


def one_destination_fails(model: Model, state: State) -> bool:
    return happened(state, Fault.FAIL) and bool(under_way(model, state, "write"))


def a_writer_dies(model: Model, state: State) -> bool:
    return happened(state, Fault.DIE) and bool(under_way(model, state, "late"))


def recovery_after_a_transient_error(model: Model, state: State) -> bool:
    ends = [dict(local.ghost.ends) for local in ranks(model, state, Side.LANGUAGE)]
    return happened(state, Fault.FAIL) and any({Status.Success, Status.Failed} <= set(end.values()) for end in ends)


def pool_full_of_first_parts(model: Model, state: State) -> bool:
    (language,) = ranks(model, state, Side.LANGUAGE)
    waiting = [room for room in language.core.rooms.values() if room.status is Status.Transferring and room.blocks]
    return not language.core.pool.free and len(waiting) == language.core.pool.blocks


def wait_across_the_sides(model: Model, state: State) -> bool:
    (encode,), (language,) = ranks(model, state, Side.ENCODE), ranks(model, state, Side.LANGUAGE)
    holds_source = {room.key for room in encode.core.rooms.values() if room.status is Status.Transferring}
    holds_blocks = {room.key for room in language.core.rooms.values() if room.blocks} - holds_source
    wait_for_source = {room.key for room in encode.core._awaiting_source}
    return bool(holds_source) and bool(holds_blocks & wait_for_source)


def failed_then_late_success(model: Model, state: State) -> bool:
    failed = {room.key for room in rooms(model, state, Side.LANGUAGE) if room.failure}
    return any(
        (item.content.room, item.content.incarnation) in failed and item.content.status is Status.Success
        for item in messages(model, state, ChunkStatus)
    )


def named(part: str) -> Bound:
    return next(bound for name, bound in STANDARD.items() if part in name)


ADVERSARIAL: list[tuple[str, str, Goal]] = [
    ("rank skew at resume (S5, S6)", "window 1x2, 3 tokens, one of", rank_skew_at_resume),
    ("duplicate offer (S10)", "window 1x1, 3+1 tokens, one of", duplicate_offer),
    ("late status after clear (S11)", "window 1x1, 3+1 tokens, one of", late_status_after_clear),
    ("offer after clear (S12)", "window 1x1, 3+1 tokens, one of", offer_after_clear),
    ("reuse of a room (S13)", "a room number used again", room_used_again),
    ("lost resume (S14)", "window 1x1, 3+1 tokens, one of", lost_resume),
    ("unequal grants (S7)", "unequal grants", unequal_grants),
    ("abort with a write in flight (B10, N4)", "window 1x1, 3+1 tokens, one of", abort_with_a_write_in_flight),
    ("abort while waiting for blocks (N6)", "window 1x1, 3+1+1 tokens, one of", abort_while_waiting_for_blocks),
    ("abort between two chunks", "window 1x1, 3+1 tokens, one of", abort_between_two_chunks),
    ("one destination fails (T5)", "window 1x2, 3 tokens, one of", one_destination_fails),
    ("a writer dies (N2, N8)", "window 1x1, 3+1 tokens, one of", a_writer_dies),
    ("transient error, then recovery (N3)", "window 1x1, 3+1 tokens, one of", recovery_after_a_transient_error),
    ("pool full of partials (B1)", "alloc_then_free 1x1, 3+3 tokens", pool_full_of_first_parts),
    ("cross-side wait with one oversized request (B2)", "alloc_then_free 1x1, 3+3 tokens", wait_across_the_sides),
    ("Failed, then late Success (S1)", "window 1x1, 3+1 tokens, one of", failed_then_late_success),
]


@pytest.mark.parametrize(("what", "bound", "goal"), ADVERSARIAL, ids=[row[0] for row in ADVERSARIAL])
def test_the_standard_suite_comes_through_every_adversarial_situation(what: str, bound: str, goal: Goal) -> None:
    schedule = find(named(bound), goal, most_states=200_000)
    assert schedule is not None, what
    assert schedule


def test_what_is_not_reachable_is_not_found() -> None:
    """The goals above would be worth little if every search found everything."""
    assert find(named("window 1x1, 3+1+5 tokens, nothing"), failed_then_late_success) is None
    assert find(named("window 1x1, 3+1+5 tokens, nothing"), late_status_after_clear) is None


def test_edge_lengths_and_ratios_are_there() -> None:
    """L = 0, L = D', L = D' + 1, L > pool (B3, B14); ratios that are reversed or do not divide (T1, T2)."""
    firsts = {tokens for bound in STANDARD.values() for tokens in bound.lengths[:1] if bound.default_tokens == (2,)}
    assert {0, 2, 3, 5} <= firsts
    assert {(2, 1), (2, 3), (1, 3), (2, 2)} <= {(bound.encode_tp, bound.language_tp) for bound in STANDARD.values()}
    assert {1, 2, 3} <= {len(bound.lengths) for bound in STANDARD.values()}


def test_every_fault_and_every_discipline_is_searched() -> None:
    assert {fault for bound in STANDARD.values() for fault in bound.faults} == set(Fault)
    assert {bound.discipline for bound in STANDARD.values()} == set(DISCIPLINES)


@pytest.mark.parametrize("suite", SUITES)
def test_names_are_unique(suite: str) -> None:
    names = [bound.name for bound in SUITES[suite]()]
    assert len(set(names)) == len(names)


def test_the_deep_suite_contains_the_standard_one() -> None:
    assert {bound.name for bound in standard()} <= {bound.name for bound in deep()}


@pytest.mark.parametrize("bound", quick(), ids=lambda bound: bound.name)
def test_the_quick_suite_holds(bound: Bound) -> None:
    result = explore(bound)
    assert result.complete
    assert [finding.what for finding in result.findings] == []


def test_the_grid() -> None:
    cases = list(grid())
    assert len(cases) == 1088
    assert len(list(grid(2))) == 216
    assert all(
        bound.can_succeed(tokens)
        for case in cases
        for discipline in ("alloc_then_free", "free_then_alloc", "window", "exact_announce")
        for bound in case.bounds(discipline, resume_first=True)[:1]
        for tokens in bound.lengths
    )
    crowded = next(case for case in cases if case.requests == (1, 2) and not case.contended)
    assert crowded.oversized == 1


def test_cases_without_contention_never_deadlock() -> None:
    """They are counted without a search, so a few are searched here."""
    calm = [case for case in grid(3) if not case.contended][::40]
    assert calm
    for case in calm:
        for bound in case.bounds("alloc_then_free", resume_first=False):
            result = explore(bound)
            assert result.complete
            assert result.findings == ()
