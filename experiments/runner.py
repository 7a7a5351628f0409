"""Runs a configuration, simulated or measured, into a run directory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from experiments.config import Config
from experiments.environment import describe, memory_bytes
from experiments.errors import RunFailedError, UserError
from experiments.incidents import fault_plan
from experiments.rundir import RunWriter
from experiments.summary import Replication, each, summarise
from protocol.laws import LawChecker
from protocol.recording import Event
from protocol.runlog import RunLog
from protocol.scenario import Request
from protocol.sizing import SizingError
from protocol.status import Status
from protocol.topology import RankId

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
        self.replication = Replication(warmup_requests=config.run.warmup_requests)
        self.laws = LawChecker(scenario)
        self._writer = writer
        self._add_event = writer.event if writer is not None else None
        self.log = RunLog(scenario, self._request, warmup_requests=config.run.warmup_requests)

    def announced(self, requests: Iterable[Request]) -> Iterator[Request]:
        """The same requests; each is announced to the listeners when it is asked for."""
        for request in requests:
            self.log.expect(request)
            self.laws.expect(request)
            yield request

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
        one.end_s = end_s
        one.deadlock = deadlock
        one.deadlocks = tuple(deadlocks)
        one.pools = self.log.pools
        one.records = self.log.records
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
    from experiments.workload import make_requests
    from sim.faults import PlannedFaults
    from sim.link import load_profile
    from sim.run import simulate

    account = Account(config, writer)
    plan = fault_plan(config, replication)
    faults = None if plan is None else PlannedFaults(plan)
    if writer is not None:
        writer.begin(replication)
    try:
        outcome = simulate(
            config.scenario(),
            account.announced(make_requests(config, replication)),
            load_profile(config.link.profile),
            recorder=account,
            progress=progress,
            faults=faults,
        )
    except SizingError as error:  # a user's own policy
        raise RunFailedError(str(error)) from error
    one = account.finish(outcome.end_s, deadlock=outcome.deadlock, deadlocks=outcome.deadlocks)
    return one, account.laws.examples


def run_sim(
    config: Config,
    target: Path,
    *,
    plots: bool = True,
    progress: Progress | None = None,
    notice: Notice | None = None,
) -> dict[str, Any]:
    """Simulate all replications into ``target`` and return the summary."""
    from experiments.workload import check_requests

    check_requests(config, "sim")
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
        _complete(writer, summary, describe(inputs=config.input_digests()), plots=plots)
    return summary


def run_measured(
    config: Config,
    target: Path,
    *,
    plots: bool = True,
    progress: Progress | None = None,
    notice: Notice | None = None,
) -> dict[str, Any]:
    """Run all replications over Mooncake on this host into ``target`` and return the summary.

    Raises UserError if the backend is not installed, RunFailedError if a run breaks.
    """
    from experiments.doctor import examine_real
    from experiments.workload import check_requests, make_requests

    config.check_real(int(memory_bytes() * REAL_MEMORY_SHARE) or 2**63)
    check_requests(config, "real")
    missing = examine_real()
    if missing:
        raise UserError(missing)
    with real_errors():
        from real.launcher import run_real

        started_s = time.perf_counter()
        with RunWriter(target, config) as writer:
            replications = []
            proofs: list[dict[str, Any]] = []
            for number in range(config.run.replications):
                account = Account(config, writer)
                requests = list(account.announced(make_requests(config, number)))
                outcome = run_real(
                    config.scenario(),
                    requests,
                    transport=config.real.transport,
                    device=config.real.device,
                    progress=progress,
                )
                writer.begin(number)
                last_s = 0.0
                for record in outcome.records:
                    account(*record)
                    last_s = record.time_s
                one = account.finish(max(outcome.end_s, last_s), deadlock=outcome.deadlock, deadlocks=outcome.deadlocks)
                one.violations += len(outcome.mismatches)
                replications.append(one)
                proof = msgspec.to_builtins(outcome.proof)
                proofs.append({**proof, "verified_bytes": outcome.verified_bytes})
                _tell(notice, [*account.laws.examples, *outcome.mismatches])
                if notice is not None:
                    for incident in outcome.incidents:  # nothing was planned, so a process ended by itself
                        notice(str(incident))
            wall_s = time.perf_counter() - started_s
            transport = str(proofs[0]["actual"])
            summary = summarise(replications, kind="real", transport=transport, wall_s=wall_s)
            summary["replications"] = each(replications)
            proved = proofs[0] if len(proofs) == 1 else {"actual": transport, "replications": proofs}
            _complete(writer, summary, describe(proved, inputs=config.input_digests()), plots=plots)
    return summary


@contextmanager
def real_errors() -> Iterator[None]:
    """Turn what the real backend raises into errors a user can read; an absent package names what mends it."""
    try:
        from real.engine import EngineError, EngineMissing, EngineStartError
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


def _missing(error: ImportError) -> str:
    package = error.name or str(error)
    return f"the real backend needs {package}, which is not installed; run: pip install 'bufferlab[real-cpu]'"


def _complete(writer: RunWriter, summary: dict[str, Any], environment: dict[str, Any], *, plots: bool) -> None:
    writer.finish(summary, environment)
    if plots:
        from experiments.plots import plot_run

        plot_run(writer.folder)
    writer.publish()


def _tell(notice: Notice | None, broken: list[str]) -> None:
    if notice is not None:
        for line in broken[:TOLD_LAWS]:
            notice(f"broken law: {line}")
