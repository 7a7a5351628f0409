"""What the router (the launching process) and the rank processes say to each other about a run.

These are not protocol messages: they start and stop a run, hand out requests and bring results home. They travel on the
same ZeroMQ channel, marked by their first frame.
"""

from __future__ import annotations

import msgspec

from protocol.messages import EncodeRequest, LanguageRequest
from protocol.recording import Event, Record
from protocol.scenario import Scenario
from protocol.status import Status
from protocol.topology import RankId, Side
from real.transport import TransportProof

ORDER = b"bufferlab-order"

MISSING_STATUS = 3
"""Exit status of a rank that cannot import Mooncake; what is missing is its last line on standard error."""


class RankSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a rank process needs to start.

    ``longest_tokens``: the longest request to expect, so that its test content is computed before the run.
    ``bootstrap_fd``: an inherited listening socket, encode 0.0 only.
    """

    rank_id: RankId
    scenario: Scenario
    bootstrap: str
    host: str = "127.0.0.1"
    transport: str = "tcp"
    device: str = ""
    verify: bool = True
    longest_tokens: int = 1
    bootstrap_fd: int | None = None


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One rank's entry in the bootstrap registry: how to reach it and where its memory lies."""

    rank_id: RankId
    host: str
    control_port: int
    session: str = ""
    bases: tuple[int, ...] = ()
    collective_port: int = 0


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The rank has registered its memory, found its peers and proved its transport."""

    rank_id: RankId
    proof: TransportProof


class Start(msgspec.Struct, frozen=True, tag="start"):
    """The run begins: time zero, in seconds of this host's monotonic clock."""

    zero_s: float


class Submit(msgspec.Struct, frozen=True, tag="submit"):
    """A request for this rank."""

    request: EncodeRequest | LanguageRequest


class PeerGone(msgspec.Struct, frozen=True, tag="peer_gone"):
    """The process of a rank has ended."""

    peer: RankId


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """All requests are concluded: report and leave."""


class Concluded(msgspec.Struct, frozen=True, tag="concluded"):
    """A room is over on this rank."""

    rank_id: RankId
    room: int
    incarnation: int
    status: Status


class Report(msgspec.Struct, frozen=True, tag="report"):
    """A rank's account of the run. ``records``: its events in order; ``differences``: embeddings that do not match."""

    rank_id: RankId
    records: list[tuple[float, int, Event, Status | None, int, int, str]]
    verified_rooms: int
    verified_bytes: int
    differences: list[str]
    rooms_left: int
    blocks_lost: int
    ignored_messages: int

    def unpacked(self) -> list[Record]:
        """The records with the rank that made them."""
        return [
            Record(time_s, self.rank_id, room, event, status, tokens, size, detail)
            for time_s, room, event, status, tokens, size, detail in self.records
        ]


class Broken(msgspec.Struct, frozen=True, tag="broken"):
    """The rank cannot go on, for this reason."""

    rank_id: RankId
    reason: str


Order = Ready | Start | Submit | PeerGone | Stop | Concluded | Report | Broken

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Order)


def order_frames(order: Order) -> list[bytes]:
    """The frames of an order."""
    return [ORDER, _encoder.encode(order)]


def parse_order(frames: list[bytes]) -> Order:
    """The order in ``frames``; the sender is one of our own processes, so a bad one is a bug and raises."""
    return _decoder.decode(frames[1])


ROUTER = RankId(Side.ENCODE, -1, -1)
"""How the router is listed in the registry: it is no rank, hence the impossible numbers."""
