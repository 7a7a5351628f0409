"""What a tune is asked: the figure that is to be low, what the service promises, and how sure the answer must be.

Everything here is read from the texts of a command line, and what is wrong with one is said in a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from bufferlab.experiments.errors import UserError
from bufferlab.experiments.units import format_duration, parse_duration
from bufferlab.protocol.naming import did_you_mean

QUANTITIES = {"latency": "latency", "ttft": "first token", "transfer": "transfer"}
"""Times that may be an objective or a limit, and what the text of an answer calls them."""
STATISTICS = ("mean", "p50", "p90", "p99")
LEAST_CERTAINTY, MOST_CERTAINTY = 0.5, 0.999

DEFAULT_OBJECTIVE = "latency_p99"
DEFAULT_CERTAINTY = "95%"
DEFAULT_INDIFFERENCE = "2%"


@dataclass(frozen=True)
class Objective:
    """A figure of summary.json that is to be low; all of them are seconds."""

    quantity: str
    statistic: str

    @property
    def path(self) -> str:
        """Where summary.json has it, such as ``latency_s.p99``."""
        return f"{self.quantity}_s.{self.statistic}"

    @property
    def title(self) -> str:
        """``p99 latency``."""
        return f"{self.statistic} {QUANTITIES[self.quantity]}"


@dataclass(frozen=True)
class Limit:
    """What a figure may be at most; a setting that is above it is unfit."""

    of: Objective
    limit_s: float

    @property
    def title(self) -> str:
        """``p99 first token at most 2 s``."""
        return f"{self.of.title} at most {format_duration(self.limit_s)}"


@dataclass(frozen=True)
class Indifference:
    """Differences that do not matter: seconds, or a share of the lowest value that the first replication shows."""

    share: float | None = None
    seconds: float | None = None

    def of(self, lowest_s: float) -> float:
        """In seconds, where the lowest value is ``lowest_s``."""
        return self.seconds if self.seconds is not None else (self.share or 0.0) * lowest_s

    @property
    def text(self) -> str:
        """As an option writes it."""
        return f"{100 * (self.share or 0.0):g}%" if self.seconds is None else f"{self.seconds:g}s"


def parse_objective(text: str, option: str = "--objective") -> Objective:
    """``latency_p99``, ``ttft p99``, ``mean`` (of the latency), ``ttft`` (its p99). Raises UserError."""
    words = [word for word in re.split(r"[\s_.,:-]+", text.strip().lower()) if word and word != "s"]
    quantity = next((word for word in words if word in QUANTITIES), "latency")
    statistic = next((word for word in words if word in STATISTICS), "p99")
    unknown = [word for word in words if word not in QUANTITIES and word not in STATISTICS]
    if unknown or not words or len(words) > 2 or (len(words) == 2 and {quantity, statistic} != set(words)):
        names = [f"{one}_{other}" for one in QUANTITIES for other in STATISTICS]
        hint = did_you_mean(text, names)
        raise UserError(
            f"{option} is {text!r}{hint}, it must be one of {', '.join(QUANTITIES)} with one of "
            f"{', '.join(STATISTICS)}, such as {DEFAULT_OBJECTIVE}"
        )
    return Objective(quantity, statistic)


def objective_of(limits: Sequence[Limit]) -> Objective:
    """What is to be low where nobody says it: the figure of the first limit, else the p99 of latency."""
    return limits[0].of if limits else parse_objective(DEFAULT_OBJECTIVE)


def parse_limit(text: str) -> Limit:
    """``ttft_p99=2s``. Raises UserError."""
    name, sign, value = text.partition("=")
    if not sign or not name.strip() or not value.strip():
        raise UserError(f"--slo is {text!r}, it must look like ttft_p99=2s")
    of = parse_objective(name, f"--slo {text}: the figure")
    try:
        limit_s = parse_duration(value)
    except ValueError as error:
        raise UserError(f"--slo is {text!r}, of which {value.strip()!r} {error}") from None
    if limit_s <= 0:
        raise UserError(f"--slo is {text!r}, it must be more than 0 s")
    return Limit(of, limit_s)


def parse_certainty(text: str) -> float:
    """``95%`` or ``0.95``. Raises UserError."""
    stripped = text.strip()
    try:
        value = float(stripped[:-1]) / 100 if stripped.endswith("%") else float(stripped)
    except ValueError:
        value = -1.0
    if not LEAST_CERTAINTY <= value <= MOST_CERTAINTY:
        raise UserError(
            f"--certainty is {text!r}, it must be from {LEAST_CERTAINTY:g} to {MOST_CERTAINTY:g}, such as 0.95 or 95%"
        )
    return value


def parse_indifference(text: str) -> Indifference:
    """``2%`` or ``5ms``. Raises UserError."""
    stripped = text.strip()
    allowed = "it must be a share such as 2% or a time such as 5ms"
    if stripped.endswith("%"):
        try:
            share = float(stripped[:-1]) / 100
        except ValueError:
            share = -1.0
        if not 0 <= share < 1:
            raise UserError(f"--indifference is {text!r}, {allowed}")
        return Indifference(share=share)
    try:
        # A bare number might be meant as either.
        seconds = parse_duration(stripped if stripped[-1:].isalpha() else "")
    except ValueError:
        raise UserError(f"--indifference is {text!r}, {allowed}") from None
    return Indifference(seconds=seconds)
