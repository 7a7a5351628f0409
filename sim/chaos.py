"""Chaos runs: a random small scenario with a random plan of faults, watched for everything that must still hold.

``run_seed`` is a pure function of its seed. A seed that reports violations is a bug in the protocol or in its driver
and is replayed with ``bufferlab check --random 1 --seed SEED``.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
import numpy

from protocol.disciplines import DISCIPLINES
from protocol.emulation.scenario import Request, Scenario, ServiceTimes
from protocol.lifecycle import PROCESS_ENDED
from protocol.messages import Action, Conclude, CopyOut, Deliver, EncodeRequest, LanguageRequest, StartWrite
from protocol.observe.monitor import LawChecker
from protocol.rank import RoomKey
from protocol.status import Status
from protocol.topology import RankId, Side
from sim.clock import Clock
from sim.cluster.cluster import Cluster
from sim.cluster.group import Core
from sim.faults import (
    MOST_ALARM_S,
    MOST_DELAY_S,
    MOST_HANG_S,
    MOST_LATE_S,
    MOST_REQUEST_DELAY_S,
    ClientAbort,
    Death,
    FalseAlarm,
    FaultPlan,
    FaultyCluster,
    Hang,
    Incident,
    PlannedFaults,
    Restart,
    Slow,
    WriteEnd,
)
from sim.host.costs import ALWAYS, ENOUGH, HostCosts
from sim.network.link import SHARED_BY, LinkProfile
from sim.streams import stream

Drawn = TypeVar("Drawn")

PATIENCE_S = 500.0
PATIENCE_TIMEOUTS = 10
"""A run in which no request came and no room ended for this long, and for this many timeouts more, does not end: every
phase of a room has a timer, and the longest thing that no timer covers is a quarantine."""

CALM_TIMEOUT_S = 2000.0
"""The timer of a calm run, longer than anything but a deadlock takes there."""

FAULTLESS_SHARE, HARMLESS_SHARE = 0.04, 0.12
"""Shares of the calm runs: without any fault, and with faults that only cost time. They are the control group, in which
everything that can be served must be."""
HOSTED_SHARE = 0.3
"""Of the cases whose threads share processors."""

REFUSALS = ("can never fit", "do not fit the allocation", "the embedding is empty", "source blocks, the pool has")
"""How the reasons of failures read that are the scenario's own."""

MOST_VIOLATIONS = 20
"""Kept of one run; what is broken once tends to break often."""


class ChaosOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one seed. ``drawn``: the scenario and its faults in one line. ``faults``: what happened, by kind.

    ``succeeded``: requests that every language rank has; ``failed`` are all others. ``violations``: a sentence each.
    """

    seed: int
    drawn: str
    requests: int
    faults: dict[str, int]
    succeeded: int
    failed: int
    violations: tuple[str, ...]


class ChaosCase(msgspec.Struct, frozen=True, kw_only=True):
    """What a seed draws. ``calm``: nothing in it is a reason for a room to fail that could be served."""

    scenario: Scenario
    requests: tuple[Request, ...]
    link: LinkProfile
    plan: FaultPlan
    calm: bool


def run_seed(seed: int) -> ChaosOutcome:
    """Draw a case from ``seed``, run it, and look for whatever may not be. Raises ValueError for a negative seed."""
    return run_case(draw_case(seed))


def describe(outcome: ChaosOutcome) -> str:
    """A few lines about one outcome: what was drawn, what went wrong, what was violated, how to see it again."""
    happened = ", ".join(f"{count} × {kind}" for kind, count in sorted(outcome.faults.items())) or "nothing"
    lines = [
        f"seed {outcome.seed}: {outcome.drawn}",
        f"  happened: {happened}; {outcome.succeeded} of {outcome.requests} requests succeeded",
    ]
    if outcome.violations:
        lines.extend(f"  VIOLATION: {violation}" for violation in outcome.violations)
        lines.append(f"  replay: bufferlab check --random 1 --seed {outcome.seed}")
    return "\n".join(lines)


# --- drawing -------------------------------------------------------------------------------------------------------


def draw_case(seed: int) -> ChaosCase:
    """The case of a seed."""
    scenario_draws, request_draws, fault_draws, host_draws = (
        stream(seed, 0, "chaos", entity) for entity in ("scenario", "requests", "faults", "host")
    )
    share = float(fault_draws.random())
    calm = share < FAULTLESS_SHARE + HARMLESS_SHARE
    scenario = _draw_scenario(scenario_draws, calm)
    link = LinkProfile(
        name="chaos",
        bandwidth_Bps=_pick(scenario_draws, (1e4, 1e6, 1e9)),
        latency_s=_pick(scenario_draws, (1e-5, 1e-3, 0.02)),
        per_piece_s=_pick(scenario_draws, (0.0, 1e-6)),
        control_latency_s=_pick(scenario_draws, (1e-4, 1e-3, 0.05)),
        copy_bandwidth_Bps=_pick(scenario_draws, (1e5, 1e9)),
        shared_by=_pick(scenario_draws, SHARED_BY),
        first_contact_s=_pick(scenario_draws, (0.0, 0.003)),
        host=_draw_host(host_draws),
    )
    requests = _draw_requests(request_draws, scenario)
    if share < FAULTLESS_SHARE:
        plan = FaultPlan(seed=seed)
    else:
        plan = _draw_plan(fault_draws, seed, scenario, requests, _HARMLESS if calm else (*_RATES, *_INCIDENTS))
    return ChaosCase(scenario=scenario, requests=requests, link=link, plan=plan, calm=calm)


def _draw_host(draws: numpy.random.Generator) -> HostCosts | None:
    """A host for a part of the cases: its threads follow each other, and get in each other's way."""
    if draws.random() >= HOSTED_SHARE:
        return None
    return HostCosts(
        processors=_pick(draws, (1.0, 2.0, ENOUGH)),
        input_s=_pick(draws, (0.0, 5e-5, 1e-3)),
        turn_s=_pick(draws, (0.0, 2e-4)),
        message_s=_pick(draws, (0.0, 5e-5)),
        order_s=_pick(draws, (0.0, 1e-4)),
        fill_bandwidth_Bps=_pick(draws, (1e5, ENOUGH)),
        write_processors=_pick(draws, (0.0, 0.5, 1.5)),
        collective_processors=_pick(draws, (0.5, 1.0)),
        collective_quantiles_s=_pick(draws, ((0.0,), (1e-4, 5e-4, 4e-3))),
        write_spread=_pick(draws, (ALWAYS, (0.0, 0.5, 3.0))),
        control_spread=_pick(draws, (ALWAYS, (0.5, 1.0, 10.0))),
        wakeup_spread=_pick(draws, (ALWAYS, (0.0, 2.0))),
        submit_spread=_pick(draws, (ALWAYS, (0.0, 1.0, 20.0))),
    )


def _pick(draws: numpy.random.Generator, values: Sequence[Drawn]) -> Drawn:
    return values[int(draws.integers(len(values)))]


def _between(draws: numpy.random.Generator, low: int, high: int) -> int:
    return int(draws.integers(low, high, endpoint=True))


def _within(draws: numpy.random.Generator, most: float) -> float:
    return float(draws.random()) * most


