"""Runs a configuration, simulated or measured, into a run directory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from experiments.config.incidents import fault_plan, real_plan
from experiments.config.schema import Config
from experiments.errors import RunFailedError, RunFaultedError, UserError
from experiments.files import Claim
from experiments.runs.environment import describe, memory_bytes
from experiments.runs.hosts import Meeting, describe_ranks, gathered
from experiments.runs.rundir import RunWriter, StoredRun
from experiments.runs.summary import Limits, Replication, each, summarise
from protocol.emulation.scenario import Request
from protocol.observe.monitor import LawChecker
from protocol.observe.runlog import RunLog
from protocol.recording import Event
from protocol.sizing import SizingError
from protocol.status import Status
from protocol.topology import RankId

if TYPE_CHECKING:
    from real.run.outcome import RealOutcome
    from real.run.usage import Usage

REAL_MEMORY_SHARE = 0.7
"""Pools of a measured run may take this share of the host's memory; copies and the processes need the rest."""

TOLD_LAWS = 3
"""Broken laws shown per replication; summary.json counts them all."""

Progress = Callable[[int], None]
Notice = Callable[[str], None]


class Account:
    """Everything that listens to the records of one replication, as one Recorder."""

    def __init__(self, config: Config, writer: RunWriter | None) -> None:
        scenario = config.scenario()
        self.replication = Replication(
            warmup_requests=config.run.warmup_requests,
            slo=Limits(config.slo.ttft_s, config.slo.latency_s),
            closed=config.workload.loop == "closed",
            disturbed=config.disturbed,
        )
        self.laws = LawChecker(scenario)
        self._writer = writer
        self._add_event = writer.event if writer is not None else None
        self.log = RunLog(scenario, self._request, warmup_requests=config.run.warmup_requests)

    def expect(self, request: Request) -> None:
        """Announce a request to the listeners, before its first record."""
        self.log.expect(request)
        self.laws.expect(request)

    def __call__(
        self,
        time_s: float,
        rank_id: RankId,
        room: int,
        event: Event,
        status: Status | None,
        tokens: int,
        bytes_: int,
        detail: str,
    ) -> None:
        """Take one record; see ``protocol.recording.Record`` for the fields."""
        if self._add_event is not None:
            self._add_event(time_s, rank_id, room, event, status, tokens, bytes_, detail)
        self.laws(time_s, rank_id, room, event, status, tokens, bytes_, detail)
        self.log(time_s, rank_id, room, event, status, tokens, bytes_, detail)

    def finish(self, end_s: float, *, deadlock: bool, deadlocks: Sequence[str] = ()) -> Replication:
        """End of the replication; ``deadlocks`` says when and of which rooms, where that is known."""
        self.log.finish(end_s)
        self.laws.finish()
        one = self.replication
        one.take(self.log, end_s)
        one.deadlock = deadlock
        one.deadlocks = tuple(deadlocks)
        one.violations = self.laws.broken
        return one

    def _request(self, row: Any) -> None:
        self.replication.add(row)
        if self._writer is not None:
            self._writer.request(row)


def simulate_one(
    config: Config, replication: int, writer: RunWriter | None = None, progress: Progress | None = None
) -> tuple[Replication, list[str]]:
    """One simulated replication; also the laws it broke. Without a writer nothing is written.

    Raises RunFailedError when a sizing policy from outside breaks its contract.
    """
    from experiments.workloads.requests import make_requests
    from sim.faults import PlannedFaults
    from sim.observe import broken_ends
    from sim.run import simulate
    from sim.streams import stream

    account = Account(config, writer)
    plan = fault_plan(config, replication)
    faults = None if plan is None else PlannedFaults(plan)
    if writer is not None:
        writer.begin(replication)
    try:
        outcome = simulate(
            config.scenario(),
            make_requests(config, replication),
            config.link.load(),
            recorder=account,
            progress=progress,
            faults=faults,
            concurrency=config.workload.concurrency,
            announce=account.expect,
            warmup_requests=config.run.warmup_requests,
            draws=lambda name: stream(config.run.seed, replication, "host", name),
        )
    except SizingError as error:  # a user's own policy
        raise RunFailedError(str(error)) from error
    one = account.finish(outcome.end_s, deadlock=outcome.deadlock, deadlocks=outcome.deadlocks)
    start_s, end_s = one.window_s
    if outcome.adapters_s is not None and end_s > start_s:
        one.adapters = min(outcome.adapters_s / (end_s - start_s), 1.0)
    forgives = plan is not None and config.scenario().timeout_s is None
    ends = broken_ends(account.laws.open_rooms, outcome, forgives=forgives)
    one.violations += len(ends)
    return one, [*ends, *account.laws.examples]


