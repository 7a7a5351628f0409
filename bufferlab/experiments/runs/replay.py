"""A stored run read back into what its figures are computed from."""

from __future__ import annotations

from collections.abc import Callable

from bufferlab.experiments.errors import UserError
from bufferlab.experiments.progress import counted
from bufferlab.experiments.runs.replication import Limits, Replication
from bufferlab.experiments.runs.rundir import StoredRun
from bufferlab.experiments.stats.replicates import replicates_from
from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.observe.runlog import RunLog


def replications_of(
    run: StoredRun, *, warmup_requests: int | None = None, progress: Callable[[int], object] | None = None
) -> list[Replication]:
    """Every replication of a finished run, with all requests and the integrals of its pools, from its two tables.

    Summarising them gives the figures of its summary.json again, or those with another ``warmup_requests`` than the run
    was made with. Violations are not looked for. ``progress`` is told how many more events were read.
    Raises UserError if the warm-up would leave no request,
    or for a run of an earlier version.
    """
    config = run.config
    scenario = config.scenario()
    if "replications" not in run.summary:
        raise UserError(
            f"RUN is {str(run.path)!r}, its summary.json must say when each replication ended; run it again"
        )
    notes = run.summary["replications"]
    names = ("replication", "room", "arrival_s", "total_tokens", "text_tokens", "images")
    table = run.requests(*names).sort_values(["replication", "arrival_s", "room"], kind="stable")
    warmup = config.run.warmup_requests if warmup_requests is None else warmup_requests
    fewest = int(table["replication"].value_counts().min())
    if not 0 <= warmup < fewest:
        raise UserError(f"warmup_requests is {warmup}, it must be from 0 to {fewest - 1} for {str(run.path)!r}")
    slo = Limits(config.slo.ttft_s, config.slo.latency_s)
    closed = config.workload.loop == "closed"
    replicates = replicates_from(run.summary.get("replicates"))
    made = [
        Replication(warmup_requests=warmup, slo=slo, closed=closed, disturbed=config.disturbed, replicates=replicates)
        for _ in notes
    ]
    logs = [RunLog(scenario, columns=one.requests, warmup_requests=warmup) for one in made]
    for replication, room, arrival_s, total, text, images in zip(
        *(table[name].tolist() for name in names), strict=True
    ):
        logs[replication].expect(
            Request(room=room, arrival_s=arrival_s, total_tokens=total, text_tokens=text, images=images)
        )
    for replication, record in counted(run.records(), progress):
        logs[replication].record(record)
    for one, log, note in zip(made, logs, notes, strict=True):
        log.finish(note["end_s"])
        one.take(log, note["end_s"])
        one.adapters = note.get("adapters")
        one.monitored = note.get("monitored", True)
        one.deadlock, one.deadlocks = note["deadlock"], tuple(note["deadlocks"])
    return made
