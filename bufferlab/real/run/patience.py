"""When a measured run waits no longer: for a rank that gives no answer, and for requests with which nothing happens.

A run may pause for as long as its traffic does; patience runs only while something is under way. A rank that somebody
waits for and that has said nothing for a while is asked for a sign of life. Its answer also says what it has done and
what it still expects. One that does not answer is silent. Requests stand still when every rank answers, none has
recorded anything since and none expects anything more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from bufferlab.protocol.topology import RankId
from bufferlab.real.control.spec import Heartbeats
from bufferlab.real.run.commands import Alive

ASK_S = 2.0
"""How long nothing must have been heard of a rank before it is asked, and how old a question must be before an answer
to it is remarkable."""

STALL_S = 1.0
"""Who has not looked for this long was stopped itself, and does not take what it missed for the silence of others."""


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How long a run waits.

    ``silence_s``: for the answer of a rank that is asked for a sign of life. ``no_progress_s``: for anything to happen
    while all ranks answer. ``report_s``: for the report of a rank that is alive, at the end.
    """

    silence_s: float = 30.0
    no_progress_s: float = 90.0
    report_s: float = 60.0

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be more than 0")

    @classmethod
    def of(cls, heartbeats: Heartbeats, timeout_s: float | None) -> Patience:
        """Twice what the ranks themselves have for each other, and longer than any of their timers."""
        noticed_s = (heartbeats.failures + 0.5) * heartbeats.interval_s
        return cls(silence_s=max(30.0, 2 * noticed_s), no_progress_s=90.0 + (timeout_s or 0.0))


@dataclass
class _Heard:
    """``asked_s``: when the question was put that has no answer yet. ``due_s``: the last thing that it expects."""

    heard_s: float
    asked_s: float | None = None
    events: int = -1
    due_s: float = -math.inf


class Watch:
    """What is known of the ranks' being alive. Times are of one clock, whose reading every call is given."""

    def __init__(self, patience: Patience, now_s: float) -> None:
        self.patience = patience
        self._ranks: dict[RankId, _Heard] = {}
        self._moved_s = now_s
        self._until_s: float | None = None
        self._looked_s = now_s

    def moved(self, now_s: float) -> None:
        """Something happened then: a request came or was concluded, a process started or ended."""
        if now_s > self._moved_s:
            self._moved_s = now_s
            self._until_s = None

    def heard(self, rank_id: RankId, now_s: float) -> float:
        """A rank said something: how long it had been silent, 0 where that is not remarkable."""
        one = self._ranks.get(rank_id)
        if one is None:
            return 0.0
        asked_s, one.asked_s = one.asked_s, None
        heard_s, one.heard_s = one.heard_s, now_s
        return 0.0 if asked_s is None or now_s - asked_s < ASK_S else now_s - heard_s

    def answered(self, alive: Alive, now_s: float) -> None:
        """A rank gave a sign of life."""
        one = self._ranks.get(alive.rank_id)
        if one is None:
            return
        if one.events != alive.events:
            self.moved(now_s)
        one.events = alive.events
        one.due_s = -math.inf if alive.expects_s is None else now_s + alive.expects_s

    def look(self, wanted: Iterable[RankId], now_s: float) -> list[RankId]:
        """Whom to ask now, of the ``wanted`` ones: those that somebody waits for. Only their silence counts."""
        stalled = now_s - self._looked_s > STALL_S
        self._looked_s = now_s
        wanted = set(wanted)
        for rank_id in [one for one in self._ranks if one not in wanted]:
            del self._ranks[rank_id]
        to_ask = []
        for rank_id in sorted(wanted):
            one = self._ranks.setdefault(rank_id, _Heard(now_s))
            if stalled and one.asked_s is not None:
                one.asked_s = now_s  # its answer may lie in our own kernel
            elif one.asked_s is None and now_s - one.heard_s >= ASK_S:
                one.asked_s = now_s
                to_ask.append(rank_id)
        return to_ask

    def silent(self, now_s: float) -> dict[RankId, float]:
        """The wanted ranks that have not answered in time, and for how long nothing was heard of them."""
        return {
            rank_id: now_s - one.heard_s
            for rank_id, one in self._ranks.items()
            if one.asked_s is not None and now_s - one.asked_s >= self.patience.silence_s
        }

    def stands_still(self, expected_s: float, now_s: float) -> bool:
        """Whether nothing has happened for too long although all wanted ranks answer.

        ``expected_s``: when the last thing is due that the caller itself expects. Whatever is expected is waited for,
        but only once: an expectation that ends in nothing and is replaced by the next one moves nothing.
        """
        if now_s - self._moved_s < self.patience.no_progress_s:
            return False
        ranks = self._ranks.values()
        if any(one.events < 0 for one in ranks):
            return False  # not asked yet
        if self._until_s is None:
            last_s = max((expected_s, *(one.due_s for one in ranks)))
            self._until_s = now_s if last_s <= now_s else last_s + self.patience.no_progress_s
        return now_s >= self._until_s and all(one.asked_s is None or now_s - one.asked_s < ASK_S for one in ranks)
