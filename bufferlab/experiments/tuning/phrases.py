"""Times, differences and stages as a sentence or a table of an answer has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bufferlab.experiments.units import format_duration


def estimate_text(estimate: Mapping[str, Any]) -> str:
    """A time with its interval."""
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    if value is None:
        return "not known"
    if low is None or high is None:
        return format_duration(value)
    return f"{format_duration(value)} ({format_duration(max(low, 0.0))} .. {format_duration(high)})"


def time_estimate(estimate: Mapping[str, Any]) -> str:
    """The same; empty where there is none."""
    return "" if estimate["value"] is None else estimate_text(estimate)


def signed(seconds: float) -> str:
    """A difference."""
    return f"{'−' if seconds < 0 else '+'}{format_duration(abs(seconds))}"


def signed_estimate(estimate: Mapping[str, Any]) -> str:
    """A difference with its interval; empty where there is none."""
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    if value is None:
        return ""
    return signed(value) if low is None or high is None else f"{signed(value)} ({signed(low)} .. {signed(high)})"


def stage_name(stage: str | None) -> str:
    """A stage as a sentence names it; empty where there is none."""
    return "" if stage is None else stage.replace("_", " ")


def sentence(text: str) -> str:
    """What begins in the middle of a line as a sentence of its own."""
    return f"{text[:1].upper()}{text[1:]}."


def joined(parts: list[str]) -> str:
    """``a, b and c``."""
    return " and ".join(part for part in (", ".join(parts[:-1]), parts[-1]) if part) if parts else ""
