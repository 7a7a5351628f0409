"""How large an error may be, and what is said of one."""

from __future__ import annotations

import math
from collections.abc import Mapping

from experiments.errors import UserError

FIGURES = ("mean", "p50", "p90", "p99", "throughput")
"""What is scored: four figures of the latency, and deliveries a second."""

BARS: Mapping[str, float] = {"p50": 0.05, "p99": 0.10, "throughput": 0.03}
"""Relative errors that are allowed, or the noise floor where that is larger."""

WITHIN, IN_NOISE, MISS = "within", "in the noise", "miss"


def parse_bars(text: str) -> dict[str, float]:
    """The bars in ``p50=0.05,p99=0.10``. Raises UserError."""
    bars: dict[str, float] = {}
    for part in text.split(","):
        name, sign, value = (piece.strip() for piece in part.partition("="))
        if not sign or name not in FIGURES or name in bars:
            raise UserError(
                f"--max-error is {text!r}, it must look like p50=0.05,p99=0.10 with each of {', '.join(FIGURES)} "
                f"once at most"
            )
        try:
            bars[name] = float(value)
        except ValueError:
            bars[name] = math.nan
        if not 0 <= bars[name] < math.inf:
            raise UserError(f"--max-error has {name}={value}, it must be a relative error of at least 0 such as 0.05")
    return bars


def judge(error: float, bar: float | None, floor: float | None) -> str | None:
    """What is said of an error: within the bar, else within the noise floor, else a miss; None without a bar."""
    if bar is None:
        return None
    if error <= bar:
        return WITHIN
    return IN_NOISE if floor is not None and error <= floor else MISS
