"""What a rank on a host of its own and the coordinator say to each other, beside the commands of a run.

A rank keeps one TCP connection to the coordinator for as long as it takes part. It is the place in the run: whoever
holds it has the rank's name. The coordinator asks over it for the rank's clock once a second, which is also how either
side knows that the other is there; when the connection ends or falls silent, the other side is gone.

A message is a line of JSON. Where the run has a token, both ends say a random number first, and every line is signed
(``real.control.guard``): neither a rank nor a coordinator that does not hold the token is listened to.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from bufferlab.protocol.naming import flat
from bufferlab.protocol.topology import RankId, Side
from bufferlab.real.control.guard import NONCE_BYTES, Guard, LineSigner
from bufferlab.real.control.spec import RankSpec

BEAT_S = 1.0
"""Time between two questions of the coordinator."""

SILENCE_S = 15.0
"""How long one side hears nothing of the other before it takes it for gone: a host that lost its network or its power,
and not one that is merely busy. A process that ends, however it does, closes its connection at once."""

LONGEST_LINE_BYTES = 64 << 20

LONGEST_FIRST_BYTES = 1 << 20
"""Of somebody who has not proved yet that he holds the token."""

SOURCES = ("bufferlab/protocol", "bufferlab/real")


class Join(msgspec.Struct, frozen=True, kw_only=True, tag="join"):
    """First message of a rank: which one it is, how it is reached, and what it brings.

    ``number`` counts over the instances of its side: instance × tp + rank. ``sources``: digest of the code it runs.
    ``device``: the RDMA adapter it shall use in place of the run's, if any. ``config``: the configuration it was given,
    if any. ``facts``: of its host.
    """

    side: Side
    number: int
    host: str
    sources: str
    device: str = ""
    config: dict[str, Any] | None = None
    facts: dict[str, Any] = {}


class Refuse(msgspec.Struct, frozen=True, tag="refuse"):
    """The coordinator does not take the rank, for this reason."""

    reason: str


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    """The rank is taken."""

    rank_id: RankId


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    """What does your clock show? Sent when the coordinator's showed ``sent_s``."""

    sent_s: float


class Tell(msgspec.Struct, frozen=True, tag="tell"):
    """It shows ``taken_s``."""

    sent_s: float
    taken_s: float


class BindRegistry(msgspec.Struct, frozen=True, tag="bind_registry"):
    """Open the listening socket of your instance's registry; the answer is a Bound."""


class Bound(msgspec.Struct, frozen=True, tag="bound"):
    """The socket listens at this port."""

    port: int


class Count(msgspec.Struct, frozen=True, tag="count"):
    """How many bytes has your host sent? The answer is a Counted."""


class Counted(msgspec.Struct, frozen=True, tag="counted"):
    """The byte counters of the host (``real.engine.proof.sent_counters``)."""

    counters: dict[str, int]


class Launch(msgspec.Struct, frozen=True, tag="launch"):
    """Start the rank's process; an Ended follows when it has ended."""

    spec: RankSpec


class Signal(msgspec.Struct, frozen=True, tag="signal"):
    """Send the rank's process this signal."""

    number: int


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """The rank's process has ended, with these last words."""

    status: int
    last_words: str


class Gone(msgspec.Struct, frozen=True, tag="gone"):
    """The rank leaves on its own account, and its process ends with it."""

    reason: str


class Leave(msgspec.Struct, frozen=True, tag="leave"):
    """The run is over; ``failure`` says why, if it was not carried through."""

    failure: str = ""


ToRank = Refuse | Welcome | Ask | BindRegistry | Count | Launch | Signal | Leave
ToCoordinator = Join | Tell | Bound | Counted | Ended | Gone

TO_RANK: msgspec.json.Decoder[ToRank] = msgspec.json.Decoder(ToRank)
TO_COORDINATOR: msgspec.json.Decoder[ToCoordinator] = msgspec.json.Decoder(ToCoordinator)

