"""The ranks of one instance of one side, and what they have in common: their loop, their passes, their processors."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any, Final, final

from bufferlab.protocol.emulation.loop import LoopGrid
from bufferlab.protocol.emulation.passes import Passes
from bufferlab.protocol.emulation.processors import Processors
from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.protocol.encode import EncodeRank
from bufferlab.protocol.language import LanguageRank
from bufferlab.protocol.messages import Action, StartWrite
from bufferlab.protocol.rank import RoomKey
from bufferlab.protocol.sizing import Supervised
from bufferlab.protocol.topology import RankId, Side
from bufferlab.sim.faults import Watcher
from bufferlab.sim.network.transfer import TransferWorker
from bufferlab.sim.network.worker import HostedWorker, QueuedWorker

Core = EncodeRank | LanguageRank
Worker = TransferWorker | QueuedWorker | HostedWorker


@final
class Rank:
    """One core with what its driver needs. ``gone``: its process has ended, another may have taken its name.

    ``flying``: the writes under way, each with the rank whose memory it goes to and its bytes; kept only where
    processes may end. ``watchers``: who is told of everything that the core is given and asks for.
    """

    __slots__ = ("core", "flying", "gone", "group", "id", "watchers", "workers")

    def __init__(self, core: Core, workers: Sequence[Worker]) -> None:
        self.id: Final = core.rank_id
        self.core: Final = core
        self.workers: Final = workers
        self.watchers: Final[list[Watcher]] = []
        self.gone = False
        self.flying: Final[dict[tuple[int, int, RankId], tuple[StartWrite, Rank, int]]] = {}
        self.group: Group

    def handle(self, event: Any, now: float) -> list[Action]:
        """Give an input to the core; return what it asks for."""
        actions = self.core.handle(event, now)
        if self.watchers:
            for watcher in self.watchers:
                watcher(self.id, event, actions)
        return actions


@final
class Group:
    """The ranks of one instance of one side, and their common scheduler loop.

    ``compared``: the ranks' copies of a sizing policy from outside, which must answer alike. ``coming``: requests that
    have been handed out and not got there yet; kept only where processes may end.
    """

    __slots__ = (
        "coming",
        "compared",
        "cores",
        "down",
        "encodes",
        "grid",
        "instance",
        "iteration_due",
        "key",
        "order",
        "passes",
        "processors",
        "ranks",
        "reminder_s",
        "side",
        "slowness",
    )

    def __init__(
        self, side: Side, instance: int, ranks: Sequence[Rank], scenario: Scenario, slowness: float, order: int
    ) -> None:
        self.side = side
        self.encodes = side is Side.ENCODE
        self.instance = instance
        self.key = (side, instance)
        self.ranks = ranks
        self.cores = [rank.core for rank in ranks]
        self.slowness = slowness  # of its slowest rank, which all the others wait for
        self.grid = LoopGrid(scenario.services.poll_interval_s(side) * slowness)
        self.processors = Processors(scenario.services.preprocess_workers)
        self.passes = Passes(scenario, slowness)
        self.order = order  # of iterations that fall on the same moment
        self.iteration_due = False
        self.reminder_s = inf  # when the reminder of its timers comes
        self.down = False
        self.coming: dict[RoomKey, None] = {}
        self.compared: dict[RankId, Supervised] = {}
        for rank in ranks:
            rank.group = self
            if len(ranks) > 1 and isinstance(rank.core, LanguageRank) and isinstance(rank.core.sizing, Supervised):
                rank.core.sizing.compared = True
                self.compared[rank.core.rank_id] = rank.core.sizing

    @property
    def remembers(self) -> bool:
        """Whether any of its ranks has a room."""
        for core in self.cores:  # noqa: SIM110 - any() would make a generator, which costs more than all the rest
            if core.rooms:
                return True
        return False
