"""The tables of a sweep: a row for every configuration and replication, and one for every share of their requests.

Columns become Arrow's by their buffers, as those of a run do: a list that pyarrow is handed makes it load pandas.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bufferlab.experiments.runs.tables import number_column
from bufferlab.experiments.stats.quantiles import LEVELS
from bufferlab.experiments.sweeps.configuration import TIMES, flat_figures
from bufferlab.experiments.sweeps.folder import Result
from bufferlab.experiments.sweeps.plan import Plan

if TYPE_CHECKING:
    import pyarrow as pa


def tables(plan: Plan, results: Sequence[Result]) -> tuple[pa.Table, pa.Table]:
    """sweep.parquet and quantiles.parquet, from the results of all tasks in their order."""
    import pyarrow as pa

    rows = [flat_figures(result["summary"]) for result in results]
    figures = {name: column(_of_one_type([row[name] for row in rows])) for name in rows[0]}
    nothing = np.full(len(LEVELS), np.nan)
    curves = {
        name: np.concatenate([nothing if result[name] is None else result[name] for result in results])
        for name in TIMES
    }
    shares = {"share": np.tile(LEVELS, len(results)), **curves}
    return (
        pa.table({**_keys(plan, 1), **figures}),
        pa.table({**_keys(plan, len(LEVELS)), **{name: number_column(one, "float64") for name, one in shares.items()}}),
    )


def _keys(plan: Plan, times: int) -> dict[str, pa.Array]:
    """What tells the rows apart, each so many times."""
    tasks = plan.tasks
    numbers = [configuration.number for configuration, _ in tasks]
    keys = {
        "configuration": number_column(np.repeat(numbers, times), "int32"),
        "digest": column([configuration.digest for configuration, _ in tasks], times),
        "seed": number_column(np.repeat([configuration.config.run.seed for configuration, _ in tasks], times), "int64"),
        "replication": number_column(np.repeat([replication for _, replication in tasks], times), "int32"),
    }
    for field in plan.fields:
        values = {configuration.number: configuration.value(field) for configuration in plan.configurations}
        keys[field] = column([values[number] for number in numbers], times)
    return keys


def column(values: Sequence[Any], times: int = 1) -> pa.Array:
    """A column of values, each so many times: of one type if they have one, else of their JSON text."""
    kinds = {type(value) for value in values if value is not None}
    for allowed, name in (({bool}, "bool"), ({int}, "int64"), ({int, float}, "float64")):
        if kinds <= allowed:
            return _plain(values, name, times)
    texts = values if kinds <= {str} else [None if value is None else json.dumps(value) for value in values]
    return _texts(texts, times)


def _plain(values: Sequence[Any], name: str, times: int) -> pa.Array:
    """A column of numbers or truth values, in which None is missing."""
    import pyarrow as pa

    known = np.repeat([value is not None for value in values], times)
    content = np.repeat(np.array([0 if value is None else value for value in values], dtype=name), times)
    buffers = [None if known.all() else _bits(known), _bits(content) if name == "bool" else pa.py_buffer(content)]
    return pa.Array.from_buffers(pa.type_for_alias(name), len(known), buffers)


def _texts(values: Sequence[str | None], times: int) -> pa.Array:
    """A column of texts, in which None is missing."""
    import pyarrow as pa

    known = np.repeat([value is not None for value in values], times)
    encoded = [("" if value is None else value).encode() for value in values for _ in range(times)]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    buffers = [None if known.all() else _bits(known), pa.py_buffer(ends), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.string(), len(known), buffers)


def _bits(values: NDArray[Any]) -> pa.Buffer:
    import pyarrow as pa

    return pa.py_buffer(np.packbits(values, bitorder="little"))


def _of_one_type(values: list[Any]) -> list[Any]:
    """Figures as numbers of one type: a column that has nothing but None is one of floats."""
    if all(isinstance(value, bool) for value in values) or all(type(value) is int for value in values):
        return values
    return [None if value is None else float(value) for value in values]