Decoded = TypeVar("Decoded")


class ConnectionLost(ConnectionError):  # noqa: N818 - says what is the matter better than ...Error
    """The other side is gone or says what cannot be understood; the message says which, in a few words."""


class NotOfThisRun(ConnectionLost):
    """The other end does not hold the run's token."""


class Line:
    """One end of the connection. ``send`` may be called from several threads, ``receive`` from one.

    ``proven``: whether the other end has said something with the run's token, where lines are signed (``agree``).
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(SILENCE_S)
        self.proven = False
        self.heard_bytes = 0
        self._signer: LineSigner | None = None
        # The questions about clocks must not wait for more to send.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = connection
        self._rest = b""
        self._sending = threading.Lock()

    @property
    def peer(self) -> str:
        """The address of the other end; empty when it is gone."""
        try:
            return str(self._connection.getpeername()[0])
        except OSError:
            return ""

    def agree(self, guard: Callable[[], Guard], *, is_server: bool) -> None:
        """Exchange random numbers with the other end; from now on lines are signed.

        ``guard`` is asked for when the server has spoken, which may only then have made its token.
        Raises ConnectionLost.
        """
        own = secrets.token_bytes(NONCE_BYTES)
        if is_server:
            self._send_line(own.hex().encode())
        try:
            other = bytes.fromhex(self._receive_line(2 * NONCE_BYTES).decode())
        except ValueError:
            raise ConnectionLost("it does not speak this language") from None
        if not is_server:
            self._send_line(own.hex().encode())
        nonces = (own, other) if is_server else (other, own)
        self._signer = LineSigner(guard(), is_server=is_server, nonces=nonces)

    def send(self, message: ToRank | ToCoordinator) -> None:
        """Send a message. Raises ConnectionLost."""
        payload = msgspec.json.encode(message)
        with self._sending:
            self._send_line(payload if self._signer is None else self._signer.sign(payload))

    def _send_line(self, line: bytes) -> None:
        try:
            self._connection.sendall(line + b"\n")
        except OSError as error:
            raise ConnectionLost(f"the connection broke ({error.strerror or error})") from None

    def receive(self, decoder: msgspec.json.Decoder[Decoded]) -> Decoded:
        """The next message. Raises ConnectionLost when there is none, or one that ``decoder`` does not know."""
        line = self._receive_line(LONGEST_LINE_BYTES if self.proven or self._signer is None else LONGEST_FIRST_BYTES)
        if self._signer is not None:
            payload = self._signer.payload(line)
            if payload is None:
                raise NotOfThisRun("it does not hold the token of this run")
            self.proven, line = True, payload
        try:
            return decoder.decode(line)
        # msgspec lets two of Python's own errors through: bad UTF-8 (a ValueError) and absurd nesting.
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise ConnectionLost("it does not speak this language") from None

    def _receive_line(self, longest: int) -> bytes:
        while b"\n" not in self._rest:
            if len(self._rest) > longest:
                raise ConnectionLost("it does not speak this language")
            try:
                more = self._connection.recv(1 << 16)
            except TimeoutError:
                raise ConnectionLost(f"nothing was heard for {self._connection.gettimeout():g} s") from None
            except OSError as error:
                raise ConnectionLost(f"the connection broke ({error.strerror or error})") from None
            if not more:
                raise ConnectionLost("the connection was closed")
            self._rest += more
            self.heard_bytes += len(more)
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def close(self) -> None:
        """Close the connection; a ``receive`` in another thread ends."""
        with contextlib.suppress(OSError):  # the other side has closed it
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()


def sources_digest() -> str:
    """SHA-256 over the code that all ranks of a run must have in common."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for package in SOURCES:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def first_difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The first setting that two configurations do not share, with both values; None is one that is not given."""
    left, right = dict(flat(ours)), dict(flat(theirs))
    for name in sorted(left.keys() | right.keys()):
        if left.get(name) != right.get(name):
            return name, left.get(name), right.get(name)
    return None