def _draw_scenario(draws: numpy.random.Generator, calm: bool) -> Scenario:
    block_tokens = _pick(draws, (1, 4, 16))
    language_blocks = _pick(draws, (1, 2, 3, 4, 6, 10, 64))
    several = _between(draws, 0, 4) == 0
    sizing = _pick(draws, ("fixed", "fixed", "quantile", "oracle"))
    tokens = block_tokens * _between(draws, 1, 4) - _between(draws, 0, block_tokens - 1)
    options = {"fixed": {"tokens": tokens}, "quantile": {"tokens": tokens, "window": 8, "warmup": 2}, "oracle": {}}
    timeout_s = _pick(draws, (0.2, 1.0, 5.0, 30.0, 90.0, 180.0))
    return Scenario(
        block_tokens=block_tokens,
        hidden=8,
        discipline=_pick(draws, tuple(DISCIPLINES)),
        sizing=sizing,
        sizing_options=options[sizing],
        encode_instances=_between(draws, 1, 2) if several else 1,
        encode_tp=_between(draws, 1, 3),
        encode_blocks=_pick(draws, (1, 2, 4, 8, 12, 64)),
        language_instances=_between(draws, 1, 2) if several else 1,
        language_tp=_between(draws, 1, 3),
        language_blocks=language_blocks,
        timeout_s=CALM_TIMEOUT_S if calm else timeout_s,
        resume_first=_between(draws, 0, 2) > 0,
        reserve_blocks=_between(draws, 0, language_blocks - 1) if _between(draws, 0, 2) == 0 else 0,
        resume_tokens=_pick(draws, (None, None, block_tokens, 2 * block_tokens)),
        encode_batch=_pick(draws, (None, None, 1, 3)),
        prefill_batch_tokens=_pick(draws, (None, None, 1, 4 * block_tokens)),
        release_after_prefill=_between(draws, 0, 1) == 0,
        transfer_workers=_pick(draws, (1, 1, 2)),
        services=ServiceTimes(
            # A loop without a period would turn for ever at one moment while a group waits for a member's request.
            encode_turn_s=_pick(draws, (0.001, 0.01)),
            language_turn_s=_pick(draws, (0.001, 0.01)),
            encode_base_s=_pick(draws, (0.0, 0.005, 0.1)),
            encode_per_token_s=_pick(draws, (0.0, 1e-4)),
            prefill_base_s=_pick(draws, (0.0, 0.003, 0.05)),
            prefill_per_token_s=_pick(draws, (0.0, 1e-4)),
            preprocess_per_token_s=_pick(draws, (0.0, 0.0, 1e-4)),
        ),
    )


def _draw_requests(draws: numpy.random.Generator, scenario: Scenario) -> tuple[Request, ...]:
    block_tokens = scenario.block_tokens
    tokens = int(scenario.sizing_options.get("tokens", block_tokens))
    first = min(scenario.layout.blocks_for(tokens), scenario.language_blocks) * block_tokens
    language, encode = (blocks * block_tokens for blocks in (scenario.language_blocks, scenario.encode_blocks))
    pool = min(language, encode)
    corners = (0, 1, block_tokens, first, first + 1, 2 * first, 2 * first + 1, language, language + 1, encode + 1)
    cornered = _pick(draws, (0.1, 0.5))
    mean_gap_s = _pick(draws, (0.0, 0.001, 0.02, 0.2, 1.0, 5.0))
    requests: list[Request] = []
    arrival_s = 0.0
    for room in range(_between(draws, 5, 60)):
        at_corner = float(draws.random()) < cornered
        # The largest pools only make the runs longer.
        total = _pick(draws, corners) if at_corner else _between(draws, 1, min(pool, 4 * first))
        requests.append(
            Request(
                room,
                arrival_s,
                min(total, 12 * first + 1),
                encode_instance=_between(draws, 0, scenario.encode_instances - 1),
                language_instance=_between(draws, 0, scenario.language_instances - 1),
            )
        )
        arrival_s += float(draws.exponential(mean_gap_s)) if mean_gap_s else 0.0
    return tuple(requests)


_RATES = ("lost_messages", "doubled_messages", "late_messages", "failed_writes", "late_writes", "late_requests")
_INCIDENTS = ("client aborts", "death", "restart", "hang", "slow rank", "false alarms")
_HARMLESS = ("doubled_messages", "late_messages", "late_requests", "hang", "slow rank")


