"""What the replications of a configuration tell of each other, and which error their spread is.

There are two kinds, and every figure asks here which one it has:

* ``independent``: replications that draw their requests anew from a model. Each is as good as any other, the value is
  their mean, and its standard error is their spread over the square root of their number.
* ``resampled``: replication 0 is a file of traffic as it is, which is one realisation of whatever made it; the others
  are put together anew from blocks of it (``experiments.workloads.resampling``). They are no further traffic. The value
  is that of the file, and the spread of the others is its standard error *itself*, which more of them make better known
  but no smaller (Efron 1979; Künsch, "The jackknife and the bootstrap for general stationary observations", Annals of
  Statistics 17(3), 1989).

How the standard error of a resampled figure is found was decided by measuring how often intervals hold the truth on
queues whose answer is known (``tools/trace_coverage.py``; its table is in docs/statistics.md):

* Deviations are taken from the value of the file, not from the mean of the resamples, so that what the seams between
  blocks change in a figure widens its interval.
* Blocks of one window, say seven, vary about their own mean, which is too little by the factor 6/7 in their variance,
  as of any sample; that is put back.
* Student's t counts how well the spread is known, which three things limit: the number of resamples, the blocks that
  the file has, and for a figure that rests on a few busy spells, as a p99 does, their number. Their doubts add up:
  1/ν = 1/(resamples − 1) + 1/(1.5 · blocks) + 2/spells. (The variance of overlapping blocks has 1.5 times the degrees
  of freedom of blocks side by side: Künsch 1989; Meketon and Schmeiser 1984. That of spells as unlike as those of an
  exponential distribution has a third of their number, that of spells all alike twice it.)
* Which of two settings is lower is told by their ratio, which the spells change far less than either of them: their
  number does not count there.
* Times and other figures that cannot be negative have an interval on a logarithmic scale. What a file lacks by chance
  are its longest waits, so the truth is further above the value than below.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from bufferlab.experiments.stats.intervals import Estimate, t_quantile, unbounded

ReplicationKind = Literal["independent", "resampled"]

SPELL = 0.5
"""Degrees of freedom that an independent spell is worth: more where all are alike, fewer where some are much longer."""
LEAST_FREEDOM = 3.0
"""What a figure is given that rests on fewer spells; its interval is as wide as it can sensibly be."""
OVERLAPPING = 1.5
"""Degrees of freedom that a block is worth where blocks may begin anywhere."""

Values = Sequence[float | None]


class Spread(NamedTuple):
    """A value, its standard error, and the degrees of freedom with which that is known."""

    value: float
    error: float
    freedom: float

    @property
    def half(self) -> float:
        """Half of the 95 % interval."""
        return t_quantile(self.freedom) * self.error


@dataclass(frozen=True)
class Replicates:
    """What the replications of a configuration are to one another.

    ``blocks``: how many blocks of a file carry its traffic; ``window``: how many have their place taken by one another.
    """

    kind: ReplicationKind = "independent"
    blocks: float = math.inf
    window: float = math.inf

    @property
    def resampled(self) -> bool:
        """Whether all but the first are put together from blocks of it."""
        return self.kind == "resampled"

    def spread(self, values: Values, parts: float | None = None) -> Spread | None:
        """The value of one figure and its standard error, from one value per replication in their order.

        Replications with nothing to measure are left out. ``parts``: on how many independent spells of traffic the
        figure rests, where that is known. None where there are too few values for an error.
        """
        if not self.resampled:
            known = [value for value in values if value is not None]
            if len(known) < 2:
                return None
            count = len(known)
            average = math.fsum(known) / count
            variance = math.fsum((one - average) ** 2 for one in known) / (count - 1)
            return Spread(average, math.sqrt(variance / count), float(count - 1))
        others = [value for value in values[1:] if value is not None]
        if not values or values[0] is None or len(others) < 2:
            return None
        variance = math.fsum((one - values[0]) ** 2 for one in others) / len(others)
        return Spread(values[0], math.sqrt(variance) * self.widening, self.freedom(len(others), parts))

    def log_ratio(self, first: Values, second: Values) -> Spread | None:
        """The logarithm of second over first; None where one of the values is not above 0, or there are too few."""
        pairs = [
            (one, other) for one, other in zip(first, second, strict=True) if one is not None and other is not None
        ]
        if any(one <= 0 or other <= 0 for one, other in pairs) or not first or first[0] is None or second[0] is None:
            return None
        return self.spread([math.log(other / one) for one, other in pairs])

    def value(self, values: Values) -> float | None:
        """The figure itself: the mean over independent replications, the file's own over resampled ones."""
        if self.resampled:
            return values[0] if values else None
        known = [value for value in values if value is not None]
        return math.fsum(known) / len(known) if known else None

    def estimate(self, values: Values, parts: float | None = None, *, positive: bool = False) -> Estimate:
        """The figure with its 95 % interval. ``positive``: whether it is a quantity that cannot be negative."""
        spread = self.spread(values, parts)
        if spread is None:
            return unbounded(self.value(values))
        if positive and self.resampled and spread.value > 0:
            factor = math.exp(min(spread.half / spread.value, 700.0))
            return {"value": spread.value, "low": spread.value / factor, "high": spread.value * factor}
        return {"value": spread.value, "low": spread.value - spread.half, "high": spread.value + spread.half}

    @property
    def widening(self) -> float:
        """By what factor the spread of resamples is too small: blocks vary about the mean of their own window."""
        return math.sqrt(self.window / (self.window - 1)) if 1 < self.window < math.inf else 1.0

    def freedom(self, resamples: int, parts: float | None = None) -> float:
        """Degrees of freedom of the standard error that so many resamples give."""
        unknown = 1 / max(resamples - 1, 1) + 1 / max(OVERLAPPING * self.blocks, 1.0)
        return 1 / (unknown + (0.0 if parts is None else 1 / max(SPELL * parts, LEAST_FREEDOM)))

    def content(self) -> dict[str, Any]:
        """What is stored of it."""
        if not self.resampled:
            return {"kind": self.kind}
        return {"kind": self.kind, "blocks": self.blocks, "window": self.window}


INDEPENDENT = Replicates()

FEW_SPELLS = 10.0
"""On fewer independent spells a figure rests that is a matter of luck, as in ``batching``."""
FEW_STRETCHES = 5.0


def caution(p99_parts: float | None, mean_parts: float | None) -> str | None:
    """A sentence where intervals of latencies of a resampled file hold the truth less often than they say, else None.

    ``p99_parts``, ``mean_parts``: on how many independent spells the p99 and the mean of the latencies rest.
    """
    if mean_parts is not None and mean_parts < FEW_STRETCHES:
        return (
            "the file is short against how long its latencies remember one another: their intervals leave out the "
            "truth more often than in 5 of 100 cases (docs/statistics.md)"
        )
    if p99_parts is not None and p99_parts < FEW_SPELLS:
        return (
            f"the p99 of the latencies rests on about {max(p99_parts, 1):.0f} busy spells "
            f"of the file: its interval leaves out the truth in about 10 of 100 cases, not 5 (docs/statistics.md)"
        )
    return None


def replicates_from(content: Any) -> Replicates:
    """What ``Replicates.content`` stored; independent where nothing is stored, as before there was another kind."""
    if not content:
        return INDEPENDENT
    return Replicates(**{name: content[name] for name in ("kind", "blocks", "window") if name in content})
