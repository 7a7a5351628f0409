"""Sizes, rates and durations as people write them: ``4MiB``, ``200Gbps``, ``5ms``.

Every parser takes a plain number too, which is in the base unit: bytes, bytes per second, seconds.
"""

from __future__ import annotations

import math
import re

_NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-zµμ/%]*)\s*")

BYTES: dict[str, float] = {
    "": 1, "B": 1,
    "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip

# A lower-case b is a bit, an upper-case B a byte, as on a network card's label.
RATES: dict[str, float] = {
    "": 1, "bps": 1 / 8, "kbps": 1e3 / 8, "Kbps": 1e3 / 8, "Mbps": 1e6 / 8, "Gbps": 1e9 / 8, "Tbps": 1e12 / 8,
    **{f"{unit}/s": factor for unit, factor in BYTES.items() if unit},
    **{f"{unit[:-1]}Bps": factor for unit, factor in BYTES.items() if unit},
}  # fmt: skip

DURATIONS: dict[str, float] = {"": 1, "s": 1, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9,
                               "min": 60, "h": 3600}  # fmt: skip


def parse_size(value: str | float) -> int:
    """Bytes of ``4MiB`` (powers of 1024) or ``4MB`` (powers of 1000). Raises ValueError."""
    return round(_parse(value, BYTES, "a size such as 512KiB, 4MiB or 2GB"))


def parse_rate(value: str | float) -> float:
    """Bytes per second of ``200Gbps`` (bits) or ``25GB/s`` (bytes). Raises ValueError."""
    return _parse(value, RATES, "a rate such as 200Gbps or 25GB/s")


def parse_duration(value: str | float) -> float:
    """Seconds of ``5ms``, ``250us``, ``3min``. Raises ValueError."""
    return _parse(value, DURATIONS, "a duration such as 5ms, 250us or 3min")


def _parse(value: str | float, units: dict[str, float], wanted: str) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"must be {wanted}, or a plain number")
    if isinstance(value, str):
        match = _NUMBER.fullmatch(value)
        if match is None or match[2] not in units:
            raise ValueError(f"must be {wanted}")
        # A power of ten divides more exactly than its reciprocal multiplies: 5ms is 0.005 to the last bit.
        factor = units[match[2]]
        number = float(match[1])
        result = number * factor if factor >= 1 else number / round(1 / factor)
    else:
        result = float(value)
    if not math.isfinite(result) or result < 0:
        raise ValueError(f"must be {wanted}, not negative and finite")
    return result


def format_size(size: float) -> str:
    """``4 MiB``; three significant digits."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size >= BYTES[unit]:
            return f"{_three_digits(size / BYTES[unit])} {unit}"
    return f"{_three_digits(size)} B"


def format_duration(seconds: float) -> str:
    """``5 ms``; three significant digits."""
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * scale >= 1 or unit == "µs":
            return f"{_three_digits(seconds * scale)} {unit}"
    raise AssertionError


def format_per_second(rate: float) -> str:
    """``7.3/s``; three significant digits, and no power of ten for a rate that is absurdly high."""
    return f"{_three_digits(rate)}/s"


def format_number(number: float) -> str:
    """``8.091``, ``10,393``: four significant digits, and no power of ten for what is large."""
    return f"{number:,.0f}" if number >= 9999.5 else f"{number:.4g}"


def _three_digits(number: float) -> str:
    return f"{number:.0f}" if number >= 999.5 else f"{number:.3g}"


def format_span(seconds: float) -> str:
    """``410 s``, ``3.5 h``, ``2.1 days``, ``54 years``: what a long time is read as."""
    for unit, size, least in (("years", 366 * 86_400, 1), ("days", 86_400, 2), ("h", 3600, 2)):
        if seconds >= least * size:
            return f"{_three_digits(seconds / size)} {unit}"
    return format_duration(seconds)
