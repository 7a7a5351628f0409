"""A quantile of the lengths completed lately."""

from __future__ import annotations

from typing import ClassVar, Final

from bufferlab.protocol.sizing.base import SizingPolicy
from bufferlab.protocol.sizing.options import check_share, check_tokens, check_warmup
from bufferlab.protocol.sizing.views import CompletedView, RequestView
from bufferlab.protocol.sizing.window import Window


class Quantile(SizingPolicy):
    """The ``q`` quantile of the last ``window`` completed lengths; ``tokens`` until ``warmup`` are known.

    The quantile is the order statistic of rank ceil(q n), so that a share of at least q of the window fitted.
    """

    name: ClassVar[str] = "quantile"

    def __init__(self, tokens: int = 8192, q: float = 0.9, window: int = 512, warmup: int = 16) -> None:
        check_tokens(tokens)
        check_share("q", q)
        check_warmup(warmup, window)
        self.tokens: Final = tokens
        self.q: Final = q
        self.warmup: Final = warmup
        self._lengths = Window(window)

    def first_tokens(self, view: RequestView) -> int:
        """The window's quantile, or the default during warm-up."""
        return self._lengths.quantile(self.q) if len(self._lengths) >= self.warmup else self.tokens

    def completed(self, view: CompletedView) -> None:
        """Add the length; the oldest leaves a full window."""
        self._lengths.add(view.total_tokens)
