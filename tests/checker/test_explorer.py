"""What a search finds, when it stops, and that what is expected of a bound is what happens in it."""

from __future__ import annotations

from collections import deque
from itertools import product
from typing import Any

import msgspec
import pytest

from bufferlab.protocol.checker import suites
from bufferlab.protocol.checker.bounds import NEED_TIMERS, Bound, Fault
from bufferlab.protocol.checker.explorer import PROGRESS_EVERY, explore
from bufferlab.protocol.checker.model import Model
from bufferlab.protocol.checker.states import State
from bufferlab.protocol.disciplines import DISCIPLINES

HOLD_AND_WAIT = Bound(
    name="B1: two requests of two blocks in a pool of two",
    lengths=(3, 3),
    discipline="alloc_then_free",
    encode_blocks=4,
    language_blocks=2,
)

ONE_TOKEN = Bound(name="one token", lengths=(1,), encode_blocks=1, language_blocks=1)

TWO_BY_TWO = Bound(name="two chunks, two ranks on each side", lengths=(3,), encode_tp=2, language_tp=2)

SAFE = [name for name, one in DISCIPLINES.items() if not one.may_deadlock]


@pytest.mark.parametrize(
    ("bound", "states", "transitions", "depth"),
    [
        (ONE_TOKEN, 20, 27, 10),
        (Bound(name="two chunks", lengths=(3,)), 28, 39, 14),
        (TWO_BY_TWO, 482, 1110, 35),
        (
            Bound(
                name="a message is lost",
                lengths=(1,),
                encode_blocks=1,
                language_blocks=1,
                timers=True,
                faults=(Fault.LOSE,),
                most_faults=1,
            ),
            62,
            95,
            15,
        ),
    ],
    ids=lambda value: value.name if isinstance(value, Bound) else None,
)
def test_counts(bound: Bound, states: int, transitions: int, depth: int) -> None:
    """Exact, so that a change of the protocol or of the checker that no finding tells of is seen here."""
    result = explore(bound)
    assert (result.states, result.transitions, result.depth) == (states, transitions, depth)
    assert result.complete
    assert result.stuck == 0
    assert result.done >= 1
    assert result.findings == ()
    assert result.deadlock is None


def test_most_states_stops_the_search() -> None:
    result = explore(TWO_BY_TWO, most_states=100)
    assert not result.complete
    assert 100 < result.states < 120, "it stops at the next state, whose ways on are all known by then"
    assert result.stuck == 0
    assert explore(TWO_BY_TWO, most_states=482).complete


def test_progress_is_told_and_stops_the_search() -> None:
    told: list[tuple[int, int]] = []

    def twice(explored: int, known: int) -> bool:
        told.append((explored, known))
        return len(told) < 2

    bound = Bound(name="more than a few states", lengths=(3, 1), encode_tp=2, language_tp=2, encode_blocks=3)
    result = explore(bound, progress=twice)
    assert not result.complete
    assert [explored for explored, _ in told] == [0, PROGRESS_EVERY]
    assert result.states == told[-1][1] > PROGRESS_EVERY
    assert explore(ONE_TOKEN, progress=lambda explored, known: True).complete


def test_a_deadlock_comes_with_the_shortest_schedule() -> None:
    result = explore(HOLD_AND_WAIT)
    assert result.deadlock is not None
    assert result.findings == (result.deadlock,)
    assert (result.deadlock.invariant, len(result.deadlock.moves)) == (21, 16)
    assert not result.complete or result.stuck


def test_no_other_way_into_the_deadlock_is_shorter() -> None:
    """By a search of another kind: level by level, without the explorer."""
    model = Model(HOLD_AND_WAIT)
    known: set[State] = set()
    level = {model.initial()[0]}
    for _ in range(16):
        assert all(model.verdicts.is_done(state) or any(True for _ in model.moves(state)) for state in level)
        known |= level
        level = {after for state in level for _, after, _ in model.moves(state)} - known
    assert any(not model.verdicts.is_done(state) and not any(True for _ in model.moves(state)) for state in level)


def test_the_search_can_go_on_behind_a_finding() -> None:
    every = explore(HOLD_AND_WAIT, keep_going=True)
    assert every.complete
    assert every.stuck > 0
    assert every.done > 0, "other ways through the same bound end well"
    assert every.findings == explore(HOLD_AND_WAIT).findings


