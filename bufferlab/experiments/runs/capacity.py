"""Whether a system keeps up with what it is offered, and which stage holds it back if not.

Above its capacity a system has no steady state: what it has not served piles up, and latencies grow for as long as it
is offered more. So the sign is growth, not length: the time from a request's arrival to its end, taken over ten
successive parts of the arrivals, has a slope (the median of those between any two parts, Theil and Sen's, which a
single burst does not move). A server with a demand of ρ > 1 times what it can do falls behind by ρ − 1 seconds a
second, so that is the slope; requests that timed out are demand as well. Chance makes a system that keeps up fall
behind for a while, too, by about the standard error of the offered work: √((c²ₐ + c²ₜ)/n) of it, from the variation of
the gaps between n arrivals and of their tokens, both with what successive ones have in common. Only growth beyond twice
that is called over capacity, so a short run or a burst is not, however long its queue.

A file has pauses and busy hours, so the same is asked of stretches of its traffic (``stretches``): one with enough
requests in which a stage is full and latencies grow is over capacity, whatever the mean of the run says. While traffic
pauses and nothing is under way, no stage can be busy, so such time is no part of the time in which requests come.

*near*: a server is busy, or rooms wait for a pool, 90 % of the time in which requests are offered, without such growth.
A closed loop offers what is served and is never over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bufferlab.experiments.runs.stretches import (
    ERRORS,
    LEAST_GROWTH,
    LEAST_REQUESTS,
    SATURATED,
    Course,
    Levels,
    Stretch,
    full_for_long,
    growth_of,
    overloaded,
    pauses,
)
from bufferlab.experiments.units import format_per_second, format_span
from bufferlab.protocol.topology import Side

if TYPE_CHECKING:
    from bufferlab.experiments.runs.replication import Replication

STAGES = ("preprocessing", "language_pool", "encode_pool", "encoder", "writers", "adapters", "prefill")
"""In the order in which they hold each other up: a full stage makes those before it wait."""
POOLS = ("language_pool", "encode_pool")

ERRORS_UNSEEN = 4.0
"""The same where no stage is full, so that what holds the system back would have to be something that is not seen."""
NEAR = 0.9
FILLED = 0.4
"""Rooms also wait for a loop that is busy with something else. They wait for a pool if so much of it is held."""


LARGE_SHARE = 0.1
"""Of the requests. Where more are not served, that stages have time left does not mean that all is well."""

NONE_SERVED = "capacity unknown: none of the requests was served"


class Evidence(NamedTuple):
    """What one replication says. Shares are of the time in which requests were offered.

    ``growth``: how many seconds the system falls behind in a second; ``noise``: the standard error of that by chance
    alone. None where a run is too short. ``busy``: of every stage; of a pool, the share in which rooms waited for it.
    ``filled``: of every pool, the share that was held. ``disturbed``: faults that are part of the configuration, and
    deadlocks, make latencies grow as well; then a stage must be saturated, too.
    """

    offered_rps: float | None
    served_rps: float | None
    growth: float | None
    noise: float | None
    busy: Mapping[str, float | None]
    filled: Mapping[str, float | None]
    closed: bool
    disturbed: bool
    none_served: bool = False
    """Whether no request was served, so that nothing grew."""
    requests: int = 0
    not_served: int = 0
    """How many of the requests were not served: they failed, or were not over at the end."""
    over: Mapping[str, Any] | None = None
    """The stretches of the traffic that were over capacity, if any; see ``_described``."""
    full: Mapping[str, Any] | None = None
    """Those in which a stage was full for long."""


def evidence(one: Replication) -> Evidence:
    """What there is to judge one replication by."""
    course = Course(*one.courses())
    arrivals_s, ends_s = course.arrivals_s, course.ends_s
    count = len(arrivals_s)
    lasted_s = float(arrivals_s[-1] - arrivals_s[0]) if count else 0.0
    disturbed = one.disturbed or one.deadlock
    offered = served = growth = noise = None
    if count > 1 and lasted_s > 0:
        offered = (count - 1) / lasted_s
        served = _served_rps(one, float(arrivals_s[0]), float(arrivals_s[-1]))
    if count >= LEAST_REQUESTS and lasted_s > 0:
        growth, noise = growth_of(course, disturbed=disturbed)
    until_s = float(arrivals_s[-1]) if count else 0.0
    paused = pauses(course)
    breaks, paused_s = [number for number, _ in paused], sum(pause_s for _, pause_s in paused)
    busy = one.busy_until(until_s)
    filled = {f"{side.value}_pool": one.filled_until(side, until_s) for side in Side}
    if 0 < paused_s < lasted_s:
        longer = lasted_s / (lasted_s - paused_s)
        busy = {name: None if share is None else min(longer * share, 1.0) for name, share in busy.items()}
        filled = {name: min(longer * share, 1.0) for name, share in filled.items()}
    levels = _levels(one)
    over = full = None
    if not one.closed:
        over = _described(one, course, overloaded(course, levels, breaks, disturbed=disturbed), paused=paused_s > 0)
        full = _described(one, course, full_for_long(course, levels, breaks), paused=paused_s > 0)
    return Evidence(
        offered_rps=offered,
        served_rps=served,
        growth=growth,
        noise=noise,
        busy=busy,
        filled=filled,
        closed=one.closed,
        disturbed=disturbed,
        none_served=count > 0 and bool(np.isnan(ends_s).all()),
        requests=count,
        not_served=int(np.count_nonzero(np.isnan(ends_s))),
        over=over,
        full=full,
    )


def _served_rps(one: Replication, begin_s: float, end_s: float) -> float | None:
    """How many requests a second were served, those of a warm-up with them: the others wait behind their backlog."""
    ends_s = one.prefill_ends_s()
    if end_s <= begin_s:
        return None
    return int(np.count_nonzero((ends_s > begin_s) & (ends_s <= end_s))) / (end_s - begin_s)


def _levels(one: Replication) -> dict[str, Levels]:
    """How busy every stage was in the course of time, in the order of ``STAGES``; pools before servers.

    A pool is busy while requests wait for it, if enough of it is held.
    """
    found: dict[str, Levels] = {}
    for side in (Side.LANGUAGE, Side.ENCODE):
        waits, held = one.wait_levels(side), one.held_levels(side)
        if waits is not None and held is not None:
            shares = np.zeros_like(waits.shares)
            for place in np.flatnonzero(waits.shares):
                if held.between(*_around(waits, int(place))) >= FILLED:
                    shares[place] = waits.shares[place]
            found[f"{side.value}_pool"] = waits._replace(shares=shares)
    servers = [name for name in STAGES if name not in POOLS]
    return found | {name: levels for name in servers if (levels := one.stage_levels(name)) is not None}


def _around(levels: Levels, place: int) -> tuple[float, float, float]:
    begin_s = levels.start_s + place * levels.batch_s
    return begin_s, begin_s + levels.batch_s, begin_s + levels.batch_s


def _described(one: Replication, course: Course, found: Sequence[Stretch], *, paused: bool) -> dict[str, Any] | None:
    """What is said of stretches: how many, which share of the requests, when the largest was and what it was.

    ``paused``: whether traffic paused in the run, so that its rates over the whole of it mean little.
    """
    if not found:
        return None
    largest = max(found, key=lambda stretch: stretch.last - stretch.first)
    begin_s, end_s = largest.begin_s, largest.end_s
    return {
        "stretches": len(found),
        "share": sum(stretch.last - stretch.first for stretch in found) / len(course.arrivals_s),
        "begin_s": begin_s,
        "end_s": end_s,
        "paused": paused,
        "stage": largest.stage,
        "busy": largest.busy,
        "offered_rps": (largest.last - largest.first - 1) / (end_s - begin_s) if end_s > begin_s else None,
        "served_rps": _served_rps(one, begin_s, end_s),
    }


def judge(found: Sequence[Evidence]) -> dict[str, Any]:
    """The verdict over all replications, as summary.json has it: see the module."""
    offered = _mean([one.offered_rps for one in found])
    served = _mean([one.served_rps for one in found])
    growth, noise = _mean([one.growth for one in found]), _mean([one.noise for one in found])
    busy = {name: _mean([one.busy.get(name) for one in found]) for name in STAGES}
    filled = {name: _mean([one.filled.get(name) for one in found]) or 0.0 for name in POOLS}
    closed, disturbed = any(one.closed for one in found), any(one.disturbed for one in found)
    if noise is not None:
        noise /= math.sqrt(len(found))
    stage = _held_back_by(busy, filled)
    errors = ERRORS if stage is not None else ERRORS_UNSEEN
    grows = growth is not None and noise is not None and growth > max(LEAST_GROWTH, errors * noise)
    none_served = bool(found) and all(one.none_served for one in found)
    over, full = _of_most([one.over for one in found]), _of_most([one.full for one in found])
    requests, not_served = sum(one.requests for one in found), sum(one.not_served for one in found)
    stretch: Mapping[str, Any] | None = None
    if closed:
        verdict, bottleneck = "closed", stage
    elif offered is None:
        verdict, bottleneck = "unknown", None
    elif grows and stage is not None and (over is None or not over["paused"]):
        verdict, bottleneck = "over", stage
    elif over is not None:
        verdict, bottleneck, stretch = "over", over["stage"], over
    elif grows and not disturbed:
        verdict, bottleneck = "over", None
    elif none_served:
        verdict, bottleneck = "unknown", None
    elif stage is not None:
        verdict, bottleneck = "near", stage
    elif full is not None:
        verdict, bottleneck, stretch = "near", full["stage"], full
    else:
        verdict, bottleneck = "within", None
    if none_served and verdict == "unknown":
        sentence = NONE_SERVED
    elif verdict in ("within", "near", "closed") and not_served > LARGE_SHARE * requests:
        sentence = _sentence_of_losses(verdict, bottleneck, busy, requests, not_served)
    elif stretch is not None:
        sentence = _sentence_of_stretch(verdict, stretch)
    else:
        sentence = _sentence(verdict, bottleneck, busy, offered, served)
    partly = sum(one.over is not None for one in found)
    if partly and verdict in ("within", "near"):
        some = f"1 replication of {len(found)} was" if partly == 1 else f"{partly} replications of {len(found)} were"
        sentence += f"; {some} over capacity in a part of the run"
    return {
        "verdict": verdict,
        "bottleneck": bottleneck,
        "offered_rps": offered,
        "served_rps": served,
        "growth": growth,
        "noise": noise,
        "busy": busy,
        "filled": filled,
        "disturbed": disturbed,
        "none_served": none_served,
        "requests": requests,
        "not_served": not_served,
        "stretch": stretch,
        "sentence": sentence,
    }


def _of_most(told: Sequence[Mapping[str, Any] | None]) -> Mapping[str, Any] | None:
    """The largest stretch of all replications, if most of them have one."""
    found = [one for one in told if one is not None]
    return max(found, key=lambda one: float(one["share"])) if 2 * len(found) > len(told) else None


def combined(verdicts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The verdict over replications of which each has its own."""
    return judge(
        [
            Evidence(
                one["offered_rps"], one["served_rps"], one["growth"], one["noise"], one["busy"], one["filled"],
                closed=one["verdict"] == "closed", disturbed=one["disturbed"],
                none_served=one.get("none_served", False),
                requests=one.get("requests", 0), not_served=one.get("not_served", 0),
                over=one.get("stretch") if one["verdict"] == "over" else None,
                full=one.get("stretch"),
            )
            for one in verdicts
        ]
    )  # fmt: skip