def _draw_plan(
    draws: numpy.random.Generator,
    seed: int,
    scenario: Scenario,
    requests: Sequence[Request],
    known: Sequence[str],
) -> FaultPlan:
    kinds = draws.choice(known, size=_between(draws, 1, 4), replace=False).tolist()
    ranks = [*scenario.encode_ids(), *scenario.language_ids()]
    # Some runs are over in milliseconds, and in some the last room ends long after the last request.
    span_s = requests[-1].arrival_s + _pick(draws, (0.02, 0.2, 2.0, 20.0))
    shares = (0.05, 0.2, 0.5) if known is _HARMLESS else (0.01, 0.05, 0.2)
    rates: dict[str, Any] = {kind: _pick(draws, shares) for kind in kinds if kind in _RATES}
    incidents: list[Incident] = []
    if "client aborts" in kinds:
        for request in requests:
            if float(draws.random()) < 0.3:
                incidents.append(_draw_abort(draws, scenario, request))
    if "death" in kinds:
        incidents.append(Death(_within(draws, span_s), _pick(draws, ranks), _pick(draws, (0.01, 1.0, 10.0))))
    if "restart" in kinds:
        for _ in range(_between(draws, 1, 2)):
            rank = _pick(draws, ranks)
            down_s = _within(draws, _pick(draws, (0.0, 0.05, 1.0, 20.0)))
            incidents.append(Restart(_within(draws, span_s), rank.side, rank.instance, down_s))
    if "hang" in kinds:
        lasts_s = _within(draws, _pick(draws, (0.05, 1.0, MOST_HANG_S)))
        incidents.append(Hang(_within(draws, span_s), _pick(draws, ranks), lasts_s))
    if "slow rank" in kinds:
        incidents.append(Slow(_pick(draws, ranks), _pick(draws, (2.0, 5.0, 20.0))))
    if "false alarms" in kinds:
        for _ in range(_between(draws, 1, 4)):
            observer = _pick(draws, ranks)
            peer = _pick(draws, [rank for rank in ranks if rank.side is not observer.side])
            lasts_s = _within(draws, _pick(draws, (0.05, 1.0, MOST_ALARM_S)))
            incidents.append(FalseAlarm(_within(draws, span_s), observer, peer, lasts_s))
    return FaultPlan(
        seed=seed,
        most_delay_s=_pick(draws, (0.01, 0.5, MOST_DELAY_S)),
        most_late_s=_pick(draws, (0.01, 0.5, MOST_LATE_S)),
        most_request_delay_s=_pick(draws, (0.01, 0.5, MOST_REQUEST_DELAY_S)),
        incidents=tuple(incidents),
        **rates,
    )


def _draw_abort(draws: numpy.random.Generator, scenario: Scenario, request: Request) -> ClientAbort:
    encode = [rank for rank in scenario.encode_ids() if rank.instance == request.encode_instance]
    language = [rank for rank in scenario.language_ids() if rank.instance == request.language_instance]
    ranks = _pick(draws, (encode, language, encode + language))
    if _between(draws, 0, 3) == 0:
        ranks = [_pick(draws, ranks)]  # the others are not told at all
    time_s = request.arrival_s + _within(draws, _pick(draws, (0.01, 0.1, 1.0)))
    return ClientAbort(time_s, request.room, tuple(ranks))


# --- running -------------------------------------------------------------------------------------------------------


