"""Schedules as text and as files: what is printed, what comes back, what is refused."""

from __future__ import annotations

import copy
import json
from functools import cache
from typing import Any

import msgspec
import pytest

from bufferlab.protocol.checker.bounds import NEED_TIMERS, Bound, Fault
from bufferlab.protocol.checker.explorer import Finding, explore
from bufferlab.protocol.checker.invariants import STATEMENTS
from bufferlab.protocol.checker.model import Model
from bufferlab.protocol.checker.schedule import SCHEMA, ScheduleError, describe, from_file, replay, summary, to_file
from bufferlab.protocol.checker.states import Move
from bufferlab.protocol.topology import RankId, Side

HOLD_AND_WAIT = Bound(
    name="B1: two requests of two blocks in a pool of two",
    lengths=(3, 3),
    discipline="alloc_then_free",
    encode_blocks=4,
    language_blocks=2,
)

ENCODE, LANGUAGE = RankId(Side.ENCODE, 0, 0), RankId(Side.LANGUAGE, 0, 0)

DEADLOCK = """\
invariant 21, no deadlock: an unfinished room always has a move or a timer ahead, which is of whoever is waited for, and a due iteration is known to be due
violated: nothing can happen any more; encode0.0 has 0 of 4 blocks free: room 0 holds 2 and is waiting for memory on the \
language side, room 1 holds 2 and is waiting for memory on the language side; language0.0 has 0 of 2 blocks free: \
room 0 holds 1 and is waiting for blocks to resume, room 1 holds 1 and is waiting for blocks to resume
in 'B1: two requests of two blocks in a pool of two': alloc_then_free, 1x1 ranks; rooms of 3, 3 tokens; \
first allocation 2; pools of 4 and 2 blocks of 2 tokens
  1  encode0.0 is given room 0 of 3 tokens
  2  encode0.0 is given room 1 of 3 tokens
  3  language0.0 is given room 0
  4  language0.0 is given room 1
  5  language0 holds an iteration
       language0.0: offers block 0 for chunk 0 of room 0 to encode0.0
       language0.0: offers block 1 for chunk 0 of room 1 to encode0.0
       language0.0: room 0 goes from Bootstrapping to WaitingForInput
       language0.0: room 1 goes from Bootstrapping to WaitingForInput
  6  encode0.0 gets the offer for chunk 0 of room 0 from language0.0
       encode0.0: room 0 goes from Bootstrapping to WaitingForInput
  7  encode0.0 gets the offer for chunk 0 of room 1 from language0.0
       encode0.0: room 1 goes from Bootstrapping to WaitingForInput
  8  encode0 holds an iteration
       encode0.0: starts to encode room 0 into blocks 0, 1
       encode0.0: starts to encode room 1 into blocks 2, 3
  9  encode0.0 has encoded room 0
       encode0.0: starts the write of tokens 0 to 2 of room 0 to language0.0, block 0
 10  the write of tokens 0 to 2 of room 0 to language0.0 is done
       encode0.0: sends Transferring of room 0, 2 of 3 tokens to language0.0
       encode0.0: room 0 goes from WaitingForInput to Transferring
 11  language0.0 gets Transferring of room 0, 2 of 3 tokens, from encode0.0
 12  encode0.0 has encoded room 1
       encode0.0: starts the write of tokens 0 to 2 of room 1 to language0.0, block 1
 13  the write of tokens 0 to 2 of room 1 to language0.0 is done
       encode0.0: sends Transferring of room 1, 2 of 3 tokens to language0.0
       encode0.0: room 1 goes from WaitingForInput to Transferring
 14  language0.0 gets Transferring of room 1, 2 of 3 tokens, from encode0.0
 15  encode0 holds an iteration
 16  language0 holds an iteration
       language0.0: room 0 goes from WaitingForInput to Transferring
       language0.0: room 1 goes from WaitingForInput to Transferring"""


@cache
def deadlock() -> Finding:
    (finding,) = explore(HOLD_AND_WAIT).findings
    return finding


def test_the_text_of_the_deadlock() -> None:
    assert describe(deadlock(), HOLD_AND_WAIT) == DEADLOCK


def test_replaying_the_deadlock_ends_in_it() -> None:
    done = replay(HOLD_AND_WAIT, deadlock().moves)
    assert [(violation.invariant, violation.what) for violation in done.violations] == [(21, deadlock().what)]
    assert deadlock().what == f"nothing can happen any more; {done.waiting}"
    assert list(done.lines) == [line for line in DEADLOCK.splitlines() if line.startswith(" ")]


def test_part_of_a_schedule_breaks_nothing() -> None:
    assert replay(HOLD_AND_WAIT, ()).lines == ()
    assert replay(HOLD_AND_WAIT, deadlock().moves[:15]).violations == ()


