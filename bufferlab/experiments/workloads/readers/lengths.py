"""Distributions of lengths: a CSV file with a curve that requests are drawn from.

``value`` (or ``tokens``), ``cdf_low`` and ``cdf_high``, or the latter in percent as ``cdf_percent_low`` and
``cdf_percent_high``. It says nothing about arrivals, which are the configuration's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bufferlab.experiments.errors import UserError
from bufferlab.experiments.workloads.readers.base import Gives, Head, Reader, register
from bufferlab.experiments.workloads.readers.cells import Column
from bufferlab.experiments.workloads.readers.columns import MAX_TOKENS
from bufferlab.experiments.workloads.readers.names import plain_name
from bufferlab.experiments.workloads.readers.tables import read_table
from bufferlab.sim.workload import Constant, Mix, Option, Quantiles, RequestKind

SCALES = (("cdf_low", "cdf_high", 1.0), ("cdf_percent_low", "cdf_percent_high", 100.0))
VALUES = ("value", "tokens")


@register
class LengthsFile(Reader):
    """A curve of lengths."""

    title: ClassVar[str] = "a distribution of lengths"
    gives: ClassVar[Gives] = "lengths"
    options: ClassVar[Mapping[str, Option]] = {
        "content": Option(default="images", choices=("images", "text"), help="what the tokens of the file are")
    }

    @classmethod
    def matches(cls, head: Head) -> bool:
        """By the columns of its curve."""
        return head.container == "csv" and _names(head.columns) is not None

    def mix(self, path: Path, options: Mapping[str, Any]) -> Mix:
        """What requests are drawn from. Raises UserError naming the file and what is wrong with it."""
        table = read_table(path)
        columns = {plain_name(column.name): column for column in table.columns}
        names = _names(frozenset(columns))
        if names is None:
            raise UserError(f"workload.file {path.name} lacks the column cdf_low; its columns are {table.names()}")
        if not table.rows:
            raise UserError(f"workload.file is {str(path)!r}, it must have at least one row")
        value, low, high, whole = names
        lengths = _shares(columns[value], MAX_TOKENS)
        lows, highs = (_shares(columns[name], whole) for name in (low, high))
        order = np.lexsort((lows, lengths))
        # A step is a row whose low and high differ, so each row is two points of the curve; where the curve was drawn
        # with some width they overlap, and it follows its upper edge.
        points = np.column_stack((lows[order], highs[order])).ravel() / whole
        levels = np.concatenate(([0.0], np.maximum.accumulate(points), [1.0]))
        values = np.repeat(lengths[order], 2)
        values = np.concatenate(([values[0]], values, [values[-1]]))
        # Lengths are spread over orders of magnitude, and so are the points of such curves.
        drawn = Quantiles(tuple(values.tolist()), tuple(levels.tolist()), logarithmic=bool(values[0] >= 1))
        text = options.get("content", "images") == "text"
        kind = RequestKind(1.0, drawn) if text else RequestKind(1.0, Constant(0), total=drawn)
        return Mix(kinds=(kind,), max_tokens=MAX_TOKENS, hint="none")


def _names(have: frozenset[str]) -> tuple[str, str, str, float] | None:
    """The columns of value, low and high, and what is the whole; None if it is no distribution."""
    for low, high, whole in SCALES:
        for value in VALUES:
            if {value, low, high} <= have:
                return value, low, high, whole
    return None


def _shares(column: Column, most: float) -> np.ndarray:
    numbers, _ = column.numbers()
    with np.errstate(invalid="ignore"):
        bad = ~((numbers >= 0) & (numbers <= most))
    if bad.any():
        raise column.refuse(int(bad.argmax()), f"a number from 0 to {most:g}")
    return numbers.astype(float)
