"""Combines the figures of replications into those of their configurations, and compares the configurations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bufferlab.experiments.runs.capacity import combined
from bufferlab.experiments.runs.estimates import FIGURES, RANKED_FIGURES, caution_of, deadlock_rate
from bufferlab.experiments.runs.failures import counted
from bufferlab.experiments.stats.intervals import Estimate, within
from bufferlab.experiments.stats.paired import Difference, paired_each
from bufferlab.experiments.stats.replicates import Replicates
from bufferlab.experiments.stats.selection import possibly_lowest
from bufferlab.experiments.sweeps.configuration import TIMES, is_estimate
from bufferlab.experiments.sweeps.grid import Configuration
from bufferlab.experiments.sweeps.journal import Result
from bufferlab.experiments.sweeps.plan import Plan
from bufferlab.experiments.sweeps.tables import Figures

OF_SERVED = (*TIMES, "ttft_s")
Parts = Mapping[str, float | None]
"""On how many independent spells of traffic figures rest, by their names."""
_FIGURES = {figure.name: figure for figure in FIGURES}


class Comparison:
    """What sweep.json says of a sweep, from the results of one configuration after the other."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._entries: list[dict[str, Any]] = []
        self._parts: dict[int, Parts] = {}
        self._runs: dict[int, slice] = {}

    def add(self, configuration: Configuration, results: Sequence[Result]) -> None:
        """The results of the next configuration, in the order of the plan."""
        plan, parts = self._plan, results[0].get("parts") or {}
        first = plan.replications * len(self._entries)
        self._parts[configuration.number] = parts
        self._runs[configuration.number] = slice(first, first + plan.replications)
        entry: dict[str, Any] = {
            "configuration": configuration.number,
            "digest": configuration.digest,
            "settings": configuration.settings,
        }
        replicates = plan.replicates[configuration.workload]
        entry["replication_kind"] = replicates.kind if plan.replications > 1 else None
        entry["replicates"] = None
        if replicates.resampled and plan.replications > 1:
            rests_on = {path: parts.get(path) for path in RANKED_FIGURES}
            entry["replicates"] = replicates.content() | {"caution": caution_of(rests_on), "spells": rests_on}
        entry |= _combined([one["summary"] for one in results], replicates, parts)
        entry["wall_s"] = sum(one["wall_s"] for one in results)
        self._entries.append(entry)

    def report(self, figures: Figures) -> dict[str, Any]:
        """Every configuration, its differences, and which may be the best, from the figures of all runs."""
        delivered = {number: _delivered(figures, runs) for number, runs in self._runs.items()}
        for configuration, entry in zip(self._plan.configurations, self._entries, strict=True):
            baseline = self._plan.baselines.get(configuration.number)
            entry["baseline"] = baseline
            if baseline is not None:
                sides = (baseline, configuration.number)
                entry["differences"] = dict(
                    _differences(
                        figures,
                        [self._runs[number] for number in sides],
                        [all(pair) for pair in zip(*(delivered[number] for number in sides), strict=True)],
                        self._plan.replicates[configuration.workload],
                        _fewest([self._parts[number] for number in reversed(sides)]),
                    )
                )
        whole = {number: all(each) for number, each in delivered.items()}
        return {
            "wall_s": sum(entry["wall_s"] for entry in self._entries),
            "configurations": self._entries,
            "lowest": list(_lowest(self._plan, figures, self._runs, whole)),
        }


def _fewest(sides: Sequence[Parts]) -> Parts:
    """On how many independent spells the figures of several configurations rest at least."""
    names = dict.fromkeys(name for side in sides for name in side)
    known = {name: [part for side in sides if (part := side.get(name)) is not None] for name in names}
    return {name: min(found) if found else None for name, found in known.items()}


def _combined(summaries: Sequence[Any], replicates: Replicates, parts: Parts, path: str = "") -> Any:
    """The figures of a configuration from those of its replications, as ``summary.summarise`` puts them together."""
    first = summaries[0]
    if path == "failures":
        return counted(sum(map(Counter, summaries), Counter()))
    if path == "capacity":
        return combined(summaries[:1] if replicates.resampled else summaries)
    if isinstance(first, dict):
        if is_estimate(first):
            # A single replication keeps the interval that its batches gave it.
            if len(summaries) == 1:
                return first
            return _across(path, [one["value"] for one in summaries], replicates, parts.get(path))
        return {
            name: _combined([one[name] for one in summaries], replicates, parts, f"{path}.{name}".lstrip("."))
            for name in first
        }
    if isinstance(first, bool):
        return any(summaries)
    if isinstance(first, int):
        return sum(summaries)
    if isinstance(first, float):
        return replicates.value(summaries)
    return first


def _across(path: str, values: Sequence[float | None], replicates: Replicates, parts: float | None) -> Estimate:
    if path == "deadlock_rate":
        return deadlock_rate(sum(value == 1 for value in values), len(values), replicates)
    figure = _FIGURES.get(path)
    if figure is not None:
        return figure.across(values, replicates, parts)
    return within(replicates.estimate(values), 0.0)


def _differences(
    figures: Figures, sides: Sequence[slice], whole: Sequence[bool], replicates: Replicates, parts: Parts
) -> Iterator[tuple[str, Difference]]:
    """Path and paired difference, the second side less the first, of every figure that has an interval.

    Times are compared only in replications that are ``whole``, in which both delivered every request: a setting that
    fails the long ones would look fast otherwise.
    """
    everywhere, values = [True] * len(whole), []
    for figure in FIGURES:
        used = whole if figure.path[0] in OF_SERVED else everywhere
        first, second = (
            [value if use else None for value, use in zip(figures.of(figure.name, runs), used, strict=True)]
            for runs in sides
        )
        values.append((first, second))
    names = [figure.name for figure in FIGURES]
    found = paired_each(values, replicates, [parts.get(name) for name in names], [one.positive for one in FIGURES])
    for figure, one in zip(FIGURES, found, strict=True):
        yield figure.name, figure.of_difference(one, replicates)


def _delivered(figures: Figures, runs: slice) -> list[bool]:
    """Whether every request was delivered, in each of these runs."""
    sides = (figures.of(name, runs) for name in ("requests.succeeded", "requests.offered"))
    return [succeeded == offered for succeeded, offered in zip(*sides, strict=True)]


def _lowest(
    plan: Plan, figures: Figures, runs: Mapping[int, slice], whole: Mapping[int, bool]
) -> Iterator[dict[str, Any]]:
    """For the configurations of every workload, which has the lowest latency and which others may have it in truth.

    Configurations that did not deliver every request are left out: the slowest requests are missing from their
    latencies.
    """
    groups: dict[str, list[int]] = {}
    for configuration in plan.configurations:
        own = [configuration.number] if whole[configuration.number] else []
        groups.setdefault(configuration.workload, []).extend(own)
    for workload, group in groups.items():
        replicates = plan.replicates[workload]
        for path in RANKED_FIGURES if len(group) > 1 else ():
            samples = [[float(value or 0.0) for value in figures.of(path, runs[number])] for number in group]
            means = [replicates.value(one) or 0.0 for one in samples]
            yield {
                "figure": path,
                "of": group,
                "configuration": group[means.index(min(means))],
                "possibly": [group[index] for index in possibly_lowest(samples, replicates)],
            }
