"""How often the intervals of a file hold the truth, on traffic and a queue whose long run is known.

    python tools/trace_coverage.py [--files N] [--only NAME] [--settings N]

A file is drawn from a process, a queue with one server takes it (waits by Lindley's recursion), and its figures
get the intervals that ``sim`` gives those of a file, from resamples of it alone. That is repeated for many
files. The truth is the mean over long runs of the process, or over many files where the process has a course of the
day. Three settings of the server see the same requests: the first, one that is a tenth slower for the long requests and
a twentieth faster for the others, and one that is a little faster for all.

* has one: the share of the files that have an interval at all (the others are told that there is too little traffic)
* mean, p99: how often the interval of the latency holds the truth
* Δ mean, Δ p99: the same of the difference of the second setting to the first
* width: the median of the p99's upper bound over its value

With --settings, so many servers are compared as ``lowest`` of a sweep does: how often the set holds the best one, and
how many it holds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bufferlab.experiments.stats.batching import Statistic, of_samples
from bufferlab.experiments.stats.intervals import mean, quantile
from bufferlab.experiments.stats.paired import paired
from bufferlab.experiments.stats.selection import possibly_lowest
from bufferlab.experiments.text import table
from bufferlab.experiments.workloads.resampling import Resampling, plan_resampling, resample
from bufferlab.sim.workload import Columns

Reals = NDArray[np.float64]
LONG = 400_000
"""Requests of a long run."""
STATISTICS: tuple[Statistic, ...] = (mean, quantile(0.99))
NAMES = ("mean", "p99")
COLUMNS = ("has one", "mean", "p99", "Δ mean", "Δ p99", "width")
TOKENS_PER_S = 1000.0


@dataclass(frozen=True)
class Process:
    """Traffic with one request a second on average. ``course``: whether every file has the same course of the day."""

    name: str
    load: float
    arrivals: Callable[[int, np.random.Generator], Reals]
    log_sd: float = 1.0
    course: bool = False

    def draw(self, count: int, draws: np.random.Generator) -> Columns:
        """A file of about so many requests, whose lengths take ``load`` of a second each on average."""
        arrival_s = self.arrivals(count, draws)
        typical = self.load * TOKENS_PER_S
        tokens = np.maximum(draws.lognormal(np.log(typical) - self.log_sd**2 / 2, self.log_sd, len(arrival_s)), 1)
        return Columns.of(arrival_s, tokens.astype(np.int64))


def poisson(count: int, draws: np.random.Generator) -> Reals:
    """Without memory."""
    return np.asarray(np.cumsum(draws.exponential(1.0, count)))


def gamma(count: int, draws: np.random.Generator) -> Reals:
    """Gaps whose coefficient of variation is 2."""
    return np.asarray(np.cumsum(draws.gamma(0.25, 4.0, count)))


def modulated(stay_s: float) -> Callable[[int, np.random.Generator], Reals]:
    """Poisson at 1.6 or 0.4 of the mean rate, in turns of ``stay_s`` on average."""

    def draw(count: int, draws: np.random.Generator) -> Reals:
        turns = 4 * int(count / stay_s) + 50
        lengths = draws.exponential(stay_s, turns)
        rates = np.where((np.arange(turns) + draws.integers(2)) % 2 == 0, 1.6, 0.4)
        ends = np.concatenate(([0.0], np.cumsum(lengths)))
        work = np.concatenate(([0.0], np.cumsum(lengths * rates)))
        return np.asarray(np.interp(np.cumsum(draws.exponential(1.0, count)), work, ends))

    return draw


def wandering(remembers_s: float, log_sd: float) -> Callable[[int, np.random.Generator], Reals]:
    """Poisson whose rate has a logarithm that wanders (Ornstein-Uhlenbeck)."""

    def draw(count: int, draws: np.random.Generator) -> Reals:
        from scipy.signal import lfilter

        keep = np.exp(-1 / remembers_s)
        steps = int(2.5 * count) + 100
        noise = draws.normal(size=steps) * np.sqrt(1 - keep**2)
        level = lfilter([1.0], [1.0, -keep], noise, zi=[keep * draws.normal()])[0]
        work = np.concatenate(([0.0], np.cumsum(np.exp(log_sd * level - log_sd**2 / 2))))
        return np.asarray(np.interp(np.cumsum(draws.exponential(1.0, count)), work, np.arange(steps + 1)))

    return draw


def day(count: int, draws: np.random.Generator) -> Reals:
    """Poisson whose rate is half as much again in the middle of the file as on average, and half of it at its ends."""
    share = np.linspace(0, 1, 4001)
    work = share - 0.5 * np.sin(2 * np.pi * share) / (2 * np.pi)
    return np.asarray(np.sort(np.interp(draws.random(draws.poisson(count)), work, share)) * count)


PROCESSES = (
    Process("Poisson", 0.6, poisson),
    Process("bursts, gaps of cv 2", 0.5, gamma),
    Process("modulated, 20 s", 0.5, modulated(20)),
    Process("day with a busy middle", 0.5, day, course=True),
    Process("wandering, 20 s", 0.5, wandering(20, 0.4)),
    Process("wandering, 100 s", 0.5, wandering(100, 0.4)),
)
SIZES = {1000: 200, 3000: 300, 10_000: 120}
"""Requests of a file, and how many files of that size are looked at."""


def servers(number: int) -> list[Callable[[Reals], Reals]]:
    """Service times of tokens under the first so many settings; the first ones are named in the module's text."""

    def changed(long: float, short: float) -> Callable[[Reals], Reals]:
        return lambda tokens: tokens / TOKENS_PER_S * np.where(tokens > np.quantile(tokens, 0.9), long, short)

    found = [changed(1.0, 1.0), changed(1.1, 0.95), changed(0.99, 0.99)]
    return [*found, *(changed(1.0 + step / 50, 1.0 - step / 200) for step in range(1, number))][:number]


