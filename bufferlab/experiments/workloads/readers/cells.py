"""The cells of a file's columns: as the file has them, as numbers, as texts, and as a sentence names them.

Nothing is guessed about a cell, no dates, no numbers: ``Column`` turns its cells into numbers or texts when a reader
asks for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bufferlab.experiments.errors import UserError
from bufferlab.experiments.workloads.readers.numerals import grouped, number, with_commas

EITHER = "written with a point before decimals and nothing between thousands; as it is, it may be either"


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
