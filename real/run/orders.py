"""What the router (the launching process) and the rank processes say to each other about a run.

These are not protocol messages: they start and stop a run, hand out requests and bring results home. They travel on the
same ZeroMQ channel, marked by their first frame.
"""

from __future__ import annotations

import msgspec

from protocol.emulation.scenario import Scenario
from protocol.messages import EncodeRequest, LanguageRequest
from protocol.rank import RoomKey
from protocol.recording import Event
from protocol.status import Status
from protocol.topology import RankId, Side
from real.control.guard import Refusal
from real.engine.placement import MemoryChoice
from real.engine.transport import TransportProof
from real.faults import RankFault
from real.run.usage import Usage

ORDER = b"bufferlab-order"

MISSING_STATUS = 3
"""Exit status of a rank that cannot import Mooncake; what is missing is its last line on standard error."""

GROUP_STATUS = 4
"""Exit status of a rank that cannot go on because another rank of its instance has ended."""


class Heartbeats(msgspec.Struct, frozen=True):
    """How the sides watch each other: a probe every ``interval_s``, and ``failures`` in a row mean that a process is
    gone. The defaults are those of SGLang's disaggregation."""

    interval_s: float = 5.0
    failures: int = 2

    def __post_init__(self) -> None:
        if not self.interval_s > 0 or self.failures < 1:
            raise ValueError(
                f"heartbeats every {self.interval_s} s with {self.failures} failures: the interval must be more than 0 "
                f"and the failures at least 1"
            )


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One process's entry in a bootstrap registry: how to reach it and where its memory lies.

    ``orders_port``: where it takes the router's orders, if that is another port: control messages of the fork's wire
    come from anybody. ``generation``: how many processes had this rank's name before it. ``session``: its engine's peer
    name, host:port.
    ``bases``: addresses of its pools, one per buffer kind. ``collective_port``: where rank 0 of a group keeps the
    group's store. ``failed_is_quiet``: on the wire of the SGLang fork, whether it says Failed only when nothing of the
    room can land any more.
    """

    rank_id: RankId
    host: str
    control_port: int
    orders_port: int = 0
    generation: int = 0
    session: str = ""
    bases: tuple[int, ...] = ()
    collective_port: int = 0
    failed_is_quiet: bool = False

    @property
    def process(self) -> str:
        """Names the process, not the rank: no two processes of a run share it, whatever rank they stand for."""
        return f"{self.session}/{self.generation}"


class RankSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a rank process needs to start.

    ``bootstraps``: host:port of the registry of every encode instance, in order. ``bootstrap_fd``: an inherited
    listening socket for the registry, only for rank 0 of an instance that has one. ``router``: where reports go.
    ``meeting``: host:port of the registry in which the ranks of the own instance find each other, where that is no
    encode instance's.
    ``generation``: how many processes had this name before. ``absent``: instances of the other side that are down now.
    ``longest_tokens``: the longest request to expect, so that its test content is computed before the run.
    ``announced_writes``: rooms whose writes the router wants to hear of, for faults that wait for one.
    ``memory``: where its blocks are to lie (see ``real.engine.placement``).
    ``mortal``: processes will be killed in this run, so what a rank records is sent on at once.
    ``token``: the run's, whose holders alone the ports of the rank serve (see ``real.control.guard``); they are open
    without.
    """

    rank_id: RankId
    scenario: Scenario
    bootstraps: tuple[str, ...]
    router: Route
    meeting: str = ""
    generation: int = 0
    absent: tuple[tuple[Side, int], ...] = ()
    heartbeats: Heartbeats = Heartbeats()
    host: str = "127.0.0.1"
    transport: str = "tcp"
    device: str = ""
    memory: MemoryChoice = "auto"
    verify: bool = True
    longest_tokens: int = 1
    bootstrap_fd: int | None = None
    faults: tuple[RankFault, ...] = ()
    announced_writes: tuple[int, ...] = ()
    mortal: bool = False
    token: str = ""


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
    """A request for this rank."""

    request: EncodeRequest | LanguageRequest


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
    """The rank's main thread comes round. ``events``: recorded so far. ``expects_s``: how long until the last thing is
    due that it knows to come, the end of a pass or a timer; None when there is none."""

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
    """A rank's account of the run.

    ``differences``: embeddings that do not match. ``rooms_left`` and ``blocks_lost``: what should not have been left;
    apart from it ``rooms_quarantined`` with ``blocks_fenced``, whose writer's process is gone and which wait for the
    end of the quarantine. ``frames_dropped``: control frames that were damaged. ``messages_stale``: those from or for a
    process that has ended. ``refused``: who came to its ports and did not hold the run's token. ``usage``: where its
    processor time went; None where the kernel does not say. What it recorded comes before, as Records.
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


Told = tuple[float, int, Event, Status | None, int, int, str]
"""A record as a rank tells it: without its own name, in seconds of its own clock."""


class Records(msgspec.Struct, frozen=True, tag="records"):
    """What a rank recorded since the last of these."""

    rank_id: RankId
    generation: int
    records: list[Told]


class Concluded(msgspec.Struct, frozen=True, tag="concluded"):
    """A room is over on this rank. ``records``: what the rank of this ``generation`` recorded and has not sent on yet,
    so that whoever hears of the end has all that led to it, whatever becomes of the process."""

    rank_id: RankId
    room: int
    incarnation: int
    status: Status
    reason: str = ""
    generation: int = 0
    records: list[Told] = []


class Broken(msgspec.Struct, frozen=True, tag="broken"):
    """The rank cannot go on, for this reason."""

    rank_id: RankId
    reason: str


Order = (
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
_decoder = msgspec.msgpack.Decoder(Order)


def order_frames(order: Order) -> list[bytes]:
    """The frames of an order."""
    return [ORDER, _encoder.encode(order)]


def parse_order(frames: list[bytes]) -> Order:
    """The order in ``frames``. Raises ValueError if there is none."""
    if len(frames) != 2 or frames[0] != ORDER:
        raise ValueError(f"{len(frames)} frames are no order")
    try:
        return _decoder.decode(frames[1])
    # msgspec lets two of Python's own errors through: bad UTF-8 (a ValueError) and absurd nesting.
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ValueError(f"no order: {error}") from error


ROUTER = RankId(Side.ENCODE, -1, -1)
"""What the router is called where ranks have names: it is no rank, hence the impossible numbers."""
