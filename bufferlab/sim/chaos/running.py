"""Runs a case to its end, and looks for whatever may not be."""

from __future__ import annotations

import traceback

import msgspec

from bufferlab.protocol.disciplines import DISCIPLINES
from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.messages import Conclude
from bufferlab.protocol.observe.monitor import InvariantMonitor
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side
from bufferlab.sim.chaos.drawing import ChaosCase, draw_case
from bufferlab.sim.chaos.text import drawn
from bufferlab.sim.chaos.watch import MOST_VIOLATIONS, Watch
from bufferlab.sim.clock import Clock
from bufferlab.sim.cluster.cluster import Cluster

PATIENCE_S = 500.0
PATIENCE_TIMEOUTS = 10
"""A run in which no request came and no room ended for this long, and for this many timeouts more, does not end: every
phase of a room has a timer, and the longest thing that no timer covers is a quarantine."""

REFUSALS = ("can never fit", "do not fit the allocation", "the embedding is empty", "source blocks, the pool has")
"""How the reasons of failures read that are the scenario's own."""


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


def run_seed(seed: int) -> ChaosOutcome:
    """Draw a case from ``seed``, run it, and look for whatever may not be. Raises ValueError for a negative seed."""
    return run_case(draw_case(seed))


def run_case(case: ChaosCase) -> ChaosOutcome:
    """Run a case until nothing lies ahead, and look at what is left."""
    invariants = InvariantMonitor(case.scenario)
    watch = Watch(case.plan)
    clock = Clock()
    patience_s = PATIENCE_S + PATIENCE_TIMEOUTS * (case.scenario.timeout_s or 0.0)
    try:
        cluster = Cluster(case.scenario, case.link, clock, invariants, faults=watch)
        cluster.feed(invariants.announced(case.requests))
        while clock.busy or clock.reminders:
            if clock.peek() > watch.progress_s + patience_s:
                watch.report(f"the run does not end, nothing has come of it since {watch.progress_s:.6f} s")
                break
            clock.step()
        cluster.note_rest()
        _check_end(case, watch)
    except Exception as error:
        # Whatever a core raises is a finding of its own, and what follows from it is none.
        frame = traceback.extract_tb(error.__traceback__)[-1]
        watch.report(f"{type(error).__name__} in {frame.name}: {error}")
    invariants.finish()
    language_tp = case.scenario.language_tp
    succeeded = 0
    for ranks in watch.concluded.values():
        ends = [end.status for rank_id, end in ranks.items() if rank_id.side is Side.LANGUAGE]
        succeeded += ends == [Status.Success] * language_tp
    return ChaosOutcome(
        seed=case.plan.seed,
        drawn=drawn(case),
        requests=len(case.requests),
        faults=dict(sorted(watch.happened.items())),
        succeeded=succeeded,
        failed=len(case.requests) - succeeded,
        violations=(*watch.violations, *invariants.examples)[:MOST_VIOLATIONS],
    )


def _check_end(case: ChaosCase, watch: Watch) -> None:
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


def _check_calm_end(case: ChaosCase, watch: Watch, request: Request, ends: dict[RankId, Conclude]) -> None:
    failed = [end for end in ends.values() if end.status is not Status.Success]
    # Where rooms may wait for each other for ever, a timer ends them although nothing is wrong.
    may_deadlock = DISCIPLINES[case.scenario.discipline].may_deadlock
    reasons = (*REFUSALS, "timed out") if may_deadlock else REFUSALS
    if failed and not any(words in end.reason for end in failed for words in reasons):
        watch.report(f"room {request.room} fails without a reason to: {failed[0].reason}")


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
