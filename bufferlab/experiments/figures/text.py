"""The summary of a run as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bufferlab.experiments.stats.intervals import Estimate, lopsided_mean
from bufferlab.experiments.text import table
from bufferlab.experiments.units import format_duration, format_number

TOLD_DEADLOCKS = 5
"""The rest stands in summary.json."""
TOLD_FAILURES = 5


def summary_text(summary: Mapping[str, Any]) -> str:
    """The figures of one run, each with its 95 % interval where there is one."""
    requests = summary["requests"]
    kind = "simulated" if summary["kind"] == "sim" else "measured"
    lines = [
        f"{requests['offered']} requests {kind} over {summary['transport']}: {requests['succeeded']} succeeded, "
        f"{requests['failed']} failed, {requests['unfinished']} unfinished"
        + (", DEADLOCK" if summary["deadlock"] else ""),
        *_resampled(summary),
        *_deadlocks(summary),
        *_failures(summary),
        "",
    ]
    lines.append(table([("", "value", "95 % interval"), *summary_rows(summary)]))
    lines += [line for told in _of_values(summary) for line in ("", told)]
    if _comes_in_spells(summary):
        lines.append("")
        lines.append(
            "no interval of the throughput and of shares of time: requests come in too few spells, or too long ones "
            "(docs/statistics.md)"
        )
    lines.append("")
    lines.extend(f"FAULT: {fault}" for fault in summary.get("faults", ()))
    if summary.get("ended_early"):
        lines.append(f"ENDED EARLY: {summary['ended_early']}")
    lines.append(summary["capacity"]["sentence"])
    if summary["invariant_violations"]:
        lines.append(f"INVARIANTS VIOLATED: {summary['invariant_violations']}, so this run cannot be trusted")
    if not summary.get("events_kept", True):
        lines.append(
            "events were not kept: no figure of the pools, and nothing to compare, pair, validate or calibrate"
        )
    lines.append(f"took {summary['wall_s']:.2f} s ({format_number(summary['requests_per_wall_s'])} requests a second)")
    return "\n".join(lines)


def summary_rows(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The figures of one run: what each is called, its value, and its 95 % interval where there is one."""
    rows: list[tuple[str, str, str]] = []
    times = [("latency_s", "latency"), ("ttft_s", "first token"), ("transfer_s", "transfer")]
    if summary["ttft_s"] == summary["latency_s"]:  # nothing is prefilled
        del times[1]
    for name, label in times:
        for figure, estimate in summary[name].items():
            rows.append((f"{label} {figure}", *_cells(estimate, format_duration)))
    rows.append(("throughput", *_cells(summary["throughput_rps"], lambda value: f"{format_number(value)} req/s")))
    rows += _slo(summary["slo"])
    rows.append(("resumed requests", *_cells(summary["resume"]["rate"], _percent)))
    rows.append(("chunks a request", *_cells(summary["resume"]["mean_chunks"], lambda value: f"{value:.3g}")))
    for stage, share in summary["utilisation"].items():
        if share["value"] is not None and not stage.endswith("_pool"):  # these have their mean use below
            rows.append((f"{stage} busy, whole run", *_cells(share, _percent)))
    for side in ("language", "encode"):
        pool = summary[f"{side}_pool"]
        rows.append((f"{side} pool, mean use", *_cells(pool["mean_occupancy"], _percent)))
        rows.append((f"{side} pool, peak use", *_cells(pool["peak_occupancy"], _percent)))
        rows.append((f"{side} pool, wasted", *_cells(pool["wasted_fraction"], _percent)))
        rows.append((f"{side} pool, wait a request", *_cells(pool["blocked_per_request_s"], format_duration)))
        rows.append((f"{side} pool, waits in all", *_cells(pool["blocked_s"], format_duration)))
    return rows


