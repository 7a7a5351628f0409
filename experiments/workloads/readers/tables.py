"""Files as tables: CSV, JSON lines and Parquet, each cell as the file has it and each row with its line.

Nothing is guessed about a cell here, no dates, no numbers: ``Column`` turns its cells into numbers or texts when a
reader asks for them. A CSV file may be separated by commas, semicolons, tabs, bars or blanks, with a byte order mark
or without; every row must have as many fields as the header, but for empty ones at its end.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from experiments.config.inputs import SUFFIXES, suffix_of
from experiments.csvrows import fit
from experiments.errors import UserError
from experiments.workloads.readers.base import Head
from experiments.workloads.readers.names import plain_name
from experiments.workloads.readers.numerals import NUMBER, grouped, number, with_commas

if TYPE_CHECKING:
    import pyarrow as pa

DELIMITERS = ",;\t|"
HEAD_LINES = 64
A_LIST, A_TABLE = "a list", "a table"
"""Stand for what JSON has in a cell that is no number and no text; no column needs it."""
CHUNK_ROWS = 1 << 16
LONGEST_FIELD = 1 << 24
EITHER = "written with a point before decimals and nothing between thousands; as it is, it may be either"


def container_of(path: Path) -> str:
    """csv, jsonl or parquet. Raises UserError for another name."""
    kind = SUFFIXES.get(suffix_of(path))
    if kind is None:
        raise UserError(f"workload.file is {str(path)!r}, its name must end in one of {', '.join(SUFFIXES)}")
    return kind


@dataclass(frozen=True)
class Table:
    """A file as it is: its columns in order, and where each row stands in it."""

    path: Path
    columns: tuple[Column, ...]
    rows: int

    def names(self) -> str:
        """The names of its columns as a sentence lists them."""
        return ", ".join(column.shown_name for column in self.columns) or "none"


@dataclass(frozen=True, eq=False)
class Column:
    """One column. ``values``: an Arrow array, or Python objects where the file has them."""

    path: Path
    name: str
    values: Any
    lines: Sequence[int] | None = None
    """The line of the file that each row stands in; None where rows have no lines."""
    delimiter: str = ""
    """What separates the columns of a CSV file."""

    @property
    def shown_name(self) -> str:
        """Its name, or that it has none."""
        return self.name if self.name.strip() else "(a column without a name)"

    def where(self, row: int) -> str:
        """``workload.file mine.csv, line 7``: lines count from 1 with the header, rows of Parquet from 1."""
        place = f"row {row + 1}" if self.lines is None else f"line {self.lines[row]}"
        return f"workload.file {self.path.name}, {place}"

    def told(self, row: int) -> str:
        """The cell as a sentence shows it."""
        value = self.raw(row)
        text = "empty" if value is None or value == "" else str(value)
        text = text if text.isprintable() else repr(text)
        return text if len(text) <= 60 else text[:57] + "..."

    def raw(self, row: int) -> Any:
        """One cell."""
        value = self.values[row]
        return value if isinstance(self.values, list) else value.as_py()

    @property
    def type(self) -> Any:
        """Its Arrow type, None for Python objects."""
        return None if isinstance(self.values, list) else self.values.type

    @property
    def is_typed_time(self) -> bool:
        """Whether its type says that its cells are moments or durations."""
        import pyarrow.types as kinds

        return self.type is not None and (kinds.is_timestamp(self.type) or kinds.is_duration(self.type))

    def refuse(self, row: int, wanted: str) -> UserError:
        """What to raise for a cell that is not what it must be."""
        return UserError(f"{self.where(row)}: {self.shown_name} is {self.told(row)}, it must be {wanted}")

    def numbers(self) -> tuple[np.ndarray, np.ndarray]:
        """Its cells as whole numbers if all are, else as floats, and which are no numbers (NaN there)."""
        if isinstance(self.values, list):
            self._check_commas()
            return _of_objects([self._number(value) for value in self.values])
        import pyarrow as pa
        import pyarrow.types as kinds

        values, kind = self.values, self.values.type
        if kinds.is_dictionary(kind):
            values = values.cast(kind.value_type)
            kind = values.type
        if kinds.is_integer(kind) and values.null_count == 0:
            try:
                return values.cast(pa.int64()).to_numpy(), np.zeros(len(values), dtype=bool)
            except pa.ArrowInvalid:
                pass  # beyond 2^63: as floats
        if kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_decimal(kind):
            floats = values.cast(pa.float64(), safe=False).to_pandas().to_numpy(dtype=float)
            return floats, np.isnan(floats)
        if not self._is_text(kind):
            return np.full(len(values), np.nan), np.ones(len(values), dtype=bool)
        self._check_points()
        for target in (pa.int64(), pa.float64()):
            try:
                cast = values.cast(target)
            except pa.ArrowInvalid:
                continue
            if cast.null_count == 0:
                made = cast.to_numpy()
                return made, np.isnan(made) if made.dtype == float else np.zeros(len(made), dtype=bool)
        self._check_commas()
        return _of_objects([self._number(value) for value in values.to_pylist()])

    def check_whole(self, wanted: str) -> None:
        """Raise UserError if a sign in these whole numbers separates thousands, or may."""
        if self.type is not None and not self._is_text(self.type):
            return
        texts = self.texts()
        points = grouped(texts, ".") if self.delimiter not in ("", ",") else None
        row = with_commas(texts) if points is None and self.delimiter != ";" else points
        row = grouped(texts, ",") if row is None and self.delimiter == ";" else row
        if row is not None:
            raise self.refuse(row, f"{wanted}, with nothing between thousands")

    @staticmethod
    def _is_text(kind: Any) -> bool:
        import pyarrow.types as kinds

        return bool(kinds.is_string(kind) or kinds.is_large_string(kind))

    def _check_points(self) -> None:
        """Raise UserError where points in numbers may separate thousands, as in files with other signs than commas."""
        if self.delimiter and self.delimiter != ",":
            row = grouped(self.texts(), ".", some_without=True)
            if row is not None:
                raise self.refuse(row, EITHER)

    def _check_commas(self) -> None:
        """Raise UserError where commas in numbers are no decimal commas, or may be both."""
        texts = self.texts()
        row = grouped(texts, ",") if self.delimiter == ";" else with_commas(texts)
        if row is not None:
            wanted = EITHER if self.delimiter == ";" else "a number without commas, with a point before decimals"
            raise self.refuse(row, wanted)

    def texts(self) -> list[str]:
        """Its cells as texts, nothing where there is nothing; whole numbers without a point."""
        values = self.values if isinstance(self.values, list) else self.values.to_pylist()
        return [_text(value) for value in values]

    def _number(self, value: Any) -> int | float:
        if isinstance(value, bool) or value is None:
            return np.nan
        if isinstance(value, int | float):
            return value
        if not isinstance(value, str):
            return np.nan
        found = number(value.strip(), decimal_comma=self.delimiter == ";")
        return np.nan if found is None else found


def _of_objects(values: list[int | float]) -> tuple[np.ndarray, np.ndarray]:
    if all(isinstance(value, int) and abs(value) < 2**63 for value in values):
        return np.asarray(values, dtype=np.int64), np.zeros(len(values), dtype=bool)
    floats = np.asarray([float(value) for value in values], dtype=float)
    return floats, np.isnan(floats)


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


# --- reading -----------------------------------------------------------------------------------------------------


def read_head(path: Path) -> Head:
    """What a reader is recognised by. Raises UserError for a file that cannot be read."""
    kind = container_of(path)
    with _readable(path, kind):
        if kind == "parquet":
            import pyarrow.parquet as pq

            names = list(pq.read_schema(path).names)
        elif kind == "csv":
            with _opened(path) as file:
                names = _CsvRows(path, file).header
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
        return _read_csv(path) if kind == "csv" else _read_jsonl(path)


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


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    packed = path.suffix.lower() == ".gz"
    with path.open("rb") as file, gzip.open(file, "rb") if packed else nullcontext(file) as opened:
        raw: Any = opened
        start = raw.read(2)
        raw.seek(0)
        encoding = "utf-16" if start in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        yield io.TextIOWrapper(raw, encoding=encoding, newline="")


class _CsvRows:
    """The rows of a CSV file with their lines; the header is read at once."""

    def __init__(self, path: Path, file: TextIO) -> None:
        csv.field_size_limit(LONGEST_FIELD)
        self._path = path
        first, before = "", 0
        for first in file:
            told = re.fullmatch(r"sep=(.)\s*", first)
            if first.strip() and not told and not first.startswith("#"):
                break
            before += 1
        else:
            first = ""
        if not first.strip():
            raise UserError(f"workload.file is {str(path)!r}, which cannot be read as csv: it has no header line")
        self.delimiter = _delimiter(first.strip("\r\n"))
        self._before = before
        # Strict, for a quote that is never closed would take all rows that follow into its field.
        lines = _without_blanks_after_quotes(_chained(first, file), self.delimiter)
        self._reader = csv.reader(lines, delimiter=self.delimiter, skipinitialspace=True, strict=True)
        header = [name.strip() for name in next(self._reader)]
        while header and not header[-1]:
            header.pop()
        self.header = header
        if all(NUMBER.fullmatch(name) for name in header):
            raise UserError(
                f"workload.file {path.name}: its first line must name the columns, it is {first.strip()[:60]}"
            )

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        for row in self._rows():
            if any(row):
                line = self._reader.line_num + self._before
                yield line, fit(row, self.header, f"workload.file {self._path.name}, line {line}")

    def _rows(self) -> Iterator[list[str]]:
        begun = self._reader.line_num + 1
        try:
            for row in self._reader:
                yield row
                begun = self._reader.line_num + 1
        except csv.Error as error:
            raise UserError(
                f"workload.file {self._path.name}, line {begun + self._before} cannot be read as csv: {error} "
                f"(is a quote not closed there?)"
            ) from None


def _without_blanks_after_quotes(lines: Iterator[str], delimiter: str) -> Iterator[str]:
    """The lines with nothing between a quote that closes a field and the end of the field."""
    blanks = re.compile(rf'"[ \t]+(?=[{re.escape(delimiter)}\r\n])')
    if not delimiter.isspace():
        lines = (blanks.sub('"', line) if '"' in line else line for line in lines)
    yield from lines


def _chained(first: str, rest: TextIO) -> Iterator[str]:
    yield first
    yield from rest


def _delimiter(header: str) -> str:
    """What separates the most names; blanks only if nothing else does."""
    best = max(DELIMITERS, key=lambda sign: (header.count(sign), -DELIMITERS.index(sign)))
    if header.count(best) == 0 and len(header.split()) > 1 and _are_names(header.split()):
        return " "
    return best


def _are_names(names: list[str]) -> bool:
    """Whether these look like names of several columns rather than the words of one."""
    return all(re.fullmatch(r"[A-Za-z_][\w.]*", name) for name in names)


def _read_csv(path: Path) -> Table:
    import pyarrow as pa

    chunks: list[list[pa.Array]] = []
    lines: list[int] = []
    with _opened(path) as file:
        source = _CsvRows(path, file)
        rows: list[list[str]] = []

        def put_away() -> None:
            chunks.append([pa.array(cells, pa.string()) for cells in zip(*rows, strict=True)])
            rows.clear()

        for line, row in source:
            lines.append(line)
            rows.append(row)
            if len(rows) == CHUNK_ROWS:
                put_away()
        if rows:
            put_away()
    made = [pa.chunked_array([part[place] for part in chunks], pa.string()) for place in range(len(source.header))]
    found = [
        Column(path, name, cells, lines, source.delimiter) for name, cells in zip(source.header, made, strict=True)
    ]
    return Table(path, tuple(found), len(lines))


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every object of a file of JSON lines with its line; of lists and tables in them only that they are that."""
    import msgspec

    with _opened(path) as file:
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
