"""Text for a terminal: tables, and values with their intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

LOPSIDED = 0.01
"""An interval whose middle is further from its value than this part of its width is written with both ends."""


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned columns, the first left and the others right, the first row being the heading."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def counted(number: int, what: str) -> str:
    """``1 repeat``, ``2 repeats``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def is_lopsided(estimate: Mapping[str, Any]) -> bool:
    """Whether an estimate has an interval whose middle is not its value, so that half of it would be wrong."""
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    if value is None or low is None or high is None:
        return False
    return bool(abs((low + high) / 2 - value) > LOPSIDED * (high - low))


def with_interval(estimate: Mapping[str, Any], value: Callable[[float], str], half: Callable[[float], str]) -> str:
    """A known value with its interval: half of it where the value is its middle, else both ends.

    ``value`` writes a value or an end, ``half`` half of an interval. Where there is no interval the value stands alone.
    """
    low, high = estimate["low"], estimate["high"]
    said = value(estimate["value"])
    if low is None or high is None:
        return said
    return f"{said} ({value(low)} .. {value(high)})" if is_lopsided(estimate) else f"{said} ± {half((high - low) / 2)}"
