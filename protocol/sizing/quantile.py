"""A quantile of the lengths completed lately."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from typing import ClassVar

from protocol.sizing.base import CompletedView, RequestView, SizingPolicy


class Quantile(SizingPolicy):
    """The ``q`` quantile of the last ``window`` completed lengths; ``tokens`` until ``warmup`` are known.

    The quantile is the order statistic of rank ceil(q n), so that a share of at least q of the window fitted.
    """

    name: ClassVar[str] = "quantile"

    def __init__(self, tokens: int = 8192, q: float = 0.9, window: int = 512, warmup: int = 16) -> None:
        if tokens < 1:
            raise ValueError(f"tokens is {tokens}, it must be at least 1")
        if not 0 < q <= 1:
            raise ValueError(f"q is {q}, it must be above 0 and at most 1")
        if not 1 <= warmup <= window:
            raise ValueError(f"warmup is {warmup}, it must be between 1 and the window of {window}")
        self.tokens = tokens
        self.q = q
        self.warmup = warmup
        self._recent: deque[int] = deque(maxlen=window)
        self._sorted: list[int] = []

    def first_tokens(self, view: RequestView) -> int:
        """The window's quantile, or the default during warm-up."""
        count = len(self._sorted)
        if count < self.warmup:
            return self.tokens
        return self._sorted[math.ceil(self.q * count) - 1]

    def completed(self, view: CompletedView) -> None:
        """Add the length; the oldest leaves a full window."""
        if len(self._recent) == self._recent.maxlen:
            del self._sorted[bisect_left(self._sorted, self._recent[0])]
        self._recent.append(view.total_tokens)
        insort(self._sorted, view.total_tokens)
