"""Less for everybody when the pool is nearly full."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Final

from bufferlab.protocol.sizing.base import SizingPolicy
from bufferlab.protocol.sizing.options import check_share, check_tokens
from bufferlab.protocol.sizing.views import CompletedView, RequestView


class PressureAware(SizingPolicy):
    """What ``base`` answers × a factor that falls from 1 to ``least`` while the pool fills from ``start`` to full.

    With u = 1 - free / all blocks, the pool's occupancy as the group agreed on it, the factor is

        1 for u ≤ start,    1 - (1 - least) · (u - start) / (1 - start) beyond,

    so it never rises with occupancy. A smaller first allocation trades one more resume for an earlier start: while
    requests queue for blocks, a room that starts with a part moves its first chunk during what would have been waiting.
    There is no memory in it, hence nothing to oscillate: a request is asked for again at every iteration while it
    waits, and each answer is a function of that iteration's occupancy alone.

    ``base``: another policy of this package by its name, with its ``base_options``; ``tokens`` is its default.
    """

    name: ClassVar[str] = "pressure_aware"

    def __init__(
        self,
        tokens: int = 8192,
        start: float = 0.5,
        least: float = 0.25,
        base: str = "fixed",
        base_options: dict[str, Any] | None = None,
    ) -> None:
        # This class is itself in the registry.
        from bufferlab.protocol.sizing.registry import POLICIES, make_policy

        check_tokens(tokens)
        if not 0 <= start < 1:
            raise ValueError(f"start is {start}, it must be at least 0 and less than 1")
        check_share("least", least)
        allowed = [name for name, kind in POLICIES.items() if not kind.sees_true_length and name != self.name]
        if base not in allowed:
            raise ValueError(f"base is {base!r}, it must be one of {', '.join(allowed)}")
        self.start: Final = start
        self.least: Final = least
        try:
            self.base: Final = make_policy(base, {"tokens": tokens, **(base_options or {})})
        except ValueError as error:
            raise ValueError(f"base_options is {base_options}, but {error}") from None

    def factor(self, free_blocks: int, pool_blocks: int) -> float:
        """The part of the base's answer that is asked for. A reserve may make ``free_blocks`` negative: full."""
        occupancy = 1 - min(max(free_blocks, 0), pool_blocks) / pool_blocks
        if occupancy <= self.start:
            return 1.0
        return 1 - (1 - self.least) * ((occupancy - self.start) / (1 - self.start))

    def first_tokens(self, view: RequestView) -> int:
        """The base's answer, shrunk and rounded, at least 1."""
        shrunk = self.base.first_tokens(view) * self.factor(view.free_blocks, view.pool_blocks)
        return max(1, math.floor(shrunk + 0.5))

    def completed(self, view: CompletedView) -> None:
        """The base learns."""
        self.base.completed(view)
