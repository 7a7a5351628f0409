"""Draws a random small scenario, its requests and its faults from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
import numpy

from bufferlab.protocol.disciplines import DISCIPLINES
from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario, ServiceTimes
from bufferlab.protocol.faults import (
    MOST_ALARM_S,
    MOST_DELAY_S,
    MOST_HANG_S,
    MOST_LATE_S,
    MOST_REQUEST_DELAY_S,
    RATES,
    ClientAbort,
    Death,
    FalseAlarm,
    Hang,
    Incident,
    Restart,
    Slow,
)
from bufferlab.protocol.lifecycle import instance_of
from bufferlab.sim.faults import FaultPlan
from bufferlab.sim.host.costs import ALWAYS, ENOUGH, HostCosts
from bufferlab.sim.network.link import SHARED_BY, LinkProfile
from bufferlab.sim.streams import stream

Drawn = TypeVar("Drawn")

CALM_TIMEOUT_S = 2000.0
"""The timer of a calm run, longer than anything but a deadlock takes there."""

FAULTLESS_SHARE, HARMLESS_SHARE = 0.04, 0.12
"""Shares of the calm runs: without any fault, and with faults that only cost time. They are the control group, in which
everything that can be served must be."""
HOSTED_SHARE = 0.3
"""Of the cases whose threads share processors."""


class ChaosCase(msgspec.Struct, frozen=True, kw_only=True):
    """What a seed draws. ``calm``: nothing in it is a reason for a room to fail that could be served."""

    scenario: Scenario
    requests: tuple[Request, ...]
    link: LinkProfile
    plan: FaultPlan
    calm: bool


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
        per_segment_s=_pick(scenario_draws, (0.0, 1e-6)),
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
        plan = _draw_plan(fault_draws, seed, scenario, requests, _HARMLESS if calm else (*RATES, *_INCIDENTS))
    return ChaosCase(scenario=scenario, requests=requests, link=link, plan=plan, calm=calm)


def _draw_host(draws: numpy.random.Generator) -> HostCosts | None:
    """A host for a part of the cases: its threads follow each other, and get in each other's way."""
    if draws.random() >= HOSTED_SHARE:
        return None
    return HostCosts(
        processors=_pick(draws, (1.0, 2.0, ENOUGH)),
        input_s=_pick(draws, (0.0, 5e-5, 1e-3)),
        iteration_s=_pick(draws, (0.0, 2e-4)),
        message_s=_pick(draws, (0.0, 5e-5)),
        command_s=_pick(draws, (0.0, 1e-4)),
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
            # A loop without a period would iterate for ever at one moment while a group waits for a member's request.
            encode_poll_interval_s=_pick(draws, (0.001, 0.01)),
            language_poll_interval_s=_pick(draws, (0.001, 0.01)),
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
    rates: dict[str, Any] = {kind: _pick(draws, shares) for kind in kinds if kind in RATES}
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
            incidents.append(Restart(_within(draws, span_s), instance_of(rank), down_s))
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
