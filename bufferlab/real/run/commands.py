"""What the router (the launching process) and the rank processes say to each other about a run.

These are not protocol messages: they start and stop a run, hand out requests and bring results home. They travel on the
same ZeroMQ channel, marked by their first frame.
"""

from __future__ import annotations

from typing import Any, Self

import msgspec

from bufferlab.protocol.messages import EncodeRequest, LanguageRequest
from bufferlab.protocol.rank import RoomKey
from bufferlab.protocol.recording import Event
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId
from bufferlab.protocol.wire.schema import RequestPayload, payload_of
from bufferlab.real.control.guard import Refusal
from bufferlab.real.control.route import Route
from bufferlab.real.engine.proof import Traffic, TransportProof
from bufferlab.real.run.usage import Usage

ORDER = b"bufferlab-order"

MISSING_STATUS = 3
"""Exit status of a rank that cannot import Mooncake; what is missing is its last line on standard error."""

GROUP_STATUS = 4
"""Exit status of a rank that cannot go on because another rank of its instance has ended."""


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The rank has registered its memory, found its peers and proved its transport. ``memory``: where it lies."""

    rank_id: RankId
    route: Route
    proof: TransportProof
    memory: str


class Start(msgspec.Struct, frozen=True, tag="start"):
    """The run begins: time zero, in seconds of the monotonic clock of the rank's host."""

    zero_s: float


class Submit(msgspec.Struct, frozen=True, tag="submit"):
    """A request for this rank, in the form in which it is written down."""

    request: RequestPayload

    @classmethod
    def of(cls, request: EncodeRequest | LanguageRequest) -> Self:
        """The command that hands out ``request``."""
        form: Any = payload_of(request)
        return cls(form)


class GiveUp(msgspec.Struct, frozen=True, tag="give_up"):
    """The client of this request went away, or the router has given it up: end it."""

    room: int
    incarnation: int
    reason: str


class Describe(msgspec.Struct, frozen=True, tag="describe"):
    """Say who holds and who waits for blocks; the answer, a Holdings, carries ``number``."""

    number: int


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    """Give a sign of life; the answer is an Alive."""


class Alive(msgspec.Struct, frozen=True, tag="alive"):
    """A sign of life of the rank's main thread. ``events``: how many were recorded so far. ``expects_s``: how long
    until the last thing is due that it expects, such as the end of a pass or a timer; None when it expects nothing."""

    rank_id: RankId
    events: int
    expects_s: float | None = None


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """All requests are concluded: report and leave."""


class WriteBegins(msgspec.Struct, frozen=True, tag="write_begins"):
    """A write of an announced room is handed to the engine now."""

    rank_id: RankId
    room: int


class Holdings(msgspec.Struct, frozen=True, tag="holdings"):
    """Who holds and who waits for blocks of this rank, as ``protocol.observe.deadlock`` wants to know it.

    ``held``: blocks by room. ``queues``: (room, blocks) in the order they are served. ``usable``: by waiting room, what
    it could be given at most. ``moves``: by room that holds blocks, the number of the last event that was recorded of
    it; one that does not move records none.
    """

    rank_id: RankId
    number: int
    held: list[tuple[RoomKey, int]]
    queues: list[list[tuple[RoomKey, int]]]
    usable: list[tuple[RoomKey, int]]
    moves: list[tuple[RoomKey, int]]


class Report(msgspec.Struct, frozen=True, tag="report"):
    """What a rank reports at the end of the run.

    ``differences``: embeddings that do not match. ``rooms_left`` and ``blocks_lost``: what should not have been left;
    apart from it ``rooms_quarantined`` with ``blocks_fenced``, whose writer's process is gone and which wait for the
    end of the quarantine. ``frames_dropped``: control frames that were damaged. ``messages_stale``: those from or for a
    process that has ended. ``refused``: who came to its ports and did not hold the run's token. ``usage``: where its
    processor time went; None where the kernel does not say. ``traffic``: what its engine has
    counted; None for one that counts nothing. ``left`` and ``quarantined``: the rooms that are counted in
    ``rooms_left`` and ``rooms_quarantined``. What it recorded comes before, as Records.
    """

    rank_id: RankId
    verified_rooms: int
    verified_bytes: int
    differences: list[str]
    rooms_left: int
    blocks_lost: int
    rooms_quarantined: int
    blocks_fenced: int
    frames_dropped: int
    messages_stale: int
    ignored_messages: int
    usage: Usage | None = None
    refused: list[Refusal] = []
    traffic: Traffic | None = None
    left: list[int] = []
    quarantined: list[int] = []


RecordPayload = tuple[float, int, Event, Status | None, int, int, str]
"""A record as a rank sends it: without the rank's name, in seconds of its own clock."""


class Records(msgspec.Struct, frozen=True, tag="records"):
    """What a rank recorded since the last of these."""

    rank_id: RankId
    generation: int
    records: list[RecordPayload]


class Concluded(msgspec.Struct, frozen=True, tag="concluded"):
    """A room is over on this rank. ``records``: what the rank of this ``generation`` recorded and has not sent on yet,
    so that whoever hears of the end has all that led to it, whatever becomes of the process."""

    rank_id: RankId
    room: int
    incarnation: int
    status: Status
    reason: str = ""
    generation: int = 0
    records: list[RecordPayload] = []


class Broken(msgspec.Struct, frozen=True, tag="broken"):
    """The rank cannot go on, for this reason."""

    rank_id: RankId
    reason: str


Command = (
    Ready
    | Start
    | Submit
    | GiveUp
    | Describe
    | Ask
    | Alive
    | Stop
    | Concluded
    | WriteBegins
    | Holdings
    | Records
    | Report
    | Broken
)

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Command)


def command_frames(command: Command) -> list[bytes]:
    """The frames of a command or report."""
    return [ORDER, _encoder.encode(command)]


def parse_command(frames: list[bytes]) -> Command:
    """The command or report in ``frames``. Raises ValueError if there is none."""
    if len(frames) != 2 or frames[0] != ORDER:
        raise ValueError(f"{len(frames)} frames are no order")
    try:
        return _decoder.decode(frames[1])
    # msgspec lets two of Python's own errors through: bad UTF-8 (a ValueError) and absurd nesting.
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ValueError(f"no order: {error}") from error