def run_sim(
    config: Config,
    target: Path | str | Claim,
    *,
    plots: bool = True,
    timeline: bool = False,
    begin: Notice | None = None,
    progress: Progress | None = None,
    notice: Notice | None = None,
) -> dict[str, Any]:
    """Simulate all replications into ``target`` and return the summary.

    ``begin`` is told what the requests are, once nothing about them can be refused.
    """
    from experiments.workloads.requests import check_requests
    from experiments.workloads.traffic import traffic_of

    check_requests(config, "sim")
    traffic = traffic_of(config)
    if begin is not None:
        begin(traffic.text)
    started_s = time.perf_counter()
    with RunWriter(target, config) as writer:
        replications = []
        for number in range(config.run.replications):
            one, broken = simulate_one(config, number, writer, progress)
            replications.append(one)
            _tell(notice, broken)
        wall_s = time.perf_counter() - started_s
        summary = summarise(replications, kind="sim", transport=config.link.profile, wall_s=wall_s)
        summary["replications"] = each(replications)
        summary["workload"] = traffic.content()
        writer.finish(summary, describe(inputs=config.input_digests(), workload=traffic.content()))
        _complete(writer, plots=plots, timeline=timeline, notice=notice)
    return summary


def run_measured(
    config: Config,
    target: Path | str | Claim,
    *,
    meeting: Meeting | None = None,
    plots: bool = True,
    timeline: bool = False,
    begin: Notice | None = None,
    progress: Progress | None = None,
    notice: Notice | None = None,
) -> dict[str, Any]:
    """Run all replications over Mooncake into ``target`` and return the summary.

    ``begin`` is told what the requests are, once nothing can be refused any more.
    ``meeting``: where the ranks come to from their hosts; without one all of them are started on this host.
    Raises UserError if the backend is not installed, RunFailedError if there is nothing to write, and RunFaultedError
    when the run met what nobody planned, with what it did all the same in ``target``.
    """
    from experiments.runs.diagnosis import examine_real
    from experiments.workloads.requests import check_requests, make_requests
    from experiments.workloads.traffic import traffic_of

    config.check_real(None if meeting is not None else int(memory_bytes() * REAL_MEMORY_SHARE) or 2**63)
    check_requests(config, "real")
    traffic = traffic_of(config)
    missing = examine_real()
    if missing:
        raise UserError(missing)
    with real_errors(notice):
        from real.control.spec import Heartbeats
        from real.errors import EngineError
        from real.run.launcher import run_real

        # The place first: that it cannot be written is known before ranks come from their hosts.
        with RunWriter(target, config) as writer, gathered(config, meeting, notice or (lambda _: None)) as hosts:
            if begin is not None:
                begin(traffic.text)
            started_s = time.perf_counter()
            replications: list[Replication] = []
            proofs: list[dict[str, Any]] = []
            ranks: list[dict[str, Any]] = []
            usage: list[dict[str, Any]] = []
            refused: list[dict[str, Any]] = []
            for number in range(config.run.replications):
                account = Account(config, writer)
                requests = list(make_requests(config, number))
                try:
                    outcome = run_real(
                        config.scenario(),
                        requests,
                        transport=config.real.transport,
                        device=config.real.device,
                        memory=config.real.memory,
                        verify=config.real.verify,
                        progress=progress,
                        hosts=hosts,
                        heartbeats=Heartbeats(
                            config.random_faults.heartbeat_s, config.random_faults.heartbeat_failures
                        ),
                        plan=real_plan(config, number, requests),
                        concurrency=config.workload.concurrency,
                    )
                except EngineError as error:
                    if not replications:
                        raise
                    # What the replications before it measured is not given away for this one.
                    one = replications[-1]
                    one.faults += (f"replication {number} could not be carried through: {error}",)
                    one.ended_early = one.ended_early or f"{config.run.replications - number} replications are missing"
                    break
                writer.begin(number)
                account.laws.excuse(outcome.cut_short)
                for request in outcome.requests:
                    account.expect(request)
                last_s = 0.0
                for record in outcome.records:
                    account(*record)
                    last_s = record.time_s
                one = account.finish(max(outcome.end_s, last_s), deadlock=outcome.deadlock, deadlocks=outcome.deadlocks)
                ends = [*outcome.violations, *_never_ended(account.laws, outcome)]
                one.violations += len(outcome.mismatches) + len(ends)
                one.faults, one.ended_early = outcome.faults, outcome.ended_early
                replications.append(one)
                memory = {str(rank_id): where for rank_id, where in sorted(outcome.memory.items())}
                proof = msgspec.to_builtins(outcome.proof)
                proofs.append({**proof, "verified_bytes": outcome.verified_bytes})
                usage.append(_usage(outcome.router_usage, outcome.usage))
                if hosts is not None:
                    ranks += describe_ranks(hosts, outcome.clocks, number)
                refused += [{"replication": number, **msgspec.to_builtins(one)} for one in outcome.refused]
                _tell(notice, [str(one) for one in outcome.refused])
                _tell(notice, [*ends, *account.laws.examples, *outcome.mismatches])
                if notice is not None:
                    for incident in outcome.incidents:
                        notice(str(incident))
            wall_s = time.perf_counter() - started_s
            transport = str(proofs[0]["actual"])
            summary = summarise(replications, kind="real", transport=transport, wall_s=wall_s)
            summary["replications"] = each(replications)
            summary["workload"] = traffic.content()
            proved = proofs[0] if len(proofs) == 1 else {"actual": transport, "replications": proofs}
            where: dict[str, Any] = {"refused": refused}
            where |= {} if hosts is None else {"hosts": hosts.facts(), "ranks": ranks}
            inputs = config.input_digests()
            writer.finish(
                summary,
                describe(proved, inputs=inputs, workload=traffic.content(), memory=memory, usage=usage, **where),
            )
            _complete(writer, plots=plots, timeline=timeline, notice=notice)
    if summary["faults"]:
        told = [*summary["faults"], *filter(None, [summary["ended_early"]])]
        raise RunFaultedError(f"{'; '.join(told)}; the run directory has all that was done", summary)
    return summary


