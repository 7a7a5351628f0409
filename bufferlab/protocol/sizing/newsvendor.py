"""What a resume costs against what held memory costs: the newsvendor's order quantity."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import ClassVar, Final

from bufferlab.protocol.sizing.base import SizingPolicy
from bufferlab.protocol.sizing.options import check_amount, check_count, check_tokens, check_warmup
from bufferlab.protocol.sizing.views import CompletedView, RequestView
from bufferlab.protocol.sizing.window import Window


class Newsvendor(SizingPolicy):
    """The critical fractile of the last ``window`` lengths, from the seconds that a wrong size costs.

    A request of D blocks that is given S costs, in seconds of somebody's delay,

        cost(S) = c_u · E[(D - S)⁺] + c_o · E[(S - D)⁺],

    which is convex in S, and smallest at the smallest S with P(D ≤ S) ≥ q* = c_u / (c_u + c_o): one block more saves
    c_u · P(D > S) and costs c_o · P(D ≤ S) (Arrow, Harris, Marschak, Optimal inventory policy, Econometrica 19, 1951).

    * c_u, per missing block: a resume costs ``resume_s``, a too small allocation needs one for every
      ``tokens_per_resume`` missing tokens, so c_u = resume_s · block_tokens / tokens_per_resume. That is exact when
      resumes ask for so much at a time; when one resume brings all the rest, it is exact if the excess over an
      allocation is memoryless with that mean, since then P(D > S) = E[(D - S)⁺] / mean excess.
    * c_o, per block held for nothing: price · ``holding_s``, the price being that of a held block-second. A pool of N
      blocks that is short of one for a second serves 1/N second's work less, which everybody who waits for blocks then
      waits longer: price = ``waiting`` / N, ``waiting`` being the requests that wait on average. When nobody waits,
      memory is free and the answer is the window's maximum.

    D counts whole blocks, so S does too: the order statistic of rank ceil(q* n), rounded up to blocks. q* is computed
    in fractions, because a rank that is off by one is a different answer. ``tokens`` until ``warmup`` are known.
    """

    name: ClassVar[str] = "newsvendor"

    def __init__(
        self,
        tokens: int = 8192,
        resume_s: float = 0.01,
        tokens_per_resume: int = 2048,
        holding_s: float = 0.1,
        waiting: float = 1.0,
        window: int = 512,
        warmup: int = 16,
    ) -> None:
        check_tokens(tokens)
        for name, value in (("resume_s", resume_s), ("holding_s", holding_s), ("waiting", waiting)):
            check_amount(name, value)
        check_count("tokens_per_resume", tokens_per_resume)
        check_warmup(warmup, window)
        if not resume_s and not holding_s * waiting:
            raise ValueError(f"resume_s is {resume_s}, it must be above 0 when held memory costs nothing either")
        self.tokens: Final = tokens
        self.resume_s: Final = resume_s
        self.tokens_per_resume: Final = tokens_per_resume
        self.holding_s: Final = holding_s
        self.waiting: Final = waiting
        self.warmup: Final = warmup
        self._lengths = Window(window)
        self._fractile_for: tuple[int, int] | None = None
        self._fractile = Fraction(1)

    def costs_s(self, block_tokens: int, pool_blocks: int) -> tuple[Fraction, Fraction]:
        """c_u and c_o: what a missing block and what a superfluous one cost, in seconds, exactly."""
        missing_s = Fraction(self.resume_s) * block_tokens / self.tokens_per_resume
        superfluous_s = Fraction(self.waiting) * Fraction(self.holding_s) / pool_blocks
        return missing_s, superfluous_s

    def first_tokens(self, view: RequestView) -> int:
        """Whole blocks for the critical fractile, or the default during warm-up."""
        known = len(self._lengths)
        if known < self.warmup:
            return self.tokens
        block_tokens = view.block_tokens
        if self._fractile_for != (block_tokens, view.pool_blocks):  # once: neither changes during a run
            missing_s, superfluous_s = self.costs_s(block_tokens, view.pool_blocks)
            self._fractile = missing_s / (missing_s + superfluous_s)
            self._fractile_for = (block_tokens, view.pool_blocks)
        rank = math.ceil(self._fractile * known)
        length = self._lengths.order(rank) if rank else 1  # resumes that cost nothing: one block will do
        return max(1, -(-length // block_tokens)) * block_tokens

    def completed(self, view: CompletedView) -> None:
        """Add the length; the oldest leaves a full window."""
        self._lengths.add(view.total_tokens)
