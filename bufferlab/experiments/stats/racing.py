"""A race of settings on common random numbers: who may be the best one, and when to stop asking.

All settings of a race meet the same requests, replication by replication, and lower figures are better. After every
stage (a *look*) each pair of settings is compared by its paired differences, over the replications that both have:

* A setting is *dropped* if some other is better by more than chance explains. Dropped settings cost nothing more.
* A setting is *settled* if it can't be better than the leader, which has the lowest mean, by more than the
  *indifference*: running it on would not change what to do. It stays in the set that is reported and is run no more,
  unless the lead changes to a setting that it is not settled against; then it catches up.
* The race is over when all that are left are settled, or when the replications are spent.

What is promised. Let b be the setting with the lowest expectation. All bounds that a verdict rests on are those of the
pairs of b with another one, at any look: one-sided t bounds, each at (1 - certainty) / ((settings - 1) · looks)
(Bonferroni over both). As long as none of them fails, which has a probability of at least ``certainty``, b is never
dropped, and the best of a race that is over by being settled is worse than b by the indifference at most. One event
covers both, so nothing has to be split between them, and looking again after every stage is paid for.

This joins three known pieces. Dropping is screening with common random numbers (Nelson, Swann, Goldsman and Song 2001,
Operations Research 49(6), 950-963), at several looks rather than one. Stopping is multiple comparisons with the best
(Hsu 1984, Annals of Statistics 12(3), 1136-1144; with common random numbers and an indifference zone Nelson and
Matejcik 1995, Management Science 41(12), 1935-1945). Stages with bounds that hold at all of them are group sequential
tests (Jennison and Turnbull 2000, "Group Sequential Methods with Applications to Clinical Trials"). The procedures of
Kim and Nelson (2001, ACM TOMACS 11(3), 251-273; KN++: 2006, Operations Research 54(3), 475-488) promise the best only
where it is better than all others by the indifference; this one promises the set without that, and is held to KN++ by
``tools/race_table.py``, which measures both.

Two assumptions are left. Differences are taken to be normal; the tool measures what becomes of the promise where they
are skewed. And replications are independent, unless ``replicates`` says that they are resamples: then replication 0 is
the file itself and the others are made of it, and their spread is the standard error itself and does not shrink.

The *differences* of all settings to the leader with intervals that hold together are another question, which nothing
above rests on (``Race.differences``). The leader leads by its luck as well, so they count all pairs of settings.

A race reads no files and runs nothing: ask what is ``wanted``, run it in any order, ``take`` the values, ask again.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bufferlab.experiments.stats.intervals import Samples
from bufferlab.experiments.stats.paired import Difference, without_interval
from bufferlab.experiments.stats.replicates import INDEPENDENT, Replicates, ReplicationKind

Ended = Literal["running", "one-left", "settled", "spent", "all-unfit"]
"""Why a race is over: one setting is left; all that are left are settled; the replications are spent; none is fit."""
STAGE_GROWTH = 1.3
"""Every look has so many times the replications of the one before. More looks stop sooner and cost wider bounds; from
1.15 to 1.5 hardly anything changes."""
EARLY_SHARE = 0.1
"""What all looks before the last may spend of the chance to be wrong, where replications are resamples: they only drop
clear losers, since more resamples tell no more about the file."""
LEAST: dict[ReplicationKind, int] = {"independent": 2, "resampled": 4}
"""The smallest first stage: a spread takes two values, and with resamples replication 0 is no part of it."""
MOST_PAIRS = 1000
"""For so many pairs of settings the quantile of the largest difference is computed; for more it is Bonferroni's."""
DRAWS = 4000
"""How many draws tell the quantile of the largest of several t variables."""


@dataclass(frozen=True)
class Verdict:
    """What a race can say so far.

    ``best``: the setting with the lowest mean among those that all its rivals were compared with; None before the first
    look, and where none is fit. ``kept``: the settings that may be the best, with ``best``, in order of number.
    ``dropped``: after how many replications each of the others was found worse than another one. ``unfit``: the first
    replication in which a setting was. ``short_of_best``: by how much ``best`` may be worse than the best there is, at
    most, with ``certainty``; None before the first look. ``runs``: values taken.
    """

    best: int | None
    kept: tuple[int, ...]
    dropped: dict[int, int]
    unfit: dict[int, int]
    short_of_best: float | None
    ended: Ended
    certainty: float
    indifference: float
    runs: int


