"""The two tables of a run as Parquet files: written in row groups as the rows come, and read a few columns at a time.

A row is a few numbers when it comes, those of texts among them, and becomes columns when its row group is full: nothing
of it is left for the garbage collector to look at. Columns become Arrow's by their buffers: pyarrow asks
pandas about every list and array that it is handed, and loading that takes longer than a small run.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bufferlab.protocol.observe.eventrows import EventRows
from bufferlab.protocol.observe.requestrows import RequestRows

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

ROW_GROUP_ROWS = 1 << 16

REQUEST_COLUMNS: dict[str, str] = {
    "replication": "int32",
    "room": "int64",
    "arrival_s": "float64",
    "text_tokens": "int64",
    "images": "int32",
    "total_tokens": "int64",
    "first_allocation_tokens": "int64",
    "chunks": "int32",
    "encoded_s": "float64",
    "first_chunk_s": "float64",
    "delivered_s": "float64",
    "released_s": "float64",
    "status": "string",
    "failure": "string",
    "prefilled_s": "float64",
}
EVENT_COLUMNS: dict[str, str] = {
    "replication": "int32",
    "time_s": "float64",
    "side": "string",
    "instance": "int32",
    "rank": "int32",
    "room": "int64",
    "event": "string",
    "status": "string",
    "tokens": "int64",
    "bytes": "int64",
    "detail": "string",
}

_MISSING = -(2**63)
"""Stands for an integer that is not there until the column is made; a time that is not there is not a number."""
_MISSING_IN = {"first_allocation_tokens": -1}
"""Columns in which another number stands for it: what nothing was allocated for comes so from the core."""
_CODES = {"int32": "i", "int64": "q", "float64": "d", "string": "i"}
_NUMPY = {"i": "<i4", "q": "<i8", "d": "<f8"}
_EVENT_ROW = np.dtype(
    [("time_s", "<f8"), ("room", "<i8"), ("tokens", "<i8"), ("bytes", "<i8"), ("kind", "<i4"), ("detail", "<i4")]
)
"""``eventrows.ROW`` as numpy has it."""
_REQUEST_ROW = np.dtype([(name, _NUMPY[_CODES[kind]]) for name, kind in REQUEST_COLUMNS.items()])
"""``requestrows.ROW`` as numpy has it."""


class _Table:
    """A Parquet file that is written in row groups.

    Texts are handed over as what they are in the file, numbers into a dictionary; readers get texts. Times hardly ever
    recur, so they have no dictionary.
    """

    def __init__(self, path: Path, columns: Mapping[str, str]) -> None:
        """``columns``: names and types in the file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        texts = pa.dictionary(pa.int32(), pa.string())
        types = [(name, texts if kind == "string" else pa.type_for_alias(kind)) for name, kind in columns.items()]
        self._schema = pa.schema(types)
        self._file = pq.ParquetWriter(
            path,
            self._schema,
            compression="zstd",
            use_dictionary=[name for name, kind in columns.items() if kind != "float64"],
            write_statistics=[name for name, kind in columns.items() if kind != "string"],
            store_schema=False,  # in which texts would not be texts but numbers into a dictionary
        )

    def close(self) -> None:
        """Finish the file."""
        self._file.close()

    def _write_columns(self, columns: Mapping[str, pa.Array], count: int) -> None:
        """Write a row group of so many rows."""
        import pyarrow as pa

        table = pa.Table.from_arrays([columns[field.name] for field in self._schema], schema=self._schema)
        self._file.write_table(table, row_group_size=count)


class RequestTable(_Table):
    """requests.parquet. ``rows`` is what takes the requests."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, REQUEST_COLUMNS)
        self.rows = RequestRows(ROW_GROUP_ROWS, self._write)

    def begin(self, replication: int) -> None:
        """All that comes now belongs to this replication."""
        self.rows.begin(replication)

    def close(self) -> None:
        """Write the rest and finish the file."""
        if self.rows.rows:
            self._write()
        super().close()

    def _write(self) -> None:
        rows, texts = np.frombuffer(b"".join(self.rows.rows), dtype=_REQUEST_ROW), self.rows.texts
        columns = {
            name: text_column(texts, rows[name])
            if kind == "string"
            else number_column(rows[name], kind, _MISSING_IN.get(name, _MISSING))
            for name, kind in REQUEST_COLUMNS.items()
        }
        self._write_columns(columns, len(rows))
        self.rows.clear()


class EventTable(_Table):
    """events.parquet. ``rows`` is what takes the records."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, EVENT_COLUMNS)
        self.rows = EventRows(ROW_GROUP_ROWS, self._write)

    def begin(self, replication: int) -> None:
        """All that comes now belongs to this replication."""
        self.rows.begin(replication)

    def close(self) -> None:
        """Write the rest and finish the file."""
        if self.rows.rows:
            self._write()
        super().close()

    def _write(self) -> None:
        rows = np.frombuffer(b"".join(self.rows.rows), dtype=_EVENT_ROW)
        kinds = self.rows.kinds
        of_kinds: dict[str, Sequence[Any]] = {
            "replication": [kind.replication for kind in kinds],
            "side": [kind.rank_id.side.value for kind in kinds],
            "instance": [kind.rank_id.instance for kind in kinds],
            "rank": [kind.rank_id.rank for kind in kinds],
            "event": [kind.event.value for kind in kinds],
            "status": [None if kind.status is None else kind.status.name for kind in kinds],
        }
        columns = {
            name: number_column(rows[name], EVENT_COLUMNS[name]) for name in ("time_s", "room", "tokens", "bytes")
        }
        columns["detail"] = text_column(self.rows.details, rows["detail"])
        for name, values in of_kinds.items():
            if EVENT_COLUMNS[name] == "string":
                columns[name] = text_column(values, rows["kind"])
            else:
                columns[name] = number_column(np.array(values)[rows["kind"]], EVENT_COLUMNS[name])
        self._write_columns(columns, len(rows))
        self.rows.clear()


