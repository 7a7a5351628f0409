"""Everything that listens to a replication while it runs, simulated or measured, and the lines that its user sees."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from bufferlab.experiments.config.schema import Config
from bufferlab.experiments.runs.replication import Limits, Replication
from bufferlab.experiments.runs.rundir import RunWriter
from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.observe.monitor import InvariantMonitor
from bufferlab.protocol.observe.runlog import RunLog
from bufferlab.protocol.recording import Listeners, Recorder
from bufferlab.protocol.topology import RankId

Progress = Callable[[int], None]
Notice = Callable[[str], None]
Draw = Callable[[Path], Iterable[str]]
"""Adds to the directory of a run whose tables are written what is drawn of it; its lines are for the user."""

SHOWN_VIOLATIONS = 3
"""Violations shown per replication; summary.json counts them all."""

MONITORED_REPLICATION = 0
"""The one of a simulated configuration's replications whose records the invariant monitor looks at. The others run the
same code on other requests, and the monitor takes as long as all their figures; ``check`` is there to look for more."""


class RunRecorder:
    """Everything that listens to the records of one replication. What is asked for decides what does.

    The figures are kept in any case. ``writer``: stores the records and the requests. ``monitored``: the invariant
    monitor looks at every record.
    """

    def __init__(self, config: Config, writer: RunWriter | None, *, monitored: bool = True) -> None:
        scenario = config.scenario()
        self.replication = Replication(
            warmup_requests=config.run.warmup_requests,
            slo=Limits(config.slo.ttft_s, config.slo.latency_s),
            closed=config.workload.loop == "closed",
            disturbed=config.disturbed,
            monitored=monitored,
        )
        self._invariants = InvariantMonitor(scenario) if monitored else None
        self.log = RunLog(
            scenario,
            columns=self.replication.requests,
            rows=None if writer is None else writer.requests,
            warmup_requests=config.run.warmup_requests,
        )
        stored = None if writer is None else writer.event
        listeners = [one for one in (stored, self._invariants, self.log) if one is not None]
        self.recorder: Recorder = self.log if len(listeners) == 1 else Listeners(listeners)
        """What takes the records: where they are for the figures alone, these themselves."""
        self.announce: Callable[[Request], None] = self.log.expect if self._invariants is None else self.expect
        """Does what ``expect`` does."""

    @property
    def examples(self) -> list[str]:
        """The first violations of invariants, a sentence each."""
        return [] if self._invariants is None else self._invariants.examples

    @property
    def open_rooms(self) -> list[tuple[int, RankId]]:
        """Rooms that are submitted to a rank and not released there, as far as anybody looks."""
        return [] if self._invariants is None else self._invariants.open_rooms

    def excuse(self, ranks: Iterable[RankId]) -> None:
        """The last records of these ranks may be missing: nothing is held against others that only these could say."""
        if self._invariants is not None:
            self._invariants.excuse(ranks)

    def expect(self, request: Request) -> None:
        """Announce a request to the listeners, before its first record."""
        self.log.expect(request)
        if self._invariants is not None:
            self._invariants.expect(request)

    def finish(self, end_s: float, *, deadlock: bool, deadlocks: Sequence[str] = ()) -> Replication:
        """End of the replication; ``deadlocks`` says when and of which rooms, where that is known."""
        self.log.finish(end_s)
        one = self.replication
        one.take(self.log, end_s)
        one.deadlock = deadlock
        one.deadlocks = tuple(deadlocks)
        if self._invariants is not None:
            self._invariants.finish()
            one.violations = self._invariants.violations
        return one


def publish(writer: RunWriter, draw: Draw | None, notice: Notice | None) -> None:
    """Add what is drawn of a run whose tables are written, and move it to its place."""
    for line in draw(writer.folder) if draw is not None else ():
        if notice is not None:
            notice(line)
    writer.publish()


def tell(notice: Notice | None, violations: Sequence[str]) -> None:
    """Tell the user of the first violations of invariants."""
    if notice is not None:
        for line in violations[:SHOWN_VIOLATIONS]:
            notice(f"violation: {line}")
