"""Measures a configuration over the real backend into a run directory."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bufferlab.experiments.config.schema import Config
from bufferlab.experiments.errors import RunFaultedError, UserError
from bufferlab.experiments.files import Claim
from bufferlab.experiments.runs.backend import REAL_MEMORY_SHARE, real_errors, warm_up
from bufferlab.experiments.runs.busy import Busy, Glances, together, told_of_runs
from bufferlab.experiments.runs.diagnosis import examine_real
from bufferlab.experiments.runs.environment import describe, memory_bytes
from bufferlab.experiments.runs.faults import real_plan
from bufferlab.experiments.runs.hosts import Meeting, describe_ranks, gathered
from bufferlab.experiments.runs.recorder import Draw, Notice, Progress, RunRecorder, publish, tell
from bufferlab.experiments.runs.replication import Replication
from bufferlab.experiments.runs.rundir import RunWriter
from bufferlab.experiments.runs.summary import each, summarise
from bufferlab.experiments.workloads.requests import check_requests, make_requests
from bufferlab.experiments.workloads.traffic import traffic_of
from bufferlab.protocol.topology import RankId

if TYPE_CHECKING:
    from bufferlab.real.hosts.coordinator import Coordinator
    from bufferlab.real.run.outcome import RealOutcome
    from bufferlab.real.run.usage import Usage


def run_measured(
    config: Config,
    target: Path | str | Claim,
    *,
    meeting: Meeting | None = None,
    events: bool = True,
    draw: Draw | None = None,
    begin: Notice | None = None,
    progress: Progress | None = None,
    notice: Notice | None = None,
) -> dict[str, Any]:
    """Run all replications over ``real.transport`` into ``target`` and return the summary.

    ``events``: whether events.parquet is kept. ``draw`` adds figures to the directory, and
    ``experiments.figures.directory.drawing`` makes one.
    ``begin`` is told what the requests are, once nothing can be refused any more.
    ``meeting``: where the ranks come to from their hosts; without one all of them are started on this host.
    Raises UserError if the backend is not installed, RunFailedError if there is nothing to write, and RunFaultedError
    when the run met what nobody planned, with what it did all the same in ``target``.
    """
    config.check_real(None if meeting is not None else int(memory_bytes() * REAL_MEMORY_SHARE) or 2**63)
    if meeting is None:
        warm_up()  # while requests are made and the backend is looked at
    check_requests(config, "real")
    traffic = traffic_of(config, measured=True)
    missing = examine_real(config.real.transport)
    if missing:
        raise UserError(missing)
    with real_errors(notice):
        from bufferlab.real.errors import EngineError

        # The place first: that it cannot be written is known before ranks come from their hosts.
        with (
            RunWriter(target, config, events=events) as writer,
            gathered(config, meeting, notice or (lambda _: None)) as hosts,
        ):
            if begin is not None:
                begin(traffic.text)
            started_s = time.perf_counter()
            measured = _Measured()
            for number in range(config.run.replications):
                recorder = RunRecorder(config, writer)
                glances = Glances()
                try:
                    outcome = _measure_one(config, number, hosts, progress, glances)
                except EngineError as error:
                    if not measured.replications:
                        raise
                    # What the replications before it measured is not given away for this one.
                    one = measured.replications[-1]
                    one.faults += (f"replication {number} could not be carried through: {error}",)
                    one.ended_early = one.ended_early or f"{config.run.replications - number} replications are missing"
                    break
                writer.begin(number)
                violations = measured.take(number, outcome, recorder)
                # Of ranks on other hosts, or started by somebody else on this one, nobody here could tell.
                measured.busy.append(None if hosts is not None else glances.found)
                if hosts is not None:
                    measured.ranks += describe_ranks(hosts, outcome.clocks, number)
                tell(notice, violations)
                if notice is not None:
                    for found in (*outcome.refused, *outcome.incidents):
                        notice(str(found))
            wall_s = time.perf_counter() - started_s
            if notice is not None and (busy := told_of_runs(together([one for one in measured.busy if one]))):
                notice(busy)
            transport = str(measured.proofs[0]["actual"])
            summary = summarise(measured.replications, kind="real", transport=transport, wall_s=wall_s)
            summary["replications"] = each(measured.replications)
            summary["workload"] = traffic.content()
            summary["events_kept"] = events
            facts = measured.facts() | ({} if hosts is None else {"hosts": hosts.facts(), "ranks": measured.ranks})
            writer.finish(
                summary,
                describe(measured.proof(), inputs=config.input_digests(), workload=traffic.content(), **facts),
            )
            publish(writer, draw, notice)
    if summary["faults"]:
        told = [*summary["faults"], *filter(None, [summary["ended_early"]])]
        raise RunFaultedError(f"{'; '.join(told)}; the run directory has all that was done", summary)
    return summary


def _measure_one(
    config: Config, number: int, hosts: Coordinator | None, progress: Progress | None, glances: Glances
) -> RealOutcome:
    """Carry one replication through over the real backend."""
    from bufferlab.real.control.spec import Heartbeats
    from bufferlab.real.run.launcher import run_real

    requests = list(make_requests(config, number, repeated=True))
    return run_real(
        config.scenario(),
        requests,
        transport=config.real.transport,
        device=config.real.device,
        memory=config.real.memory,
        verify=config.real.verify,
        progress=progress,
        hosts=hosts,
        heartbeats=Heartbeats(config.random_faults.heartbeat_s, config.random_faults.heartbeat_failures),
        plan=real_plan(config, number, requests),
        concurrency=config.workload.concurrency,
        watch=glances.look,
    )


@dataclass
class _Measured:
    """What the replications of a measured run leave for its summary.json and its environment.json."""

    replications: list[Replication] = field(default_factory=list)
    proofs: list[dict[str, Any]] = field(default_factory=list)
    ranks: list[dict[str, Any]] = field(default_factory=list)
    usage: list[dict[str, Any]] = field(default_factory=list)
    refused: list[dict[str, Any]] = field(default_factory=list)
    quarantined: list[dict[str, Any]] = field(default_factory=list)
    busy: list[Busy | None] = field(default_factory=list)
    """What others took of the processors while the requests of each replication ran."""
    memory: dict[str, str] = field(default_factory=dict)
    """Of the last replication: where the blocks of each rank lie."""

    def take(self, number: int, outcome: RealOutcome, recorder: RunRecorder) -> list[str]:
        """Give one replication's records to ``recorder`` and keep the rest; the invariants that were violated."""
        recorder.excuse(outcome.cut_short)
        for request in outcome.requests:
            recorder.expect(request)
        last_s = 0.0
        for record in outcome.records:
            recorder.recorder(*record)
            last_s = record.time_s
        end_s = max(outcome.end_s, last_s)
        one = recorder.finish(end_s, deadlock=outcome.deadlock, deadlocks=outcome.deadlocks)
        ends = [*outcome.violations, *_never_ended(recorder, outcome)]
        one.violations += len(outcome.mismatches) + len(ends)
        one.faults, one.ended_early = outcome.faults, outcome.ended_early
        self.replications.append(one)
        self.memory = {str(rank_id): where for rank_id, where in sorted(outcome.memory.items())}
        self.proofs.append({**msgspec.to_builtins(outcome.proof), "verified_bytes": outcome.verified_bytes})
        self.usage.append(_usage(outcome.router_usage, outcome.usage))
        self.refused += [{"replication": number, **msgspec.to_builtins(one)} for one in outcome.refused]
        self.quarantined += [
            {"replication": number, "rank": str(rank_id), "room": room} for room, rank_id in sorted(outcome.quarantined)
        ]
        return [*ends, *recorder.examples, *outcome.mismatches]

    def proof(self) -> dict[str, Any]:
        """How the run knows which transport it used."""
        first = self.proofs[0]
        return first if len(self.proofs) == 1 else {"actual": str(first["actual"]), "replications": self.proofs}

    def facts(self) -> dict[str, Any]:
        """What else environment.json says of a measured run."""
        return {
            "memory": self.memory,
            "busy": [None if one is None else one.content() for one in self.busy],
            "usage": self.usage,
            "refused": self.refused,
            "quarantined": self.quarantined,
        }


def _never_ended(recorder: RunRecorder, outcome: RealOutcome) -> list[str]:
    """Rooms that no record says to be over on a rank that gave its account, which does not mention them either."""
    # Rooms in quarantine have ended, but for their blocks.
    known = outcome.quarantined | outcome.left
    return [
        f"room {room} never ended on {rank_id}"
        for room, rank_id in recorder.open_rooms
        if rank_id not in outcome.cut_short and (room, rank_id) not in known
    ]


def _usage(router: Usage | None, ranks: Mapping[RankId, Usage]) -> dict[str, Any]:
    """For environment.json: what each process of a replication spent and did, by its name."""
    named = {"router": router, **{str(rank_id): one for rank_id, one in sorted(ranks.items())}}
    return {name: msgspec.to_builtins(one) for name, one in named.items() if one is not None}
