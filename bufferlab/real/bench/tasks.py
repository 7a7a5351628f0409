"""What the launching process and the two sides of a link measurement say to each other: tasks and their answers."""

from __future__ import annotations

import msgspec

from bufferlab.real.engine.proof import TransportProof


class Case(msgspec.Struct, frozen=True, order=True):
    """One point of the sweep: every one of ``threads`` threads writes ``batch`` blocks at a time."""

    block_bytes: int
    batch: int
    threads: int

    @property
    def batch_bytes(self) -> int:
        """Bytes of one batch of one thread."""
        return self.block_bytes * self.batch

    @property
    def total_bytes(self) -> int:
        """Bytes that all threads move in one batch each."""
        return self.batch_bytes * self.threads


class SideSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a side needs to start. ``memory_bytes``: the largest case; ``numbers``: measurements to come;
    ``token``: what both sides hold, and no stranger."""

    is_source: bool
    host: str
    transport: str
    device: str
    seed: int
    memory_bytes: int
    numbers: int
    token: str = ""


class Connect(msgspec.Struct, frozen=True, tag="connect"):
    """To the source: whom to write to, where, and where its plain socket listens."""

    session: str
    base: int
    socket_port: int
    pid: int


class Write(msgspec.Struct, frozen=True, tag="write"):
    """To the source: one untimed batch per thread, then ``repeats`` timed ones."""

    case: Case
    repeats: int
    number: int


class Push(msgspec.Struct, frozen=True, tag="push"):
    """To the source: the same bytes over the plain socket, once untimed, then ``repeats`` times."""

    total_bytes: int
    repeats: int


class Compare(msgspec.Struct, frozen=True, tag="compare"):
    """To the target: are these the first ``total_bytes`` of measurement ``number``?"""

    total_bytes: int
    number: int


Task = Connect | Write | Push | Compare


class Started(msgspec.Struct, frozen=True, tag="started"):
    """The engine runs and the memory is registered."""

    session: str
    base: int
    socket_port: int
    pid: int
    proof: TransportProof


class Connected(msgspec.Struct, frozen=True, tag="connected"):
    """The first contact took so long."""

    first_contact_s: float


class Timed(msgspec.Struct, frozen=True, tag="timed"):
    """``batch_s``, ``post_s``: each batch of each thread; ``wall_s``: all of them; ``*_cpu_s``: the processes' in that.

    A push has no ``post_s``.
    """

    wall_s: float
    batch_s: list[float]
    post_s: list[float]
    source_cpu_s: float
    target_cpu_s: float


class Compared(msgspec.Struct, frozen=True, tag="compared"):
    """``difference``: one sentence, empty when every byte is right."""

    difference: str


class Broken(msgspec.Struct, frozen=True, tag="broken"):
    """The side cannot go on. ``missing``: Mooncake is not installed here."""

    reason: str
    missing: bool = False


Answer = Started | Connected | Timed | Compared | Broken
