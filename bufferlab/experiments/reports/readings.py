"""How the page writes a number: once, with its unit, and with as many digits as its interval has anything to say about.

What is shown is rounded; the cell that shows it carries the number itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from bufferlab.experiments.stats.intervals import Estimate
from bufferlab.experiments.units import BYTES

MINUS = "−"
NONE = "–"
"""What stands where there is no number."""
MOST_DIGITS = 5
"""Significant digits at most, however narrow the interval is."""
MOST_DECIMALS = 6
"""Of the smallest unit: below that are errors of rounding."""
FEW_DIGITS = 3
"""Significant digits of a number that has no interval."""
THOUSANDS_FROM = 10_000

_OF_A_CONFIGURATION = re.compile(r"^configurations\.\d+\.(differences\.)?")
POINTS = "pp"
"""Percentage points, which pages explain where they have some."""
BESIDE = "\u00a0"
"""Between a number and its unit, so that no line ends there."""

Scale = tuple[float, str]
"""What a value is multiplied with to be shown, and the unit it then has."""


def _time_scale(size: float) -> Scale:
    return (1.0, "s") if size >= 1 or size == 0 else (1e3, "ms") if size >= 1e-3 else (1e6, "µs")


def _bytes_scale(size: float) -> Scale:
    unit = next((one for one in ("TiB", "GiB", "MiB", "KiB") if size >= BYTES[one]), "B")
    return 1 / BYTES[unit], unit


SCALES: dict[str, Callable[[float], Scale]] = {
    "time": _time_scale,
    "share": lambda _: (100.0, "%"),
    "relative": lambda _: (100.0, "%"),  # an error relative to what was measured, which is in percent of that
    "rate": lambda _: (1.0, "req/s"),
    "bytes": _bytes_scale,
    "microseconds": lambda _: (1.0, "µs"),
    "number": lambda _: (1.0, ""),
}
"""By the kind of a figure."""
FLOORED = frozenset({"time", "share", "rate", "bytes", "microseconds"})
"""Kinds that cannot be below zero, where the interval of one may be by the t distribution; but differences can."""


def kind_of(path: str) -> str:
    """What kind of number a figure of summary.json is, by its path."""
    path = _OF_A_CONFIGURATION.sub("", path)
    head, _, last = path.partition(".")
    if head.endswith("_s") or last.endswith("_s"):
        return "time"
    if head == "throughput_rps":
        return "rate"
    shares = ("rate", "mean_occupancy", "peak_occupancy", "wasted_fraction")
    if head in {"failure_rate", "deadlock_rate", "slo", "utilisation"} or last in shares:
        return "share"
    return "number"


def scale_for(kind: str, *sizes: float | None) -> Scale:
    """One unit for several numbers: that of the largest."""
    return SCALES[kind](max((abs(one) for one in sizes if one is not None), default=0.0))


def count(number: float) -> str:
    """``12,345``: thousands are set off from five digits on."""
    return f"{number:,.0f}" if abs(number) >= THOUSANDS_FROM else f"{number:.0f}"


def plural(number: int, what: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{count(number)} {what}" if number == 1 else f"{count(number)} {what}s"


def shown(value: float | None, kind: str = "number", *, signed: bool = False) -> str:
    """A number with its unit and three significant digits; a dash where there is none."""
    return value_text({"value": value, "low": None, "high": None}, kind, signed=signed)


def value_text(estimate: Estimate | Mapping[str, Any], kind: str = "number", *, signed: bool = False) -> str:
    """The value of an estimate, to the digits that its interval leaves in doubt."""
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    if value is None or not math.isfinite(value):
        return NONE
    scale, unit = _scale_of(kind, _size(value, low, high, signed=signed), signed=signed)
    text = _fixed(value * scale, _decimals(value, low, high, scale), signed=signed)
    if not float(text.replace(",", "").replace(MINUS, "-")) and low is None:
        text = "0"  # what is left of a sum that should be none is no number of its own
    return f"{text}{BESIDE}{unit}" if unit else text


def interval_text(estimate: Estimate | Mapping[str, Any], kind: str = "number", *, signed: bool = False) -> str:
    """``164 … 210 ms``, in the unit that the value has beside it; nothing where there is no interval."""
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    if value is None or low is None or high is None:
        return ""
    scale, unit = _scale_of(kind, _size(value, low, high, signed=signed), signed=signed)
    decimals = _decimals(value, low, high, scale)
    least = max(low, 0.0) if kind in FLOORED and not signed else low
    ends = [_fixed(end * scale, decimals, signed=signed) for end in (least, high)]
    both = f"{BESIDE}…{BESIDE}".join(ends)
    return f"{both}{BESIDE}{unit}" if unit else both


def _size(value: float, low: float | None, high: float | None, *, signed: bool) -> float:
    """What the unit is chosen by: of a difference, which may be far smaller than its interval, the largest of all."""
    ends = [abs(one) for one in (low, high) if one is not None and math.isfinite(one)]
    return max(abs(value), *ends) if signed and ends else value


def _scale_of(kind: str, value: float, *, signed: bool) -> Scale:
    """As ``scale_for``; what is ``signed`` is a difference, and that of two shares is in percentage points."""
    scale, unit = scale_for(kind, value)
    return (scale, POINTS) if signed and kind == "share" else (scale, unit)


def percent(share: float | None) -> str:
    """``95 %``: a share that somebody chose, and which needs no digits beyond those."""
    return NONE if share is None else f"{100 * share:.10g}{BESIDE}%"


def known_to(estimate: Estimate | Mapping[str, Any]) -> float | None:
    """Half the width of the interval over the value; None where that says nothing."""
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    if not value or low is None or high is None:
        return None
    return float((high - low) / 2 / abs(value))


def _decimals(value: float, low: float | None, high: float | None, scale: float) -> int:
    size = abs(value * scale)
    magnitude = math.floor(math.log10(size)) if size else 0
    half = 0.0 if low is None or high is None else (high - low) / 2 * scale
    if half > 0:
        wanted = 1 - math.floor(math.log10(half))
        # Never coarser than two digits of the value, of which the interval may be far wider.
        least = 1 - magnitude if size else wanted
        wanted = max(wanted, min(least, wanted + 3))
    else:
        wanted = FEW_DIGITS - 1 - magnitude if size else 0
    return max(min(wanted, MOST_DIGITS - 1 - magnitude, MOST_DECIMALS), 0)


def _fixed(number: float, decimals: int, *, signed: bool) -> str:
    text = f"{abs(number):,.{decimals}f}" if abs(number) >= THOUSANDS_FROM else f"{abs(number):.{decimals}f}"
    if not float(text.replace(",", "")):
        return text
    return f"{MINUS}{text}" if number < 0 else f"+{text}" if signed else text