def everything_once(bound: Bound) -> tuple[Move, ...]:
    """Moves up to the end: a fault wherever one is possible, else the first that is."""
    model = Model(bound)
    state, moves = model.initial()[0], []
    while not model.verdicts.is_done(state):
        found = list(model.moves(state))
        move, state, _ = next((one for one in found if one[0].kind in set(Fault)), found[0])
        moves.append(move)
    return tuple(moves)


def with_fault(fault: Fault) -> Bound:
    return Bound(
        name=f"one {fault}",
        lengths=(3,),
        rooms=(8,),
        language_tp=2,
        timers=fault in NEED_TIMERS,
        faults=(fault,),
        most_faults=1,
    )


TOLD = {
    Fault.FAIL: "FAULT: the write of tokens 0 to 2 of room 8 to language0.0 fails",
    Fault.LATE: "FAULT: the write of tokens 0 to 2 of room 8 to language0.0 is reported as failed, "
    "its bytes are still on their way",
    Fault.LOSE: "FAULT: the offer for chunk 0 of room 8 to encode0.0 is lost",
    Fault.DUPLICATE: "FAULT: the offer for chunk 0 of room 8 to encode0.0 is under way twice",
    Fault.ABORT: "FAULT: encode0.0 is told that the client of room 8 went away",
    Fault.EARLY: "FAULT: the timer of room 8 goes off early on encode0.0",
    Fault.DIE: "FAULT: encode0.0 dies",
    Fault.SUSPECT: "FAULT: encode0.0 takes language0.0 for dead",
}


@pytest.mark.parametrize("fault", Fault)
def test_every_kind_of_move_has_a_text_and_survives_a_file(fault: Fault) -> None:
    bound = with_fault(fault)
    finding = Finding(invariant=1, what="nothing at all", moves=everything_once(bound))
    done = replay(bound, finding.moves)
    assert done.violations == ()
    assert [line[5:] for line in done.lines if "FAULT" in line] == [TOLD[fault]]
    text = json.dumps(to_file(finding, bound))
    assert from_file(json.loads(text)) == (finding, bound)
    assert replay(bound, from_file(json.loads(text))[0].moves) == done


def test_a_summary_names_what_may_fail() -> None:
    bound = Bound(name="any", lengths=(5,), language_tp=2, default_tokens=(2, 4), faults=(Fault.FAIL,), most_faults=2)
    assert summary(bound) == (
        "window, 1x2 ranks; rooms of 5 tokens; first allocation 2, 4; pools of 2 and 2 blocks of 2 tokens; "
        "up to 2 of fail"
    )


@pytest.mark.parametrize("invariant", STATEMENTS)
def test_every_invariant_has_a_text(invariant: int) -> None:
    finding = msgspec.structs.replace(deadlock(), invariant=invariant, moves=())
    name, statement = STATEMENTS[invariant]
    assert describe(finding, HOLD_AND_WAIT).startswith(f"invariant {invariant}, {name}: {statement}\n")


# --- what is refused -------------------------------------------------------------------------------------------------


OFFER, ENCODED, WRITE = 5, 8, 9
"""Moves of the deadlock's schedule that take one."""


IMPOSSIBLE: list[Any] = [
    (Move("submit", ENCODE), None, "encode0.0"),
    (Move("submit", RankId(Side.ENCODE, 3, 0)), None, "encode3.0"),
    (Move("take", ENCODE), WRITE, "the write of tokens 0 to 2 of room 0 to language0.0 is done"),
    (Move("take", ENCODE), OFFER, "encode0.0 gets the offer for chunk 0 of room 0 from language0.0"),
    (Move("take", ENCODE), ENCODED, "encode0.0 has encoded room 0"),
    (Move("iteration", LANGUAGE), None, "language0 holds an iteration"),
    (Move("timer", LANGUAGE, room=(1, 0)), None, "the timer of room 1 goes off on language0.0"),
    (Move(Fault.DIE, LANGUAGE), None, "FAULT: language0.0 dies"),
    (Move("follow", LANGUAGE), None, "language0.0 ends as well: another rank of its group has"),
    (Move(Fault.LOSE, ENCODE), OFFER, "FAULT: the offer for chunk 0 of room 0 to encode0.0 is lost"),
    (Move(Fault.FAIL, ENCODE), OFFER, "fail"),
    (Move("dance", ENCODE), None, "'dance'"),
    (Move("take", ENCODE), None, "'take'"),
]


@pytest.mark.parametrize(("move", "takes", "named"), IMPOSSIBLE)
def test_an_impossible_move_is_refused_by_name(move: Move, takes: int | None, named: str) -> None:
    if takes is not None:
        move = move._replace(item=deadlock().moves[takes].item)
    with pytest.raises(ScheduleError) as raised:
        replay(HOLD_AND_WAIT, [*deadlock().moves, move])
    assert named in str(raised.value)
    assert "move 17" in str(raised.value) or "is no move" in str(raised.value)


