"""Files as tables: CSV, JSON lines and Parquet, each cell as the file has it and each row with its line.

``cells`` reads the cells of a column; ``csvfile`` reads CSV files.
"""

from __future__ import annotations

import csv
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bufferlab.experiments.config.inputs import SUFFIXES, suffix_of
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.workloads.readers.base import Head
from bufferlab.experiments.workloads.readers.cells import Column, Table
from bufferlab.experiments.workloads.readers.csvfile import read_csv, read_header
from bufferlab.experiments.workloads.readers.names import plain_name
from bufferlab.experiments.workloads.readers.opening import opened

HEAD_LINES = 64
A_LIST, A_TABLE = "a list", "a table"
"""Stand for what JSON has in a cell that is no number and no text; no column needs it."""


def container_of(path: Path) -> str:
    """csv, jsonl or parquet. Raises UserError for another name."""
    kind = SUFFIXES.get(suffix_of(path))
    if kind is None:
        raise UserError(f"workload.file is {str(path)!r}, its name must end in one of {', '.join(SUFFIXES)}")
    return kind


def read_head(path: Path) -> Head:
    """What a reader is recognised by. Raises UserError for a file that cannot be read."""
    kind = container_of(path)
    with _readable(path, kind):
        if kind == "parquet":
            import pyarrow.parquet as pq

            names = list(pq.read_schema(path).names)
        elif kind == "csv":
            names = read_header(path)
        else:
            names = []
            for _, found in zip(range(HEAD_LINES), _objects(path), strict=False):
                names += found[1]
    return Head(path, kind, frozenset(plain_name(name) for name in names))


def read_table(path: Path) -> Table:
    """All of a file. Raises UserError naming it, the line and what is wrong there."""
    kind = container_of(path)
    with _readable(path, kind):
        if kind == "parquet":
            return _read_parquet(path)
        return read_csv(path) if kind == "csv" else _read_jsonl(path)


@contextmanager
def _readable(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError:
        raise UserError(
            f"workload.file is {str(path)!r}, which cannot be read as {kind}: it is not UTF-8 text"
        ) from None
    except (OSError, ValueError, EOFError, zlib.error, csv.Error) as error:
        # Arrow's errors are ValueErrors; their first line says it.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"workload.file is {str(path)!r}, which cannot be read as {kind}: {reason}") from None


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every object of a file of JSON lines with its line; of lists and tables in them only that they are that."""
    import msgspec

    with opened(path) as file:
        for line, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                found = msgspec.json.decode(text)
            except msgspec.DecodeError as error:
                raise UserError(f"workload.file {path.name}, line {line} cannot be read as jsonl: {error}") from None
            if not isinstance(found, dict):
                raise UserError(
                    f"workload.file {path.name}, line {line} cannot be read as jsonl: it must be an object in braces"
                )
            yield line, {name: _flat(value) for name, value in found.items()}


def _flat(value: Any) -> Any:
    if isinstance(value, list | dict):
        return A_LIST if isinstance(value, list) else A_TABLE
    return value


def _read_jsonl(path: Path) -> Table:
    lines: list[int] = []
    cells: dict[str, list[Any]] = {}
    for row, (line, found) in enumerate(_objects(path)):
        lines.append(line)
        for name, value in found.items():
            column = cells.setdefault(name, [])
            column.extend([None] * (row - len(column)))
            column.append(value)
    for column in cells.values():
        column.extend([None] * (len(lines) - len(column)))
    return Table(path, tuple(Column(path, name, column, lines) for name, column in cells.items()), len(lines))


def _read_parquet(path: Path) -> Table:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    named = zip(table.column_names, table.columns, strict=True)
    return Table(path, tuple(Column(path, name, values) for name, values in named), table.num_rows)