@contextmanager
def real_errors(notice: Notice | None = None) -> Iterator[None]:
    """Turn what the real backend raises into errors a user can read; an absent package names what mends it.

    Before it is imported, variables that are not for it are taken out of the environment, which ``notice`` is told.
    """
    from real.engine import variables

    removed = variables.clean_here()
    if notice is not None and (line := variables.notice(removed)):
        notice(line)
    try:
        from real.errors import EngineError, EngineMissing, EngineStartError
    except ImportError as error:
        raise UserError(_missing(error)) from None
    try:
        yield
    except (EngineMissing, EngineStartError) as error:
        raise UserError(str(error)) from None
    except EngineError as error:
        raise RunFailedError(str(error)) from None
    except ImportError as error:
        raise UserError(_missing(error)) from None


def _never_ended(laws: LawChecker, outcome: RealOutcome) -> list[str]:
    """Rooms that no record says to be over on a rank that gave its account, which does not mention them either."""
    open_rooms = [(room, rank_id) for room, rank_id in laws.open_rooms if rank_id not in outcome.cut_short]
    # Rooms in quarantine have ended, but for their blocks.
    if len(open_rooms) <= outcome.rooms_quarantined + outcome.rooms_left:
        return []
    return [f"room {room} never ended on {rank_id}" for room, rank_id in open_rooms]


def _usage(router: Usage | None, ranks: Mapping[RankId, Usage]) -> dict[str, Any]:
    """For environment.json: what each process of a replication spent and did, by its name."""
    named = {"router": router, **{str(rank_id): one for rank_id, one in sorted(ranks.items())}}
    return {name: msgspec.to_builtins(one) for name, one in named.items() if one is not None}


def _missing(error: ImportError) -> str:
    package = error.name or str(error)
    return f"the real backend needs {package}, which is not installed; run: pip install 'bufferlab[real-cpu]'"


def _complete(writer: RunWriter, *, plots: bool, timeline: bool, notice: Notice | None) -> None:
    """Add what is drawn of a run whose tables are written, and move it to its place."""
    if plots:
        from experiments.figures.plots import plot_run

        plot_run(writer.folder)
    if timeline:
        from experiments.figures.timeline import FILE, run_timeline, write_timeline

        made = run_timeline(StoredRun(writer.folder))
        write_timeline(made, writer.folder / FILE)
        if made.note and notice is not None:
            notice(made.note)
    writer.publish()


def _tell(notice: Notice | None, broken: list[str]) -> None:
    if notice is not None:
        for line in broken[:TOLD_LAWS]:
            notice(f"broken law: {line}")