def garbled(path: list[Any], value: Any) -> Any:
    """The deadlock's file with one entry replaced."""
    data = copy.deepcopy(to_file(deadlock(), HOLD_AND_WAIT))
    holder: Any = data
    for name in path[:-1]:
        holder = holder[name]
    holder[path[-1]] = value
    return data


def test_a_file_is_readable_and_complete() -> None:
    data = to_file(deadlock(), HOLD_AND_WAIT)
    assert data["schema"] == SCHEMA == "bufferlab-schedule/2"
    assert data["invariant"] == 21
    assert data["schedule"] == [line for line in DEADLOCK.splitlines() if line.startswith(" ")]
    assert data["bound"]["lengths"] == (3, 3)
    assert len(data["moves"]) == 16
    assert data["moves"][0] == {"kind": "submit", "rank": ("encode", 0, 0)}


def test_a_file_of_the_last_release_is_the_same_schedule() -> None:
    """An iteration was called a turn in it."""
    # A group of two, so that what was agreed on is among the moves, too.
    bound = msgspec.structs.replace(HOLD_AND_WAIT, language_tp=2)
    found = explore(bound).findings[0]
    text = json.dumps(to_file(found, bound))
    assert '"what": "iteration"' in text
    old = text.replace(SCHEMA, "bufferlab-schedule/1").replace('"atomic_iterations"', '"atomic_turns"')
    old = old.replace('"iteration"', '"turn"')
    assert old.count('"turn"') == text.count('"iteration"')
    assert from_file(json.loads(old)) == (found, bound)


@pytest.mark.parametrize("data", [None, 7, 1.5, True, "x", b"x", [], [7], {}, {"schema": SCHEMA}])
def test_what_is_no_schedule_is_refused(data: Any) -> None:
    with pytest.raises(ScheduleError, match="this is not a schedule"):
        from_file(data)


@pytest.mark.parametrize("name", ["schema", "invariant", "what", "bound", "schedule", "moves"])
def test_a_missing_entry_is_refused_by_name(name: str) -> None:
    data = to_file(deadlock(), HOLD_AND_WAIT)
    del data[name]
    with pytest.raises(ScheduleError, match=name):
        from_file(data)


@pytest.mark.parametrize("schema", ["bufferlab-schedule/3", ""])
def test_another_schema_is_refused(schema: str) -> None:
    with pytest.raises(ScheduleError, match="it must be 'bufferlab-schedule/2'"):
        from_file(garbled(["schema"], schema))


@pytest.mark.parametrize(
    "path",
    [
        ["bound"],
        ["bound", "lengths"],
        ["bound", "faults"],
        ["moves"],
        ["moves", 0],
        ["moves", 0, "rank"],
        ["moves", OFFER, "item", "taker"],
        ["moves", OFFER, "item", "source"],
        ["moves", OFFER, "item", "content"],
        ["moves", OFFER, "item", "content", "type"],
        ["moves", OFFER, "item", "content", "blocks"],
    ],
    ids=lambda path: ".".join(map(str, path)),
)
@pytest.mark.parametrize("value", [None, "x", 7.5, [[]], {"x": 1}], ids=repr)
def test_a_wrong_type_is_refused(path: list[Any], value: Any) -> None:
    with pytest.raises(ScheduleError, match="this is not a schedule"):
        from_file(garbled(path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["schema"], None),
        (["what"], 7),
        (["moves", OFFER, "item"], 7),
        (["moves", 0, "kind"], None),
        (["moves", 0, "room"], [1]),
        (["moves", OFFER, "item", "what"], None),
    ],
)
def test_a_wrong_type_is_refused_here_too(path: list[Any], value: Any) -> None:
    with pytest.raises(ScheduleError, match="this is not a schedule"):
        from_file(garbled(path, value))


@pytest.mark.parametrize("value", [None, "x", [21], {}])
def test_an_invariant_is_a_number(value: Any) -> None:
    with pytest.raises(ScheduleError, match="this is not a schedule"):
        from_file(garbled(["invariant"], value))


@pytest.mark.parametrize("number", [0, 28])
def test_an_unknown_invariant_is_refused(number: int) -> None:
    with pytest.raises(ScheduleError, match=f"invariant is {number}, it must be between 1 and 27"):
        from_file(garbled(["invariant"], number))


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("most_faults", 1, "faults and most_faults go together"),
        ("default_tokens", [1, 2], "default_tokens has one entry"),
        ("faults", ["gremlins"], "Invalid enum value 'gremlins'"),
    ],
)
def test_a_bound_that_makes_no_sense_is_refused(name: str, value: Any, problem: str) -> None:
    with pytest.raises(ScheduleError, match=problem):
        from_file(garbled(["bound", name], value))
