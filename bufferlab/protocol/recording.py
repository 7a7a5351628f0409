"""The event schema: what a rank writes down, and how two recordings are compared.

Both drivers hand the cores a ``Recorder``; the cores call it at the same places in both worlds. A row of
``events.parquet`` is one call. The *history* of a room is what must be equal between a simulated and a measured run.
Causally independent steps of one rank (a second destination's write, the encoder's forward pass) may interleave
differently on a real machine, so each belongs to an ordering domain of its own and is compared within it.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, StrEnum
from typing import Final, NamedTuple, Protocol, final

from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side

LANGUAGE: Final = Side.LANGUAGE


class Event(StrEnum):
    """Everything that is recorded, in the order of a room's life.

    The drivers record PREFILLED, since they run the passes, and only if prefill takes time at all. It comes just before
    RELEASED if blocks are kept for the prefill, and after it otherwise.
    """

    SUBMITTED = "submitted"
    ANNOUNCED = "announced"
    ALLOCATED = "allocated"
    OFFERED = "offered"
    RESUMED = "resumed"
    OFFER_RECEIVED = "offer_received"
    OFFERS_COMPLETE = "offers_complete"
    ENCODE_STARTED = "encode_started"
    ENCODED = "encoded"
    CHUNK_STARTED = "chunk_started"
    WRITE_STARTED = "write_started"
    WRITE_DONE = "write_done"
    CHUNK_DONE = "chunk_done"
    CHUNK_RECEIVED = "chunk_received"
    DELIVERED = "delivered"
    FAILED = "failed"
    RELEASED = "released"
    PREFILLED = "prefilled"

    __hash__ = str.__hash__  # Enum's own runs in Python, and what is done about an event is looked up at every record


class OrderingDomain(Enum):
    """Which events keep their mutual order on every machine."""

    ROOM = "room"
    DESTINATION = "destination"
    COMPUTE = "compute"


ORDERING_DOMAINS: dict[Event, OrderingDomain] = {
    **dict.fromkeys(Event, OrderingDomain.ROOM),
    Event.OFFER_RECEIVED: OrderingDomain.DESTINATION,
    Event.WRITE_STARTED: OrderingDomain.DESTINATION,
    Event.WRITE_DONE: OrderingDomain.DESTINATION,
    Event.ENCODE_STARTED: OrderingDomain.COMPUTE,
    Event.ENCODED: OrderingDomain.COMPUTE,
    Event.PREFILLED: OrderingDomain.COMPUTE,
}


class Record(NamedTuple):
    """One recorded event.

    ``status``: the room's status after the event on that rank, None in the destination and compute domains.
    ``tokens``: the room's sent_tokens (encode side) or received tokens (language side) after the event; for ALLOCATED
    the tokens that fit into all blocks that the room now holds.
    ``bytes``: payload bytes the event moved. ``detail``: the peer or the reason.
    """

    time_s: float
    rank_id: RankId
    room: int
    event: Event
    status: Status | None
    tokens: int
    bytes: int
    detail: str


class Recorder(Protocol):
    """Receives every record of a rank, at once and in order."""

    def __call__(
        self,
        time_s: float,
        rank_id: RankId,
        room: int,
        event: Event,
        status: Status | None,
        tokens: int,
        bytes_: int,
        detail: str,
        /,
    ) -> None:
        """Take one record; see ``Record`` for the fields."""


DETAILS = frozenset({Event.OFFERED, Event.RESUMED, Event.OFFER_RECEIVED, Event.WRITE_STARTED})
"""What neither rows nor figures need: whoever stores or checks records wants these too."""


def wants_details(recorder: Recorder | None) -> bool:
    """Whether a recorder is to be told of ``DETAILS``. One that says nothing about it, in ``wants_details``, is."""
    return recorder is not None and bool(getattr(recorder, "wants_details", True))


class Listener:
    """A Recorder that is told of records by the method ``tell``, which costs compiled code a fraction of a call.

    It can be called as well, like any other Recorder. ``wants_details``: whether it is to be told of ``DETAILS``.
    """

    def __init__(self) -> None:
        self.wants_details = True

    def tell(
        self,
        time_s: float,
        rank_id: RankId,
        room: int,
        event: Event,
        status: Status | None,
        tokens: int,
        bytes_: int,
        detail: str,
    ) -> None:
        """Take one record; see ``Record`` for the fields."""
        raise NotImplementedError

    def __call__(
        self,
        time_s: float,
        rank_id: RankId,
        room: int,
        event: Event,
        status: Status | None,
        tokens: int,
        bytes_: int,
        detail: str,
    ) -> None:
        """The same."""
        self.tell(time_s, rank_id, room, event, status, tokens, bytes_, detail)

    def record(self, record: Record) -> None:
        """Take one record as a tuple."""
        self.tell(*record)


@final
class _Told(Listener):
    """Hands on what it is told to any Recorder."""

    def __init__(self, recorder: Recorder) -> None:
        self.wants_details = wants_details(recorder)
        self._recorder = recorder

    def tell(
        self,
        time_s: float,
        rank_id: RankId,
        room: int,
        event: Event,
        status: Status | None,
        tokens: int,
        bytes_: int,
        detail: str,
    ) -> None:
        """Hand on one record."""
        self._recorder(time_s, rank_id, room, event, status, tokens, bytes_, detail)


@final
class Listeners(Listener):
    """Several Recorders, each of which is told of every record, in this order."""

    def __init__(self, recorders: Iterable[Recorder]) -> None:
        self._listeners = [listening(one) for one in recorders]
        self.wants_details = any(one.wants_details for one in self._listeners)

    def tell(
        self,
        time_s: float,
        rank_id: RankId,
        room: int,
        event: Event,
        status: Status | None,
        tokens: int,
        bytes_: int,
        detail: str,
    ) -> None:
        """Hand one record to all of them."""
        for one in self._listeners:
            one.tell(time_s, rank_id, room, event, status, tokens, bytes_, detail)


def listening(recorder: Recorder) -> Listener:
    """A recorder, whatever it is, as something that can be told."""
    return recorder if isinstance(recorder, Listener) else _Told(recorder)


def number_of(rank_id: RankId) -> int:
    """A small number that no other rank has: quicker to look up than its three parts."""
    return rank_id.instance << 17 | rank_id.rank << 1 | (1 if rank_id.side is LANGUAGE else 0)


Step = tuple[Event, Status | None, int]
HistoryKey = tuple[int, RankId, str]


def histories(records: Iterable[Record]) -> dict[HistoryKey, list[Step]]:
    """The sequence of (event, status, tokens) per (room, rank, ordering domain).

    ``records`` must be in recording order per rank. A destination domain's key holds the peer's name.
    """
    found: dict[HistoryKey, list[Step]] = {}
    for record in records:
        domain = ORDERING_DOMAINS[record.event]
        name = record.detail.split(" ", 1)[0] if domain is OrderingDomain.DESTINATION else domain.value
        found.setdefault((record.room, record.rank_id, name), []).append((record.event, record.status, record.tokens))
    return found
