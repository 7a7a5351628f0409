"""Turns the plan and the figures of a sweep into text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bufferlab.experiments.stats.intervals import Estimate
from bufferlab.experiments.sweeps.grid import configuration_title, plain, telling_fields
from bufferlab.experiments.sweeps.plan import Plan
from bufferlab.experiments.text import table, with_interval
from bufferlab.experiments.units import format_duration

SHOWN_VALUES = 12
SHOWN_CONFIGURATIONS = 40
SHOWN_WORKLOADS = 6


def plan_text(plan: Plan) -> str:
    """What is about to run: its size, and the values of every swept field."""
    runs = len(plan.configurations) * plan.replications
    lines = [
        f"sweep of {plan.name}: {_count(len(plan.configurations), 'configuration')} × "
        f"{_count(plan.replications, 'replication')} = "
        f"{_count(runs, 'run')}, about {plan.requests} requests"
    ]
    lines += [f"  {line}" for traffic in plan.traffics[:SHOWN_WORKLOADS] for line in traffic.text.splitlines()]
    if len(plan.traffics) > SHOWN_WORKLOADS:
        lines.append(f"  and {len(plan.traffics) - SHOWN_WORKLOADS} more workloads")
    width = max(map(len, plan.fields), default=0)
    for field in plan.fields:
        values = list(
            dict.fromkeys(
                plain(configuration.settings.get(field, configuration.value(field)))
                for configuration in plan.configurations
            )
        )
        more = f" … ({len(values)} values)" if len(values) > SHOWN_VALUES else ""
        lines.append(f"  {field.ljust(width)}  {', '.join(values[:SHOWN_VALUES])}{more}")
    bases = sorted(set(plan.baselines.values()))
    for number in bases[:SHOWN_VALUES]:
        lines.append(f"  baseline: {plan.configurations[number - 1].title()}")
    if len(bases) > SHOWN_VALUES:
        lines.append(f"  and {len(bases) - SHOWN_VALUES} more baselines")
    return "\n".join(lines)


def sweep_text(report: Mapping[str, Any]) -> str:
    """A row for every configuration, with intervals, and which configurations may be the lowest."""
    fields = report["plan"]["fields"]
    short = [field.rpartition(".")[2] for field in fields]
    heads = [name if short.count(name) == 1 else field for name, field in zip(short, fields, strict=True)]
    configurations = report["configurations"]
    prefilled = any(configuration["ttft_s"] != configuration["latency_s"] for configuration in configurations)
    promised = any(configuration["slo"]["all"]["value"] is not None for configuration in configurations)
    more = [*(["ttft p99"] if prefilled else []), *(["in SLO"] if promised else [])]
    rows: list[tuple[str, ...]] = [
        ("configuration", *heads, "mean", "p99", "95 % interval", "to baseline", *more, "resumed", "wasted")
    ]
    remarks = [_remark(configuration) for configuration in configurations[:SHOWN_CONFIGURATIONS]]
    if any(remarks):
        rows = [(*rows[0], "")]
    for configuration, remark in zip(configurations, remarks, strict=False):
        p99: Estimate = configuration["latency_s"]["p99"]
        difference = configuration.get("differences", {}).get("latency_s.p99")
        rows.append(
            (
                str(configuration["configuration"]),
                *(
                    plain(configuration["settings"][field]) if field in configuration["settings"] else ""
                    for field in fields
                ),
                _time(configuration["latency_s"]["mean"]["value"]),
                _time(p99["value"]),
                _interval(p99),
                "" if difference is None else _change(difference),
                *([_time(configuration["ttft_s"]["p99"]["value"])] if prefilled else []),
                *([_share(configuration["slo"]["all"])] if promised else []),
                _percent(configuration["resume"]["rate"]["value"]),
                _percent(configuration["language_pool"]["wasted_fraction"]["value"]),
                *([remark] if any(remarks) else []),
            )
        )
    lines = [table(rows)]
    if len(configurations) > SHOWN_CONFIGURATIONS:
        lines.append(f"and {len(configurations) - SHOWN_CONFIGURATIONS} more configurations")
    lines.append("")
    telling = telling_fields(fields, [one["settings"] for one in configurations])
    titles = {
        one["configuration"]: configuration_title(
            one["configuration"], {name: one["settings"][name] for name in telling if name in one["settings"]}
        )
        for one in configurations
    }
    for found in report["lowest"]:
        others = [str(number) for number in found["possibly"] if number != found["configuration"]]
        rest = f"; it may as well be {', '.join(others)}" if others else ""
        name = found["figure"].removeprefix("latency_s.")
        lines.append(f"lowest {name} latency: {titles[found['configuration']]}{rest}")
    if report["plan"].get("replication_kind") == "resampled":
        lines.append("values are the file's, intervals and choices from its resamples")
    elif report["plan"].get("replication_kind") == "independent":
        lines.append(
            f"values are means over {report['plan']['replications']} replications: a p99 is the mean of theirs, not "
            "that of all requests"
        )
    cautions = [one["caution"] for each in configurations if (one := each.get("replicates")) and one["caution"]]
    lines += list(dict.fromkeys(cautions))[:1]
    violations = sum(configuration["invariant_violations"] for configuration in configurations)
    if violations:
        lines.append(f"INVARIANTS VIOLATED: {violations}, so this sweep cannot be trusted")
    lines.append(f"took {report['wall_s']:.1f} s of one core")
    return "\n".join(lines)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else format_duration(seconds)


def _interval(estimate: Estimate) -> str:
    low, high = estimate["low"], estimate["high"]
    # An interval by the t distribution may reach below zero, where no latency is.
    return "" if low is None or high is None else f"{_time(max(low, 0.0))} .. {_time(high)}"


def _change(estimate: Estimate) -> str:
    return "-" if estimate["value"] is None else with_interval(estimate, _signed, format_duration)


def _signed(seconds: float) -> str:
    return f"{'-' if seconds < 0 else '+'}{format_duration(abs(seconds))}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"


def _share(estimate: Estimate) -> str:
    return "-" if estimate["value"] is None else f"{with_interval(estimate, _points, _points)} %"


def _points(share: float) -> str:
    return f"{100 * share:.1f}"


def _remark(configuration: Mapping[str, Any]) -> str:
    """What is amiss, in a column of its own: the stage that cannot keep up is named."""
    requests, capacity = configuration["requests"], configuration["capacity"]
    said = ["DEADLOCK"] if configuration["deadlock"] else []
    if capacity["verdict"] == "over":
        stage = (capacity["bottleneck"] or "no single stage").replace("_", " ")
        said.append(f"OVER CAPACITY{' in stretches' if capacity.get('stretch') else ''}: {stage}")
    lost = requests["offered"] - requests["succeeded"]
    said += [f"{lost} not delivered"] if lost else []
    return ", ".join(said)