def number_column(values: NDArray[Any], kind: str, none: int = _MISSING) -> pa.Array:
    """Numbers as Arrow's; ``none`` and what is not a number are missing."""
    import pyarrow as pa

    typed = np.ascontiguousarray(values, dtype=_NUMPY[_CODES[kind]])
    missing = np.isnan(typed) if kind == "float64" else typed == none
    return pa.Array.from_buffers(pa.type_for_alias(kind), len(typed), [_valid(missing), pa.py_buffer(typed)])


def text_column(texts: Sequence[str | None], numbers: NDArray[np.int32]) -> pa.Array:
    """``texts[number]`` of every number, as Arrow's; None is missing."""
    import pyarrow as pa

    # Each text once: Arrow writes a dictionary with repetitions as plain texts, and for a missing one whatever lies
    # in memory.
    places = {text: place for place, text in enumerate(dict.fromkeys(text for text in texts if text is not None))}
    content = [text.encode() for text in places]
    ends = pa.py_buffer(np.cumsum([0, *map(len, content)], dtype=np.int32))
    named = pa.StringArray.from_buffers(len(content), ends, pa.py_buffer(b"".join(content)))
    missing = np.array([text is None for text in texts], dtype=np.bool_)[numbers]
    typed = np.array([0 if text is None else places[text] for text in texts], dtype=np.int32)[numbers]
    indices = pa.Array.from_buffers(pa.int32(), len(typed), [_valid(missing), pa.py_buffer(typed)])
    return pa.DictionaryArray.from_arrays(indices, named)


def _valid(missing: NDArray[np.bool_]) -> pa.Buffer | None:
    import pyarrow as pa

    return pa.py_buffer(np.packbits(~missing, bitorder="little")) if missing.any() else None


# --- reading ---


class Texts(NamedTuple):
    """A column of few different texts: ``names[number]`` of every number."""

    names: list[str]
    numbers: NDArray[np.int32]

    def among(self, chosen: Collection[str]) -> NDArray[np.bool_]:
        """Which rows have one of these."""
        found: NDArray[np.bool_] = np.array([name in chosen for name in self.names], dtype=np.bool_)[self.numbers]
        return found


class Columns(NamedTuple):
    """Some columns of a row group: those of numbers, where NaN is a missing time, and those of texts."""

    numbers: dict[str, NDArray[Any]]
    texts: dict[str, Texts]


def row_groups(
    path: Path, names: Sequence[str], texts: Sequence[str] = (), *, replication: int | None = None
) -> Iterator[Columns]:
    """Columns of numbers and of texts of a table, a row group at a time; no text may be missing.

    With ``replication``, row groups that have no row of it are passed over.
    """
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path, read_dictionary=list(texts))
    for number in groups_with(file, replication):
        table = file.read_row_group(number, columns=[*names, *texts])
        yield Columns(
            {name: _numbers(table.column(name)) for name in names}, {name: _coded(table.column(name)) for name in texts}
        )


def groups_with(file: pq.ParquetFile, replication: int | None) -> Iterator[int]:
    """The row groups that may have rows of a replication; all of them for None."""
    place = file.schema_arrow.get_field_index("replication")
    for number in range(file.num_row_groups):
        told = file.metadata.row_group(number).column(place).statistics
        if replication is None or told is None or told.min <= replication <= told.max:
            yield number


def read_numbers(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Whole columns of numbers of a table; NaN is a missing time."""
    groups = [group.numbers for group in row_groups(path, names)]
    return {name: np.concatenate([group[name] for group in groups]) if groups else np.zeros(0) for name in names}


def _numbers(column: pa.ChunkedArray) -> NDArray[Any]:
    return np.concatenate([_values(chunk) for chunk in column.chunks])


def _coded(column: pa.ChunkedArray) -> Texts:
    (chunk,) = column.chunks
    return Texts(chunk.dictionary.to_pylist(), _values(chunk.indices))


def _values(chunk: pa.Array) -> NDArray[Any]:
    """What to_numpy gives, which would load pandas."""
    validity, content = chunk.buffers()
    where = slice(chunk.offset, chunk.offset + len(chunk))
    values = np.frombuffer(content, dtype=chunk.type.to_pandas_dtype())[where]
    if chunk.null_count:
        valid = np.unpackbits(np.frombuffer(validity, dtype=np.uint8), bitorder="little")[where]
        values = np.where(valid.astype(np.bool_), values, math.nan)
    return values
