"""One rank takes one input: by the real core, on a copy, with the explorer's own account of what really happened."""

from __future__ import annotations

from typing import Any, NamedTuple

from bufferlab.protocol.checker.bounds import BLOCK_TOKENS
from bufferlab.protocol.checker.invariants import Content, Ghost, Local, Step
from bufferlab.protocol.checker.snapshot import FAILURE, Core, clone, tidy
from bufferlab.protocol.messages import (
    Action,
    Cancel,
    Conclude,
    CopyOut,
    Encoded,
    Message,
    Send,
    StartEncode,
    StartWrite,
    WriteDone,
)
from bufferlab.protocol.rank import RoomKey
from bufferlab.protocol.topology import RankId
from bufferlab.protocol.values import replaced

NOW = 0.0
"""The explored world has no time; a timer that goes off is due now."""


class Item(NamedTuple):
    """Something under way: ``taker`` will get it, ``source`` has sent it.

    ``what``: "message", "encode", "write", "late" (a failed write whose bytes are still on their way), "iteration"
    (agreed on and not carried out yet), "down" and "up" (what a rank will learn about ``content``, its peer).
    """

    what: str
    taker: RankId
    content: Any
    source: RankId


class Landed(NamedTuple):
    """Bytes of a write arrive in the memory of its destination; not ``whole`` when it failed and left anything."""

    write: StartWrite
    whole: bool


class TimerGoesOff(NamedTuple):
    """The deadline of a room has come on one rank."""

    key: RoomKey


def perform(before: Local, given: Any) -> Step:
    """Let the core take an input, on a copy, and keep the account."""
    core = clone(before.core)
    actions: list[Action] = []
    error: Exception | None = None
    ghost = before.ghost
    if isinstance(given, Landed):
        ghost = ghost._replace(memory=land(ghost.memory, given))
    elif isinstance(given, TimerGoesOff):
        core._arm(core.rooms[given.key], 0.0, NOW)  # type: ignore[arg-type]
    else:
        try:
            actions = core.handle(given, NOW)
        except Exception as raised:  # a finding, not a failure of the explorer
            error = raised
        else:
            ghost = account(ghost, core, given, actions)
    tidy(core, dict(ghost.ends))
    return Step(before, given, actions, Local(before.bound, core, ghost), error)


def started(step: Step) -> list[Item]:
    """What the step puts under way."""
    rank_id = step.rank_id
    items = []
    for action in step.actions:
        match action:
            case Send(to, message):
                items.append(Item("message", to, _without_reason(message), rank_id))
            case StartEncode():
                items.append(Item("encode", rank_id, action, rank_id))
            case StartWrite():
                items.append(Item("write", rank_id, action, rank_id))
    return items


def _without_reason(message: Message) -> Message:
    """Reasons are only ever told, so two messages that differ in them alone are one."""
    reason = getattr(message, "reason", "")
    return replaced(message, reason=FAILURE) if reason else message


def write_done(write: StartWrite, *, ok: bool, quiet: bool = True) -> WriteDone:
    """How the engine reports the end of a write."""
    return WriteDone(write.room, write.incarnation, write.epoch, write.destination, ok, quiet, "" if ok else FAILURE)


def land(memory: tuple[Content, ...], landed: Landed) -> tuple[Content, ...]:
    """What the blocks of a language rank hold afterwards. A block outside of its pool is found by invariant 2."""
    write = landed.write
    held = list(memory)
    first = write.chunk.start_token // BLOCK_TOKENS
    for place, block in enumerate(write.target_blocks[: -(-write.chunk.tokens // BLOCK_TOKENS)]):
        if block < len(held):
            held[block] = ((write.room, write.incarnation), first + place) if landed.whole else None
    return tuple(held)


def account(ghost: Ghost, core: Core, given: Any, actions: list[Action]) -> Ghost:
    """The explorer's account after a step."""
    source, copied, acked, flying = dict(ghost.source), dict(ghost.copied), dict(ghost.acked), dict(ghost.flying)
    refused, ends = set(ghost.refused), dict(ghost.ends)
    if isinstance(given, WriteDone):
        pair = ((given.room, given.incarnation), given.destination)
        start, end = flying.pop(pair, (-1, 0))
        if given.ok and acked.get(pair, 0) == start:
            acked[pair] = end
    elif isinstance(given, Encoded):
        key = (given.room, given.incarnation)
        source[key] = (source[key][0], True)
    elif isinstance(given, Cancel):
        refused.add(((given.room, given.incarnation), given.receiver))
    for action in actions:
        match action:
            case StartEncode(room, incarnation, _, blocks):
                source[room, incarnation] = (blocks, False)
            case StartWrite(room, incarnation, _, destination, chunk):
                flying[(room, incarnation), destination] = (chunk.start_token, chunk.end_token)
            case CopyOut(room, incarnation, start_token, tokens):
                copied[room, incarnation] = start_token + tokens
            case Conclude(room, incarnation, status):
                ends[room, incarnation] = status
    reaped = {key for key in ends if key not in core.rooms}
    memory = list(ghost.memory)
    if memory:
        for block in core.pool.free_blocks():
            memory[block] = None  # nobody may rely on what is left in a free block
    return Ghost(
        memory=tuple(memory),
        source=tuple(sorted((key, held) for key, held in source.items() if key not in reaped or not held[1])),
        copied=tuple(sorted((key, tokens) for key, tokens in copied.items() if key not in ends)),
        acked=tuple(sorted((pair, tokens) for pair, tokens in acked.items() if pair[0] not in reaped)),
        flying=tuple(sorted(flying.items())),
        refused=tuple(sorted(pair for pair in refused if pair[0] not in reaped)),
        ends=tuple(sorted(ends.items())),
    )
