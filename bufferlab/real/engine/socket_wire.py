"""What two socket engines say to each other: a handshake, then messages of segments, each answered once.

    server  magic, engine's number, random number
    client  magic, number of the engine it wants, random number, tag
    server  tag
    client  sequence number, count of segments, count × (target address, bytes), tag, the bytes of all segments
    server  sequence number, bytes placed, segments refused, tag

A tag is an HMAC with a key of the run's token, both random numbers and the engine's number: so whoever does not hold
the token is no client and no server, and no message is begun, changed, or repeated on another connection. The bytes of
the segments themselves are neither signed nor hidden. Without a token the key is one that everybody can compute, and
the tags only tell a message from noise.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import struct
from collections.abc import Iterator, Sequence
from itertools import starmap
from typing import NamedTuple

from bufferlab.real.engine.base import KeyMaker, Segment

MAGIC = b"BUFLAB1\n"
NUMBER_BYTES, NONCE_BYTES, TAG_BYTES = 8, 16, 32
HELLO_BYTES = len(MAGIC) + NUMBER_BYTES + NONCE_BYTES
CLAIM_BYTES = HELLO_BYTES + TAG_BYTES

MOST_SEGMENTS = 1024
MOST_BYTES = 16 << 20
"""Of one message. A larger write is several messages, a larger segment is cut."""

HEAD = struct.Struct("<QI")
PLACE = struct.Struct("<QQ")
ANSWER = struct.Struct("<QQI")


class MalformedError(ValueError):
    """What came is nothing that a socket engine says, or not from one of this run."""


class Session(NamedTuple):
    """An engine's address and its number, which no other engine has had."""

    host: str
    port: int
    number: bytes

    def __str__(self) -> str:
        return f"{self.host}:{self.port}/{self.number.hex()}"


def parse_session(text: str) -> Session:
    """The session that ``str`` made the text of. Raises MalformedError for anything else."""
    address, _, number = text.partition("/")
    host, _, port = address.rpartition(":")
    try:
        session = Session(host, int(port), bytes.fromhex(number))
    except ValueError:
        raise MalformedError(f"{text!r} is no session of a socket engine") from None
    if str(session) != text or len(session.number) != NUMBER_BYTES or not 0 < session.port < 1 << 16 or not host:
        raise MalformedError(f"{text!r} is no session of a socket engine")
    return session


class Seal:
    """Makes and checks the tags of one connection. ``nonces``: the server's and the client's random number."""

    def __init__(self, guard: KeyMaker | None, number: bytes, nonces: tuple[bytes, bytes]) -> None:
        if guard is not None:
            self._key = guard.key("socket engine", number, *nonces)
        else:
            self._key = hashlib.sha256(b"".join((number, *nonces))).digest()

    def tag(self, speaker: bytes, said: bytes = b"") -> bytes:
        """For what ``speaker`` says: client or server, with what it is."""
        return hmac.digest(self._key, speaker + b"\0" + said, "sha256")

    def check(self, tag: bytes, speaker: bytes, said: bytes = b"") -> None:
        """Raise MalformedError when the tag is another one."""
        if not hmac.compare_digest(tag, self.tag(speaker, said)):
            raise MalformedError("the tag is wrong")


CLAIM, WELCOME, SEGMENTS, PLACED = b"claim", b"welcome", b"segments", b"placed"
"""What is said, in the tags."""


def new_nonce() -> bytes:
    """A random number that nobody has had before."""
    return secrets.token_bytes(NONCE_BYTES)


def hello(number: bytes, nonce: bytes) -> bytes:
    """The beginning of what either side says first."""
    return MAGIC + number + nonce


def parse_hello(said: bytes) -> tuple[bytes, bytes]:
    """The number and the nonce. Raises MalformedError."""
    if not said.startswith(MAGIC):
        raise MalformedError("the other end is no socket engine")
    return said[len(MAGIC) : len(MAGIC) + NUMBER_BYTES], said[len(MAGIC) + NUMBER_BYTES : HELLO_BYTES]


class Message(NamedTuple):
    """Some segments of a write that go together, in the bounds of one message."""

    segments: Sequence[Segment]
    size_bytes: int

    def head(self, sequence: int, seal: Seal) -> bytes:
        """All that goes before the bytes of the segments."""
        table = b"".join(PLACE.pack(target, length) for _, target, length in self.segments)
        said = HEAD.pack(sequence, len(self.segments)) + table
        return said + seal.tag(SEGMENTS, said)


def messages(segments: Sequence[Segment]) -> Iterator[Message]:
    """All segments, those of no bytes left out, in as many messages as it takes."""
    collected: list[Segment] = []
    size = 0
    for source, target, length in segments:
        position = 0
        while position < length:
            part = min(length - position, MOST_BYTES - size)
            collected.append((source + position, target + position, part))
            position += part
            size += part
            if size == MOST_BYTES or len(collected) == MOST_SEGMENTS:
                yield Message(collected, size)
                collected, size = [], 0
    if collected:
        yield Message(collected, size)


class Place(NamedTuple):
    """Where the bytes of a segment are to go."""

    address: int
    length: int


def parse_places(table: bytes) -> list[Place]:
    """The places of one message. Raises MalformedError for a message that is larger than one may be."""
    places = list(starmap(Place, PLACE.iter_unpack(table)))
    if sum(place.length for place in places) > MOST_BYTES:
        raise MalformedError("the message is too large")
    return places