class _Watch(PlannedFaults):
    """Carries out the plan and looks over everybody's shoulder.

    ``memory`` models what the language ranks' blocks hold, as (room, first token): whatever lands is written down, and
    whatever is copied out must be what its room was sent.
    """

    def __init__(self, plan: FaultPlan) -> None:
        super().__init__(plan)
        self.violations: list[str] = []
        self.progress_s = 0.0
        self.concluded: dict[RoomKey, dict[RankId, Conclude]] = {}
        self.landed_tokens: dict[tuple[RoomKey, RankId], int] = {}
        self.copied_tokens: dict[tuple[RoomKey, RankId], int] = {}
        self.memory: dict[tuple[RankId, int], tuple[RoomKey, int]] = {}
        self.outlived: set[tuple[RoomKey, int, RankId, RankId]] = set()  # writes whose writer ended before them

    def begin(self, cluster: FaultyCluster) -> None:
        """Watch the cores and schedule the incidents."""
        self.cores: dict[RankId, Core] = {core.rank_id: core for core in cluster.cores}
        self._block_tokens = cluster.scenario.block_tokens
        cluster.watch(self._see)
        super().begin(cluster)

    def report(self, what: str) -> None:
        """Note a violation."""
        if len(self.violations) < MOST_VIOLATIONS:
            self.violations.append(f"{self._clock.now:.6f} s: {what}")

    # --- processes ---

    def lost(self, rank_id: RankId, key: RoomKey) -> None:
        """A room that ended with its process counts as concluded there, unless it was before."""
        if rank_id not in self.concluded.get(key, {}):
            self._note_conclusion(rank_id, Conclude(*key, Status.Failed, PROCESS_ENDED))

    def _start_processes(self, side: Side, instance: int, ranks: Sequence[RankId]) -> None:
        super()._start_processes(side, instance, ranks)
        self.cores = {core.rank_id: core for core in self._cluster.cores}

    # --- writes ---

    def write_ends(self, writer: RankId, write: StartWrite) -> WriteEnd:
        """A write that fails may have landed in part, so whatever is in flight must lie where its room is."""
        self._check_write(writer, write, "in flight")
        end = super().write_ends(writer, write)
        key = (write.room, write.incarnation)
        here = self.landed_tokens.get((key, write.destination), 0)
        if end.ok and write.chunk.start_token == here:
            owners = {self.cores[write.destination].pool.owner(block) for block in self._targets(write)}
            if owners == {key}:
                self.landed_tokens[key, write.destination] = write.chunk.end_token
        return end

    def outlives(self, writer: RankId, write: StartWrite) -> float | None:
        """What is read of the memory of a process that has ended is nobody's any more."""
        late_s = super().outlives(writer, write)
        if late_s is not None:
            self.outlived.add(_name_of(writer, write))
        return late_s

    def landed(self, writer: RankId, write: StartWrite) -> None:
        """Bytes, late ones too, land in memory that is their room's, or fenced for it."""
        self._check_write(writer, write, "landing")
        for number, block in enumerate(self._targets(write)):
            start_token = write.chunk.start_token + number * self._block_tokens
            self.memory[write.destination, block] = ((write.room, write.incarnation), start_token)

    def _targets(self, write: StartWrite) -> tuple[int, ...]:
        return write.target_blocks[: -(-write.chunk.tokens // self._block_tokens)]

    def _check_write(self, writer: RankId, write: StartWrite, what: str) -> None:
        if self._cluster.is_lost(write):
            return  # it goes to memory of a process that has ended, and nothing of it can land
        key = (write.room, write.incarnation)
        here = f"the write of room {write.room}, chunk {write.epoch}, from {writer} to {write.destination} is {what}"
        target = self.cores[write.destination].pool
        for block in self._targets(write):
            owner, fenced_for = target.owner(block), target.fenced_for(block)
            if key not in (owner, fenced_for):
                self.report(f"{here}, but block {block} there is {_told(owner, fenced_for)}")
        if _name_of(writer, write) in self.outlived:
            return
        first = write.chunk.start_token // self._block_tokens
        source = self.cores[writer].pool
        for block in write.source_blocks[first : first + len(self._targets(write))]:
            if source.owner(block) != key:
                self.report(f"{here}, but its source block {block} is {_told(source.owner(block), None)}")

    # --- inputs and actions ---

    def _see(self, rank_id: RankId, event: object, actions: list[Action]) -> None:
        if isinstance(event, EncodeRequest | LanguageRequest):
            self.progress_s = self._clock.now
        for action in actions:
            if isinstance(action, StartWrite):
                self._check_write(rank_id, action, "started")
            elif isinstance(action, CopyOut):
                self._check_copy(rank_id, action)
            elif isinstance(action, Deliver):
                copied = self.copied_tokens.get(((action.room, action.incarnation), rank_id), 0)
                if copied != action.total_tokens:
                    self.report(
                        f"room {action.room} delivers {action.total_tokens} tokens on {rank_id}, {copied} copied"
                    )
            elif isinstance(action, Conclude):
                self._note_conclusion(rank_id, action)

    def _check_copy(self, rank_id: RankId, copy: CopyOut) -> None:
        key = (copy.room, copy.incarnation)
        before = self.copied_tokens.get((key, rank_id), 0)
        if copy.start_token != before:
            self.report(f"room {copy.room} copies from token {copy.start_token} on {rank_id}, {before} are copied")
        self.copied_tokens[key, rank_id] = copy.start_token + copy.tokens
        for number, block in enumerate(copy.blocks):
            wanted = (key, copy.start_token + number * self._block_tokens)
            found = self.memory.get((rank_id, block))
            if found != wanted:
                self.report(f"room {copy.room} copies block {block} of {rank_id}, which holds {found}, not {wanted}")

    def _note_conclusion(self, rank_id: RankId, conclusion: Conclude) -> None:
        key = (conclusion.room, conclusion.incarnation)
        ranks = self.concluded.setdefault(key, {})
        if rank_id in ranks:
            self.report(
                f"room {conclusion.room} concludes {conclusion.status.name} on {rank_id}, "
                f"it was {ranks[rank_id].status.name}"
            )
        ranks[rank_id] = conclusion
        self.progress_s = self._clock.now


def _name_of(writer: RankId, write: StartWrite) -> tuple[RoomKey, int, RankId, RankId]:
    return (write.room, write.incarnation), write.epoch, writer, write.destination


def _told(owner: object, fenced_for: object) -> str:
    if owner is not None:
        return f"owned by {owner}"
    return "free" if fenced_for is None else f"fenced for {fenced_for}"


def run_case(case: ChaosCase) -> ChaosOutcome:
    """Run a case until nothing lies ahead, and look at what is left."""
    laws = LawChecker(case.scenario)
    watch = _Watch(case.plan)
    clock = Clock()
    patience_s = PATIENCE_S + PATIENCE_TIMEOUTS * (case.scenario.timeout_s or 0.0)
    try:
        cluster = Cluster(case.scenario, case.link, clock, laws, faults=watch)
        cluster.feed(laws.announced(case.requests))
        while clock.busy or clock.reminders:
            if clock.peek() > watch.progress_s + patience_s:
                watch.report(f"the run does not end, nothing has come of it since {watch.progress_s:.6f} s")
                break
            clock.step()
        _check_end(case, watch)
    except Exception as error:
        # Whatever a core raises is a finding of its own, and what follows from it is none.
        frame = traceback.extract_tb(error.__traceback__)[-1]
        watch.report(f"{type(error).__name__} in {frame.name}: {error}")
    laws.finish()
    language_tp = case.scenario.language_tp
    succeeded = 0
    for ranks in watch.concluded.values():
        ends = [end.status for rank_id, end in ranks.items() if rank_id.side is Side.LANGUAGE]
        succeeded += ends == [Status.Success] * language_tp
    return ChaosOutcome(
        seed=case.plan.seed,
        drawn=_drawn(case),
        requests=len(case.requests),
        faults=dict(sorted(watch.happened.items())),
        succeeded=succeeded,
        failed=len(case.requests) - succeeded,
        violations=(*watch.violations, *laws.examples)[:MOST_VIOLATIONS],
    )


def _check_end(case: ChaosCase, watch: _Watch) -> None:
    """What every run owes: an end for every room, alike in its group, whole where it is a success, and empty ranks."""
    groups: dict[tuple[Side, int], list[RankId]] = {}
    for rank_id in watch.cores:
        groups.setdefault((rank_id.side, rank_id.instance), []).append(rank_id)
    living = {key: ranks for key, ranks in groups.items() if not any(map(watch.dead, ranks))}
    for request in case.requests:
        ends = watch.concluded.get((request.room, request.incarnation), {})
        for key in ((Side.ENCODE, request.encode_instance), (Side.LANGUAGE, request.language_instance)):
            told = {rank_id: ends[rank_id] for rank_id in groups[key] if rank_id in ends}
            if len({end.status for end in told.values()}) > 1:
                listed = ", ".join(f"{end.status.name} on {rank_id}" for rank_id, end in told.items())
                watch.report(f"room {request.room} ends as {listed}")
            if len(told) < len(groups[key]):
                missing = ", ".join(str(rank_id) for rank_id in groups[key] if rank_id not in told)
                watch.report(f"room {request.room} never ends on {missing}")
        for rank_id, end in ends.items():
            if rank_id.side is Side.LANGUAGE and end.status is Status.Success:
                landed = watch.landed_tokens.get(((request.room, request.incarnation), rank_id), 0)
                if landed != request.total_tokens:
                    watch.report(
                        f"room {request.room} is a success on {rank_id}, where {landed} of {request.total_tokens} "
                        f"tokens landed while it owned their blocks"
                    )
        if case.calm:
            _check_calm_end(case, watch, request, ends)
    for rank_id in (rank_id for ranks in living.values() for rank_id in ranks):
        core = watch.cores[rank_id]
        if core.rooms or core.pool.free != core.pool.blocks:
            watch.report(
                f"{rank_id} is left with {len(core.rooms)} rooms, {core.pool.free} of {core.pool.blocks} blocks free "
                f"and {core.pool.fenced} fenced"
            )


def _check_calm_end(case: ChaosCase, watch: _Watch, request: Request, ends: dict[RankId, Conclude]) -> None:
    failed = [end for end in ends.values() if end.status is not Status.Success]
    # Where rooms may wait for each other for ever, a timer ends them although nothing is wrong.
    may_deadlock = DISCIPLINES[case.scenario.discipline].may_deadlock
    reasons = (*REFUSALS, "timed out") if may_deadlock else REFUSALS
    if failed and not any(words in end.reason for end in failed for words in reasons):
        watch.report(f"room {request.room} fails without a reason to: {failed[0].reason}")


def _drawn(case: ChaosCase) -> str:
    scenario, plan = case.scenario, case.plan
    lengths = [request.total_tokens for request in case.requests]
    shape = f"{scenario.encode_instances}x{scenario.encode_tp} to {scenario.language_instances}x{scenario.language_tp}"
    options = ", ".join(f"{name} {value}" for name, value in scenario.sizing_options.items())
    faults = [f"{name} {rate}" for name in _RATES if (rate := getattr(plan, name))]
    faults += [_told_incident(incident) for incident in plan.incidents if not isinstance(incident, ClientAbort)]
    if aborts := sum(isinstance(incident, ClientAbort) for incident in plan.incidents):
        faults.append(f"{aborts} client aborts")
    return (
        f"{shape} ranks, {scenario.discipline}, {scenario.sizing}({options}), blocks of {scenario.block_tokens}, pools "
        f"{scenario.encode_blocks} and {scenario.language_blocks} (reserve {scenario.reserve_blocks}), "
        f"{'resumes' if scenario.resume_first else 'new rooms'} first, timeout {scenario.timeout_s:g} s, "
        f"{len(lengths)} requests of {min(lengths)} to {max(lengths)} tokens in {case.requests[-1].arrival_s:.3f} s; "
        f"{', '.join(faults) or 'no faults'}"
    )


def _told_incident(incident: Incident) -> str:
    match incident:
        case Death(time_s, rank):
            return f"death of {rank} at {time_s:.3f} s"
        case Restart(time_s, side, instance, down_s):
            return f"restart of {side.value}{instance} at {time_s:.3f} s after {down_s:.3f} s"
        case Hang(time_s, rank, lasts_s):
            return f"hang of {rank} at {time_s:.3f} s for {lasts_s:.3f} s"
        case Slow(rank, factor):
            return f"{rank} {factor:g} times slower"
        case FalseAlarm(time_s, observer, peer, lasts_s):
            return f"{observer} takes {peer} for dead at {time_s:.3f} s for {lasts_s:.3f} s"
        case ClientAbort(time_s, room):
            return f"abort of room {room} at {time_s:.3f} s"
