"""Whether a system keeps up with what it is offered, and which stage holds it back if not.

Above its capacity a system has no steady state: what it has not served piles up, and latencies grow for as long as it
is offered more. So the sign is growth, not length: the time from a request's arrival to its end, taken over ten
successive parts of the arrivals, has a slope (the median of those between any two parts, Theil and Sen's, which a
single burst does not move). A server with a demand of ρ > 1 times what it can do falls behind by ρ − 1 seconds a
second, so that is the slope; requests that timed out are demand as well. Chance makes a system that keeps up fall
behind for a while, too, by about the standard error of the offered work: √((c²ₐ + c²ₜ)/n) of it, from the variation of
the gaps between n arrivals and of their tokens, both with what successive ones have in common. Only growth beyond twice
that is called over capacity, so a short run or a burst is not, however long its queue.

*near*: a server is busy, or rooms wait for a pool, 90 % of the time in which requests are offered, without such growth.
A closed loop offers what is served and is never over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from experiments.stats.batching import autocorrelation_time
from experiments.stats.intervals import Samples
from protocol.topology import Side

if TYPE_CHECKING:
    from experiments.runs.summary import Replication

STAGES = ("preprocessing", "language_pool", "encode_pool", "encoder", "writers", "adapters", "prefill")
"""In the order in which they hold each other up: a full stage makes those before it wait."""
POOLS = ("language_pool", "encode_pool")

PARTS = 10
LEAST_REQUESTS = 40
LEAST_GROWTH = 0.02
"""Less is not worth a word, however certain."""
ERRORS = 2.0
ERRORS_UNSEEN = 4.0
"""The same where no stage is full, so that what holds the system back would have to be something that is not seen."""
SATURATED = 0.95
NEAR = 0.9
FILLED = 0.4
"""Rooms also wait for a loop that is busy with something else. They wait for a pool if so much of it is held."""


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


def evidence(one: Replication) -> Evidence:
    """What there is to judge one replication by."""
    arrivals_s, ends_s, timed_out, tokens = one.courses()
    count = len(arrivals_s)
    lasted_s = float(arrivals_s[-1] - arrivals_s[0]) if count else 0.0
    offered = served = growth = noise = None
    if count > 1 and lasted_s > 0:
        offered = (count - 1) / lasted_s
        # Those of a warm-up are served in this time as well: their backlog is what the others wait behind.
        all_ends_s = one.prefill_ends_s()
        served = np.count_nonzero((all_ends_s > arrivals_s[0]) & (all_ends_s <= arrivals_s[-1])) / lasted_s
    if count >= LEAST_REQUESTS and lasted_s > 0:
        growth = _growth(arrivals_s, ends_s)
        lost = float(np.mean(timed_out))
        if lost and not (one.disturbed or one.deadlock):
            growth = (1 + max(growth or 0.0, 0.0)) / max(1 - lost, 1 / count) - 1
        noise = math.sqrt((_spread(np.diff(arrivals_s)) + _spread(tokens)) / count)
    until_s = float(arrivals_s[-1]) if count else 0.0
    return Evidence(
        offered_rps=offered,
        served_rps=served,
        growth=growth,
        noise=noise,
        busy=one.busy_until(until_s),
        filled={f"{side.value}_pool": one.filled_until(side, until_s) for side in Side},
        closed=one.closed,
        disturbed=one.disturbed or one.deadlock,
        none_served=count > 0 and bool(np.isnan(ends_s).all()),
    )


def _growth(arrivals_s: Samples, ends_s: Samples) -> float | None:
    """Theil and Sen's slope of the times to the end against the arrivals."""
    points = []
    for part in np.array_split(np.arange(len(arrivals_s)), PARTS):
        times_s = (ends_s - arrivals_s)[part]
        known = ~np.isnan(times_s)
        if known.any():
            points.append((float(np.mean(arrivals_s[part][known])), float(np.median(times_s[known]))))
    slopes = [
        (later[1] - sooner[1]) / (later[0] - sooner[0])
        for number, sooner in enumerate(points)
        for later in points[number + 1 :]
        if later[0] > sooner[0]
    ]
    return float(np.median(slopes)) if slopes else None


def _spread(values: Samples) -> float:
    """Squared coefficient of variation of a mean of these, times their number."""
    mean = float(np.mean(values)) if len(values) else 0.0
    return float(np.var(values)) / mean**2 * autocorrelation_time(values) if mean > 0 else 0.0


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
    if closed:
        verdict, bottleneck = "closed", stage
    elif offered is None:
        verdict, bottleneck = "unknown", None
    elif grows and (stage is not None or not disturbed):
        verdict, bottleneck = "over", stage
    elif none_served:
        verdict, bottleneck = "unknown", None
    elif stage is not None:
        verdict, bottleneck = "near", stage
    else:
        verdict, bottleneck = "within", None
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
        "sentence": NONE_SERVED
        if none_served and verdict == "unknown"
        else _sentence(verdict, bottleneck, busy, offered, served),
    }


def combined(verdicts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The verdict over replications of which each has its own."""
    return judge(
        [
            Evidence(
                one["offered_rps"], one["served_rps"], one["growth"], one["noise"], one["busy"], one["filled"],
                closed=one["verdict"] == "closed", disturbed=one["disturbed"],
                none_served=one.get("none_served", False),
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
    rates = f"{offered or 0.0:.3g}/s offered, {served or 0.0:.3g}/s served"
    if verdict == "over":
        return (
            f"over capacity: {_state(stage, busy) if stage else 'no single stage is busy all the time'}, {rates}; "
            f"latencies grow with the run's length and are not a steady state"
        )
    if verdict == "near":
        return f"near capacity: {_state(stage, busy)} while requests come"
    known = {name: share for name, share in busy.items() if name not in POOLS and share is not None}
    busiest = stage or max(known, key=lambda name: known[name], default=None)
    state = _state(busiest, busy) if busiest else "nothing is busy"
    if verdict == "closed":
        return f"closed loop, which offers what is served: {state} while requests come"
    return f"within capacity: {state}" if stage else f"within capacity: the busiest stage, {state}"


def _state(stage: str | None, busy: Mapping[str, float | None]) -> str:
    share = 100 * (busy.get(stage or "") or 0.0)
    name = (stage or "").replace("_", " ")
    if stage in POOLS:
        return f"requests wait for the {name} {share:.0f} % of the time"
    return f"{name} {'are' if stage in ('writers', 'adapters') else 'is'} busy {share:.0f} %"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
