"""Runs a scenario for real: starts one process per rank, hands out the requests, and collects what the ranks report.

The ranks are children of this process, or come by themselves from other hosts (see ``hosts``). The launching process
is the router. It never touches the data; it sends every request to all ranks of its two instances at its arrival time
and waits until each of them has concluded it. It also carries out a plan of faults, and it notices when nothing moves
any more (see ``deadlock_probe``). What a rank does about a dead peer is not its business: the ranks watch each other
(see ``heartbeat``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import msgspec

from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.protocol.wire.limits import SGLANG
from bufferlab.real.control.guard import new_token
from bufferlab.real.control.route import ROUTER, Route
from bufferlab.real.control.sglang import check_sglang
from bufferlab.real.control.spec import Heartbeats, RankSpec
from bufferlab.real.engine.placement import MemoryChoice
from bufferlab.real.faults import Kill, ProcessFault, RealFault, Restart, announced_writes, check_plan, rank_faults
from bufferlab.real.hosts.places import Hosts, ThisHost
from bufferlab.real.run.outcome import RealOutcome
from bufferlab.real.run.patience import Patience
from bufferlab.real.run.ranks import Ranks
from bufferlab.real.run.router import Router

__all__ = ["RealOutcome", "run_real"]


def run_real(
    scenario: Scenario,
    requests: Sequence[Request],
    *,
    transport: str = "tcp",
    device: str = "",
    memory: MemoryChoice = "auto",
    verify: bool = True,
    progress: Callable[[int], None] | None = None,
    heartbeats: Heartbeats | None = None,
    plan: Sequence[RealFault] = (),
    hosts: Hosts | None = None,
    concurrency: int | None = None,
    patience: Patience | None = None,
    watch: Callable[[], object] = lambda: None,
) -> RealOutcome:
    """Run ``requests`` (sorted by arrival) and return what happened.

    With ``concurrency`` the loop is closed: so many requests are begun at the start, and the next one as soon as one is
    concluded on all of its ranks, whatever times they have.
    ``memory``: where block memory lies (see ``real.engine.placement``). ``heartbeats``: how the sides watch each other.
    ``plan``: what is made to go wrong. ``hosts``: where the ranks live. Without it they all live on this host, and only
    there can processes be killed, stopped and started again. ``patience``: how long the run waits for a rank that gives
    no sign of life. ``watch`` is called twice: when all ranks are there and no request is under way yet, and when all
    have ended.
    Raises ValueError for a plan or a request that names what is not there, EngineMissing or EngineStartError when the
    ranks cannot start. If something goes wrong with a rank during the run, the outcome says so (``faults``),
    beside all that was done. No process is left behind, whatever happens.
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
    if hosts is not None and any(isinstance(fault, ProcessFault) for fault in plan):
        raise ValueError("the plan has faults of processes (kill, pause, restart), which need all ranks on this host")
    if scenario.wire == SGLANG:
        check_sglang(scenario, requests, plan)
    template = RankSpec(
        rank_id=ROUTER,
        scenario=scenario,
        bootstraps=(),
        router=Route(rank_id=ROUTER, host="", control_port=0),
        heartbeats=heartbeats or Heartbeats(),
        transport=transport,
        device=device,
        memory=memory,
        verify=verify,
        longest_tokens=max((request.total_tokens for request in requests), default=1),
        faults=rank_faults(plan),
        announced_writes=announced_writes(plan),
        mortal=any(isinstance(fault, Kill | Restart) for fault in plan),
    )
    with contextlib.ExitStack() as stack:
        places = hosts or stack.enter_context(ThisHost(token=new_token()))
        ranks = stack.enter_context(Ranks(msgspec.structs.replace(template, token=places.token), places))
        patience = patience or Patience.of(template.heartbeats, scenario.timeout_s)
        return Router(ranks, plan, progress, concurrency, patience, watch).run(requests)
