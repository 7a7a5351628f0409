"""Ranges of a field that is searched: ``LOW..HIGH`` read, and the numbers in it as a configuration has them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bufferlab.experiments.errors import UserError
from bufferlab.experiments.sweeps.grid import plain
from bufferlab.experiments.tuning.space import POOL, Memory
from bufferlab.experiments.units import format_size, parse_size

LOG_WORDS = ("tokens", "blocks", "bytes")
"""Fields whose names end in one of these have a range that is searched on a log scale."""


Values = Sequence[Any]
_NUMBER = r"([-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?\s*[A-Za-z]*)"
_RANGE = re.compile(rf"{_NUMBER}\s*\.\.\s*{_NUMBER}")


@dataclass(frozen=True)
class Range:
    """Every number from ``low`` to ``high``, both included."""

    low: float
    high: float
    log: bool
    whole: bool
    sizes: bool
    """Whether these are bytes of memory that were written as such."""

    @property
    def text(self) -> str:
        """As a plan has it."""
        low, high = (format_size(one) if self.sizes else f"{one:g}" for one in (self.low, self.high))
        return f"{low}..{high}{' (log scale)' if self.log else ''}"


def with_range(name: str, values: Values) -> Values:
    """The values of a field, a range where they are ``LOW..HIGH``. Raises UserError."""
    found = [_range(name, value) for value in values if isinstance(value, str) and _RANGE.fullmatch(value.strip())]
    if not found:
        return values
    if len(values) > 1:
        raise UserError(f"--space gives {name} a range and {len(values) - 1} more, it must be one range or a list")
    return found


def _range(name: str, text: str) -> Range:
    match = _RANGE.fullmatch(text.strip())
    assert match is not None
    where = f"--space is '{name}={text}'"
    sizes = any(part[-1].isalpha() for part in match.groups())
    try:
        low, high = (float(parse_size(part)) if sizes else float(part) for part in match.groups())
    except ValueError as error:
        raise UserError(f"{where}, of which an end {error}") from None
    if sizes and name != POOL:
        raise UserError(f"{where}, it must be numbers without a unit; only {POOL} has a range of sizes")
    if not low < high:
        raise UserError(f"{where}, it must be a lower number, two points and a higher one")
    whole = sizes or all(re.fullmatch(r"[-+]?\d+", part) for part in match.groups())
    return Range(low, high, low >= 1 and name.endswith(LOG_WORDS), whole, sizes)


def in_blocks(tokens: int, block: int, within: Range) -> int:
    """Whole blocks: a part of one is set aside as all of it. As it is where the range has no multiple."""
    up = -(-tokens // block) * block
    down = tokens // block * block
    return up if up <= within.high else down if down >= within.low else tokens


def is_size(values: Values | None) -> bool:
    """Whether it is a range of memory."""
    return values is not None and isinstance(values[0], Range) and values[0].sizes


def label(value: Any) -> str:
    """A value or a range as a plan has it."""
    if isinstance(value, Range):
        return value.text
    return format_size(value.bytes_) if isinstance(value, Memory) else plain(value)


def ends_of(range_: Range) -> list[Any]:
    """The lowest and the highest number."""
    return [int(one) if range_.whole else one for one in (range_.low, range_.high)]
