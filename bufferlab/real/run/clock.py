"""The time of a run on one host: seconds since the moment that the router calls zero."""

from __future__ import annotations

import time


class RunClock:
    """``zero_s``: what this host's monotonic clock shows at time zero of the run; 0 as long as that is not known."""

    def __init__(self, zero_s: float = 0.0) -> None:
        self.zero_s = zero_s

    @property
    def is_set(self) -> bool:
        """Whether time zero is known."""
        return bool(self.zero_s)

    def now_s(self) -> float:
        """Seconds of the run, negative before it begins."""
        return time.monotonic() - self.zero_s