def _held_back_by(busy: Mapping[str, float | None], filled: Mapping[str, float]) -> str | None:
    """The last stage that is saturated, servers before pools; the busiest one that nearly is; None."""
    servers = [name for name in STAGES if name not in POOLS]
    for name in reversed(servers):
        if (busy[name] or 0.0) >= SATURATED:
            return name
    busiest = max(servers, key=lambda name: busy[name] or 0.0)
    if (busy[busiest] or 0.0) >= NEAR:
        return busiest
    return next((pool for pool in reversed(POOLS) if (busy[pool] or 0.0) >= NEAR and filled[pool] >= FILLED), None)


def _sentence(
    verdict: str, stage: str | None, busy: Mapping[str, float | None], offered: float | None, served: float | None
) -> str:
    if verdict == "unknown":
        return "capacity unknown: requests did not come one after another, so there is no rate to compare with"
    rates = f"{format_per_second(offered or 0.0)} offered, {format_per_second(served or 0.0)} served"
    if verdict == "over":
        # Of a run it is told as well how busy stages were until the last request ended, when none came any more.
        state = f"{_state(stage, busy)} while requests come" if stage else "no single stage is busy all the time"
        return f"over capacity: {state}, {rates}; latencies grow with the run's length and are not a steady state"
    if verdict == "near":
        return f"near capacity: {_state(stage, busy)} while requests come"
    known = {name: share for name, share in busy.items() if name not in POOLS and share is not None}
    busiest = stage or max(known, key=lambda name: known[name], default=None)
    state = f"{_state(busiest, busy) if busiest else 'nothing is busy'} while requests come"
    if verdict == "closed":
        return f"closed loop, which offers what is served: {state}"
    return f"within capacity: the busiest stage, {state}" if busiest else f"within capacity: {state}"


