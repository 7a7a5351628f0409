"""What predicates are asked about, how they are registered under their numbers, and how all of them are asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from bufferlab.protocol.checker.bounds import BLOCK_TOKENS, Bound, Fault
from bufferlab.protocol.checker.invariants.statements import ERRORS
from bufferlab.protocol.checker.snapshot import Core
from bufferlab.protocol.encode import EncodeRoom
from bufferlab.protocol.messages import (
    Action,
    StartWrite,
)
from bufferlab.protocol.rank import RoomKey
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side


class Violation(NamedTuple):
    """A violation of an invariant."""

    invariant: int
    what: str


Content = tuple[RoomKey, int] | None
"""What a block holds: block number ``n`` of a room's request; None for nothing anybody may rely on."""


class Ghost(NamedTuple):
    """What really happened to one rank so far, kept by the explorer. Pairs are in order.

    ``memory``: content of each block of a language rank. ``source``: blocks of each embedding on an encode rank and
    whether it is encoded. ``copied``: tokens copied out. ``acked``: tokens acknowledged per room and destination.
    ``flying``: first and last token of the writes that were started and are not over. ``refused``: (room, destination)
    that cancelled. All of these only until the room is forgotten. ``ends``: how each room was concluded.
    """

    memory: tuple[Content, ...] = ()
    source: tuple[tuple[RoomKey, tuple[tuple[int, ...], bool]], ...] = ()
    copied: tuple[tuple[RoomKey, int], ...] = ()
    acked: tuple[tuple[tuple[RoomKey, RankId], int], ...] = ()
    flying: tuple[tuple[tuple[RoomKey, RankId], tuple[int, int]], ...] = ()
    refused: tuple[tuple[RoomKey, RankId], ...] = ()
    ends: tuple[tuple[RoomKey, Status], ...] = ()


class Local(NamedTuple):
    """One rank's part of a state."""

    bound: Bound
    core: Core
    ghost: Ghost


class Step(NamedTuple):
    """One rank takes one input. ``after`` is where it gets to; ``error`` is what the core raised instead, if it did."""

    before: Local
    given: object
    actions: list[Action]
    after: Local
    error: Exception | None

    @property
    def bound(self) -> Bound:
        """The bound it happens in."""
        return self.before.bound

    @property
    def rank_id(self) -> RankId:
        """Who takes the step."""
        return self.before.core.rank_id


class Write(NamedTuple):
    """A write under way between two ranks; None for one that is gone."""

    write: StartWrite
    source: Local | None
    target: Local | None


Hit = tuple[Fault, int | None]
"""A fault that happened and the room it concerned, None for all."""

Rooms = Mapping[RoomKey, Any]
LocalPredicate = Callable[[Local], Iterator[str]]
StepPredicate = Callable[[Step], Iterator[str]]
WritePredicate = Callable[[Write], Iterator[str]]
GroupPredicate = Callable[[list[Local]], Iterator[str]]

LOCAL: list[tuple[int, LocalPredicate]] = []
STEP: list[tuple[int, StepPredicate]] = []
WRITE: list[tuple[int, WritePredicate]] = []
GROUP: list[tuple[int, GroupPredicate]] = []

Wrap = Callable[[Any], Any]


def _add(table: list[Any], number: int) -> Wrap:
    def register(predicate: Any) -> Any:
        table.append((number, predicate))
        return predicate

    return register


def on_local(number: int) -> Wrap:
    """A predicate over one rank's state."""
    return _add(LOCAL, number)


def on_step(number: int) -> Wrap:
    """A predicate over one rank's step."""
    return _add(STEP, number)


def on_write(number: int) -> Wrap:
    """A predicate over a write under way."""
    return _add(WRITE, number)


def on_group(number: int) -> Wrap:
    """A predicate over all ranks of a group, none of which is in the middle of an iteration."""
    return _add(GROUP, number)


def check_local(local: Local) -> tuple[Violation, ...]:
    """Everything wrong with one rank's state."""
    return tuple([Violation(number, what) for number, predicate in LOCAL for what in predicate(local)])


def check_step(step: Step) -> tuple[Violation, ...]:
    """Everything wrong with one step. A step that raised is only that."""
    if step.error is not None:
        number = next((number for kind, number in ERRORS.items() if isinstance(step.error, kind)), 19)
        return (Violation(number, f"{step.rank_id} raised {type(step.error).__name__}: {step.error}"),)
    return tuple([Violation(number, what) for number, predicate in STEP for what in predicate(step)])


def check_write(write: Write) -> tuple[Violation, ...]:
    """Everything wrong with a write under way."""
    return tuple([Violation(number, what) for number, predicate in WRITE for what in predicate(write)])


def check_group(members: list[Local]) -> tuple[Violation, ...]:
    """Everything wrong between the ranks of a group."""
    return tuple([Violation(number, what) for number, predicate in GROUP for what in predicate(members)])


def held_blocks(room: Any) -> tuple[int, ...]:
    """The blocks a room says it holds."""
    return room.source if isinstance(room, EncodeRoom) else room.blocks


def blocks_of(tokens: int) -> int:
    """Blocks that so many tokens take."""
    return -(-tokens // BLOCK_TOKENS)


def total_of(bound: Bound, key: RoomKey) -> int:
    """Tokens of a request."""
    return bound.lengths[bound.keys.index(key)]


def required(bound: Bound, rank_id: RankId) -> list[RankId]:
    """The language ranks an encode rank must serve, from the pairing rule and not from the core."""
    return [
        RankId(Side.LANGUAGE, 0, rank) for rank in range(bound.language_tp) if rank % bound.encode_tp == rank_id.rank
    ]


def room_pairs(step: Step) -> Iterator[tuple[Any, Any]]:
    """Rooms that are there before and after the step."""
    before: Rooms = step.before.core.rooms
    after: Rooms = step.after.core.rooms
    for key, room in before.items():
        if key in after:
            yield room, after[key]


def state_of(local: Local, block: int) -> str:
    """What a block is to a rank's pool, as a sentence says it."""
    pool = local.core.pool
    if (owner := pool.owner(block)) is not None:
        return f"owned by {owner}"
    if (former := pool.fenced_for(block)) is not None:
        return f"fenced for {former}"
    return "free"
