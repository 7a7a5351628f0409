"""The specification that a rank process gets as it starts."""

from __future__ import annotations

import msgspec

from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.protocol.topology import RankId, Side
from bufferlab.real.control.route import Route
from bufferlab.real.engine.placement import MemoryChoice
from bufferlab.real.faults import RankFault


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