def latencies_s(requests: Columns, server: Callable[[Reals], Reals]) -> Reals:
    """Waiting and service of every request at one server, in order of arrival."""
    service_s = server(requests.total_tokens.astype(np.float64))
    walk = np.concatenate(([0.0], np.cumsum(service_s[:-1] - np.diff(requests.arrival_s))))
    return np.asarray(walk - np.minimum.accumulate(walk) + service_s)


Figures = list[list[float]]
"""By setting and statistic."""


def figures(requests: Columns, chosen: Sequence[Callable[[Reals], Reals]]) -> Figures:
    """The latencies' statistics under every setting."""
    found = [latencies_s(requests, server) for server in chosen]
    return [[statistic(one) for statistic in STATISTICS] for one in found]


def truth(process: Process, count: int, chosen: Sequence[Callable[[Reals], Reals]]) -> NDArray[Any]:
    """What the figures are in the long run."""
    runs = 600 if process.course else 30
    draws = np.random.default_rng([1, 99])
    made = [figures(process.draw(count if process.course else LONG, draws), chosen) for _ in range(runs)]
    return np.asarray(np.mean(made, axis=0))


@dataclass(frozen=True)
class Known:
    """The figures of a file and of its resamples: by replication, setting and statistic."""

    plan: Resampling
    values: NDArray[Any]
    parts: list[list[float | None]]

    def of(self, setting: int, statistic: int) -> list[float]:
        """One figure, a value a replication."""
        return [float(value) for value in self.values[:, setting, statistic]]


def look_at(requests: Columns, chosen: Sequence[Callable[[Reals], Reals]], resamples: int, seed: int) -> Known | None:
    """A file and its resamples; None where it has too little traffic for them."""
    plan = plan_resampling(requests, closed=False)
    if not isinstance(plan, Resampling):
        return None
    made = [figures(requests, chosen)]
    made += [figures(resample(requests, plan, seed, number), chosen) for number in range(1, resamples + 1)]
    runs = [[of_samples(latencies_s(requests, server), statistic) for statistic in STATISTICS] for server in chosen]
    return Known(plan, np.array(made), [[None if one is None else one.parts for one in run] for run in runs])


