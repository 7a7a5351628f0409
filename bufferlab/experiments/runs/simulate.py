"""Simulates a configuration into a run directory."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bufferlab.experiments.config.build import fault_plan
from bufferlab.experiments.config.schema import Config
from bufferlab.experiments.errors import RunFailedError
from bufferlab.experiments.files import Claim
from bufferlab.experiments.runs.environment import describe
from bufferlab.experiments.runs.recorder import (
    MONITORED_REPLICATION,
    Draw,
    Notice,
    Progress,
    RunRecorder,
    publish,
    tell,
)
from bufferlab.experiments.runs.replication import Replication
from bufferlab.experiments.runs.rundir import RunWriter
from bufferlab.experiments.runs.summary import each, summarise
from bufferlab.experiments.workloads.requests import check_requests, make_requests, replicates_of
from bufferlab.experiments.workloads.traffic import traffic_of
from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.sizing import SizingError


def simulate_one(
    config: Config,
    replication: int,
    writer: RunWriter | None = None,
    progress: Progress | None = None,
    requests: Iterable[Request] | None = None,
) -> tuple[Replication, list[str]]:
    """Simulate one replication; return it and a sentence for every violation that was found.

    The invariants of the run's end are always looked at, those of every record only in ``MONITORED_REPLICATION``.
    Without a writer nothing is written. ``requests``: those of this replication, if they are drawn already.

    Raises RunFailedError when a sizing policy from outside breaks its contract.
    """
    from bufferlab.sim.faults import PlannedFaults
    from bufferlab.sim.observe import violations_at_the_end
    from bufferlab.sim.run import simulate
    from bufferlab.sim.streams import stream

    recorder = RunRecorder(config, writer, monitored=replication == MONITORED_REPLICATION)
    plan = fault_plan(config, replication)
    faults = None if plan is None else PlannedFaults(plan)
    if writer is not None:
        writer.begin(replication)
    try:
        outcome = simulate(
            config.scenario(),
            make_requests(config, replication) if requests is None else requests,
            config.link.load(),
            recorder=recorder.recorder,
            progress=progress,
            faults=faults,
            concurrency=config.workload.concurrency,
            announce=recorder.announce,
            warmup_requests=config.run.warmup_requests,
            draws=lambda name: stream(config.run.seed, replication, "host", name),
        )
    except SizingError as error:  # a user's own policy
        raise RunFailedError(str(error)) from error
    one = recorder.finish(outcome.end_s, deadlock=outcome.deadlock, deadlocks=outcome.deadlocks)
    one.records += outcome.untold  # events of the protocol, whoever wanted to know
    start_s, end_s = one.window_s
    if outcome.adapters_s is not None and end_s > start_s:
        one.adapters = min(outcome.adapters_s / (end_s - start_s), 1.0)
    forgives = plan is not None and config.scenario().timeout_s is None
    ends = violations_at_the_end(recorder.open_rooms, outcome, forgives=forgives)
    one.violations += len(ends)
    return one, [*ends, *recorder.examples]


def run_sim(
    config: Config,
    target: Path | str | Claim,
    *,
    events: bool = True,
    draw: Draw | None = None,
    begin: Notice | None = None,
    progress: Progress | None = None,
    notice: Notice | None = None,
    code: str = "",
) -> dict[str, Any]:
    """Simulate all replications into ``target`` and return the summary.

    ``events``: whether events.parquet is kept. ``draw`` adds figures to the directory, and
    ``experiments.figures.directory.drawing`` makes one.
    ``begin`` is told what the requests are, once nothing about them can be refused. ``code``: a digest of what
    simulates, for the record.
    """
    check_requests(config, "sim")
    traffic = traffic_of(config)
    if begin is not None:
        begin(traffic.text)
    started_s = time.perf_counter()
    with RunWriter(target, config, events=events) as writer:
        replications = []
        replicates = replicates_of(config)
        for number in range(config.run.replications):
            one, violations = simulate_one(config, number, writer, progress)
            one.replicates = replicates
            replications.append(one)
            tell(notice, violations)
        wall_s = time.perf_counter() - started_s
        summary = summarise(replications, kind="sim", transport=config.link.profile, wall_s=wall_s)
        summary["replications"] = each(replications)
        summary["workload"] = traffic.content()
        summary["events_kept"] = events
        facts: dict[str, Any] = {"workload": traffic.content(), "monitored_replications": [MONITORED_REPLICATION]}
        facts |= {"code": code} if code else {}
        writer.finish(summary, describe(inputs=config.input_digests(), **facts))
        publish(writer, draw, notice)
    return summary