@pytest.mark.parametrize("tokens", [0, 1])
def test_a_wrong_expectation_is_a_finding(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bound, "can_succeed", lambda bound, tokens: not tokens)
    wrong = explore(Bound(name="wrong", lengths=(tokens,)))
    assert [finding.invariant for finding in wrong.findings] == [22]
    wanted, found = ("Failed", "Success") if tokens else ("Success", "Failed")
    told = f"room (0, 0) of {tokens} tokens should have ended in {wanted}: encode0.0 {found}, language0.0 {found}"
    assert told == wrong.findings[0].what


@pytest.mark.parametrize("fault", Fault)
def test_every_fault_happens(fault: Fault) -> None:
    bound = Bound(
        name=f"one {fault}", lengths=(1,), timers=fault in NEED_TIMERS, faults=(fault,), most_faults=1, encode_blocks=1
    )
    moves = {move.kind for move in every_move(bound)}
    assert fault in moves
    assert not moves.intersection(set(Fault) - {fault})
    result = explore(bound)
    assert result.complete
    assert result.findings == ()


def every_move(bound: Bound) -> list[Any]:
    model = Model(bound)
    first = model.initial()[0]
    known, queue, moves = {first}, deque([first]), []
    while queue:
        for move, after, _ in model.moves(queue.popleft()):
            moves.append(move)
            if after not in known:
                known.add(after)
                queue.append(after)
    return moves


# --- what is expected of a bound -------------------------------------------------------------------------------------

POOLS = [pools for pools in product((1, 3), (1, 2, 3), (2, 4), (0, 1)) if pools[3] < pools[1]]
"""Encode blocks, language blocks, tokens of the first allocation, reserved blocks."""


@pytest.mark.parametrize("tokens", range(6))
@pytest.mark.parametrize("discipline", DISCIPLINES)
def test_a_request_alone_ends_as_expected(discipline: str, tokens: int) -> None:
    """No finding means that ``check_end`` agreed with ``Bound.can_succeed`` in every done state."""
    for encode_blocks, language_blocks, default_tokens, reserve_blocks in POOLS:
        bound = Bound(
            name="alone",
            lengths=(tokens,),
            discipline=discipline,
            encode_blocks=encode_blocks,
            language_blocks=language_blocks,
            default_tokens=(default_tokens,),
            reserve_blocks=reserve_blocks,
            arrivals_any=False,
        )
        result = explore(bound)
        assert result.complete
        assert result.findings == (), bound


@pytest.mark.parametrize("discipline", SAFE)
def test_two_requests_end_as_each_would_alone(discipline: str) -> None:
    for lengths in ((1, 3), (5, 3)):
        for encode_blocks, language_blocks, default_tokens in ((2, 1, 2), (3, 2, 2), (3, 3, 4)):
            bound = Bound(
                name="two",
                lengths=lengths,
                discipline=discipline,
                encode_blocks=encode_blocks,
                language_blocks=language_blocks,
                default_tokens=(default_tokens,),
                arrivals_any=False,
            )
            result = explore(bound)
            assert result.complete
            assert result.findings == (), bound


@pytest.mark.parametrize("discipline", SAFE)
@pytest.mark.parametrize("reserve_blocks", [0, 1])
def test_unequal_first_allocations_of_a_group(discipline: str, reserve_blocks: int) -> None:
    """The rank that takes least decides for all."""
    bound = Bound(
        name="unequal",
        lengths=(3,),
        discipline=discipline,
        language_tp=2,
        language_blocks=3,
        default_tokens=(4, 2),
        reserve_blocks=reserve_blocks,
    )
    result = explore(bound)
    assert result.complete
    assert result.findings == ()