class Race:
    """A race of ``settings`` settings; see the module.

    ``indifference`` is absolute, in units of the figure. ``replicates`` says what replications are to one another, and
    of resamples how many blocks they are made of, which limits how well their spread is known. ``first`` is how many
    replications every setting gets before the first look, ``most`` how many any gets; of a file, that counts
    replication 0.
    """

    def __init__(
        self,
        settings: int,
        *,
        certainty: float = 0.95,
        indifference: float = 0.0,
        replicates: Replicates = INDEPENDENT,
        first: int = 5,
        most: int = 40,
    ) -> None:
        if settings < 1:
            raise ValueError(f"settings is {settings}, it must be at least 1")
        if not 0.5 <= certainty < 1:
            raise ValueError(f"certainty is {certainty}, it must be at least 0.5 and below 1")
        if not 0 <= indifference < math.inf:
            raise ValueError(f"indifference is {indifference}, it must be 0 or a positive number")
        least = LEAST[replicates.kind]
        if not least <= first <= most:
            raise ValueError(f"first is {first} and most is {most}, it must be {least} <= first <= most")
        self.settings, self.certainty, self.indifference = settings, certainty, indifference
        self.replicates = replicates
        self.looks = _looks(first, most)
        self._values: Samples = np.full((settings, most), np.nan)
        self._taken = np.zeros((settings, most), dtype=bool)
        self._unfit: dict[int, int] = {}
        self._look = 0
        self._target = np.full(settings, first)
        self._judged = np.zeros(settings, dtype=np.int64)
        """Up to which replication each setting has been looked at; 0 before the first look."""
        self._bounds: dict[int, tuple[list[int], Samples]] = {}
        self._standing = Standing(None, (), {}, (), "running")

    def wanted(self) -> list[tuple[int, int]]:
        """The (setting, replication) that are to be run next, in any order; empty when the race is over.

        They make one stage: what is not taken yet is named again until all of it is.
        """
        while self._standing.ended == "running":
            missing = [
                (int(number), int(replication))
                for number in range(self.settings)
                for replication in np.flatnonzero(~self._taken[number, : self._target[number]])
            ]
            if missing:
                return sorted(missing, key=lambda one: (one[1], one[0]))
            self._judge()
        return []

    def take(self, setting: int, replication: int, value: float | None) -> None:
        """What ``setting`` came to in ``replication``; None where it did not do what it must, which ends its race.

        Raises ValueError for a value that is not finite, for what was taken before, and for what is not in the race.
        """
        if not (0 <= setting < self.settings and 0 <= replication < self._values.shape[1]):
            raise ValueError(
                f"setting {setting}, replication {replication} is not in this race of {self.settings} settings and"
                f" {self._values.shape[1]} replications"
            )
        if self._taken[setting, replication]:
            raise ValueError(f"setting {setting}, replication {replication} was taken before")
        if value is not None and not math.isfinite(value):
            raise ValueError(f"setting {setting}, replication {replication} came to {value}, it must be finite or None")
        self._taken[setting, replication] = True
        if value is not None:
            self._values[setting, replication] = value

    def verdict(self) -> Verdict:
        """What the values say that were looked at; what was taken since waits until its stage is whole."""
        self.wanted()  # judges a stage that is whole
        standing = self._standing
        return Verdict(
            best=standing.best,
            kept=standing.kept,
            dropped=dict(standing.dropped),
            unfit=dict(self._unfit),
            short_of_best=self._short_of_best(standing),
            ended=standing.ended,
            certainty=self.certainty,
            indifference=self.indifference,
            runs=int(self._taken.sum()),
        )

    # --- judging ---

    def _judge(self) -> None:
        """Look at a whole stage, and either end the race or say how far every setting is to be run next."""
        self._judged = self._target.copy()
        for number in range(self.settings):
            lost = np.flatnonzero(np.isnan(self._values[number, : self._judged[number]]))
            if lost.size:
                self._unfit[number] = int(lost[0])
        now, last = self.looks[self._look], self._look == len(self.looks) - 1
        lower = self._lower()
        dropped = self._dropped(lower)
        kept = tuple(one for one in range(self.settings) if one not in dropped and one not in self._unfit)
        if not kept:
            self._standing = Standing(None, kept, dropped, (), "all-unfit")
            return
        running = [one for one in kept if self._judged[one] == now]
        if not running:
            # Those that led are gone, unfit or beaten at a look that others had not reached: all that are left go on.
            self._standing = Standing(None, kept, dropped, kept, "running")
            self._target[list(kept)] = now
            return
        best = min(running, key=lambda one: (float(self._centre(one, now)), one))
        open_ = tuple(one for one in kept if one != best and not self._is_settled(best, one, lower[one, best]))
        behind = [one for one in open_ if self._judged[one] < now]
        ended: Ended = "running"
        if not open_:
            ended = "one-left" if len(kept) == 1 else "settled"
        elif last and not behind:
            ended = "spent"
        self._standing = Standing(best, kept, dropped, open_, ended)
        if behind:
            self._target[behind] = now
        elif ended == "running":
            self._look += 1
            self._target[[best, *open_]] = self.looks[self._look]

    def _is_settled(self, best: int, other: int, lower: float) -> bool:
        """Whether ``other`` can't be better than ``best`` by more than the indifference, and does not look better."""
        count = int(min(self._judged[best], self._judged[other]))
        return -lower <= self.indifference and self._centre(other, count) >= self._centre(best, count)

    def _centre(self, setting: int, count: int) -> float:
        """What a setting is estimated at from its first ``count`` replications."""
        values = self._values[setting, :count]
        return float(values[0]) if self.replicates.resampled else math.fsum(values.tolist()) / count

    def _dropped(self, lower: Samples) -> dict[int, int]:
        """After how many replications each setting was worse than some other one, of those that are fit."""
        dropped = {}
        for number in np.flatnonzero(lower.max(axis=1) > 0).tolist():
            if number in self._unfit:
                continue
            dropped[number] = next(
                count
                for count, (rows, bounds) in sorted(self._bounds.items())
                if number in rows and bounds[rows.index(number)].max() > 0
            )
        return dropped

    def _lower(self) -> Samples:
        """[i, j]: what the expectation of i exceeds that of j by at least, by the look that says most.

        The bound is the one that fails with the promised probability if i is the best.
        """
        lower = np.full((self.settings, self.settings), -math.inf)
        for place, count in enumerate(self.looks[: self._look + 1]):
            rows = [one for one in range(self.settings) if self._judged[one] >= count and one not in self._unfit]
            known = self._bounds.get(count)
            if known is None or known[0] != rows:
                known = (rows, self._bounds_at(rows, place))
                self._bounds[count] = known
            grid = np.ix_(rows, rows)
            lower[grid] = np.maximum(lower[grid], known[1])
        return lower

    def _bounds_at(self, rows: Sequence[int], place: int) -> Samples:
        """The lower bounds of all pairs of ``rows`` from what they came to up to a look."""
        values = self._values[rows, : self.looks[place]]
        bounds = np.full((len(rows), len(rows)), -math.inf)
        for index in range(len(rows)):
            differences = values[index] - values
            centre, error = _centres_and_errors(differences, self.replicates)
            bounds[index] = centre - self._factor(differences, place) * error
            bounds[index, index] = -math.inf
        return bounds

    # --- how wide bounds are ---

    def _tail(self, place: int) -> float:
        """What one look may spend of the chance to be wrong, on all comparisons of one setting."""
        if not self.replicates.resampled:
            return (1 - self.certainty) / len(self.looks)
        before = len(self.looks) - 1
        if place < before:
            return (1 - self.certainty) * EARLY_SHARE / before
        return (1 - self.certainty) * (1 - EARLY_SHARE if before else 1)

    def _factor(self, differences: Samples, place: int) -> float:
        """How many standard errors a bound is away, for all differences of one setting to others at a look."""
        others, tail = max(self.settings - 1, 1), self._tail(place)
        if self.replicates.resampled and place == len(self.looks) - 1:
            return largest_t(
                differences[:, 1:], tail, freedom=self._freedom(place), absent=others - (len(differences) - 1)
            )
        return t_beyond(self._freedom(place), tail / others)

    def _pair_factor(self, values: Samples, place: int) -> float:
        """The same to both sides, for the differences of all pairs: whichever setting leads was picked by its luck."""
        pairs, tail = max(self.settings * (self.settings - 1), 2), self._tail(place)
        if self.replicates.resampled and place == len(self.looks) - 1 and len(values) ** 2 <= MOST_PAIRS:
            first, second = np.nonzero(~np.eye(len(values), dtype=bool))
            return largest_t(
                values[first, 1:] - values[second, 1:],
                tail,
                freedom=self._freedom(place),
                absent=pairs - len(first),
            )
        return t_beyond(self._freedom(place), tail / pairs)

    def _freedom(self, place: int) -> float:
        count = self.looks[place]
        return self.replicates.freedom(count - 1) if self.replicates.resampled else count - 1

    # --- reporting ---

    def differences(self) -> dict[int, Difference]:
        """setting − best of every fit setting, positive where it is worse, with two-sided intervals that hold together.

        All pairs of settings and all looks are counted: the best one leads by its luck as well, and an interval that
        forgets this leaves the truth out too often. No verdict rests on them, and they are wide.
        """
        self.wanted()  # judges a stage that is whole
        best = self._standing.best
        if best is None:
            return {}
        found: dict[int, Difference] = {}
        for count in sorted(set(self._judged.tolist()) - {0}):
            rows = [one for one in range(self.settings) if self._judged[one] >= count and one not in self._unfit]
            if best in rows:
                found.update(self._differences_at(count, rows, best))
        return dict(sorted(found.items()))

    def _differences_at(self, count: int, rows: Sequence[int], best: int) -> dict[int, Difference]:
        """The differences to ``best`` over ``count`` replications."""
        values = self._values[rows, :count]
        first = self._values[best, :count]
        centres, errors = _centres_and_errors(values - first, self.replicates)
        halves = self._pair_factor(values, self.looks.index(count)) * errors
        resampled = self.replicates.resampled
        levels = values[:, 0] if resampled else values.mean(axis=1)
        own = float(first[0] if resampled else first.mean())
        return {
            number: {
                **without_interval(own, level, count - resampled),
                "value": value,
                "low": value - half,
                "high": value + half,
                "significant": abs(value) > half,
            }
            for number, level, value, half in zip(rows, levels.tolist(), centres.tolist(), halves.tolist(), strict=True)
            if number != best
        }

    def _short_of_best(self, standing: Standing) -> float | None:
        if standing.best is None:
            return None
        lower = self._lower()
        return max((0.0, *(-float(lower[one, standing.best]) for one in standing.kept if one != standing.best)))