def _of_values(summary: Mapping[str, Any]) -> list[str]:
    """What the values of several replications are, or why one has few intervals."""
    number = len(summary.get("replications", ()))
    if number > 1 and summary.get("replication_kind") == "independent":
        return [
            f"values are means over {number} replications, so a p50 is the mean of their medians and not the median of "
            "all requests",
            *unsure_mean(summary),
        ]
    p99 = summary["latency_s"]["p99"]
    if number == 1 and p99["value"] is not None and p99["low"] is None:
        few = summary["requests"]["offered"]
        said = f"where there is no interval, one run of {few} request{'' if few == 1 else 's'} does not tell it"
        more = "--replications 10 has them all (a file is resampled for that, if it can be)"
        return [f"{said}: {more}" if summary["kind"] == "sim" else said]
    return []


def unsure_mean(summary: Mapping[str, Any]) -> list[str]:
    """A sentence where the replications differ so much that intervals of their means are not to be trusted."""
    number, kind = len(summary.get("replications", ())), summary.get("replication_kind")
    names = {"latency_s": "latency", "ttft_s": "first token"}
    found = [
        f"{words} {figure}"
        for path, words in names.items()
        for figure in ("mean", "p99")
        if (path == "latency_s" or summary["ttft_s"] != summary["latency_s"])
        and lopsided_mean(summary[path][figure], number)
    ]
    if kind != "independent" or not found:
        return []
    return [
        "the replications differ so much that intervals hold the truth less often than they say, and where they miss "
        f"it, it is above them ({', '.join(found)}): more or longer replications tell more (docs/statistics.md)"
    ]


def _comes_in_spells(summary: Mapping[str, Any]) -> bool:
    """Whether one run is long enough for an interval of the latency, but not for one of what it averages over time."""
    alone = len(summary.get("replications", ())) == 1 and summary.get("events_kept", True)
    return alone and summary["latency_s"]["mean"]["low"] is not None and summary["throughput_rps"]["low"] is None


def _resampled(summary: Mapping[str, Any]) -> list[str]:
    """What the values and the intervals of a resampled file are."""
    if summary.get("replication_kind") != "resampled":
        return []
    count = len(summary["replications"])
    told = f"of a file and {count - 1} resamples of it: values are the file's, intervals from the resamples"
    return [told, *filter(None, [summary["replicates"]["caution"]])]


def _deadlocks(summary: Mapping[str, Any]) -> list[str]:
    """A line for each of the first deadlocks, with its time and the rooms in the cycle."""
    replications = summary.get("replications", ())
    told = [
        f"  replication {number}, {deadlock}" if len(replications) > 1 else f"  {deadlock}"
        for number, one in enumerate(replications)
        for deadlock in one["deadlocks"]
    ]
    left = len(told) - TOLD_DEADLOCKS
    return [*told[:TOLD_DEADLOCKS], *([f"  and {left} more in summary.json"] if left > 0 else [])]


def _failures(summary: Mapping[str, Any]) -> list[str]:
    """A line for each of the most frequent reasons of failures."""
    reasons = list(summary["failures"].items())
    left = len(reasons) - TOLD_FAILURES
    told = [f"  {count} failed: {reason}" for reason, count in reasons[:TOLD_FAILURES]]
    return [*told, *([f"  and {left} more reasons in summary.json"] if left > 0 else [])]


def _slo(slo: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Rows with the share of the requests that kept each limit, and all of them."""
    limits = {name.removesuffix("_s"): limit_s for name, limit_s in slo["limits"].items() if limit_s is not None}
    labels = {"ttft": "first token", "latency": "latency"}
    rows = [
        (f"{labels[name]} within {format_duration(limit_s)}", *_cells(slo[name], _percent))
        for name, limit_s in limits.items()
    ]
    return [*rows, ("within all limits", *_cells(slo["all"], _percent))] if len(rows) > 1 else rows


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"


def _cells(estimate: Estimate, show: Any) -> tuple[str, str]:
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    if value is None:
        return "-", ""
    # An interval by the t distribution may reach below zero, where none of these figures can be.
    return show(value), "" if low is None or high is None else f"{show(max(low, 0.0))} .. {show(high)}"
