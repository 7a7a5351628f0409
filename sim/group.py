"""The ranks of one instance of one side, and what they have in common: their loop, their passes, their processors."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from protocol.encode import EncodeRank
from protocol.language import LanguageRank
from protocol.messages import Action, Note
from protocol.scenario import ServiceTimes
from protocol.sizing import Supervised
from protocol.topology import RankId, Side
from sim.link import TransferWorker
from sim.loop import LoopGrid
from sim.processors import Processors
from sim.worker import QueuedWorker

Core = EncodeRank | LanguageRank
Worker = TransferWorker | QueuedWorker


class Rank:
    """One core with what its driver needs. ``gone``: its process has ended, another may have taken its name."""

    __slots__ = ("core", "gone", "group", "handle", "workers")

    def __init__(self, core: Core, workers: Sequence[Worker]) -> None:
        self.core = core
        self.handle: Callable[[Any, float], list[Action]] = core.handle
        self.workers = workers
        self.gone = False
        self.group: Group


class Delivered(NamedTuple):
    """A request that waits for its prefill. ``prefill_s``: its part of a pass."""

    room: int
    incarnation: int
    tokens: int
    prefill_s: float


class Group:
    """The ranks of one instance of one side, and their common scheduler loop.

    ``compared``: the ranks' copies of a sizing policy from outside, which must answer alike.
    """

    __slots__ = (
        "compared",
        "cores",
        "down",
        "grid",
        "instance",
        "notes",
        "order",
        "prefill",
        "processors",
        "ranks",
        "reminder_s",
        "side",
        "slowness",
        "turn_due",
    )

    def __init__(
        self, side: Side, instance: int, ranks: Sequence[Rank], services: ServiceTimes, slowness: float, order: int
    ) -> None:
        self.side = side
        self.instance = instance
        self.ranks = ranks
        self.cores = [rank.core for rank in ranks]
        self.slowness = slowness  # of its slowest rank, which all the others wait for
        period_s = services.encode_turn_s if side is Side.ENCODE else services.language_turn_s
        self.grid = LoopGrid(period_s * slowness)
        self.processors = Processors(services.preprocess_workers)
        self.prefill: deque[Delivered] = deque()
        self.order = order  # of turns that fall on the same moment
        self.turn_due = False
        self.notes: dict[int, tuple[float, RankId, Note]] = {}  # records that come when a copy is over, and when
        self.reminder_s: float | None = None
        self.down = False
        self.compared: dict[RankId, Supervised] = {}
        for rank in ranks:
            rank.group = self
            if len(ranks) > 1 and isinstance(rank.core, LanguageRank) and isinstance(rank.core.sizing, Supervised):
                rank.core.sizing.compared = True
                self.compared[rank.core.rank_id] = rank.core.sizing

    def next_pass(self, most_tokens: int | None) -> list[Delivered]:
        """Take the requests of the next prefill pass: as many as fit ``most_tokens``, and at least one."""
        waiting = self.prefill
        taken: list[Delivered] = []
        tokens = 0
        while waiting and (not taken or most_tokens is None or tokens + waiting[0].tokens <= most_tokens):
            one = waiting.popleft()
            tokens += one.tokens
            taken.append(one)
        return taken