def _sentence_of_losses(
    verdict: str, stage: str | None, busy: Mapping[str, float | None], requests: int, not_served: int
) -> str:
    """Where so much was not served that the stages had less to do than was wanted of them."""
    lost = f"{not_served} of {requests} requests were not served (see the reasons above)"
    if verdict == "within":
        return f"no stage is over capacity, but {lost}"
    if verdict == "closed":
        return f"closed loop, which offers what is served, but {lost}"
    return f"near capacity: {_state(stage, busy)} while requests come, and {lost}"


def _sentence_of_stretch(verdict: str, stretch: Mapping[str, Any]) -> str:
    begin = format_span(stretch["begin_s"]) if stretch["begin_s"] else "0 s"
    when = f"from {begin} to {format_span(stretch['end_s'])}"
    share = f"{100 * stretch['share']:.0f} % of the requests"
    where = f"{when} ({share})"
    if stretch["stretches"] > 1:
        where = f"in {stretch['stretches']} stretches, the largest {when} ({share} in all of them)"
    state = _state(stretch["stage"], {stretch["stage"]: stretch["busy"]})
    if verdict == "near":
        return f"near capacity {where}: {state} there"
    offered, served = (format_per_second(stretch[f"{name}_rps"] or 0.0) for name in ("offered", "served"))
    rates = f"{offered} offered, {served} served"
    return f"over capacity {where}: {state}, {rates}; latencies grow for as long as that lasts"


def _state(stage: str | None, busy: Mapping[str, float | None]) -> str:
    percent = 100 * (busy.get(stage or "") or 0.0)
    share = f"{percent:.3g}" if percent < 10 else f"{percent:.0f}"  # small ones as the table has them: none is 0
    name = (stage or "").replace("_", " ")
    if stage in POOLS:
        return f"requests wait for the {name} {share} % of the time"
    return f"{name} {'are' if stage in ('writers', 'adapters') else 'is'} busy {share} %"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