@dataclass(frozen=True)
class Standing:
    """What the last look said; ``open`` are those that are neither dropped nor settled."""

    best: int | None
    kept: tuple[int, ...]
    dropped: dict[int, int]
    open: tuple[int, ...]
    ended: Ended


def _looks(first: int, most: int) -> list[int]:
    """After how many replications there is a look."""
    looks = [first]
    while looks[-1] < most:
        following = max(looks[-1] + 1, math.ceil(looks[-1] * STAGE_GROWTH))
        # A last stage of a few replications would cost a look and say nothing new.
        looks.append(most if following * math.sqrt(STAGE_GROWTH) > most else following)
    return looks


def _centres_and_errors(differences: Samples, replicates: Replicates) -> tuple[Samples, Samples]:
    """The estimate of every row's expectation, and its standard error; what ``Replicates.spread`` says, row by row."""
    count = differences.shape[1]
    if replicates.resampled:
        centres = differences[:, 0]
        squares = ((differences[:, 1:] - centres[:, None]) ** 2).mean(axis=1)
        return centres, np.sqrt(squares) * replicates.widening
    return differences.mean(axis=1), differences.std(axis=1, ddof=1) / math.sqrt(count)


def t_beyond(freedom: float, tail: float) -> float:
    """What a t variable exceeds with the probability ``tail``."""
    from scipy.special import stdtrit

    return -float(stdtrit(freedom, tail))


