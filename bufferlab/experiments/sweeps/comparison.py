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
from bufferlab.experiments.sweeps.configuration import TIMES, flat_figures, is_estimate
from bufferlab.experiments.sweeps.folder import (
    Result,
)
from bufferlab.experiments.sweeps.grid import (
    Configuration,
)
from bufferlab.experiments.sweeps.plan import Plan

OF_SERVED = (*TIMES, "ttft_s")
Parts = Mapping[str, float | None]
"""On how many independent spells of traffic figures rest, by their names."""
_FIGURES = {figure.name: figure for figure in FIGURES}


def figures_of(plan: Plan, results: list[Result]) -> dict[str, Any]:
    """What sweep.json says of the results: every configuration, its differences, and which may be the best."""
    parts = {
        configuration.number: results[first : first + plan.replications]
        for configuration, first in zip(plan.configurations, range(0, len(results), plan.replications), strict=True)
    }
    summaries = {number: [one["summary"] for one in part] for number, part in parts.items()}
    parts_of: dict[int, Parts] = {number: part[0].get("parts") or {} for number, part in parts.items()}
    configurations = []
    for configuration in plan.configurations:
        entry: dict[str, Any] = {
            "configuration": configuration.number,
            "digest": configuration.digest,
            "settings": configuration.settings,
        }
        replicates = plan.replicates[configuration.workload]
        entry["replication_kind"] = replicates.kind if plan.replications > 1 else None
        entry["replicates"] = None
        if replicates.resampled and plan.replications > 1:
            rests_on = {path: parts_of[configuration.number].get(path) for path in RANKED_FIGURES}
            entry["replicates"] = replicates.content() | {"caution": caution_of(rests_on), "spells": rests_on}
        entry |= _combined(summaries[configuration.number], replicates, parts_of[configuration.number])
        entry["wall_s"] = sum(one["wall_s"] for one in parts[configuration.number])
        baseline = plan.baselines.get(configuration.number)
        entry["baseline"] = baseline
        if baseline is not None:
            sides = [parts_of[number] for number in (configuration.number, baseline)]
            entry["differences"] = dict(
                _differences(summaries[configuration.number], summaries[baseline], replicates, _fewest(sides))
            )
        configurations.append(entry)
    return {
        "wall_s": sum(entry["wall_s"] for entry in configurations),
        "configurations": configurations,
        "lowest": list(_lowest(plan, summaries)),
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
    summaries: Sequence[Any], baseline: Sequence[Any], replicates: Replicates, parts: Parts
) -> Iterator[tuple[str, Difference]]:
    """Path and paired difference, configuration less baseline, of every figure that has an interval.

    Times are compared only in replications in which both delivered every request: a setting that fails the long ones
    would look fast otherwise.
    """
    pairs = [(flat_figures(one), flat_figures(other)) for one, other in zip(baseline, summaries, strict=True)]
    whole = [all(_all_delivered(one) for one in pair) for pair in pairs]
    values = []
    for figure in FIGURES:
        used = whole if figure.path[0] in OF_SERVED else [True] * len(pairs)
        sides = [
            [one[figure.name] if use else None for one, use in zip(side, used, strict=True)]
            for side in zip(*pairs, strict=True)
        ]
        values.append((sides[0], sides[1]))
    names = [figure.name for figure in FIGURES]
    found = paired_each(values, replicates, [parts.get(name) for name in names], [one.positive for one in FIGURES])
    for figure, one in zip(FIGURES, found, strict=True):
        yield figure.name, figure.of_difference(one, replicates)


def _all_delivered(figures: Mapping[str, float | None]) -> bool:
    return figures["requests.succeeded"] == figures["requests.offered"]


def _lowest(plan: Plan, summaries: Mapping[int, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """For the configurations of every workload, which has the lowest latency and which others may have it in truth.

    Configurations that did not deliver every request are left out: the slowest requests are missing from their
    latencies.
    """
    groups: dict[str, list[Configuration]] = {}
    for configuration in plan.configurations:
        whole = all(_all_delivered(flat_figures(one)) for one in summaries[configuration.number])
        groups.setdefault(configuration.workload, []).extend([configuration] if whole else [])
    for workload, group in groups.items():
        replicates = plan.replicates[workload]
        for path in RANKED_FIGURES if len(group) > 1 else ():
            samples = [
                [float(flat_figures(one)[path] or 0.0) for one in summaries[configuration.number]]
                for configuration in group
            ]
            means = [replicates.value(one) or 0.0 for one in samples]
            yield {
                "figure": path,
                "of": [configuration.number for configuration in group],
                "configuration": group[means.index(min(means))].number,
                "possibly": [group[index].number for index in possibly_lowest(samples, replicates)],
            }
