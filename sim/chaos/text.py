"""What a case was drawn as, in one line."""

from __future__ import annotations

from sim.chaos.drawing import RATES, ChaosCase
from sim.faults import (
    ClientAbort,
    Death,
    FalseAlarm,
    Hang,
    Incident,
    Restart,
    Slow,
)


def drawn(case: ChaosCase) -> str:
    """The scenario of a case and its faults in one line."""
    scenario, plan = case.scenario, case.plan
    lengths = [request.total_tokens for request in case.requests]
    shape = f"{scenario.encode_instances}x{scenario.encode_tp} to {scenario.language_instances}x{scenario.language_tp}"
    options = ", ".join(f"{name} {value}" for name, value in scenario.sizing_options.items())
    faults = [f"{name} {rate}" for name in RATES if (rate := getattr(plan, name))]
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
