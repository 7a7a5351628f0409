"""What is said in the calls to a registry, ours and the SGLang fork's (``real.control.bootstrap`` lists them)."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from bufferlab.real.control.route import Route


class Entry(msgspec.Struct, frozen=True):
    """A registered process, and how long it has not probed any more; 0 for one that has not begun to."""

    route: Route
    silent_s: float


class Health(msgspec.Struct, frozen=True):
    """The answer to a probe.

    ``process``: the process that answers. ``version`` changes with every registration. ``registered``: whether the
    process that asks is the one that the registry has under its name.
    """

    process: str
    version: int
    registered: bool


class ForkRoute(msgspec.Struct, frozen=True):
    """What an encode rank of the SGLang fork registers. It has one data-parallel group here: where there are more, the
    fork's server mixes their ranks up, and each of ours is an instance with a registry of its own."""

    role: str
    tp_size: int
    dp_size: int
    rank_ip: str
    rank_port: int
    engine_rank: int

    def __post_init__(self) -> None:
        if self.role != "Encode" or self.dp_size != 1:
            raise ValueError(f"role is {self.role!r} with dp_size {self.dp_size}, it must be 'Encode' with 1")
        if not 0 <= self.engine_rank < self.tp_size:
            raise ValueError(f"engine_rank is {self.engine_rank}, it must be less than tp_size, {self.tp_size}")


class Sizes(msgspec.Struct, frozen=True):
    """How many encode ranks an instance has, as the fork's look-up tells it: none before one of them has registered."""

    embedding_tp_size: int
    embedding_dp_size: int


class Address(msgspec.Struct, frozen=True):
    """Where an encode rank takes control messages, as the fork's look-up tells it. Its port may be a number or text."""

    rank_ip: str
    rank_port: int | str


def named(path: str, query: Iterable[tuple[str, str]]) -> str:
    """What is asked for, however its address was written."""
    return msgspec.json.encode([path, sorted(query)]).decode()
