"""The tables of a sweep: a row for every configuration and replication, and one for every share of their requests.

Figures are gathered in columns of plain numbers, shares are written as they come: of a hundred thousand runs neither
is ever there as objects. Columns become Arrow's by their buffers, as those of a run do: a list that pyarrow is handed
makes it load pandas.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bufferlab.experiments.runs.tables import number_column
from bufferlab.experiments.stats.quantiles import LEVELS
from bufferlab.experiments.sweeps.configuration import TIMES
from bufferlab.experiments.sweeps.journal import Result
from bufferlab.experiments.sweeps.plan import Plan

if TYPE_CHECKING:
    import pyarrow as pa

Figure = bool | int | float | None
GROUP_RUNS = (1 << 20) // len(LEVELS)
"""Runs whose shares are one row group of quantiles.parquet: about as many rows as pyarrow puts into one by itself."""


class Figures:
    """The figures of all runs in their order, a column each."""

    def __init__(self) -> None:
        self._columns: dict[str, array[float]] = {}
        self._kinds: dict[str, set[type]] = {}

    def add(self, row: Mapping[str, Figure]) -> None:
        """The figures of one more run; all runs have those of the first."""
        if not self._columns:
            self._columns = {name: array("d") for name in row}
            self._kinds = {name: set() for name in row}
        for name, column in self._columns.items():
            value = row[name]
            self._kinds[name].add(type(value))
            column.append(math.nan if value is None else value)  # a count below 2^53 stays what it is

    def of(self, name: str, runs: slice) -> list[Figure]:
        """A figure of some runs."""
        kind = self._kind(name)
        return [None if math.isnan(value) else kind(value) for value in self._columns[name][runs]]

    def columns(self) -> dict[str, pa.Array]:
        """All of them, of one type each: truth values, integers, or floating-point numbers."""
        return {name: self._column(name) for name in self._columns}

    def _kind(self, name: str) -> Callable[[float], Figure]:
        kinds = self._kinds[name]
        return bool if kinds <= {bool} else int if kinds <= {int} else float

    def _column(self, name: str) -> pa.Array:
        values = np.frombuffer(self._columns[name])
        known = ~np.isnan(values)
        # One that has nothing but None has no type; it is written as one of truth values.
        kind = "float64" if self._kind(name) is float and known.any() else "bool"
        return _numbers(np.where(known, values, 0), known, "int64" if self._kind(name) is int else kind)


class Keys:
    """What tells the rows of a plan apart: its configurations, seeds, replications and swept fields."""

    def __init__(self, plan: Plan) -> None:
        self._replications = plan.replications
        self._numbers = np.array([one.number for one in plan.configurations])
        self._columns = {
            "digest": _Column([one.digest for one in plan.configurations]),
            "seed": _Column([one.config.run.seed for one in plan.configurations]),
            **{field: _Column([one.value(field) for one in plan.configurations]) for field in plan.fields},
        }

    def of(self, runs: range, times: int = 1) -> dict[str, pa.Array]:
        """The columns of some runs, each so many times."""
        places, replications = np.divmod(np.arange(runs.start, runs.stop), self._replications)
        own = {name: one.at(places, times) for name, one in self._columns.items()}
        return {
            "configuration": number_column(np.repeat(self._numbers[places], times), "int32"),
            "digest": own.pop("digest"),
            "seed": own.pop("seed"),
            "replication": number_column(np.repeat(replications, times), "int32"),
            **own,
        }


class Shares:
    """The shares of all runs in their order, as tables of one row group each."""

    def __init__(self, keys: Keys, write: Callable[[pa.Table], None]) -> None:
        self._keys = keys
        self._write = write
        self._values = {name: array("d") for name in TIMES}
        self._runs = range(0)

    def add(self, result: Result) -> None:
        """Those of one more run."""
        for name, values in self._values.items():
            values.extend([math.nan] * len(LEVELS) if result[name] is None else result[name])
        self._runs = range(self._runs.start, self._runs.stop + 1)
        if len(self._runs) == GROUP_RUNS:
            self.flush()

    def flush(self) -> None:
        """Write what is not written yet."""
        import pyarrow as pa

        if not self._runs:
            return
        shares = {"share": np.tile(LEVELS, len(self._runs)), **{n: np.array(v) for n, v in self._values.items()}}
        columns = {name: number_column(values, "float64") for name, values in shares.items()}
        self._write(pa.table({**self._keys.of(self._runs, len(LEVELS)), **columns}))
        self._values = {name: array("d") for name in TIMES}
        self._runs = range(self._runs.stop, self._runs.stop)


def column(values: Sequence[Any]) -> pa.Array:
    """A column of values: of one type if they have one, else of their JSON text; None is missing."""
    return _Column(values).at(np.arange(len(values)))


class _Column:
    """Values of one type, or texts, from which columns are made."""

    def __init__(self, values: Sequence[Any]) -> None:
        kinds = {type(value) for value in values if value is not None}
        numeric = (({bool}, "bool"), ({int}, "int64"), ({int, float}, "float64"))
        self._kind = next((name for allowed, name in numeric if kinds <= allowed), "")
        self._known = np.array([value is not None for value in values], dtype=np.bool_)
        self._texts: list[bytes] = []
        if self._kind:
            self._content = np.array([0 if value is None else value for value in values], dtype=self._kind)
        else:
            texts = values if kinds <= {str} else [None if value is None else json.dumps(value) for value in values]
            self._texts = [("" if text is None else text).encode() for text in texts]
            self._content = np.array([len(text) for text in self._texts], dtype=np.int32)

    def at(self, places: NDArray[np.int64], times: int = 1) -> pa.Array:
        """The values at some places, each so many times."""
        import pyarrow as pa

        known, content = (np.repeat(part[places], times) for part in (self._known, self._content))
        if self._kind:
            return _numbers(content, known, self._kind)
        ends = np.cumsum(np.concatenate([[0], content]), dtype=np.int32)
        texts = b"".join([self._texts[place] * times for place in places.tolist()])
        buffers = [None if known.all() else _bits(known), pa.py_buffer(ends), pa.py_buffer(texts)]
        return pa.Array.from_buffers(pa.string(), len(known), buffers)


def _numbers(content: NDArray[Any], known: NDArray[np.bool_], name: str) -> pa.Array:
    """A column of numbers or truth values; those that are not known are missing."""
    import pyarrow as pa

    typed = content.astype(name, copy=False)
    buffers = [None if known.all() else _bits(known), _bits(typed) if name == "bool" else pa.py_buffer(typed)]
    return pa.Array.from_buffers(pa.type_for_alias(name), len(known), buffers)


def _bits(values: NDArray[Any]) -> pa.Buffer:
    import pyarrow as pa

    return pa.py_buffer(np.packbits(values, bitorder="little"))
