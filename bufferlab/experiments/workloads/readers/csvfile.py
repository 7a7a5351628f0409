"""CSV files: their rows, each with its line.

A file may be separated by commas, semicolons, tabs, bars or blanks; every row must have as many fields as the header,
but for empty ones at its end.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from bufferlab.experiments.csvrows import fit
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.workloads.readers.cells import Column, Table
from bufferlab.experiments.workloads.readers.numerals import NUMBER
from bufferlab.experiments.workloads.readers.opening import opened

if TYPE_CHECKING:
    import pyarrow as pa

DELIMITERS = ",;\t|"
CHUNK_ROWS = 1 << 16
LONGEST_FIELD = 1 << 24


def read_header(path: Path) -> list[str]:
    """The names of its columns."""
    with opened(path) as file:
        return _CsvRows(path, file).header


def read_csv(path: Path) -> Table:
    """All of a file."""
    import pyarrow as pa

    chunks: list[list[pa.Array]] = []
    lines: list[int] = []
    with opened(path) as file:
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