def holds(low: float | None, high: float | None, true: float) -> bool:
    """Whether an interval has the truth in it."""
    return low is not None and high is not None and low <= true <= high


def looked_at(
    process: Process, count: int, files: int, chosen: Sequence[Callable[[Reals], Reals]], resamples: int, seed: int
) -> list[Known | None]:
    """So many files of a process."""
    draws = np.random.default_rng([seed, count, PROCESSES.index(process)])
    return [look_at(process.draw(count, draws), chosen, resamples, number) for number in range(files)]


def shares(files: Sequence[Known | None], true: NDArray[Any]) -> dict[str, float]:
    """The shares of one row of the table."""
    held: dict[str, list[float]] = {name: [] for name in ("mean", "p99", "Δ mean", "Δ p99", "width")}
    for known in files:
        if known is None:
            continue
        replicates = known.plan.replicates
        for place, name in enumerate(NAMES):
            parts = [one[place] for one in known.parts[:2]]
            found = replicates.estimate(known.of(0, place), parts[0], positive=True)
            held[name].append(holds(found["low"], found["high"], true[0][place]))
            least = min(part for part in parts if part is not None)
            change = paired(known.of(0, place), known.of(1, place), replicates, least, positive=True)
            held[f"Δ {name}"].append(holds(change["low"], change["high"], true[1][place] - true[0][place]))
            if name == "p99" and found["high"] is not None and found["value"] is not None:
                held["width"].append(found["high"] / found["value"])
    told = {name: float(np.median(one) if name == "width" else np.mean(one)) for name, one in held.items() if one}
    return {"has one": len(held["mean"]) / len(files), **told}


def choices(files: Sequence[Known | None], true: NDArray[Any]) -> list[tuple[float, float]]:
    """For the mean and the p99: how often the settings that may be the lowest hold the best, and how many they are."""
    kept: list[list[tuple[bool, int]]] = [[] for _ in NAMES]
    for known in files:
        for place in range(len(NAMES)) if known is not None else ():
            assert known is not None
            samples = [known.of(setting, place) for setting in range(len(true))]
            found = possibly_lowest(samples, known.plan.replicates)
            kept[place].append((int(true[:, place].argmin()) in found, len(found)))
    nothing = (float("nan"), float("nan"))
    return [
        (float(np.mean([held for held, _ in one])), float(np.mean([size for _, size in one]))) if one else nothing
        for one in kept
    ]


def row(
    head: tuple[str, ...], files: Sequence[Known | None], true: NDArray[Any], *, selecting: bool
) -> tuple[str, ...]:
    """A row of the table."""
    if selecting:
        return (*head, *(text for share, size in choices(files, true) for text in (f"{share:.1%}", f"{size:.1f}")))
    found = shares(files, true)
    shown = [f"{found[name]:.2f}" if name == "width" else f"{found[name]:.1%}" for name in COLUMNS if name in found]
    return (*head, *shown, *[""] * (len(COLUMNS) - len(shown)))


def heads(*, selecting: bool) -> tuple[str, ...]:
    """The head of the table."""
    return ("traffic", "load", "requests", *(("mean: held", "of", "p99: held", "of") if selecting else COLUMNS))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, help="files of each kind [default: 120 to 300]")
    parser.add_argument("--resamples", type=int, default=19)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--only", default="", help="processes whose names begin so")
    parser.add_argument("--settings", type=int, default=0, help="compare so many instead")
    options = parser.parse_args()
    selecting = bool(options.settings)
    chosen = servers(options.settings or 2)
    rows = [heads(selecting=selecting)]
    for process in PROCESSES:
        if not process.name.startswith(options.only):
            continue
        true = None
        for count, files in SIZES.items():
            if true is None or process.course:
                true = truth(process, count, chosen)
            found = looked_at(process, count, options.files or files, chosen, options.resamples, options.seed)
            rows.append(row((process.name, f"{process.load:g}", str(count)), found, true, selecting=selecting))
    print(table(rows))


if __name__ == "__main__":
    main()
