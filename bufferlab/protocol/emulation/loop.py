"""When the scheduler loop of a group iterates."""

from __future__ import annotations

from typing import final


@final
class LoopGrid:
    """When a scheduler loop iterates: at origin_s + index * period_s, for index from ``index`` on."""

    __slots__ = ("index", "origin_s", "period_s")

    def __init__(self, period_s: float) -> None:
        if not period_s >= 0:
            raise ValueError(f"the period of a scheduler loop is {period_s} s, it must be at least 0")
        self.origin_s = 0.0
        self.period_s = period_s
        self.index = 0

    def next_s(self, now: float) -> float:
        """The first iteration at or after ``now``. It is the next one: ``index`` moves there."""
        origin_s, period_s = self.origin_s, self.period_s
        if not period_s:
            return origin_s if origin_s > now else now
        index = int((now - origin_s) / period_s)
        # The quotient is rounded, so the neighbours decide.
        while origin_s + index * period_s < now:
            index += 1
        while origin_s + (index - 1) * period_s >= now:
            index -= 1
        if index > self.index:
            self.index = index
        return origin_s + self.index * period_s

    def end_iteration(self, began_s: float, lasts_s: float) -> None:
        """An iteration begun at ``began_s`` is busy for ``lasts_s``; the next comes a period later, or at its end."""
        if lasts_s > self.period_s:
            self.origin_s = began_s + lasts_s
            self.index = 0
        elif self.period_s:
            self.index += 1
        else:
            self.origin_s = began_s
