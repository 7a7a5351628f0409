"""Runs one replication of one configuration of a sweep, and names its figures by their paths in summary.json."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from bufferlab.experiments.config.schema import Config
from bufferlab.experiments.errors import RunFailedError
from bufferlab.experiments.runs.estimates import FIGURES
from bufferlab.experiments.runs.replication import Replication
from bufferlab.experiments.runs.simulate import simulate_one
from bufferlab.experiments.runs.summary import summarise
from bufferlab.experiments.stats.intervals import Estimate, Samples
from bufferlab.experiments.stats.quantiles import at_levels
from bufferlab.experiments.sweeps.journal import Result, line_of
from bufferlab.experiments.workloads.sharing import SharedRequests
from bufferlab.protocol.naming import flat

NOT_FIGURES = frozenset(
    {
        "schema",
        "kind",
        "transport",
        "faults",
        "ended_early",
        "events_kept",
        "wall_s",
        "requests_per_wall_s",
        "workload",
        "replication_kind",
        "replicates",
    }
)
NOT_COLUMNS = frozenset({"failures", "slo.limits", "capacity"})
"""Parts of a summary that are no figures; some have other fields in every run."""
TIMES = ("latency_s", "transfer_s")
SHARED = SharedRequests()
"""What this process has drawn of a sweep."""


def run_configuration(config: Config, replication: int) -> Result:
    """Simulate one replication: its summary, its quantiles at ``LEVELS``, the invariants it violated, its seconds."""
    started_s = time.perf_counter()
    one, violations = simulate_one(config, replication, requests=SHARED.of(config, replication))
    return {
        "summary": _summary(one),
        "parts": _parts(one) if replication == 0 and config.workload.file is not None else None,
        "latency_s": _quantiles(one.latencies_s()),
        "transfer_s": _quantiles(one.transfers_s()),
        "violations": violations,
        "wall_s": time.perf_counter() - started_s,
    }


def figures(replication: Replication) -> dict[str, float | None]:
    """Every figure of one replication under its path in summary.json, such as ``latency_s.p99``."""
    return flat_figures(_summary(replication))


def flat_figures(summary: Mapping[str, Any]) -> dict[str, float | None]:
    """Figures by their path; of an estimate its value."""
    values = {path: value["value"] if isinstance(value, dict) else value for path, value in flat(summary, is_estimate)}
    return {
        path: value
        for path, value in values.items()
        if (value is None or isinstance(value, bool | int | float)) and _is_column(path)
    }


def _is_column(path: str) -> bool:
    return not any(path.startswith(f"{part}.") for part in NOT_COLUMNS)


def is_estimate(table: Mapping[str, Any]) -> bool:
    """Whether a table of a summary is a value with its interval."""
    return table.keys() == Estimate.__annotations__.keys()


class Finished(NamedTuple):
    """A finished run, as it comes back from where it took place: made ready there for the journal."""

    line: bytes
    violations: list[str]


def run_task(config: Config, replication: int, title: str, fingerprint: str) -> Finished:
    """The same as a task of an executor, whose errors say which run it was."""
    try:
        result = run_configuration(config, replication)
        return Finished(line_of(fingerprint, replication, result), result["violations"])
    except Exception as error:
        # Whoever reads it needs to know which run it was; the type tells more than the text alone.
        raise RunFailedError(f"{run_name(title, replication)}: {type(error).__name__}: {error}") from error


def run_name(title: str, replication: int) -> str:
    """How a sentence names a run of a configuration."""
    return f"{title}, replication {replication}"


def _summary(replication: Replication) -> dict[str, Any]:
    whole = summarise([replication], kind="sim", transport="", wall_s=0.0)
    return {name: value for name, value in whole.items() if name not in NOT_FIGURES}


def _parts(replication: Replication) -> dict[str, float | None]:
    """On how many independent spells of traffic every figure of a file rests."""
    return {figure.name: figure.parts(replication) for figure in FIGURES}


def _quantiles(samples: Samples) -> list[float] | None:
    return at_levels(samples).tolist() if len(samples) else None
