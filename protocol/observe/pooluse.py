"""How much of a pool was in use, integrated over time while the run goes on.

Besides the totals of a whole run, the integrals are kept for batches of time of equal length, from which the spread of
a time average can be told. The number of batches is bounded, so memory does not grow with the length of a run that is
not known beforehand: when there are ``MOST_BATCHES``, neighbours are merged in pairs and batches are twice as long from
then on. (Batch doubling is Fishman's, "Grouping observations in digital simulation", Management Science 24(5), 1978.)

Levels change at every other event of a run, so a change is only noted; ``MOST_STRETCHES`` of them are integrated
together. By then it is known how long batches are at least, and none are cut that would be merged at once.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

MOST_BATCHES = 1024
"""Between half as many and this many batches are there in the end: enough to see how long the levels remember."""
FIRST_BATCH_S = 2.0**-20
"""About a microsecond, shorter than any transfer. Lengths are powers of two: their multiples are exact numbers."""
MOST_STRETCHES = 1024
"""Of time in which no level changed, noted and not integrated yet. As many arrays cost little more than one, and they
are a small part of what a run keeps of its requests."""

Stretch = tuple[float, int, int, int, int]
"""Until when, and the levels until then: held blocks, held tokens, used tokens, waiting rooms."""

Totals = tuple[float, float, float, float]
"""held_block_s, held_token_s, used_token_s and blocked_s since counting began."""


class PoolUse(msgspec.Struct):
    """Use of one side's pools, over all its ranks; block-seconds and blocks are sums over the ranks.

    ``held_token_s``: integral of the capacity (tokens) rooms hold; ``used_token_s``: the part of it that real tokens
    were granted for; the rest was wasted. ``blocked_s``: seconds rooms waited for blocks, summed over rank 0's rooms.
    Everything counts from ``start_s`` on, what is held then too, to the time that ``finish`` is given. Only
    ``to_the_end_block_s``, of the block-seconds, goes on to the end of the run.

    ``held_blocks``, ``held_tokens``, ``used_tokens`` and ``waiting_rooms`` are the levels at present, and ``now_s`` is
    the time up to which they are known. Integrals are those up to there after ``advance`` and ``finish``.
    ``marks[j]`` holds the totals at start_s + j · batch_s.
    """

    pool_blocks: int
    held_block_s: float = 0.0
    peak_blocks: int = 0
    held_token_s: float = 0.0
    used_token_s: float = 0.0
    blocked_s: float = 0.0
    start_s: float = 0.0
    now_s: float = 0.0
    batch_s: float = FIRST_BATCH_S
    marks: list[Totals] = []
    to_the_end_block_s: float = 0.0
    held_blocks: int = 0
    held_tokens: int = 0
    used_tokens: int = 0
    waiting_rooms: int = 0
    _stretches: list[Stretch] = []
    _integrated_s: float = 0.0
    _kept: tuple[float, Totals, int] | None = None
    _keep: tuple[int, float, Stretch, int] | None = None

    def count_from(self, start_s: float) -> None:
        """Count from ``start_s`` on, which must not be in the past; infinity until that time is known.

        Raises ValueError when something has been counted already.
        """
        if self.marks:
            raise ValueError(f"start_s is {start_s}, but counting began at {self.start_s}")
        self.start_s = self.now_s = self._integrated_s = start_s

    def change(self, time_s: float, blocks: int, tokens: int, used_tokens: int) -> None:
        """From ``time_s`` on so many more (or fewer) blocks and tokens are held, and so many of these have a use."""
        if time_s > self.now_s:
            self._note(time_s)
        self.held_blocks += blocks
        self.held_tokens += tokens
        self.used_tokens += used_tokens
        if self.held_blocks > self.peak_blocks and time_s >= self.start_s:
            self.peak_blocks = self.held_blocks

    def wait(self, time_s: float, rooms: int) -> None:
        """From ``time_s`` on so many more (or fewer) rooms wait for blocks."""
        if time_s > self.now_s:
            self._note(time_s)
        self.waiting_rooms += rooms

    def advance(self, time_s: float) -> None:
        """Integrate the present levels up to ``time_s``. Earlier times change nothing."""
        if time_s >= self.now_s:
            self._note(time_s)
        if self._stretches:
            self._integrate()

    def keep(self, time_s: float) -> None:
        """Remember what has been counted up to ``time_s``, now, in case counting is found to end there."""
        # Nothing changes by this, not even by rounding: how often it is called depends on who feeds this.
        if math.isfinite(self.now_s):
            # Until the first stretch, what is held when counting begins is no part of the peak yet.
            begun = bool(self._stretches) or bool(self.marks)
            peak = self.peak_blocks if begun else max(self.peak_blocks, self.held_blocks)
            self._keep = len(self._stretches), self.now_s, self._levels_until(time_s), peak

    def finish(self, time_s: float, end_s: float) -> None:
        """Counting ends at ``time_s``: at the end of the run, ``end_s``, or at the time that was kept last."""
        self.advance(end_s)
        self.to_the_end_block_s = self.held_block_s
        if self._kept is None or time_s >= end_s:
            return
        self.now_s, totals, self.peak_blocks = self._kept
        self.held_block_s, self.held_token_s, self.used_token_s, self.blocked_s = totals
        # The length of the batches stays what the longer time has made it.
        del self.marks[math.floor((self.now_s - self.start_s) / self.batch_s) + 1 :]

    def batches(self) -> list[Totals]:
        """The integrals over every whole batch, in order; each lasted ``batch_s``."""
        return [
            (after[0] - before[0], after[1] - before[1], after[2] - before[2], after[3] - before[3])
            for before, after in zip(self.marks, self.marks[1:], strict=False)
        ]

    @property
    def counted_s(self) -> float:
        """How long the integrals have run."""
        return self.now_s - self.start_s if math.isfinite(self.start_s) else 0.0

    def _levels_until(self, time_s: float) -> Stretch:
        return time_s, self.held_blocks, self.held_tokens, self.used_tokens, self.waiting_rooms

    def _note(self, time_s: float) -> None:
        """The present levels stay until ``time_s``."""
        stretches = self._stretches
        if not stretches and not self.marks:
            self.peak_blocks = max(self.peak_blocks, self.held_blocks)  # what is held when counting begins
        stretches.append((time_s, self.held_blocks, self.held_tokens, self.used_tokens, self.waiting_rooms))
        self.now_s = time_s
        if len(stretches) == MOST_STRETCHES:
            self._integrate()

    def _integrate(self) -> None:
        """Integrate what has been noted, and set the marks that lie in it."""
        noted = np.array(self._stretches, dtype=np.float64)
        self._stretches.clear()
        ends_s = noted[:, 0]
        self._coarsen(self.now_s)
        count = math.floor((self.now_s - self.start_s) / self.batch_s) + 2  # one more than there can be
        marks_s = self.start_s + np.arange(len(self.marks), count) * self.batch_s
        marks_s = marks_s[marks_s <= self.now_s]
        # Between two of these times every level is one of those noted.
        times_s = np.sort(np.concatenate([ends_s, marks_s]), kind="stable")
        lasted_s = np.diff(times_s, prepend=self._integrated_s)
        levels = noted[np.searchsorted(ends_s, times_s), 1:]
        steps = np.vstack([self._totals(), lasted_s[:, None] * levels])
        sums = np.cumsum(steps, axis=0)[1:]  # one after the other, as they would be added without arrays
        self.marks.extend(map(tuple, sums[np.searchsorted(times_s, marks_s)].tolist()))
        if self._keep is not None:
            self._kept = self._kept_from(self._keep, times_s, sums)
            self._keep = None
        self.held_block_s, self.held_token_s, self.used_token_s, self.blocked_s = sums[-1].tolist()
        self._integrated_s = self.now_s

    def _kept_from(
        self, keep: tuple[int, float, Stretch, int], times_s: NDArray[np.float64], sums: NDArray[np.float64]
    ) -> tuple[float, Totals, int]:
        """The totals at the time that was to be kept, after so many stretches of those that are integrated now."""
        stretches, since_s, (time_s, *levels), peak_blocks = keep
        place = int(np.searchsorted(times_s, since_s, side="right")) - 1 if stretches else -1
        before = sums[place].tolist() if place >= 0 else self._totals()
        passed_s = time_s - since_s
        held_block_s, held_token_s, used_token_s, blocked_s = (
            total + passed_s * level for total, level in zip(before, levels, strict=True)
        )
        return time_s, (held_block_s, held_token_s, used_token_s, blocked_s), peak_blocks

    def _coarsen(self, time_s: float) -> None:
        """Merge batches in pairs until those up to ``time_s`` are few enough."""
        while time_s >= self.start_s + MOST_BATCHES * self.batch_s:
            # The totals at every second mark: merging loses nothing.
            del self.marks[1::2]
            self.batch_s *= 2

    def _totals(self) -> Totals:
        return self.held_block_s, self.held_token_s, self.used_token_s, self.blocked_s
