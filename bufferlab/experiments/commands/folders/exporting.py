"""Tables of finished directories as CSV, for whatever reads no Parquet: the same rows, columns and numbers."""

from __future__ import annotations

import contextlib
import gzip
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from bufferlab.experiments.errors import UserError
from bufferlab.experiments.figures.pages import check_place
from bufferlab.experiments.files import Claim, disk_errors, write_atomically
from bufferlab.experiments.reports.sources import Source, read_source
from bufferlab.experiments.runs.rundir import EVENTS, REQUESTS, StoredRun
from bufferlab.experiments.sweeps.folder import QUANTILES_FILE, TABLE_FILE
from bufferlab.experiments.tuning.folder import LEDGER_FILE
from bufferlab.protocol.naming import did_you_mean

if TYPE_CHECKING:
    import pyarrow as pa

TABLES = {
    "run": {"requests": REQUESTS, "events": EVENTS},
    "sweep": {"runs": TABLE_FILE, "quantiles": QUANTILES_FILE},
    "tune": {"settings": "", "runs": LEDGER_FILE},
}
"""By kind of directory what can be written, the first of which is written when nothing is said, and its file."""
SUFFIXES = (".csv", ".csv.gz")


@dataclass(frozen=True)
class Exported:
    """A table that was written."""

    table: str
    rows: int
    columns: tuple[str, ...]


def export(path: Path, *, out: Path | None, table: str | None = None, force: bool = False) -> Exported:
    """Write a table of a directory to ``out``, without it to stdout. Raises UserError before anything is written."""
    source = read_source(path)
    if source.kind not in TABLES:
        raise UserError(f"RUN is {str(path)!r}, a {source.kind}, whose table is its cases.csv already")
    known = TABLES[source.kind]
    name = table or next(iter(known))
    if name not in known:
        hint = did_you_mean(name, known)
        raise UserError(f"--table is {name!r}, it must be one of {', '.join(known)} of a {source.kind}{hint}")
    batches = _settings(source) if not known[name] else _stored(source, known[name])
    if out is None:
        return _write(sys.stdout.buffer, batches, name)
    if not out.name.endswith(SUFFIXES):
        raise UserError(f"--out is {str(out)!r}, it must be the name of a .csv or .csv.gz file")
    check_place(out, "--out")
    if out.exists() and not force:
        raise UserError(f"--out is {str(out)!r}, which exists; give another name, or --force to replace it")
    with Claim(out), disk_errors(out), write_atomically(out) as partial, _opened(partial, out) as file:
        return _write(file, batches, name)


@contextlib.contextmanager
def _opened(path: Path, named: Path) -> Iterator[BinaryIO]:
    if named.suffix != ".gz":
        with path.open("wb") as file:
            yield file
        return
    with path.open("wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
        yield packed  # type: ignore[misc]


def _write(file: BinaryIO, batches: Iterator[pa.RecordBatch], name: str) -> Exported:
    """Numbers as the shortest text that reads back as the same number, nothing where there is no value."""
    import pyarrow.csv as pc

    first = next(batches)
    rows = 0
    with pc.CSVWriter(file, first.schema, write_options=pc.WriteOptions(quoting_style="needed")) as writer:
        for batch in (first, *batches):
            writer.write_batch(batch)
            rows += batch.num_rows
    return Exported(name, rows, tuple(first.schema.names))


def _stored(source: Source, name: str) -> Iterator[pa.RecordBatch]:
    """The rows of a Parquet file, a part at a time: that of events may be larger than the memory."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = StoredRun(source.path).events_path if name == EVENTS else source.path / name
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException):
        raise UserError(f"RUN is {str(source.path)!r}, whose {name} cannot be read") from None

    def parts() -> Iterator[pa.RecordBatch]:
        empty = True
        for batch in file.iter_batches():
            yield _plain(batch)
            empty = False
        if empty:
            yield from _plain(file.schema_arrow.empty_table()).to_batches() or [
                pa.RecordBatch.from_pylist([], schema=_plain(file.schema_arrow.empty_table()).schema)
            ]

    return parts()


def _plain(table: Any) -> Any:
    """Without dictionaries, which CSV has none of."""
    import pyarrow as pa

    schema = pa.schema(
        [pa.field(one.name, one.type.value_type if pa.types.is_dictionary(one.type) else one.type)
         for one in table.schema]
    )  # fmt: skip
    return table.cast(schema)


def _settings(source: Source) -> Iterator[pa.RecordBatch]:
    """A row for every setting of a tuning; an estimate has its value, and its ends as ``.low`` and ``.high``."""
    import pyarrow as pa

    rows = [_flat(one) for one in source.content["settings"]]
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: _column([row.get(name) for row in rows]) for name in names}
    yield from pa.table(columns).combine_chunks().to_batches() or iter(())


def _column(values: list[Any]) -> pa.Array:
    """Texts where there are texts among numbers, as where a pool is a number of blocks in some rows and a size in
    others."""
    import pyarrow as pa

    if any(isinstance(one, str) for one in values):
        return pa.array([None if one is None else str(one) for one in values], pa.string())
    return pa.array(values)


def _flat(setting: Mapping[str, Any]) -> dict[str, Any]:
    row = {"setting": setting["number"], **setting["fields"]}
    row |= {name: setting[name] for name in ("state", "why", "eligible", "runs", "memory_bytes")}
    for name, estimate in {"difference_s": setting["difference"], **setting["figures"]}.items():
        row |= {name: estimate["value"], f"{name}.low": estimate["low"], f"{name}.high": estimate["high"]}
    return row
