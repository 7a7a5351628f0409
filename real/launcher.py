"""Runs a scenario for real: starts one process per rank on this host, hands out the requests, collects the account.

The launching process is the router. It never touches the data; it sends every request to all ranks of its two
instances at its arrival time and waits until each of them has concluded it. It also carries out a plan of faults, and
it notices when nothing moves any more (see ``standstill``). What a rank does about a dead peer is not its business:
the ranks watch each other (see ``heartbeat``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from protocol.scenario import Request, Scenario
from real.faults import RealFault, announced_writes, check_plan, rank_faults
from real.orders import ROUTER, Heartbeats, RankSpec, Route
from real.outcome import RealOutcome
from real.ranks import Ranks
from real.router import Router

__all__ = ["RealOutcome", "run_real"]


def run_real(
    scenario: Scenario,
    requests: Sequence[Request],
    *,
    transport: str = "tcp",
    device: str = "",
    verify: bool = True,
    progress: Callable[[int], None] | None = None,
    heartbeats: Heartbeats | None = None,
    plan: Sequence[RealFault] = (),
) -> RealOutcome:
    """Run ``requests`` (sorted by arrival) on this host and return what happened.

    ``heartbeats``: how the sides watch each other. ``plan``: what is made to go wrong.
    Raises ValueError for a plan or a request that names what is not there, EngineMissing or EngineStartError when the
    ranks cannot start, and EngineError when one breaks in the run. No process is left behind, whatever happens.
    """
    for request in requests:
        if request.encode_instance >= scenario.encode_instances or (
            request.language_instance >= scenario.language_instances
        ):
            raise ValueError(
                f"room {request.room} wants encode instance {request.encode_instance} and language instance "
                f"{request.language_instance}; there are {scenario.encode_instances} and {scenario.language_instances}"
            )
    check_plan(plan, [*scenario.encode_ids(), *scenario.language_ids()], (request.room for request in requests))
    template = RankSpec(
        rank_id=ROUTER,
        scenario=scenario,
        bootstraps=(),
        router=Route(rank_id=ROUTER, host="", control_port=0),
        heartbeats=heartbeats or Heartbeats(),
        transport=transport,
        device=device,
        verify=verify,
        longest_tokens=max((request.total_tokens for request in requests), default=1),
        faults=rank_faults(plan),
        announced_writes=announced_writes(plan),
    )
    with Ranks(template) as ranks:
        return Router(ranks, plan, progress).run(requests)
