"""How soon each sizing policy recovers when the lengths of requests change."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bufferlab.experiments.config.schema import Config
from bufferlab.experiments.errors import RunFailedError
from bufferlab.experiments.figures.style import COLOURS, new_figure, plain_log_axis
from bufferlab.experiments.progress import bar
from bufferlab.experiments.runs.replication import Replication
from bufferlab.experiments.runs.rundir import RunWriter, StoredRun
from bufferlab.experiments.runs.simulate import simulate_one
from bufferlab.experiments.runs.summary import summarise
from bufferlab.experiments.stats.intervals import Estimate, across_replications
from bufferlab.experiments.sweeps.executor import open_workers
from bufferlab.experiments.sweeps.grid import as_override, read_configurations
from bufferlab.experiments.sweeps.sweep import workers_for
from bufferlab.experiments.workloads.loading import load
from bufferlab.experiments.workloads.requests import make_requests
from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.values import replaced
from tools.studies.common import SETTINGS, Outcome, Scale, Study, flat, interval, shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REGIMES = {
    "chat to documents": (("single-image-chat", 13.0), ("multi-image-documents", 1.5)),
    "documents to chat": (("multi-image-documents", 1.5), ("single-image-chat", 13.0)),
}
"""Preset and rate before and after the change: prefill is busy for about half of the time in both."""
STEP = 25
"""Requests that are looked at together."""
NOT_LEARNING = ("fixed", "oracle")
SHARE = 0.9
"""Of the requests that should fit at once: what the policies that learn a quantile aim at unless told otherwise."""
Losses = NDArray[np.float64]
"""Of every replication (rows) and request in order of arrival (columns), in tokens."""


def run(folder: Path, runs: Path, scale: Scale) -> Outcome:  # noqa: ARG001 - as every study; these runs are not kept
    """Every policy through both changes."""
    policies, _ = read_configurations(folder / SETTINGS)
    cases = [(change, _name(policy), policy) for change in REGIMES for policy in policies]
    source = str(folder / "study.toml")
    tasks = [
        (source, change, [*scale.settings(), *(as_override(*one) for one in policy.items())])
        for change, _, policy in cases
    ]
    config = _config(source, scale.settings(), *REGIMES[cases[0][0]][0])
    found: dict[tuple[str, str], Losses] = {}
    jobs = scale.jobs or workers_for(2 * (config.workload.requests or 0) * config.run.replications * len(tasks))
    with bar("regimes", len(tasks), "runs") as counted, open_workers(jobs=min(jobs, len(tasks))) as workers:
        for index, losses in workers.run(_losses, tasks):
            change, name, _ = cases[index]
            found[change, name] = losses
            counted.add(1)
    names = [_name(policy) for policy in policies]
    half = next(iter(found.values())).shape[1] // 2
    rows = [
        _row(change, name, found[change, name], found[other, name][:, half // 2 : half])
        for change, other in zip(REGIMES, reversed(REGIMES), strict=True)
        for name in names
    ]
    return Outcome(
        rows,
        {
            "change": lambda row: str(row["change"]),
            "policy": lambda row: str(row["policy"]),
            "loss before, tokens": lambda row: shown(row, "before"),
            "loss once it has learnt, tokens": lambda row: shown(row, "settled"),
            "first 25 after, tokens": lambda row: shown(row, "first"),
            "back to that, requests": lambda row: _until(row),
            "lost by the change, thousand tokens": lambda row: shown(row, "extra", 1e-3),
        },
        _figure(found, names, half),
        _answer(rows),
    )


def _name(policy: dict[str, Any]) -> str:
    kind = str(policy["protocol.sizing.policy"])
    options = [
        f"{field.rpartition('.')[2]} {value:,}" if isinstance(value, int) else f"{field.rpartition('.')[2]} {value}"
        for field, value in policy.items()
        if field != "protocol.sizing.policy"
    ]
    return ", ".join([kind, *options])


def _config(source: str, settings: list[str], preset: str, rate_rps: float) -> Config:
    return load(source, [*settings, f"workload.preset={preset}", f"workload.rate_rps={rate_rps}"])


def _losses(source: str, change: str, settings: list[str]) -> Losses:
    """Simulate a policy through a change, in all replications."""
    before, after = (_config(source, settings, *regime) for regime in REGIMES[change])
    with tempfile.TemporaryDirectory() as folder:
        with RunWriter(Path(folder) / "run", after, events=False) as writer:
            ended = [_simulated(before, after, number, writer) for number in range(after.run.replications)]
            writer.finish(summarise(ended, kind="sim", transport=after.link.profile, wall_s=0.0), {})
            writer.publish()
        table = StoredRun(writer.target).requests()
    ordered = table.sort_values(["replication", "room"])
    missing = (ordered["total_tokens"] - ordered["first_allocation_tokens"]).to_numpy().astype(np.float64)
    return pinball(missing).reshape(after.run.replications, -1)


def pinball(missing: Losses) -> Losses:
    """The pinball loss (Koenker and Bassett, Regression quantiles, Econometrica 1978) of first allocations that lacked
    ``missing`` tokens, or had as many too many where that is negative: the loss that their ``SHARE`` quantile has least
    of."""
    return np.asarray(np.where(missing > 0, SHARE * missing, (SHARE - 1) * missing))


def _simulated(before: Config, after: Config, replication: int, writer: RunWriter) -> Replication:
    one, violations = simulate_one(after, replication, writer, requests=_both(before, after, replication))
    if violations:
        raise RunFailedError(violations[0])
    return one


def _both(before: Config, after: Config, replication: int) -> Iterator[Request]:
    """The requests of the one configuration, then those of the other, numbered and timed one after the other."""
    last = Request(0, 0.0, 1)
    for one in make_requests(before, replication):
        last = one
        yield one
    for one in make_requests(after, replication):
        yield replaced(one, room=last.room + one.room, arrival_s=last.arrival_s + one.arrival_s)


def _row(change: str, name: str, losses: Losses, settled: Losses) -> dict[str, Any]:
    """Losses before, right after and long after the change, and how soon they are what they were among the same
    requests in ``settled``, a run that knew nothing else: what a policy costs once it has learnt is not the change's
    fault."""
    half = losses.shape[1] // 2
    after, steady = losses[:, half:], settled.mean(axis=1)
    steps = _steps(after)
    above = [across_replications((step - steady).tolist()) for step in steps.T]
    extra = (after - steady[:, None]).sum(axis=1)
    recovered = next((place for place in range(len(above)) if _fits(above[place : place + 2])), None)
    return {
        "change": change,
        "policy": name,
        **flat("before", across_replications(losses[:, half // 2 : half].mean(axis=1).tolist())),
        **flat("settled", across_replications(steady.tolist())),
        **flat("first", across_replications(steps[:, 0].tolist())),
        "recovered_requests": None if recovered is None else recovered * STEP,
        **flat("extra", across_replications(extra.tolist())),
    }


def _fits(above: list[Estimate]) -> bool:
    """Whether successive steps can no longer be told to be above what is usual."""
    return all((one["low"] or 0.0) <= 0 for one in above)


def _steps(after: Losses) -> Losses:
    """Means of ``STEP`` requests each, of every replication."""
    count = after.shape[1] // STEP
    return np.asarray(after[:, : count * STEP].reshape(len(after), count, STEP).mean(axis=2))


def _until(row: dict[str, Any]) -> str:
    recovered = row["recovered_requests"]
    if recovered is None:
        return "not within the run"
    return "at once" if recovered == 0 else f"after {recovered} to {recovered + STEP}"


def _answer(rows: list[dict[str, Any]]) -> str:
    parts = []
    for change in REGIMES:
        learning = [row for row in rows if row["change"] == change and not row["policy"].startswith(NOT_LEARNING)]
        soon, late = (pick(learning, key=lambda row: row["extra"] or 0.0) for pick in (min, max))
        parts.append(
            f"After the change from {change}, of those that learn {soon['policy']} loses least by "
            f"the change ({_extra(soon)} tokens; back to its usual {_until(soon)} requests) and {late['policy']} most "
            f"({_extra(late)}; {_until(late)})."
        )
    return " ".join(parts)


def _extra(row: dict[str, Any]) -> str:
    return interval({"value": row["extra"], "low": row["extra_low"], "high": row["extra_high"]}, 1e-3, "thousand")


def _figure(found: dict[tuple[str, str], Losses], names: list[str], half: int) -> Figure:
    figure, panels = new_figure(1, 2, (11.0, 4.4))
    for axes, change in zip(panels, REGIMES, strict=True):
        for number, name in enumerate(names):
            losses = found[change, name]
            around = losses[:, half - half // 4 :]
            means = _steps(around).mean(axis=0)
            if means.max() < 1:
                continue  # the oracle, which nothing can be seen of on a logarithmic axis
            places = (np.arange(len(means)) + 0.5) * STEP - half // 4
            line = "-" if number < len(COLOURS) else "--"
            axes.plot(places, means, line, color=COLOURS[number % len(COLOURS)], label=name)
        axes.axvline(0, color="#888888", linewidth=1.0)
        axes.set_title(change)
        axes.set_xlabel("requests since the change")
        axes.set_yscale("log")
        plain_log_axis(axes.yaxis)
    panels[0].set_ylabel("pinball loss (tokens)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


STUDY = Study("regime-change", "How soon each policy recovers from a change of regime", run)
