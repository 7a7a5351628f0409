"""How large an error may be, and what is said of one."""

from __future__ import annotations

import math
from collections.abc import Mapping

from bufferlab.experiments.errors import UserError
from bufferlab.experiments.stats.intervals import Estimate

FIGURES = ("mean", "p50", "p90", "p99", "throughput")
"""What is scored: four figures of the latency, and deliveries a second."""

TTFT_FIGURES = ("ttft_mean", "ttft_p50", "ttft_p90", "ttft_p99")
"""What is scored beside them: the same four of the time to the first token, which is there when the prefill ends."""

TOLERANCES: Mapping[str, float] = {"p50": 0.05, "p99": 0.10, "throughput": 0.03}
"""Relative errors that are allowed, of the latency and the throughput."""

USUAL: Mapping[str, float] = {**TOLERANCES, **{f"ttft_{name}": TOLERANCES[name] for name in ("p50", "p99")}}
"""All of them: those of the time to the first token are those of the latency."""

WITHIN, UNTOLD, AT_TOLERANCE, OFF = "within the tolerance", "not told apart", "at the tolerance", "off"
NO_INTERVAL = "no interval"
WITHIN_RUN, AT_RUN, OFF_RUN = "within in this run", "at the tolerance in this run", "off in this run"
"""What is said of one repeat, which tells nothing of what others would come to."""
OF_ONE_RUN: Mapping[str, str] = {WITHIN: WITHIN_RUN, AT_TOLERANCE: AT_RUN, OFF: OFF_RUN}


def parse_tolerances(text: str) -> dict[str, float]:
    """The tolerances in ``p50=0.05,p99=0.10``. Raises UserError."""
    tolerances: dict[str, float] = {}
    for part in text.split(","):
        name, sign, value = (segment.strip() for segment in part.partition("="))
        if not sign or name not in (*FIGURES, *TTFT_FIGURES) or name in tolerances:
            raise UserError(
                f"--max-error is {text!r}, it must look like p50=0.05,p99=0.10 with each of "
                f"{', '.join((*FIGURES, *TTFT_FIGURES))} once at most"
            )
        try:
            tolerances[name] = float(value)
        except ValueError:
            tolerances[name] = math.nan
        if not 0 <= tolerances[name] < math.inf:
            raise UserError(f"--max-error has {name}={value}, it must be a relative error of at least 0 such as 0.05")
    return tolerances


def judge(bias: Estimate, tolerance: float | None, *, repeats: int = 2) -> str | None:
    """What is said of a bias with its interval; None without a tolerance. Of a single one of ``repeats`` it is said of
    this run alone (``OF_ONE_RUN``).

    *within the tolerance*: the interval lies inside it. *not told apart*: it reaches beyond and holds 0, so the
    measurement is too rough to say more. *off*: it does not hold 0, and the value is beyond the tolerance. *at the
    tolerance*: it does not hold 0, so there is a bias, whose value is inside the tolerance while its interval reaches
    beyond. *no interval*: there are too few repeats, and too short.
    """
    value, low, high = bias["value"], bias["low"], bias["high"]
    if tolerance is None or value is None:
        return None
    if low is None or high is None:
        return NO_INTERVAL
    if -tolerance <= low and high <= tolerance:
        verdict = WITHIN
    elif low <= 0 <= high:
        verdict = UNTOLD
    else:
        verdict = OFF if abs(value) > tolerance else AT_TOLERANCE
    return verdict if repeats > 1 else OF_ONE_RUN.get(verdict, verdict)
