"""Copies of a rank core, and a key that two cores share exactly when they behave alike from here on.

Both walk over whatever attributes a core has, so a field that is added to a core is part of its state without anybody
remembering to say so here. The exceptions are named below, each with its reason.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Collection
from itertools import chain
from typing import Any

from bufferlab.protocol.allocator import BlockPool
from bufferlab.protocol.encode import EncodeRank, EncodeRoom
from bufferlab.protocol.language import LanguageRank, LanguageRoom
from bufferlab.protocol.messages import EncodeRequest
from bufferlab.protocol.rank import EarlyMessages, Landing, Room, RoomKey
from bufferlab.protocol.sizing import SizingPolicy

Core = EncodeRank | LanguageRank

_FIXED = frozenset(
    {
        *(
            "_announces",
            "_asks_policy",
            "_landings",
            "_phases",
            "_recorder",
            "_required",
            "_releases_before_waiting",
            "_resumes",
            "_tells_details",
            "_writers",
        ),
        *("discipline", "layout", "rank_id"),
    }
)
"""The same for the whole life of a core, and of every other that is made for the same rank."""

_SCRATCH = frozenset({"_behind_copy", "_free", "_timer_count", "_timers", "ignored_messages", "untold"})
"""Written before read in every iteration (the first two), told by the rooms' deadlines (timers), or only counted."""

_TOLD = frozenset({"asked_blocks", "timed"})
"""Of a room: written in every iteration before it is used, and otherwise read only by those who look from outside; and
what its deadline tells."""

FAILURE = "failed"
"""In place of all reasons to fail."""

_ORDERED = frozenset({"_failed"})
"""Dictionaries whose order decides something. The order of all others is that of arrival and decides nothing."""


def clone(core: Core) -> Core:
    """An independent copy. What is immutable is shared."""
    twin = _blank_core(core)
    rooms: dict[int, Room] = {}
    for name in attributes_of(core):
        value = getattr(core, name)
        if name == "_timers":
            value = [(*entry[:3], _copied(entry[3], rooms)) for entry in value]
        elif name == "sizing":
            value = copy.copy(value) if all(map(_is_atom, vars(value).values())) else copy.deepcopy(value)
        elif name not in _FIXED:
            value = _copied(value, rooms)
        setattr(twin, name, value)
    return twin


def _is_atom(value: object) -> bool:
    return value is None or isinstance(value, int | float | str)


_DECLARED: dict[type, tuple[str, ...]] = {}


def attributes_of(one: object) -> list[str]:
    """The names of all attributes that an object has, whether its class is compiled or not."""
    kind = type(one)
    if kind not in _DECLARED:
        listed = [getattr(base, "__mypyc_attrs__", getattr(base, "__slots__", ())) for base in kind.__mro__]
        # A compiled class names __dict__ as well, which no object of it has.
        _DECLARED[kind] = tuple(name for name in dict.fromkeys(chain.from_iterable(listed)) if name != "__dict__")
    return [*_DECLARED[kind], *getattr(one, "__dict__", ())]


def _copied(value: Any, rooms: dict[int, Room]) -> Any:
    """A copy of containers and what is mutable in them; tuples hold nothing mutable in a core but in its timers."""
    kind = type(value)
    if kind is dict:
        return {key: _copied(one, rooms) for key, one in value.items()}
    if kind is list or kind is deque or kind is set:
        return kind([_copied(one, rooms) for one in value])
    if isinstance(value, Room):
        twin = rooms.get(id(value))
        if twin is None:
            twin = rooms[id(value)] = _blank_room(value)
            for slot in attributes_of(value):
                setattr(twin, slot, _copied(getattr(value, slot), rooms))
        return twin
    if kind is BlockPool:
        pool = BlockPool(value.blocks)
        for slot in attributes_of(value):
            setattr(pool, slot, copy.copy(getattr(value, slot)))
        return pool
    if kind is EarlyMessages:
        early = EarlyMessages()
        early._kept.update((key, list(kept)) for key, kept in value._kept.items())
        return early
    return value


def _blank_core(core: Core) -> Core:
    """A new core of the same kind."""
    rank_id, layout, blocks = core.rank_id, core.layout, core.pool.blocks
    if isinstance(core, EncodeRank):
        return EncodeRank(rank_id, layout=layout, discipline=core.discipline, pool_blocks=blocks)
    return LanguageRank(rank_id, layout=layout, discipline=core.discipline, sizing=core.sizing, pool_blocks=blocks)


def _blank_room(room: Room) -> Room:
    """A new room of the same kind."""
    if isinstance(room, LanguageRoom):
        return LanguageRoom(room.request, room.number, room.writer, room.landing)
    assert isinstance(room, EncodeRoom)  # there is no third kind
    return EncodeRoom(EncodeRequest(*room.key, room.total_tokens), room.number, room.destinations, room.landing)


def tidy(core: Core, concluded: Collection[RoomKey]) -> None:
    """Bring a core into the one form of all that behave like it. ``concluded``: rooms that ended here.

    * Rooms that are over leave the queues; the core itself drops them when it gets to them.
    * Messages kept for a room that has ended here are dropped; the core drops them after a minute, unread.
    * Why a room failed is forgotten; it is only ever told.
    """
    queues = [core._awaiting_source] if isinstance(core, EncodeRank) else [core._new, core._resuming]
    for queue in queues:
        if any(room.over for room in queue):
            waiting = [room for room in queue if not room.over]
            queue.clear()
            queue.extend(waiting)  # type: ignore[arg-type]
    for key in [key for key in core._early._kept if key in concluded]:
        del core._early._kept[key]
    for room in core.rooms.values():
        room.failure = room.failure and FAILURE


def freeze(core: Core) -> tuple[Any, ...]:
    """A hashable key of everything that decides what a tidied core does from now on."""
    return tuple(
        [
            _frozen_rooms(core.rooms) if name == "rooms" else _frozen(getattr(core, name), ordered=name in _ORDERED)
            for name in attributes_of(core)
            if name not in _FIXED and name not in _SCRATCH
        ]
    )


def frozen_room(room: Room) -> tuple[Any, ...]:
    """A hashable key of everything in a room."""
    return tuple([_frozen(getattr(room, slot)) for slot in attributes_of(room) if slot not in _TOLD])


def _frozen_rooms(rooms: dict[Any, Any]) -> tuple[Any, ...]:
    return tuple([(key, frozen_room(room)) for key, room in rooms.items()])


def _frozen(value: Any, *, ordered: bool = False) -> Any:
    kind = type(value)
    if kind is dict:
        items = [(key, _frozen(one)) for key, one in value.items()]
        return tuple(items if ordered or len(items) < 2 else sorted(items, key=_by_name))
    if kind is set:
        return tuple(sorted(value))
    if kind is list or kind is deque:
        return tuple([_frozen(one) for one in value])
    if isinstance(value, Room):
        return value.key
    if kind is Landing:
        return value.phase
    if kind is BlockPool:
        return (tuple(value._starts), tuple(value._ends), value.free, tuple(value._owner), tuple(value._fenced))
    if kind is EarlyMessages:
        messages = ((key, tuple([message for _, message in kept])) for key, kept in value._kept.items())
        return tuple(sorted(messages, key=_by_name))
    if isinstance(value, SizingPolicy):
        return _frozen(vars(value))
    return value


def _by_name(item: tuple[Any, Any]) -> str:
    return repr(item[0])
