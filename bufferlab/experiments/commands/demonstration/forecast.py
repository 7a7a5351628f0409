"""Predictions that are made before anything is measured, and what became of them.

A configuration is simulated some times with the same requests, each time with other draws of what varies on a host
(``[host]`` of the profile): what is predicted of a figure is its mean over these. It is measured some times, too, and
the noise of the measurement is what one of these is off by as a prediction of the others, as in ``bufferlab validate``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bufferlab.experiments.config.schema import Config
from bufferlab.experiments.runs.rundir import StoredRun
from bufferlab.experiments.stats.batching import Statistic
from bufferlab.experiments.stats.intervals import Samples, quantile
from bufferlab.experiments.validation.frozen import FrozenProfile
from bufferlab.experiments.validation.noise import noise_floor, of_samples, relative
from bufferlab.experiments.validation.pairing import predict
from bufferlab.experiments.workloads.requests import make_requests

FIGURES: Mapping[str, Statistic] = {"p50": quantile(0.50), "p90": quantile(0.90)}
"""A p99 of a hundred requests would be the second largest of them."""
DRAWS = 5


@dataclass(frozen=True)
class Forecast:
    """Latencies of the same requests, one array for every simulated repeat, seconds."""

    latencies_s: tuple[Samples, ...]

    def figure_s(self, name: str) -> float:
        """A figure: its mean over the repeats."""
        return _mean([FIGURES[name](one) for one in self.latencies_s])


@dataclass(frozen=True)
class Outcome:
    """A figure, predicted and measured, in seconds.

    ``noise``: what a repeat is off by as a prediction of the others; None without a second one. ``error``: predicted /
    measured − 1.
    """

    predicted_s: float
    measured_s: float
    repeats_s: tuple[float, ...]
    noise: float | None
    error: float


def forecast(config: Config, profile: FrozenProfile, draws: int = DRAWS) -> Forecast:
    """Simulate the first replication of a configuration with the profile of a host, ``draws`` times."""
    requests = tuple(make_requests(config, 0))
    return Forecast(
        tuple(
            predict(config, 0, requests, profile, f"draw {number}")[0].figures.latencies_s() for number in range(draws)
        )
    )


def outcomes(predicted: Forecast, runs: Sequence[StoredRun]) -> dict[str, Outcome]:
    """What became of a forecast in measured runs of the same configuration, by figure."""
    measured = [_latencies_s(run) for run in runs]
    found = {}
    for name, statistic in FIGURES.items():
        values = [statistic(one) for one in measured]
        noise = noise_floor([("the same", one) for one in measured], of_samples(statistic))
        forecast_s, mean_s = predicted.figure_s(name), _mean(values)
        found[name] = Outcome(
            forecast_s, mean_s, tuple(values), None if noise is None else noise.mean, relative(forecast_s, mean_s)
        )
    return found


def _latencies_s(run: StoredRun) -> Samples:
    from bufferlab.experiments.runs.replay import replications_of

    return next(iter(replications_of(run))).latencies_s()


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def content(one: Outcome) -> dict[str, Any]:
    """For JSON."""
    return {
        "predicted_s": one.predicted_s, "measured_s": one.measured_s, "repeats_s": list(one.repeats_s),
        "noise": one.noise, "error": one.error if math.isfinite(one.error) else None,
    }  # fmt: skip


# --- what is printed ---


def outcome_table(rows: Mapping[int, Mapping[str, Outcome]]) -> list[str]:
    """A line for every default, below two headings; latencies in ms."""
    columns = f"{'predicted':>10}{'measured':>10}{'noise':>8}{'error':>9}"
    lines = [
        f"{'':>8}" + "".join(f" {' ' + name + ' ':-^{len(columns)}}" for name in FIGURES),
        f"{'default':>8}" + f" {columns}" * len(FIGURES),
    ]
    for tokens, row in rows.items():
        lines.append(f"{tokens:>8}" + "".join(f" {_cells(row[name])}" for name in FIGURES))
    return lines


def _cells(one: Outcome) -> str:
    noise = "-" if one.noise is None else f"{100 * one.noise:.1f} %"
    return f"{1e3 * one.predicted_s:>10.1f}{1e3 * one.measured_s:>10.1f}{noise:>8}{100 * one.error:>+7.1f} %"


def verdict(rows: Mapping[int, Mapping[str, Outcome]], within: float, name: str = "p50") -> str:
    """How many predictions came within a share of what was measured, and which was furthest off."""
    errors = {tokens: row[name].error for tokens, row in rows.items()}
    held = sum(abs(error) <= within for error in errors.values())
    worst = max(errors, key=lambda tokens: abs(errors[tokens]))
    return (
        f"{name}: {held} of {len(errors)} predictions are within {within:.0%} of what was measured; the furthest off "
        f"is {100 * errors[worst]:+.1f} %, at a default of {worst}"
    )


def run_folder(out: Path, tokens: int, number: int) -> Path:
    """Where a measured run of a default lies."""
    return out / f"real-{tokens}-{number}"
