"""What a case was drawn as, in one line."""

from __future__ import annotations

from bufferlab.protocol.faults import RATES, ClientAbort
from bufferlab.sim.chaos.drawing import ChaosCase


def drawn(case: ChaosCase) -> str:
    """The scenario of a case and its faults in one line."""
    scenario, plan = case.scenario, case.plan
    lengths = [request.total_tokens for request in case.requests]
    shape = f"{scenario.encode_instances}x{scenario.encode_tp} to {scenario.language_instances}x{scenario.language_tp}"
    options = ", ".join(f"{name} {value}" for name, value in scenario.sizing_options.items())
    faults = [f"{name} {rate}" for name in RATES if (rate := getattr(plan, name))]
    faults += [str(incident) for incident in plan.incidents if not isinstance(incident, ClientAbort)]
    if aborts := sum(isinstance(incident, ClientAbort) for incident in plan.incidents):
        faults.append(f"{aborts} client aborts")
    return (
        f"{shape} ranks, {scenario.discipline}, {scenario.sizing}({options}), blocks of {scenario.block_tokens}, pools "
        f"{scenario.encode_blocks} and {scenario.language_blocks} (reserve {scenario.reserve_blocks}), "
        f"{'resumes' if scenario.resume_first else 'new rooms'} first, timeout {scenario.timeout_s:g} s, "
        f"{len(lengths)} requests of {min(lengths)} to {max(lengths)} tokens in {case.requests[-1].arrival_s:.3f} s; "
        f"{', '.join(faults) or 'no faults'}"
    )