# --- a bound ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"faults": (Fault.FAIL,)}, "faults and most_faults go together"),
        ({"most_faults": 1}, "faults and most_faults go together"),
        ({"faults": (Fault.LOSE,), "most_faults": 1}, "after lose only timers can end a room"),
        ({"rooms": (0, 1)}, "rooms and instances have one entry for each of the lengths"),
        ({"instances": (0, 0)}, "rooms and instances have one entry for each of the lengths"),
        ({"default_tokens": (2, 2)}, "default_tokens has one entry, or one for each language rank"),
        ({"default_tokens": ()}, "default_tokens has one entry, or one for each language rank"),
        ({"instant": True}, "a world can be instant only with atomic iterations and without faults"),
        (
            {"instant": True, "atomic_iterations": True, "faults": (Fault.FAIL,), "most_faults": 1},
            "a world can be instant only with atomic iterations and without faults",
        ),
    ],
)
def test_a_bound_that_makes_no_sense_is_refused_with_a_sentence(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as raised:
        Bound(name="odd", lengths=(1,), **fields)
    assert str(raised.value) == f"bound 'odd': {problem}"


def test_a_room_number_that_comes_again_is_the_next_incarnation() -> None:
    bound = Bound(name="again", lengths=(1, 1, 1, 1), rooms=(5, 3, 5, 5))
    assert bound.keys == ((5, 0), (3, 0), (5, 1), (5, 2))
    assert Bound(name="each its own", lengths=(1, 1)).keys == ((0, 0), (1, 0))


def test_each_instance_gets_its_own_requests() -> None:
    bound = Bound(name="two instances", lengths=(1, 2, 3), instances=(0, 1, 0), encode_instances=2)
    first, second = bound.encode_ids()
    assert [(one.room, one.total_tokens) for one in bound.requests_for(first)] == [(0, 1), (2, 3)]
    assert [(one.room, one.total_tokens) for one in bound.requests_for(second)] == [(1, 2)]
    (language,) = bound.language_ids()
    assert [one.encode_instance for one in bound.requests_for(language)] == [0, 1, 0]


def test_a_fault_that_may_still_happen_is_no_way_out_of_a_deadlock() -> None:
    bound = Bound(
        name="hold and wait, and a client that may go away",
        lengths=(3, 3),
        discipline="alloc_then_free",
        encode_blocks=4,
        language_blocks=2,
        arrivals_any=False,
        faults=(Fault.ABORT,),
        most_faults=1,
    )
    (finding,) = explore(bound).findings
    assert finding.invariant == 21
    assert not any(move.kind == Fault.ABORT for move in finding.moves)


# --- what a discipline claims -----------------------------------------------------------------------------------------


@pytest.mark.interpreted
def test_a_discipline_that_claims_too_much_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that holds and waits, and says of itself that it never deadlocks."""

    class Boasting(DISCIPLINES["alloc_then_free"]):  # type: ignore[misc]
        name = "boasting"
        may_deadlock = False

    assert HOLD_AND_WAIT.may_deadlock
    monkeypatch.setitem(DISCIPLINES, "boasting", Boasting)
    boasted = msgspec.structs.replace(HOLD_AND_WAIT, discipline="boasting", timers=True)
    assert not boasted.may_deadlock
    assert explore(msgspec.structs.replace(HOLD_AND_WAIT, timers=True)).findings == ()
    found = explore(boasted).findings
    assert [finding.invariant for finding in found] == [22], "both run into their timers, which no claim explains"


@pytest.mark.interpreted
def test_a_discipline_that_claims_to_serve_what_it_refuses_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Boasting(DISCIPLINES["default_fail"]):  # type: ignore[misc]
        name = "boasting"

        @classmethod
        def serves(cls, blocks: int, *, first: int, pool: int, new: int) -> bool:
            return True

    monkeypatch.setitem(DISCIPLINES, "boasting", Boasting)
    bound = Bound(name="longer than the default", lengths=(3,), discipline="boasting")
    assert explore(bound).findings
    assert not explore(msgspec.structs.replace(bound, discipline="default_fail")).findings


def test_what_the_suites_search_follows_from_the_claims() -> None:
    assert set(SAFE) <= set(suites.SAFE)
    assert {"alloc_then_free", "free_then_alloc"} <= set(suites.WAITING)
    assert {"window", "exact_announce"} <= set(suites.COMPLETE)
    assert {"default_fail", "slot"} <= set(suites.ONE_TRANSFER)
    assert sorted((*suites.WAITING, *suites.COMPLETE, *suites.ONE_TRANSFER)) == sorted(DISCIPLINES)
