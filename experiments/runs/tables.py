"""The two tables of a run as Parquet files: written in row groups as the rows come, and read a few columns at a time.

A row is packed when it comes, texts as numbers, and becomes columns when its row group is full: nothing of it is left
for the garbage collector to look at. Columns become Arrow's by their buffers: pyarrow asks pandas about every list and
array that it is handed, and loading that takes longer than a small run.
"""

from __future__ import annotations

import math
import struct
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from protocol.observe.progress import RequestRow
from protocol.recording import Event
from protocol.status import Status
from protocol.topology import RankId

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
_CODES = {"int32": "i", "int64": "q", "float64": "d", "string": "i"}
_NUMPY = {"i": "<i4", "q": "<i8", "d": "<f8"}


class _Packed(ABC):
    """Rows of fixed size, and the Parquet file that they go to."""

    def __init__(self, path: Path, columns: Mapping[str, str], fields: Mapping[str, str]) -> None:
        """``columns``: names and types in the file. ``fields``: names and codes of ``struct`` in a packed row."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in columns.items()])
        self._file = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._pack = struct.Struct("<" + "".join(fields.values())).pack
        self._layout = np.dtype([(name, _NUMPY[code]) for name, code in fields.items()])
        self._rows: list[bytes] = []
        self._texts: dict[str, int] = {}

    def close(self) -> None:
        """Write the rest and finish the file."""
        if self._rows:
            self._write()
        self._file.close()

    def _number_of(self, text: str) -> int:
        """The number that stands for a text within this row group."""
        number = self._texts.get(text)
        if number is None:
            number = self._texts[text] = len(self._texts)
        return number

    @abstractmethod
    def _columns(self, rows: NDArray[Any]) -> Mapping[str, pa.Array]:
        """The columns of the file, from packed rows."""

    def _write(self) -> None:
        import pyarrow as pa

        columns = self._columns(np.frombuffer(b"".join(self._rows), dtype=self._layout))
        table = pa.Table.from_arrays([columns[field.name] for field in self._schema], schema=self._schema)
        self._file.write_table(table, row_group_size=len(self._rows))
        self._rows = []
        self._texts = {}


class RequestTable(_Packed):
    """requests.parquet."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, REQUEST_COLUMNS, {name: _CODES[kind] for name, kind in REQUEST_COLUMNS.items()})

    def add(self, replication: int, row: RequestRow) -> None:
        """Add a row."""
        first = row.first_allocation_tokens
        self._rows.append(
            self._pack(
                replication,
                row.room,
                row.arrival_s,
                row.text_tokens,
                row.images,
                row.total_tokens,
                _MISSING if first is None else first,
                row.chunks,
                *(
                    math.nan if time_s is None else time_s
                    for time_s in (row.encoded_s, row.first_chunk_s, row.delivered_s, row.released_s)
                ),
                self._number_of(row.status),
                self._number_of(row.failure),
                math.nan if row.prefilled_s is None else row.prefilled_s,
            )
        )
        if len(self._rows) == ROW_GROUP_ROWS:
            self._write()

    def _columns(self, rows: NDArray[Any]) -> Mapping[str, pa.Array]:
        texts = list(self._texts)
        return {
            name: text_column(texts, rows[name]) if kind == "string" else number_column(rows[name], kind)
            for name, kind in REQUEST_COLUMNS.items()
        }


class EventTable(_Packed):
    """events.parquet. What a rank, an event and a status are together has one number, since few of them occur."""

    def __init__(self, path: Path) -> None:
        fields = {"time_s": "d", "room": "q", "tokens": "q", "bytes": "q", "kind": "i", "detail": "i"}
        super().__init__(path, EVENT_COLUMNS, fields)
        self._replication = 0
        self._kinds: dict[tuple[RankId, Event, Status | None], int] = {}
        self._of_kinds: list[tuple[int, str, int, int, str, str | None]] = []

    def begin(self, replication: int) -> None:
        """All that comes now belongs to this replication."""
        self._replication = replication
        self._kinds = {}

    def add(
        self,
        time_s: float,
        rank_id: RankId,
        room: int,
        event: Event,
        status: Status | None,
        tokens: int,
        bytes_: int,
        detail: str,
    ) -> None:
        """A Recorder that adds a row."""
        kind = self._kinds.get((rank_id, event, status))
        if kind is None:
            kind = self._new_kind(rank_id, event, status)
        text = self._texts.get(detail)
        if text is None:
            text = self._number_of(detail)
        rows = self._rows
        rows.append(self._pack(time_s, room, tokens, bytes_, kind, text))
        if len(rows) == ROW_GROUP_ROWS:
            self._write()

    def _new_kind(self, rank_id: RankId, event: Event, status: Status | None) -> int:
        number = self._kinds[rank_id, event, status] = len(self._of_kinds)
        side, instance, rank = rank_id
        name = None if status is None else status.name
        self._of_kinds.append((self._replication, side.value, instance, rank, event.value, name))
        return number

    def _columns(self, rows: NDArray[Any]) -> Mapping[str, pa.Array]:
        kinds = rows["kind"]
        columns = {
            name: number_column(rows[name], EVENT_COLUMNS[name]) for name in ("time_s", "room", "tokens", "bytes")
        }
        columns["detail"] = text_column(list(self._texts), rows["detail"])
        parts = zip(*self._of_kinds, strict=True)
        for name, values in zip(("replication", "side", "instance", "rank", "event", "status"), parts, strict=True):
            if EVENT_COLUMNS[name] == "string":
                columns[name] = text_column(values, kinds)
            else:
                columns[name] = number_column(np.array(values)[kinds], EVENT_COLUMNS[name])
        self._kinds = {}
        self._of_kinds = []
        return columns


def number_column(values: NDArray[Any], kind: str) -> pa.Array:
    """Numbers as Arrow's; what stands for a missing one is missing."""
    import pyarrow as pa

    typed = np.ascontiguousarray(values, dtype=_NUMPY[_CODES[kind]])
    missing = np.isnan(typed) if kind == "float64" else typed == _MISSING
    return pa.Array.from_buffers(pa.type_for_alias(kind), len(typed), [_valid(missing), pa.py_buffer(typed)])


def text_column(texts: Sequence[str | None], numbers: NDArray[np.int32]) -> pa.Array:
    """``texts[number]`` of every number, as Arrow's; None is missing."""
    import pyarrow as pa

    encoded = [b"" if text is None else text.encode() for text in texts]
    ends = np.zeros(len(numbers) + 1, dtype=np.int32)
    np.cumsum(np.array([len(text) for text in encoded])[numbers], out=ends[1:])
    missing = np.array([text is None for text in texts])[numbers]
    # Arrow's own way from a dictionary to its texts loads pyarrow.compute, which takes longer than a small run.
    content = b"".join(np.array(encoded, dtype=object)[numbers].tolist())
    return pa.StringArray.from_buffers(len(numbers), pa.py_buffer(ends), pa.py_buffer(content), _valid(missing))


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
