"""Predictions that are made before anything is measured, and what became of them.

A configuration is simulated once for every run that will be measured, with the same requests, each time with the draws
of what varies on a host (``[host]`` of the profile) that ``bufferlab validate`` takes for that run. What is predicted
of a figure is its mean over these, so both say the same of the same runs. It is measured some times, too, and the noise
of the measurement is what one of these is off by as a prediction of the others, as in ``bufferlab validate``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bufferlab.experiments.config.schema import Config
from bufferlab.experiments.runs.environment import usable_cpus
from bufferlab.experiments.stats.batching import Statistic
from bufferlab.experiments.stats.intervals import Samples, quantile
from bufferlab.experiments.text import table
from bufferlab.experiments.validation.cases import CaseScore
from bufferlab.experiments.validation.frozen import FrozenProfile
from bufferlab.experiments.validation.noise import relative
from bufferlab.experiments.validation.pairing import on_processors, predict
from bufferlab.experiments.validation.tolerances import TOLERANCES
from bufferlab.experiments.workloads.requests import make_requests

FIGURES: Mapping[str, Statistic] = {"p50": quantile(0.50), "p90": quantile(0.90), "p99": quantile(0.99)}
"""A p99 of a hundred requests is the second largest of them, and as uncertain."""
ALLOWED: Mapping[str, float] = {**TOLERANCES, "p90": TOLERANCES["p99"]}
"""What an error may be: the tolerances of ``validate``, which has none for a p90."""


@dataclass(frozen=True)
class Forecast:
    """Latencies of the same requests, one array for every simulated repeat, seconds."""

    latencies_s: tuple[Samples, ...]

    def figure_s(self, name: str) -> float:
        """A figure: its mean over the repeats."""
        return _mean([FIGURES[name](one) for one in self.latencies_s])

    def spread_s(self, name: str) -> tuple[float, float]:
        """The lowest and the highest of single repeats: how far one simulation may be off for nothing but its draws."""
        each = [FIGURES[name](one) for one in self.latencies_s]
        return min(each), max(each)


@dataclass(frozen=True)
class Outcome:
    """A figure, predicted and measured, in seconds.

    ``noise``: what a repeat is off by as a prediction of the others; None without a second one. ``error``: predicted /
    measured − 1, and ``interval`` its ends at 95 %; ``spread_s``: of single simulations. ``verdict``: as ``validate``
    has it.
    """

    predicted_s: float
    measured_s: float
    repeats_s: tuple[float, ...]
    noise: float | None
    error: float
    spread_s: tuple[float, float]
    interval: tuple[float | None, float | None]
    verdict: str


def forecast(config: Config, profile: FrozenProfile, runs: Sequence[str]) -> Forecast:
    """Simulate the first replication of a configuration on this host, as ``runs``, the folders of runs to come, will
    be predicted by ``validate``."""
    requests = tuple(make_requests(config, 0, repeated=True))
    here = on_processors(profile, usable_cpus())
    return Forecast(tuple(predict(config, 0, requests, here, run)[0].figures.latencies_s() for run in runs))


def outcomes(predicted: Forecast, case: CaseScore) -> dict[str, Outcome]:
    """What became of a forecast in measured runs of the same configuration, by figure: judged as ``validate`` does."""
    scores = {one.name: one for one in case.scores.figures}
    found = {}
    for name, statistic in FIGURES.items():
        one = scores[name]
        forecast_s, spread_s = predicted.figure_s(name), predicted.spread_s(name)
        found[name] = Outcome(
            forecast_s, one.measured, tuple(statistic(own) for own, _ in (each.latencies_s for each in case.repeats)),
            None if one.noise is None else one.noise.mean, relative(forecast_s, one.measured), spread_s,
            (one.bias["low"], one.bias["high"]), one.verdict or "",
        )  # fmt: skip
    return found


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def content(one: Outcome) -> dict[str, Any]:
    """For JSON."""
    return {
        "predicted_s": one.predicted_s, "measured_s": one.measured_s, "repeats_s": list(one.repeats_s),
        "noise": one.noise, "error": one.error if math.isfinite(one.error) else None,
        "error_low": one.interval[0], "error_high": one.interval[1], "draws_s": list(one.spread_s),
        "verdict": one.verdict,
    }  # fmt: skip


# --- what is printed ---


def outcome_table(rows: Mapping[int, Mapping[str, Outcome]]) -> str:
    """A line for every figure of every default; latencies in ms."""
    lines: list[tuple[str, ...]] = [
        ("default", "figure", "predicted", "draws", "measured", "noise", "error", "95 %", "verdict")
    ]
    for tokens, row in rows.items():
        for number, (name, one) in enumerate(row.items()):
            low, high = one.interval
            lines.append(
                (
                    "" if number else str(tokens), name, _ms(one.predicted_s), " .. ".join(map(_ms, one.spread_s)),
                    _ms(one.measured_s), "-" if one.noise is None else f"{one.noise:.1%}", f"{one.error:+.1%}",
                    "-" if low is None or high is None else f"{low:+.1%} .. {high:+.1%}", one.verdict,
                )
            )  # fmt: skip
    return table(lines)


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.1f}"


def verdicts(rows: Mapping[int, Mapping[str, Outcome]]) -> list[str]:
    """A sentence for every figure: what is said of its predictions, and which is furthest off."""
    return [_summing_up(rows, name) for name in FIGURES if all(name in row for row in rows.values())]


def _summing_up(rows: Mapping[int, Mapping[str, Outcome]], name: str) -> str:
    said = [row[name].verdict for row in rows.values()]
    counts = ", ".join(f"{said.count(one)} {one}" for one in dict.fromkeys(sorted(said)))
    worst = max(rows, key=lambda tokens: abs(rows[tokens][name].error))
    return (
        f"{name}, tolerance {ALLOWED[name]:.0%}: of {len(said)} predictions {counts}; the furthest off is "
        f"{rows[worst][name].error:+.1%}, at a default of {worst}"
    )


def run_folder(out: Path, tokens: int, number: int) -> Path:
    """Where a measured run of a default lies."""
    return out / f"real-{tokens}-{number}"
