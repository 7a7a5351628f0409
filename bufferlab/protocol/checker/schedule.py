"""Schedules as text that can be read and as files that can be replayed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from bufferlab.protocol.checker.bounds import Bound, Fault
from bufferlab.protocol.checker.explorer import Finding
from bufferlab.protocol.checker.invariants import STATEMENTS, Local, Step, Violation
from bufferlab.protocol.checker.localsteps import LocalSteps, Result
from bufferlab.protocol.checker.model import Model
from bufferlab.protocol.checker.states import Move, State
from bufferlab.protocol.checker.steps import Item, perform
from bufferlab.protocol.messages import (
    Action,
    Announce,
    Cancel,
    ChunkStatus,
    Conclude,
    CopyOut,
    Deliver,
    EncodeRequest,
    Iteration,
    Message,
    Offer,
    Quiet,
    Send,
    StartEncode,
    StartWrite,
)
from bufferlab.protocol.rank import RoomKey
from bufferlab.protocol.topology import RankId
from bufferlab.protocol.values import Value
from bufferlab.protocol.wire.schema import (
    IterationPayload,
    MessagePayload,
    Payload,
    StartEncodePayload,
    StartWritePayload,
    payload_of,
    value_of,
)  # fmt: skip

SCHEMA, OLD_SCHEMA = "bufferlab-schedule/2", "bufferlab-schedule/1"


class ScheduleError(Exception):
    """A schedule that cannot be read, or a step of it that is not possible where it stands."""


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """What a schedule does: a line for each move, what it breaks, and who waits for what at its end."""

    lines: tuple[str, ...]
    violations: tuple[Violation, ...]
    waiting: str


def replay(bound: Bound, moves: Sequence[Move]) -> Replay:
    """Carry out ``moves`` from the start on the real cores. Raises ScheduleError at a move that is not possible."""
    steps = _Watched(bound)
    model = Model(bound, steps)
    verdicts = model.verdicts
    state, violations = model.initial()
    found = list(violations)
    lines = []
    for number, wanted in enumerate(moves, 1):
        after, wrong = _carried_out(model, steps, state, wanted, number)
        lines.append(f"{number:3}  {_headline(model, state, wanted)}")
        for place, local, given in steps.taken:
            step = perform(steps.locals[place][local], given)
            lines += [f"       {told}" for told in _consequences(step)]
        state = after
        found += [*wrong, *verdicts.violations_in(state)]
    if verdicts.is_done(state):
        found += verdicts.violations_at_end(state)
    elif not any(move.kind not in set(Fault) for move, _, _ in model.moves(state)):
        found.append(verdicts.deadlock(state))
    return Replay(lines=tuple(lines), violations=tuple(dict.fromkeys(found)), waiting=verdicts.waiting(state))


def _carried_out(
    model: Model, steps: _Watched, state: State, wanted: Move, number: int
) -> tuple[State, tuple[Violation, ...]]:
    """Where a move leads and what it breaks; ``steps.taken`` tells who took what in it."""
    steps.taken.clear()
    for move, after, wrong in model.moves(state):
        if move == wanted:
            return after, wrong
        steps.taken.clear()
    try:
        name = _headline(model, state, wanted)
    except (AttributeError, IndexError, KeyError):  # it makes no sense at all, so there are no words for it
        name = f"{wanted.kind} on {wanted.rank}"
    raise ScheduleError(f"move {number}, {name}, is not possible there")


class _Watched(LocalSteps):
    """Local steps that tell which rank took what, in which of its local states, in the move yielded last."""

    def __init__(self, bound: Bound) -> None:
        super().__init__(bound)
        self.taken: list[tuple[int, int, Any]] = []
        self._probing = False

    def step(self, place: int, number: int, given: Any, code: Any) -> Result:
        if not self._probing:
            self.taken.append((place, number, given))
        return super().step(place, number, given, code)

    def iteration_of(self, members: tuple[int, ...], locals_: tuple[int, ...]) -> Iteration | None:
        outer, self._probing = self._probing, True
        try:
            return super().iteration_of(members, locals_)
        finally:
            self._probing = outer


# --- text ----------------------------------------------------------------------------------------------------------


def describe(finding: Finding, bound: Bound) -> str:
    """A finding as text: what is violated, the configuration, the schedule move by move."""
    name, statement = STATEMENTS[finding.invariant]
    done = replay(bound, finding.moves)
    return "\n".join(
        [
            f"invariant {finding.invariant}, {name}: {statement}",
            f"violated: {finding.what}",
            f"in {bound.name!r}: {summary(bound)}",
            *done.lines,
        ]
    )


def summary(bound: Bound) -> str:
    """A bound in one line."""
    parts = [
        f"{bound.discipline}, {bound.encode_tp}x{bound.language_tp} ranks",
        f"rooms of {', '.join(map(str, bound.lengths))} tokens",
        f"first allocation {', '.join(map(str, bound.default_tokens))}",
        f"pools of {bound.encode_blocks} and {bound.language_blocks} blocks of 2 tokens",
    ]
    if bound.most_faults:
        parts.append(f"up to {bound.most_faults} of {', '.join(bound.faults)}")
    return "; ".join(parts)


def _headline(model: Model, state: State, move: Move) -> str:
    who = str(move.rank)
    match move.kind:
        case "submit":
            place = model.steps.places[move.rank]
            core = model.steps.core(place, state[0][place])
            request = model.steps.requests[place][core._submitted]
            length = f" of {request.total_tokens} tokens" if isinstance(request, EncodeRequest) else ""
            return f"{who} is given {_room((request.room, request.incarnation))}{length}"
        case "iteration":
            return f"{who[:-2]} holds an iteration"
        case "timer":
            return f"the timer of {_room(move.room)} goes off on {who}"
        case Fault.ABORT:
            return f"FAULT: {who} is told that the client of {_room(move.room)} went away"
        case Fault.EARLY:
            return f"FAULT: the timer of {_room(move.room)} goes off early on {who}"
        case "follow":
            return f"{who} ends as well: another rank of its group has"
        case Fault.DIE:
            return f"FAULT: {who} dies"
    if move.item is None:
        raise ScheduleError(f"{move.kind!r} is no move of a schedule")
    arriving = _arriving(move.item)
    match move.kind:
        case "take":
            return arriving
        case Fault.FAIL:
            return f"FAULT: {_write(move.item.content)} fails"
        case Fault.LATE:
            return f"FAULT: {_write(move.item.content)} is reported as failed, its bytes are still on their way"
        case Fault.LOSE:
            return f"FAULT: {_message(move.item.content)} to {move.item.taker} is lost"
        case Fault.DUPLICATE:
            return f"FAULT: {_message(move.item.content)} to {move.item.taker} is under way twice"
        case Fault.SUSPECT:
            return f"FAULT: {who} takes {move.item.content} for dead"
    raise ScheduleError(f"{move.kind!r} is no move of a schedule")


def _arriving(item: Item) -> str:
    match item.what:
        case "message":
            return f"{item.taker} gets {_message(item.content)} from {item.source}"
        case "encode":
            return f"{item.taker} has encoded {_room((item.content.room, item.content.incarnation))}"
        case "write":
            return f"{_write(item.content)} is done"
        case "late":
            return f"late bytes of {_write(item.content)} land"
        case "iteration":
            return f"{item.taker} carries out the iteration"
        case "down":
            return f"{item.taker} learns that {item.content} is down"
    return f"{item.taker} learns that {item.content} is up again"


def _room(key: RoomKey | None) -> str:
    if key is None:
        return "every room"
    return f"room {key[0]}" if not key[1] else f"room {key[0]} (incarnation {key[1]})"


def _message(message: Message) -> str:
    room = _room((message.room, message.incarnation))
    match message:
        case Announce(total_tokens=total):
            return f"the length of {room}, {total} tokens,"
        case Offer(epoch=epoch, sent_tokens=sent):
            return f"the offer for chunk {epoch} of {room}" + (f" (a resume from token {sent})" if sent else "")
        case ChunkStatus(status=status, upto_tokens=upto, total_tokens=total):
            return f"{status.name} of {room}, {upto} of {total} tokens,"
        case Cancel():
            return f"the cancellation of {room}"
        case Quiet():
            return f"the quiet of {room}"


def _write(write: StartWrite) -> str:
    room = _room((write.room, write.incarnation))
    chunk = write.chunk
    return f"the write of tokens {chunk.start_token} to {chunk.end_token} of {room} to {write.destination}"


def _consequences(step: Step) -> list[str]:
    if step.error is not None:
        return [f"{step.rank_id} raises {type(step.error).__name__}: {step.error}"]
    lines = [f"{step.rank_id}: {told}" for action in step.actions if (told := _action(action))]
    return lines + [f"{step.rank_id}: {change}" for change in _changes(step.before, step.after)]


def _changes(before: Local, after: Local) -> list[str]:
    changes = []
    for key, room in after.core.rooms.items():
        old = before.core.rooms.get(key)
        if old is not None and old.status is not room.status:
            changes.append(f"{_room(key)} goes from {old.status.name} to {room.status.name}")
    return changes


def _action(action: Action) -> str:
    match action:
        case Send(to, Offer(room, incarnation, epoch, _, blocks)):
            return f"offers {_blocks(blocks)} for chunk {epoch} of {_room((room, incarnation))} to {to}"
        case Send(to, message):
            return f"sends {_message(message).rstrip(',')} to {to}"
        case StartEncode(room, incarnation, _, blocks):
            return f"starts to encode {_room((room, incarnation))} into {_blocks(blocks)}"
        case StartWrite():
            return f"starts {_write(action)}, {_blocks(action.target_blocks)}"
        case CopyOut(room, incarnation, start, tokens, blocks):
            return f"copies tokens {start} to {start + tokens} of {_room((room, incarnation))} out of {_blocks(blocks)}"
        case Deliver(room, incarnation):
            return f"delivers {_room((room, incarnation))}"
        case Conclude(room, incarnation, status):
            return f"{_room((room, incarnation))} ends in {status.name}"
    return ""


def _blocks(blocks: tuple[int, ...]) -> str:
    return f"block{'s' if len(blocks) > 1 else ''} {', '.join(map(str, blocks))}"


# --- files ---------------------------------------------------------------------------------------------------------


class _ItemEntry(msgspec.Struct, forbid_unknown_fields=True):
    what: Literal["message", "encode", "write", "late", "iteration", "down", "up"]
    taker: RankId
    source: RankId
    content: Any


class _MoveEntry(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    kind: str
    rank: RankId
    room: RoomKey | None = None
    item: _ItemEntry | None = None


class _File(msgspec.Struct, forbid_unknown_fields=True, rename={"schema_": "schema"}):
    schema_: str
    invariant: int
    what: str
    bound: Bound
    schedule: list[str]
    moves: list[_MoveEntry]


def to_file(finding: Finding, bound: Bound) -> dict[str, Any]:
    """A finding as JSON-ready data that ``from_file`` reads back."""
    moves = [_MoveEntry(str(move.kind), move.rank, move.room, _item_out(move.item)) for move in finding.moves]
    lines = list(replay(bound, finding.moves).lines)
    data: dict[str, Any] = msgspec.to_builtins(_File(SCHEMA, finding.invariant, finding.what, bound, lines, moves))
    return data


def from_file(data: Any) -> tuple[Finding, Bound]:
    """What ``to_file`` has written, here or in the last release. Raises ScheduleError for anything else."""
    if isinstance(data, dict) and data.get("schema") == OLD_SCHEMA:
        data = {**_with_new_names(data), "schema": SCHEMA}
    try:
        file = msgspec.convert(data, _File)
        if file.schema_ != SCHEMA:
            raise ScheduleError(f"schema is {file.schema_!r}, it must be {SCHEMA!r}")
        if file.invariant not in STATEMENTS:
            raise ScheduleError(f"invariant is {file.invariant}, it must be between 1 and {len(STATEMENTS)}")
        moves = tuple([Move(move.kind, move.rank, _item_in(move.item), move.room) for move in file.moves])
    except msgspec.ValidationError as error:
        raise ScheduleError(f"this is not a schedule: {error}") from error
    return Finding(invariant=file.invariant, what=file.what, moves=moves), file.bound


def _with_new_names(data: Any) -> Any:
    """What the last release wrote, in which an iteration was a turn."""
    if isinstance(data, list):
        return [_with_new_names(one) for one in data]
    if not isinstance(data, dict):
        return data
    named = {"atomic_iterations" if name == "atomic_turns" else name: value for name, value in data.items()}
    return {
        name: "iteration" if name in {"kind", "what", "type"} and value == "turn" else _with_new_names(value)
        for name, value in named.items()
    }


def _item_out(item: Item | None) -> _ItemEntry | None:
    if item is None:
        return None
    what: Any = item.what
    content = payload_of(item.content) if isinstance(item.content, Value) else item.content
    return _ItemEntry(what, item.taker, item.source, msgspec.to_builtins(content))


def _item_in(entry: _ItemEntry | None) -> Item | None:
    if entry is None:
        return None
    kinds: dict[str, Any] = {
        "message": MessagePayload,
        "encode": StartEncodePayload,
        "iteration": IterationPayload,
        "down": RankId,
        "up": RankId,
    }
    found = msgspec.convert(entry.content, kinds.get(entry.what, StartWritePayload))
    content = value_of(found) if isinstance(found, Payload) else found
    return Item(entry.what, entry.taker, content, entry.source)
