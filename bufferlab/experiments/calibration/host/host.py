"""What the software costs the processors, from the CPU usage that the processes of measured runs recorded (``usage``).

Every run says how long its threads were on a processor and what they did meanwhile. From the runs whose groups have one
rank:

* ``message_s``: ZeroMQ's threads of all processes, over the messages that went through them;
* ``command_s``: the router's thread, over the commands that it gave and took;
* ``input_s``, and the same for an iteration (``iteration_s``): the ranks' threads without their copies and their test
  content, over what they took and the iterations they held;
* ``fill_bandwidth_Bps``: bytes of test content, over the time that making it took;
* ``write_processors``: the threads of writers and engines on both sides, over the time that the profile gives the
  writes. Measured it would be longer where they were in each other's way.

Ranks of a larger group hold iterations that do nothing, so what an input costs cannot be told there. They tell
all-reduces:

* ``collective_quantiles_s``: how long these took, at every probability on the rank where that was least: what they
  take longer on the others is the wait for the last rank to come, or for a processor;
* ``collective_processors``: gloo's threads, and what the ranks' threads did beyond copies, test content and inputs,
  over the time of their all-reduces. The few iterations that did something are in it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bufferlab.experiments.runs.rundir import StoredRun
from bufferlab.experiments.stats.intervals import Estimate, across_replications, unbounded, within
from bufferlab.protocol.topology import Side
from bufferlab.sim.host.costs import FIELDS, FROM_EVENTS, HostCosts
from bufferlab.sim.network.link import LinkProfile

ROUTER = "router"

COLLECTIVE_MEDIAN = "collective_median_s"
"""Of the estimates: the middle one of ``collective_quantiles_s``, which stands for all of them."""

Usage = Mapping[str, Mapping[str, Any]]
"""By process, "router" or the name of a rank, the fields of ``real.run.usage.Usage``."""

Steps = np.ndarray[Any, np.dtype[np.float64]]
"""Quantiles at equal steps of probability from 0 to 1."""


class CpuUsage(NamedTuple):
    """The CPU usage of one replication of a run, all of it on one host.

    ``largest_group``: ranks of the larger of its two sides' groups. ``processors``: that it could use; None where that
    is not known. ``prefills``: whether language ranks hear of the ends of prefill passes.
    """

    usage: Usage
    largest_group: int
    processors: int | None
    prefills: bool = False

    @property
    def router(self) -> Mapping[str, Any]:
        """That of the router."""
        return self.usage[ROUTER]

    @property
    def ranks(self) -> list[Mapping[str, Any]]:
        """Those of the ranks."""
        return [one for name, one in self.usage.items() if name != ROUTER]

    def total(self, *fields: str) -> float:
        """The sum of fields over all ranks."""
        return float(sum(one[field] for one in self.ranks for field in fields))


class Found(NamedTuple):
    """``costs``: what a profile has. ``estimates``: what was measured of it, by field, and ``COLLECTIVE_MEDIAN``.
    ``untold``: the fields that no run told."""

    costs: HostCosts
    estimates: dict[str, Estimate]
    untold: list[str]


def why_unfit(run: StoredRun) -> str | None:
    """What keeps the CPU usage of a run from telling anything, as a clause about it; None where they do."""
    config = run.config
    if not any(ROUTER in usage for usage in run.usage):
        return "whose processes kept no CPU usage of their processor time; it must be a measured run that has one"
    if config.incidents or config.faults or config.random_faults.happens:
        return "which has faults or incidents; only undisturbed runs can be used"
    if "hosts" in json.loads((run.path / "environment.json").read_text(encoding="utf-8")):
        return "whose ranks were on several hosts; it must be a run on one"
    return None


def cpu_usages_of(run: StoredRun) -> list[CpuUsage]:
    """Those of every replication of a run; none of a run that is unfit."""
    if why_unfit(run) is not None:
        return []
    config = run.config
    largest = max(config.encode.tp, config.language.tp)
    prefills = config.language.release == "prefill"
    return [CpuUsage(usage, largest, run.processors, prefills) for usage in run.usage if ROUTER in usage]


def tells_inputs(usage: CpuUsage) -> bool:
    """Whether it tells what an input costs, without which there are no costs at all."""
    return usage.largest_group == 1 and _works(usage) > 0


def host_costs(usages: Sequence[CpuUsage], link: LinkProfile, base: HostCosts | None = None) -> Found | None:
    """The costs, each with its interval over the runs; None where no run tells what an input costs.

    ``link``: the profile of the same host that has the latencies. ``base``: has what no run tells. The value of a cost
    is a ratio of sums over all runs, and at least 0; its interval is that of the runs' own ratios, from two runs on.
    ``processors`` are the most that any run could use.
    """
    lone = [one for one in usages if tells_inputs(one)]
    groups = [one for one in usages if one.largest_group > 1]
    input_s = _ratio(lone, _thread_s, _works)
    if input_s is None:
        return None
    step_s = input_s["value"] or 0.0
    message_s = _ratio(lone, _control_s, _messages) or unbounded(None)
    # Of a write's duration the profile counts the part in which the rank's thread takes its end.
    taken_s = HostCosts(input_s=step_s, message_s=message_s["value"] or 0.0).before_s(link.control_latency_s)
    quantiles = _collective_quantiles_s(groups)
    known = [float(one.processors) for one in usages if one.processors is not None]
    estimates = {
        "processors": unbounded(max(known, default=None)),
        "input_s": input_s,
        "iteration_s": input_s,
        "message_s": message_s,
        "command_s": _ratio(lone, lambda one: one.router["main_cpu_s"], _commands),
        "fill_bandwidth_Bps": _ratio(lone, lambda one: one.total("fill_bytes"), lambda one: one.total("fill_cpu_s")),
        "write_processors": _ratio(lone, _write_cpu_s, lambda one: _writes_s(one, link, taken_s)),
        "collective_processors": _ratio(groups, lambda one: _collective_cpu_s(one, step_s), _collective_s),
        COLLECTIVE_MEDIAN: _over_runs([float(np.median(one)) for one in quantiles]),
    }
    told = {name: one for name, one in estimates.items() if one is not None and one["value"] is not None}
    for name in ("fill_bandwidth_Bps", "collective_processors"):
        if name in told and not told[name]["value"]:
            del told[name]  # nobody fills at no rate, or all-reduces on no processor
    values: dict[str, Any] = {name: one["value"] for name, one in told.items() if name in FIELDS}
    if quantiles:
        # Interpolated quantiles may fall by a rounding.
        values["collective_quantiles_s"] = tuple(np.maximum.accumulate(np.mean(quantiles, axis=0)).tolist())
    rest = [name for name in FIELDS if name not in values]
    base = base or HostCosts()
    untold = [name for name in rest if name not in FROM_EVENTS]
    return Found(HostCosts(**{name: getattr(base, name) for name in rest}, **values), told, untold)


def _ratio(
    usages: Sequence[CpuUsage], above: Callable[[CpuUsage], float], below: Callable[[CpuUsage], float]
) -> Estimate | None:
    """The ratio of two sums over runs, at least 0; None where the lower one is 0."""
    sums = [(above(one), under) for one in usages if (under := below(one)) > 0]
    if not sums:
        return None
    value = sum(over for over, _ in sums) / sum(under for _, under in sums)
    return _over_runs([over / under for over, under in sums], value)


def _over_runs(values: Sequence[float], value: float | None = None) -> Estimate | None:
    """The mean, or ``value`` in its place, with the interval over runs, which holds it; nothing is below 0."""
    if not values:
        return None
    spread = across_replications(values)
    found = spread["value"] if value is None else value
    found = max(0.0, found or 0.0)
    low, high = spread["low"], spread["high"]
    hull: Estimate = {
        "value": found,
        "low": None if low is None else min(low, found),
        "high": None if high is None else max(high, found),
    }
    return within(hull, 0.0)


# --- what the threads of a run spent, seconds, and on how much ---


def _thread_s(one: CpuUsage) -> float:
    return one.total("main_cpu_s") - one.total("copy_cpu_s", "fill_cpu_s")


def _works(one: CpuUsage) -> float:
    return one.total("inputs", "iterations")


def _control_s(one: CpuUsage) -> float:
    return float(sum(each["control_cpu_s"] for each in one.usage.values()))


def _messages(one: CpuUsage) -> float:
    """All that went through sockets: what processes took, without the ends of a rank's own writes and passes."""
    taken = one.total("inputs") - one.total("writes", "fills") + float(one.router["inputs"])
    if one.prefills:  # every request that a language rank took ends with one
        taken -= sum(each["submissions"] for name, each in one.usage.items() if name.startswith(Side.LANGUAGE.value))
    return taken


