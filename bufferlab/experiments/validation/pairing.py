"""Pairs a measured run with its prediction, request by request.

The prediction is *trace-driven*: the same requests at the very times at which they came in that run, through the
simulator, with the run's own configuration and a frozen link profile in place of its network. Both sides then go
through the same code from their records on, so they have the same measurement boundary (``BOUNDARY``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from bufferlab.experiments.config.build import fault_plan
from bufferlab.experiments.config.schema import Config
from bufferlab.experiments.errors import RunFailedError, UserError
from bufferlab.experiments.runs.replay import replications_of
from bufferlab.experiments.runs.replication import Replication
from bufferlab.experiments.runs.rundir import StoredRun
from bufferlab.experiments.runs.spans import in_order
from bufferlab.experiments.stats.intervals import Samples
from bufferlab.experiments.validation.frozen import FrozenProfile
from bufferlab.experiments.validation.stages import stage_table
from bufferlab.experiments.workloads.requests import check_requests, make_requests
from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.observe.progress import RequestRow
from bufferlab.protocol.observe.runlog import RunLog
from bufferlab.protocol.recording import Record
from bufferlab.protocol.sizing import SizingError
from bufferlab.sim.faults import PlannedFaults
from bufferlab.sim.run import simulate
from bufferlab.sim.streams import stream

if TYPE_CHECKING:
    import pandas as pd

BOUNDARY = (
    "from arrival_s, when the request was due at all ranks of its instances, to the delivered event of the last "
    "language rank; the first run.warmup_requests requests by arrival are left out on both sides"
)
"""What a latency is on both sides."""

TTFT_BOUNDARY = "from arrival_s to the end of the request's prefill, of those whose prefill ended on both sides"
"""What a time to the first token is on both sides."""

ASKED = ("total_tokens", "text_tokens", "images")


@dataclass(frozen=True)
class Observation:
    """One side of a repeat: what its figures are made of, and its records in order of time."""

    figures: Replication
    records: list[Record]


@dataclass(frozen=True)
class Outcome:
    """A request that ended otherwise on one side than on the other; statuses by name."""

    run: str
    replication: int
    room: int
    measured: str
    predicted: str

    def __str__(self) -> str:
        return (
            f"request {self.room} of replication {self.replication} of {self.run}: {self.measured} when measured, "
            f"{self.predicted} when predicted"
        )


@dataclass(frozen=True)
class Repeat:
    """One replication of a measured run, and its prediction.

    ``measured``, ``predicted``: what the figures of either side are made of. ``trace``: a digest of what was asked of
    the system, equal for repeats that met the same requests (in a closed loop at any times). ``records``: those of
    both sides, where they were to be kept.
    """

    run: str
    kind: str
    number: int
    config: Config
    arrivals_s: dict[int, float]
    trace: str
    measured: Replication
    predicted: Replication
    outcomes: tuple[Outcome, ...]
    stages_s: tuple[Samples, Samples]
    """Of either side, a row for every request that both delivered and a column for every stage."""
    records: tuple[list[Record], list[Record]] | None

    @cached_property
    def both(self) -> NDArray[np.bool_]:
        """Which requests were delivered on both sides, of those after the warm-up, in order of arrival."""
        return delivered_on_both(self.measured, self.predicted)

    @cached_property
    def latencies_s(self) -> tuple[Samples, Samples]:
        """Their latencies, measured and predicted, in order of arrival."""
        return self.measured.only(self.both).latencies_s(), self.predicted.only(self.both).latencies_s()

    @cached_property
    def ttfts_s(self) -> tuple[Samples, Samples]:
        """Times to the first token, measured and predicted, of those of them that were prefilled on both sides."""
        courses = (one.courses() for one in (self.measured, self.predicted))
        sides = [ends_s - arrivals_s for arrivals_s, ends_s, *_ in courses]
        chosen = self.both & ~np.isnan(sides[0]) & ~np.isnan(sides[1])
        return sides[0][chosen], sides[1][chosen]


def delivered_on_both(measured: Replication, predicted: Replication) -> NDArray[np.bool_]:
    """Which of the same requests were, of those after the warm-up, in order of arrival."""
    return measured.delivered() & predicted.delivered()


def pair_run(run: StoredRun, profile: FrozenProfile, *, keep_records: bool = False) -> Iterator[Repeat]:
    """Every replication of ``run`` with its prediction; ``keep_records`` only those of the first one.

    Raises UserError for a run whose requests its configuration does not make, RunFailedError when a sizing policy from
    outside breaks its contract.
    """
    config = run.config
    scenario = config.scenario()
    check_requests(config, "real")
    table = run.requests("replication", "room", "arrival_s", "status", *ASKED)
    for number, measured in enumerate(replications_of(run)):
        rows = table[table["replication"] == number]
        statuses = dict(zip(rows["room"].tolist(), rows["status"].tolist(), strict=True))
        requests = _trace_of(str(run.path), rows, config, number, repeated=run.kind == "real")
        arrivals_s = {one.room: one.arrival_s for one in requests}
        # What takes another time every time does so in every repeat; a simulated run is met by what it met.
        repeat = run.path.name if run.kind == "real" else ""
        predicted, told = predict(config, number, requests, profile, repeat)
        outcomes = tuple(
            Outcome(str(run.path), number, room, statuses[room], told[room])
            for room in sorted(statuses)
            if statuses[room] != told[room]
        )
        # Of one replication at a time: those of all of a long run are more than a small machine holds.
        recorded = in_order(record for of, record in run.records(number) if of == number)
        sides = recorded, predicted.records
        rooms = measured.rooms()[delivered_on_both(measured, predicted.figures)].tolist()
        first, second = (stage_table(records, scenario, arrivals_s, rooms) for records in sides)
        yield Repeat(
            run=str(run.path), kind=run.kind, number=number, config=config, arrivals_s=arrivals_s,
            trace=_digest(config, requests), measured=measured, predicted=predicted.figures, outcomes=outcomes,
            stages_s=(first, second), records=sides if keep_records and not number else None,
        )  # fmt: skip


def profile_on(run: StoredRun, profile: FrozenProfile) -> FrozenProfile:
    """The profile for the host of a run: with as many processors as a measured one could use, a simulated one had."""
    return on_processors(profile, run.processors if run.kind == "real" else run.config.link.processors)


def on_processors(profile: FrozenProfile, processors: float | None) -> FrozenProfile:
    """The profile with as many processors; as it is where that is not known, or threads share none."""
    host = profile.link.host
    if host is None or processors is None:
        return profile
    link = structs.replace(profile.link, host=structs.replace(host, processors=float(processors)))
    return replace(profile, link=link)


def predict(
    config: Config, replication: int, requests: tuple[Request, ...], profile: FrozenProfile, repeat: str = ""
) -> tuple[Observation, dict[int, str]]:
    """Simulate ``requests`` at their times over ``profile``; also the final status of every room, by name.

    ``repeat`` is a part of the names of the streams of what takes another time every time.
    """
    scenario = config.scenario()
    warmup = config.run.warmup_requests
    figures = Replication(warmup_requests=warmup)
    statuses: dict[int, str] = {}

    def conclude(row: RequestRow) -> None:
        statuses[row.room] = row.status

    kept: list[Record] = []
    log = RunLog(scenario, conclude, columns=figures.requests, warmup_requests=warmup)
    plan = fault_plan(config, replication)
    try:
        outcome = simulate(
            scenario,
            requests,
            profile.link,
            recorder=lambda *fields: kept.append(Record(*fields)),
            run_log=log,
            faults=None if plan is None else PlannedFaults(plan),
            draws=lambda name: stream(config.run.seed, replication, "host", f"{repeat} {name}".lstrip()),
        )
    except SizingError as error:  # a user's own policy
        raise RunFailedError(str(error)) from error
    figures.take(log, outcome.end_s)
    figures.deadlock, figures.deadlocks = outcome.deadlock, outcome.deadlocks
    return Observation(figures, in_order(kept)), statuses


def _trace_of(run: str, rows: pd.DataFrame, config: Config, replication: int, *, repeated: bool) -> tuple[Request, ...]:
    """The requests in ``rows`` of a replication, by arrival, at the times at which they came."""
    columns = (rows[name].tolist() for name in ("room", "arrival_s", *ASKED))
    recorded = {room: (arrival_s, asked) for room, arrival_s, *asked in zip(*columns, strict=True)}
    made = list(make_requests(config, replication, repeated=repeated))
    if {one.room: [one.total_tokens, one.text_tokens, one.images] for one in made} != {
        room: asked for room, (_, asked) in recorded.items()
    }:
        raise UserError(
            f"RUN is {run!r}, whose config.toml must make the requests in its requests.parquet, but those of "
            f"replication {replication} are others"
        )
    came = [one.arriving(recorded[one.room][0]) for one in made]
    return tuple(sorted(came, key=lambda one: (one.arrival_s, one.room)))


def _digest(config: Config, requests: tuple[Request, ...]) -> str:
    closed = config.workload.loop == "closed"
    asked = sorted(repr(one.arriving(0.0) if closed else one) for one in requests)
    return hashlib.sha256("\n".join(asked).encode()).hexdigest()
