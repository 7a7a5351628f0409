"""Settings that arithmetic alone rules out, each with its reason: nothing is left out silently, and nothing by a guess.

A setting is screened out only where the reason holds whatever the run does:

* it can never deliver some request of the traffic (``bounds.never_served``), so it would be unfit;
* it sets aside more than another one that is like it in everything else and never has to resume either, as no request
  is longer: it can only wait more and hold more memory (never said of lengths that are drawn, which may be longer in
  the next replication);
* its pool is more than full by Little's law for the shortest time that blocks can be held, and that of others is not.

Where *every* setting has a stage above its capacity there is nothing to choose: see ``overloaded``.
"""

from __future__ import annotations

from collections.abc import Sequence

from bufferlab.experiments.tuning.bounds import Demand, loads_of, never_served
from bufferlab.experiments.tuning.space import TOKENS, Setting

FULL = 1.0
CLEARLY = 1.1
"""Of a pool, whose load is taken from the one replication that was looked at."""
SERVERS = ("prefill", "adapters", "writers", "encoder", "preprocessing")
"""Stages of which one may hold up a system, the last of the chain first."""


def screen(settings: Sequence[Setting], demand: Demand, *, spared: frozenset[int]) -> dict[int, str]:
    """The number of every setting that is ruled out, and why. ``spared``: numbers of those that are run in any case."""
    out: dict[int, str] = {}
    judged = [one for one in settings if one.number not in spared]
    for one in judged:
        lost = never_served(one.config, demand)
        if lost:
            what = "request does" if lost == 1 else "requests do"
            out[one.number] = f"{lost} {what} not fit, however idle it is"
    for one in judged:
        if one.number not in out and (smaller := _smaller_that_holds_all(one, settings, demand, out)) is not None:
            out[one.number] = (
                f"no request is longer than {demand.longest} tokens, for which {smaller.fields[TOKENS]} "
                f"(setting {smaller.number}) are enough"
            )
    left = [one for one in settings if one.number not in out]
    pools = {one.number: loads_of(one.config, demand).get("language_pool", 0.0) for one in left}
    if any(load <= FULL for load in pools.values()):
        for one in left:
            if pools[one.number] > CLEARLY and one.number not in spared:
                out[one.number] = f"its pool would have to be {pools[one.number]:.3g} times as large (Little's law)"
    return out


def _smaller_that_holds_all(
    setting: Setting, settings: Sequence[Setting], demand: Demand, out: dict[int, str]
) -> Setting | None:
    """The least fixed default of the same setting that no request exceeds, if this one is larger.

    None for the default of today: what is otherwise changed beside it is the smaller change.
    """
    sizing = setting.config.protocol.sizing
    if not demand.bounded or sizing.policy != "fixed" or TOKENS not in setting.changes:
        return None
    others = _but_tokens(setting)
    enough = [
        one
        for one in settings
        if one.config.protocol.sizing.policy == "fixed"
        and one.eligible
        and one.number not in out
        and demand.longest <= one.config.protocol.sizing.tokens < sizing.tokens
        and _but_tokens(one) == others
    ]
    return min(enough, key=lambda one: one.config.protocol.sizing.tokens, default=None)


def _but_tokens(setting: Setting) -> str:
    tree = setting.config.tree()
    del tree["protocol"]["sizing"]["tokens"]
    return repr(tree)


def overloaded(settings: Sequence[Setting], demand: Demand) -> dict[str, float] | None:
    """Stage → least load of all settings, of the stages that are above their capacity in every one; None if none is."""
    loads = [loads_of(one.config, demand) for one in settings]
    least = {stage: min(one.get(stage, 0.0) for one in loads) for stage in SERVERS} if loads else {}
    above = {stage: load for stage, load in least.items() if load > FULL}
    return above or None
