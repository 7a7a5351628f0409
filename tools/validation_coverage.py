"""How often the intervals of ``bufferlab validate`` hold the truth, where the truth is known: docs/statistics.md.

    python tools/validation_coverage.py [--trials 400]

Measured latencies are predicted ones times a bias that is known, times what every run has of its own (log-normal, with
the standard deviation in the table), times noise that remembers half of the last request's. 100 requests a run, the
same ones in all runs of a trial. The truth is what endless runs come to. A share that is 95 % comes out below 92 % of
400 trials in 0.6 % of all cases.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bufferlab.experiments.stats.intervals import Estimate, Samples, mean, quantile  # noqa: E402 - from this checkout
from bufferlab.experiments.validation.noise import relative  # noqa: E402
from bufferlab.experiments.validation.resampling import over_repeats, percentile_interval, resampling  # noqa: E402
from bufferlab.experiments.validation.scores import Pair, bias_of, in_latencies  # noqa: E402

REQUESTS = 100
FACTOR = 1.05
"""Of what is measured over what is predicted."""
MEMORY, NOISE = 0.5, 0.15
SPREADS = (0.0, 0.03, 0.10)
REPEATS = (1, 2, 3, 4, 5)


def runs_of(rng: np.random.Generator, repeats: int, spread: float) -> list[Pair]:
    """Measured and predicted latencies of repeats, whose own factors vary by ``spread``."""
    predicted = np.exp(rng.normal(0.0, 0.5, REQUESTS))
    pairs = []
    for _ in range(repeats):
        fresh = rng.normal(0.0, NOISE * (1 - MEMORY**2) ** 0.5, REQUESTS)
        fresh[0] /= (1 - MEMORY**2) ** 0.5
        noise = np.zeros(REQUESTS)
        for place in range(REQUESTS):
            noise[place] = (MEMORY * noise[place - 1] if place else 0.0) + fresh[place]
        own = FACTOR * np.exp(rng.normal(-(spread**2) / 2, spread))
        pairs.append((predicted * own * np.exp(noise), predicted))
    return pairs


def truth_of(statistic: Callable[[Samples], float], trials: int = 4000) -> float:
    """What the bias of endless runs is: factors of single runs average out."""
    rng = np.random.default_rng(0)
    sides = np.array([[statistic(side) for side in runs_of(rng, 1, 0.0)[0]] for _ in range(trials)])
    measured, predicted = sides.mean(axis=0)
    return float(predicted / measured - 1)


def intervals(pairs: list[Pair], statistic: Callable[[Samples], float], seed: int) -> dict[str, Estimate]:
    """The interval that validate gives, and the two that it could be."""
    values = in_latencies(pairs, statistic)
    drawn = resampling(pairs, seed, "coverage")

    def bias(draw: list[tuple[int, slice]]) -> float:
        own, other = values(draw)  # type: ignore[arg-type]
        return relative(other, own)

    whole = bias([(number, slice(None)) for number in range(len(pairs))])
    each = [bias([(number, slice(None))]) for number in range(len(pairs))]
    found = {"validate": bias_of(len(pairs), drawn, values)}
    if drawn.over == "blocks":
        found["blocks"] = percentile_interval(whole, drawn.values(bias))  # type: ignore[arg-type]
    if len(pairs) > 1:
        found["repeats"] = over_repeats(whole, each)
    return found


def coverage(
    repeats: int, spread: float, statistic: Callable[[Samples], float], truth: float, trials: int
) -> dict[str, float]:
    """The shares of ``trials`` in which each interval held the truth."""
    rng = np.random.default_rng([repeats, round(1000 * spread)])
    held: dict[str, list[bool]] = {}
    for trial in range(trials):
        for name, one in intervals(runs_of(rng, repeats, spread), statistic, trial).items():
            low, high = one["low"], one["high"]
            held.setdefault(name, []).append(low is not None and high is not None and low <= truth <= high)
    return {name: sum(one) / len(one) for name, one in held.items()}


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=400)
    trials = parser.parse_args().trials
    print(
        "| runs differ by | repeats | mean: validate | blocks alone | repeats alone "
        "| p50: validate | blocks alone | repeats alone |"
    )
    print("|--:|--:|" + "--:|" * 6)
    truths = {name: (one, truth_of(one)) for name, one in (("mean", mean), ("p50", quantile(0.5)))}
    for spread in SPREADS:
        for repeats in REPEATS:
            cells = []
            for statistic, truth in truths.values():
                found = coverage(repeats, spread, statistic, truth, trials)
                cells += [f"{found[name]:.0%}" if name in found else "–" for name in ("validate", "blocks", "repeats")]
            print(f"| {100 * spread:g} % | {repeats} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
