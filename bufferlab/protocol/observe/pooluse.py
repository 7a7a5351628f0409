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
from typing import Final, final

MOST_BATCHES: Final = 1024
"""Between half as many and this many batches are there in the end: enough to see how long the levels remember."""
FIRST_BATCH_S: Final = 2.0**-20
"""About a microsecond, shorter than any transfer. Lengths are powers of two: their multiples are exact numbers."""
MOST_STRETCHES: Final = 1024
"""Of time in which no level changed, noted and not integrated yet. They are a small part of what a run keeps of its
requests."""

Totals = tuple[float, float, float, float]
"""held_block_s, held_token_s, used_token_s and blocked_s since counting began."""


@final
class Stretch:
    """The levels that a pool had, and until when. ``blocks`` are held, of ``tokens`` that are held ``used`` have a use,
    and ``rooms`` wait. They are whole numbers."""

    def __init__(self) -> None:
        self.until_s = 0.0
        self.blocks = 0.0
        self.tokens = 0.0
        self.used = 0.0
        self.rooms = 0.0


@final
class PoolUse:
    """Use of one side's pools, over all its ranks; block-seconds and blocks are sums over the ranks.

    ``held_token_s``: integral of the capacity (tokens) rooms hold; ``used_token_s``: the part of it that real tokens
    were granted for; the rest was wasted. ``blocked_s``: seconds rooms waited for blocks, summed over rank 0's rooms.
    Everything counts from ``start_s`` on, what is held then too, to the time that ``finish`` is given. Only
    ``to_the_end_block_s``, of the block-seconds, goes on to the end of the run.

    ``held_blocks``, ``held_tokens``, ``used_tokens`` and ``waiting_rooms`` are the levels at present, and ``now_s`` is
    the time up to which they are known. Integrals are those up to there after ``advance`` and ``finish``.
    ``marks[j]`` holds the totals at start_s + j · batch_s.
    """

    def __init__(self, pool_blocks: int) -> None:
        self.pool_blocks = pool_blocks
        self.held_block_s = 0.0
        self.peak_blocks = 0
        self.held_token_s = 0.0
        self.used_token_s = 0.0
        self.blocked_s = 0.0
        self.start_s = 0.0
        self.now_s = 0.0
        self.batch_s = FIRST_BATCH_S
        self.marks: list[Totals] = []
        self.to_the_end_block_s = 0.0
        self.held_blocks = 0
        self.held_tokens = 0
        self.used_tokens = 0
        self.waiting_rooms = 0
        self._stretches: list[Stretch] = []  # the first ``_noted`` of them count, the others are for what comes
        self._noted = 0
        self._integrated_s = 0.0
        # What is to be kept once the first ``_keep_after`` are integrated: with these levels from a time to another.
        self._keep: Stretch | None = None
        self._keep_after = 0
        self._keep_since_s = 0.0
        self._keep_peak = 0
        self._kept: Totals | None = None
        self._kept_s = 0.0
        self._kept_peak = 0

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
        if self._noted:
            self._integrate()

    def keep(self, time_s: float) -> None:
        """Remember what has been counted up to ``time_s``, now, in case counting is found to end there."""
        # Nothing changes by this, not even by rounding: how often it is called depends on who feeds this.
        if math.isfinite(self.now_s):
            # Until the first stretch, what is held when counting begins is no part of the peak yet.
            begun = self._noted > 0 or bool(self.marks)
            if self._keep is None:
                self._keep = Stretch()
            self._set_levels(self._keep, time_s)
            self._keep_after = self._noted
            self._keep_since_s = self.now_s
            self._keep_peak = self.peak_blocks if begun else max(self.peak_blocks, self.held_blocks)

    def finish(self, time_s: float, end_s: float) -> None:
        """Counting ends at ``time_s``: at the end of the run, ``end_s``, or at the time that was kept last."""
        self.advance(end_s)
        self.to_the_end_block_s = self.held_block_s
        if self._kept is None or time_s >= end_s:
            return
        self.now_s, self.peak_blocks = self._kept_s, self._kept_peak
        self.held_block_s, self.held_token_s, self.used_token_s, self.blocked_s = self._kept
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

    def _note(self, time_s: float) -> None:
        """The present levels stay until ``time_s``."""
        noted = self._noted
        if not noted and not self.marks:
            self.peak_blocks = max(self.peak_blocks, self.held_blocks)  # what is held when counting begins
        if noted == len(self._stretches):
            self._stretches.append(Stretch())
        self._set_levels(self._stretches[noted], time_s)
        self.now_s = time_s
        self._noted = noted + 1
        if self._noted == MOST_STRETCHES:
            self._integrate()

    def _set_levels(self, stretch: Stretch, until_s: float) -> None:
        stretch.until_s = until_s
        stretch.blocks = float(self.held_blocks)
        stretch.tokens = float(self.held_tokens)
        stretch.used = float(self.used_tokens)
        stretch.rooms = float(self.waiting_rooms)

    def _integrate(self) -> None:
        """Integrate what has been noted, one stretch after the other, and set the marks that lie in it."""
        self._coarsen(self.now_s)
        keep, keep_after = self._keep, self._keep_after
        if keep is not None and keep_after == 0:
            self._keep_from(keep)
        start_s, batch_s, marks = self.start_s, self.batch_s, self.marks
        mark_s = start_s + float(len(marks)) * batch_s
        for number in range(self._noted):
            stretch = self._stretches[number]
            while mark_s <= stretch.until_s:
                self._add(stretch, mark_s)
                marks.append((self.held_block_s, self.held_token_s, self.used_token_s, self.blocked_s))
                mark_s = start_s + float(len(marks)) * batch_s
            self._add(stretch, stretch.until_s)
            if keep is not None and number + 1 == keep_after:
                self._keep_from(keep)
        self._noted = 0
        self._keep = None

    def _add(self, stretch: Stretch, time_s: float) -> None:
        """Add what the levels of ``stretch`` come to from what is integrated already until ``time_s``."""
        lasted_s = time_s - self._integrated_s
        self.held_block_s += lasted_s * stretch.blocks
        self.held_token_s += lasted_s * stretch.tokens
        self.used_token_s += lasted_s * stretch.used
        self.blocked_s += lasted_s * stretch.rooms
        self._integrated_s = time_s

    def _keep_from(self, keep: Stretch) -> None:
        """What has been integrated now is what had been when ``keep`` was made: keep the totals at its time."""
        passed_s = keep.until_s - self._keep_since_s
        self._kept = (
            self.held_block_s + passed_s * keep.blocks,
            self.held_token_s + passed_s * keep.tokens,
            self.used_token_s + passed_s * keep.used,
            self.blocked_s + passed_s * keep.rooms,
        )
        self._kept_s, self._kept_peak = keep.until_s, self._keep_peak

    def _coarsen(self, time_s: float) -> None:
        """Merge batches in pairs until those up to ``time_s`` are few enough."""
        while time_s >= self.start_s + MOST_BATCHES * self.batch_s:
            # The totals at every second mark: merging loses nothing.
            del self.marks[1::2]
            self.batch_s *= 2