def _commands(one: CpuUsage) -> float:
    return one.total("submissions") + float(one.router["inputs"])


def _write_cpu_s(one: CpuUsage) -> float:
    return one.total("writer_cpu_s", "engine_cpu_s")


def _writes_s(one: CpuUsage, link: LinkProfile, taken_s: float) -> float:
    """How long the writes take by the profile, each as one of its rank's mean size and number of segments."""
    return float(
        sum(
            number * max(0.0, link.write_s(each["write_bytes"] / number, each["segments"] / number) - taken_s)
            for each in one.ranks
            if (number := each["writes"])
        )
    )


# --- all-reduces ---


def _groups(one: CpuUsage) -> list[list[Mapping[str, Any]]]:
    """The ranks of every group with more than one, which are those that held all-reduces."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for name, usage in one.usage.items():
        if name != ROUTER and usage["collectives"]:
            found.setdefault(name.partition(".")[0], []).append(usage)
    return list(found.values())


def _least_s(group: Sequence[Mapping[str, Any]]) -> Steps:
    least: Steps = np.min([usage["collective_quantiles_s"] for usage in group], axis=0)
    return least


def _collective_s(one: CpuUsage) -> float:
    """How long the all-reduces of all ranks took together, linear between quantiles as ``HostCosts`` has them."""
    found = 0.0
    for group in _groups(one):
        steps = _least_s(group)
        found += float(np.mean((steps[1:] + steps[:-1]) / 2)) * sum(usage["collectives"] for usage in group)
    return found


def _collective_cpu_s(one: CpuUsage, step_s: float) -> float:
    members = [usage for group in _groups(one) for usage in group]
    spent_s = sum(usage["collective_cpu_s"] + usage["main_cpu_s"] for usage in members)
    known_s = sum(usage["copy_cpu_s"] + usage["fill_cpu_s"] + step_s * usage["inputs"] for usage in members)
    return float(spent_s - known_s)


def _collective_quantiles_s(usages: Sequence[CpuUsage]) -> list[Steps]:
    """Those of every run, over its groups."""
    return [np.mean([_least_s(group) for group in groups], axis=0) for one in usages if (groups := _groups(one))]