def largest_t(rows: Samples, tail: float, *, freedom: float, absent: int) -> float:
    """What the largest of several t variables exceeds with the probability ``tail``, correlated as the rows are.

    ``rows[i]`` are the resampled differences of one comparison, a column a resample; rows that do not vary are left
    out. A multiplier bootstrap: the rows' deviations with normal weights, over a common chi, which is the multivariate
    t of their correlations. ``absent`` comparisons of which nothing is known count with their whole probability
    (Bonferroni), and so do all where that is less. The weights are the same whatever the order of the rows.
    """
    spread = rows.std(axis=1, ddof=1)
    varying = rows[spread > 0]
    everything = t_beyond(freedom, tail / max(len(varying) + absent, 1))
    if len(varying) < 2:
        return everything
    steps = (varying - varying.mean(axis=1, keepdims=True)) / spread[spread > 0][:, None]
    weights, _ = _weights(rows.shape[1])
    from scipy.special import stdtr

    chi = _chi(freedom, rows.shape[1])
    peaks = np.sort((-(steps @ weights) / math.sqrt(rows.shape[1] - 1)).max(axis=0) / chi)[::-1]
    # The smallest peak at which what lies beyond, with what the absent ones may add, is within the tail.
    beyond = np.arange(len(peaks)) / len(peaks)
    if absent:
        beyond = beyond + absent * stdtr(freedom, -peaks)
    allowed = np.flatnonzero(beyond <= tail)
    return min(everything, float(peaks[allowed[-1]])) if allowed.size else everything


@functools.cache
def _weights(count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Normal weights of ``count`` resamples, a column a draw, and a uniform number for each draw's chi."""
    rng = np.random.default_rng(count)
    return rng.standard_normal((count, DRAWS)), rng.random(DRAWS)


@functools.cache
def _chi(freedom: float, count: int) -> NDArray[np.float64]:
    """What to divide each draw by."""
    from scipy.special import chdtri

    return np.asarray(np.sqrt(chdtri(freedom, _weights(count)[1]) / freedom))
