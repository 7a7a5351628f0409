"""The scores of one case: errors of its figures beside the noise floor, and how well its latencies agree."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bufferlab.experiments.errors import UserError
from bufferlab.experiments.runs.replication import Replication
from bufferlab.experiments.stats.batching import Statistic
from bufferlab.experiments.stats.intervals import Estimate, Samples, mean, quantile, unbounded, within
from bufferlab.experiments.validation.agreement import BlandAltman, bland_altman, wasserstein_1
from bufferlab.experiments.validation.noise import Noise, noise_floor, of_distances, of_rates, of_samples, relative
from bufferlab.experiments.validation.pairing import Repeat
from bufferlab.experiments.validation.resampling import (
    Draw,
    Places,
    Resampling,
    over_repeats,
    percentile_interval,
    resampling,
    with_repeats,
)
from bufferlab.experiments.validation.tolerances import FIGURES, NO_INTERVAL, OFF, OFF_RUN, TTFT_FIGURES, USUAL, judge

LATENCY_FIGURES: Mapping[str, Statistic] = {
    "mean": mean,
    "p50": quantile(0.50),
    "p90": quantile(0.90),
    "p99": quantile(0.99),
}
NOTHING_PREDICTED = -1.0
"""No bias is below this: what is predicted is at least 0."""
LEAST_BEYOND = 10
"""Requests that must lie beyond a quantile in every repeat for it to be more than one of them."""
RARER = {"p50": 0.5, "p90": 0.1, "p99": 0.01}
"""The share of requests beyond a quantile."""

Pair = tuple[Samples, Samples]
"""Measured and predicted, in the same order."""
Values = Callable[[Draw], tuple[float, float]]
"""A figure of what was drawn, measured and predicted: the means over its repeats."""


@dataclass(frozen=True)
class FigureScore:
    """One figure, predicted against measured.

    ``measured``, ``predicted``: means over the repeats, seconds or requests a second. ``bias``: their ratio − 1.
    ``error``: its absolute value, with the interval of it. ``verdict``: see ``tolerances.judge``. ``called``: its name,
    and what it is where too few requests lie beyond a quantile in some repeat.
    """

    name: str
    measured: float
    predicted: float
    bias: Estimate
    error: Estimate
    noise: Noise | None
    tolerance: float | None
    verdict: str | None
    called: str

    @property
    def missed(self) -> bool:
        """Whether it is off; without an interval, whether its value is beyond the tolerance."""
        error = self.error["value"]
        beyond = self.tolerance is not None and error is not None and error > self.tolerance
        return self.verdict in (OFF, OFF_RUN) or (self.verdict == NO_INTERVAL and beyond)


@dataclass(frozen=True)
class Distance:
    """Wasserstein-1 of the latencies, microseconds: the mean over the repeats, with its noise floor."""

    value_us: Estimate
    noise_us: Noise | None


@dataclass(frozen=True)
class Scores:
    """All of one case. ``intervals``: what they come from: "repeats", "blocks" of requests, both ("repeats and
    blocks": the wider one), or "" for none of the latency.

    ``figures``: of the latency, and the throughput; ``ttft``: of the time to the first token, empty where some repeat
    has no request that was prefilled on both sides, and where nothing is prefilled, so that it is the latency again;
    there, too, if users asked for a tolerance of it.
    """

    figures: tuple[FigureScore, ...]
    wasserstein: Distance
    agreement: BlandAltman
    agreement_bias_s: Estimate
    intervals: str
    ttft: tuple[FigureScore, ...] = ()


def score(repeats: Sequence[Repeat], tolerances: Mapping[str, float], *, seed: int, name: str) -> Scores:
    """Score the pairs of one case; ``name`` is that of the streams its intervals are drawn from.

    Raises UserError if a repeat has no request that was delivered on both sides, or none that was prefilled where there
    is a tolerance for the time to the first token that users asked for (any other than ``tolerances.USUAL``).
    """
    for one in repeats:
        if not one.both.any():
            raise UserError(
                f"RUN is {one.run!r}, in whose replication {one.number} no request was delivered on both sides; "
                f"at least one must be"
            )
    pairs = [one.latencies_s for one in repeats]
    drawn = resampling(pairs, seed, name)
    traces = [one.trace for one in repeats]
    measured = [own for own, _ in pairs]
    figures = [
        _figure(
            figure, pairs, drawn, in_latencies(pairs, statistic), RARER.get(figure, 0.5), tolerances.get(figure),
            noise_floor(list(zip(traces, measured, strict=True)), of_samples(statistic)),
        )
        for figure, statistic in LATENCY_FIGURES.items()
    ]  # fmt: skip
    gaps = [_gaps(one) for one in repeats]
    rates = [1 / own.mean() for own, _ in gaps]
    figures.append(
        _figure(
            "throughput", gaps, resampling(gaps, seed, f"{name} throughput"), _in_gaps(gaps), 0.5,
            tolerances.get("throughput"), noise_floor(list(zip(traces, rates, strict=True)), of_rates),
        )
    )  # fmt: skip
    assert tuple(one.name for one in figures) == FIGURES
    ttft = _ttft(repeats, tolerances, seed=seed, name=name)
    agreement = bland_altman(*(np.concatenate(side) for side in zip(*pairs, strict=True)))
    return Scores(
        figures=tuple(figures),
        wasserstein=_distance(pairs, traces, drawn),
        agreement=agreement,
        agreement_bias_s=_with_repeats(
            drawn, agreement.bias_s, lambda draw: _mean_difference(pairs, draw), [mean(two - one) for one, two in pairs]
        ),
        intervals=_intervals(drawn, len(pairs)),
        ttft=ttft,
    )


def _ttft(
    repeats: Sequence[Repeat], tolerances: Mapping[str, float], *, seed: int, name: str
) -> tuple[FigureScore, ...]:
    """The scores of the time to the first token, judged as those of the latency are."""
    pairs = [one.ttfts_s for one in repeats]
    asked = [figure for figure in TTFT_FIGURES if figure in tolerances and tolerances is not USUAL]
    if empty := [one for one, (own, _) in zip(repeats, pairs, strict=True) if not len(own)]:
        if asked:
            raise UserError(
                f"--max-error has {asked[0]}, but in replication {empty[0].number} of {empty[0].run!r} no request was "
                f"prefilled on both sides; at least one must be"
            )
        return ()
    again = all(map(_same, pairs, (one.latencies_s for one in repeats)))
    if again and not asked:
        return ()  # the same numbers under another name would be counted, and missed, twice
    drawn = resampling(pairs, seed, name if again else f"{name} ttft")
    measured = [(one.trace, own) for one, (own, _) in zip(repeats, pairs, strict=True)]
    return tuple(
        _figure(
            f"ttft_{figure}", pairs, drawn, in_latencies(pairs, statistic), RARER.get(figure, 0.5),
            tolerances.get(f"ttft_{figure}"), noise_floor(measured, of_samples(statistic)),
        )
        for figure, statistic in LATENCY_FIGURES.items()
    )  # fmt: skip


def _same(one: Pair, other: Pair) -> bool:
    return all(np.array_equal(*sides) for sides in zip(one, other, strict=True))


def _figure(
    name: str,
    pairs: Sequence[Pair],
    drawn: Resampling,
    values: Values,
    rarer: float,
    tolerance: float | None,
    noise: Noise | None,
) -> FigureScore:
    own, other = values([(number, slice(None)) for number in range(len(pairs))])
    signed = bias_of(len(pairs), drawn, values, rarer)
    fewest = min(len(measured) for measured, _ in pairs)
    return FigureScore(
        name, own, other, signed, size_of(signed), noise, tolerance, judge(signed, tolerance, repeats=len(pairs)),
        called(name, fewest),
    )  # fmt: skip


def bias_of(repeats: int, drawn: Resampling, values: Values, rarer: float = 0.5) -> Estimate:
    """What the prediction of a figure is off by, with its interval: of five repeats and more the t interval over them,
    of two to four that or the one from blocks of requests, whichever is wider, of one repeat that from blocks."""
    own, other = values([(number, slice(None)) for number in range(repeats)])

    def bias(draw: Draw) -> float:
        one, predicted = values(draw)
        return relative(predicted, one)

    off = relative(other, own)
    each = [bias([(number, slice(None))]) for number in range(repeats)]
    if drawn.over == "repeats":
        found = over_repeats(off, each)
    else:
        found = with_repeats(percentile_interval(off, drawn.values(bias, rarer=rarer)), each)
    return within(found, NOTHING_PREDICTED)


def size_of(bias: Estimate) -> Estimate:
    """The absolute value of a bias, with the interval of it."""
    value, low, high = bias["value"], bias["low"], bias["high"]
    if value is None or low is None or high is None:
        return unbounded(None if value is None else abs(value))
    least = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
    return {"value": abs(value), "low": least, "high": max(abs(low), abs(high))}


def called(name: str, requests: int) -> str:
    """The name of a figure of so many requests: of a quantile with fewer than ten of them beyond it, which they are."""
    rarer = RARER.get(name.removeprefix("ttft_"))
    if rarer is None or requests * rarer >= LEAST_BEYOND:
        return name
    place = requests - math.floor((1 - rarer) * (requests - 1) + 1e-9)
    ordinal = {1: "largest", 2: "2nd largest", 3: "3rd largest"}.get(place, f"{place}th largest")
    return f"{name} ({ordinal} of {requests})"


def in_latencies(pairs: Sequence[Pair], statistic: Statistic) -> Values:
    """A statistic of the latencies of some requests of some repeats."""

    def values(draw: Draw) -> tuple[float, float]:
        sides = [[statistic(pairs[repeat][side][places]) for repeat, places in draw] for side in (0, 1)]
        return _average(sides[0]), _average(sides[1])

    return values


def _in_gaps(gaps: Sequence[Pair]) -> Values:
    def values(draw: Draw) -> tuple[float, float]:
        sides = [[1 / float(gaps[repeat][side][places].mean()) for repeat, places in draw] for side in (0, 1)]
        return _average(sides[0]), _average(sides[1])

    return values


def _gaps(one: Repeat) -> Pair:
    """Times between successive deliveries, the first counted from the first arrival, of as many as both sides have.

    Their mean is one over the throughput, up to the last of these deliveries.
    """
    sides = [_delivery_gaps(side) for side in (one.measured, one.predicted)]
    count = min(map(len, sides))
    return sides[0][:count], sides[1][:count]


def _delivery_gaps(figures: Replication) -> Samples:
    times_s = figures.requests.column("delivered_s") - figures.window_s[0]
    return np.diff(np.sort(times_s[times_s > 0]), prepend=0.0)


def _distance(pairs: Sequence[Pair], traces: Sequence[str], drawn: Resampling) -> Distance:
    in_us = [(own * 1e6, other * 1e6) for own, other in pairs]

    of_whole = [wasserstein_1(*pair) for pair in in_us]

    def distance(repeat: int, places: Places) -> float:
        if isinstance(places, slice):
            return of_whole[repeat]
        return wasserstein_1(in_us[repeat][0][places], in_us[repeat][1][places])

    def value(draw: Draw) -> float:
        return _average([distance(repeat, places) for repeat, places in draw])

    whole: Draw = [(number, slice(None)) for number in range(len(pairs))]
    measured = list(zip(traces, [own for own, _ in in_us], strict=True))
    found = within(_with_repeats(drawn, value(whole), value, of_whole), 0.0)  # no distance is below it
    return Distance(found, noise_floor(measured, of_distances))


def _with_repeats(
    drawn: Resampling, value: float, statistic: Callable[[Draw], float], each: Sequence[float]
) -> Estimate:
    """What resamples say of ``value``, and where these were blocks of few repeats, what it is in ``each`` of them."""
    found = drawn.estimate(value, statistic)
    return found if drawn.over == "repeats" else with_repeats(found, each)


def _intervals(drawn: Resampling, repeats: int) -> str:
    if drawn.over == "repeats" or repeats < 2:
        return drawn.over
    return "repeats and blocks" if drawn.over else "repeats"


def _mean_difference(pairs: Sequence[Pair], draw: Draw) -> float:
    return mean(np.concatenate([pairs[repeat][1][places] - pairs[repeat][0][places] for repeat, places in draw]))


def _average(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
