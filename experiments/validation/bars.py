"""How large an error may be, and what is said of one."""

from __future__ import annotations

import math
from collections.abc import Mapping

from experiments.errors import UserError
from experiments.stats.intervals import Estimate

FIGURES = ("mean", "p50", "p90", "p99", "throughput")
"""What is scored: four figures of the latency, and deliveries a second."""

TTFT_FIGURES = ("ttft_mean", "ttft_p50", "ttft_p90", "ttft_p99")
"""What is scored beside them: the same four of the time to the first token, which is there when the prefill ends."""

BARS: Mapping[str, float] = {"p50": 0.05, "p99": 0.10, "throughput": 0.03}
"""Relative errors that are allowed, of the latency and the throughput."""

USUAL: Mapping[str, float] = {**BARS, **{f"ttft_{name}": BARS[name] for name in ("p50", "p99")}}
"""All of them: those of the time to the first token are those of the latency."""

WITHIN, UNTOLD, AT_BAR, OFF = "within the bar", "not told apart", "at the bar", "off"
NO_INTERVAL = "no interval"


def parse_bars(text: str) -> dict[str, float]:
    """The bars in ``p50=0.05,p99=0.10``. Raises UserError."""
    bars: dict[str, float] = {}
    for part in text.split(","):
        name, sign, value = (piece.strip() for piece in part.partition("="))
        if not sign or name not in (*FIGURES, *TTFT_FIGURES) or name in bars:
            raise UserError(
                f"--max-error is {text!r}, it must look like p50=0.05,p99=0.10 with each of "
                f"{', '.join((*FIGURES, *TTFT_FIGURES))} once at most"
            )
        try:
            bars[name] = float(value)
        except ValueError:
            bars[name] = math.nan
        if not 0 <= bars[name] < math.inf:
            raise UserError(f"--max-error has {name}={value}, it must be a relative error of at least 0 such as 0.05")
    return bars


def judge(bias: Estimate, bar: float | None) -> str | None:
    """What is said of a bias with its interval; None without a bar.

    *within the bar*: the interval lies inside it. *not told apart*: it reaches beyond and holds 0, so the measurement
    is too rough to say more. *off*: it does not hold 0, and the value is beyond the bar. *at the bar*: it does not hold
    0, so there is a bias, whose value is inside the bar while its interval reaches beyond. *no interval*: there are too
    few repeats, and too short.
    """
    value, low, high = bias["value"], bias["low"], bias["high"]
    if bar is None or value is None:
        return None
    if low is None or high is None:
        return NO_INTERVAL
    if -bar <= low and high <= bar:
        return WITHIN
    if low <= 0 <= high:
        return UNTOLD
    return OFF if abs(value) > bar else AT_BAR
