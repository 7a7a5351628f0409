"""Reads tables of link measurements, and names every row that cannot be meant as it stands.

A table is a CSV with the columns of ``COLUMNS``, or what ``bufferlab bench-link`` writes. One row says how long a batch
of ``batch`` segments of ``msg_bytes`` took each of ``threads`` threads (``time_us``), or what all of them moved
together (``bw_GBps``, 10^9 bytes per second). A table of a serving system has no ``msg_bytes``, since there nobody
knows how a transfer is cut: its rows say how long ``total_bytes`` took, and are used as transfers of one segment.
Nothing is repaired: a row is used as it stands, or it is left out and said why.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bufferlab.experiments.calibration.input.line_rates import line_rate_Bps
from bufferlab.experiments.csvrows import check_names, fit
from bufferlab.experiments.errors import UserError

COLUMNS = ("table", "msg_bytes", "batch", "threads", "total_bytes", "time_us", "bw_GBps")
COUNTS = ("msg_bytes", "batch", "threads")
TOTAL = "total_bytes"
IDENTITY = ("run", "config", "api")
"""What names the rows of a table that has no column ``table``."""

NOTED = ("system", "link", "op", "quantity")
"""What else is read of a row."""

TIMES = ("time_us", "median_us")
RATE = "bw_GBps"
KNOWN = frozenset({*COLUMNS, *IDENTITY, *TIMES, *NOTED})
TIME, THROUGHPUT = "time", "throughput"
MICRO, GIGA = 1e-6, 1e9

ROUNDING_SLACK = 0.01
"""How far time and rate of one row may be apart beside their rounding: published means are of single rates."""
LINE_RATE_SLACK = 0.005
"""How far above its line rate a published rate may lie: they are rounded."""

SLIPS = {
    1.024: "KB and KiB are mixed",
    1.024**2: "MB and MiB are mixed",
    1.024**3: "GB and GiB are mixed",
    8.0: "bits and bytes are mixed",
    1000.0: "a unit is off by 1000",
    1024.0: "a unit is off by 1024",
    1e6: "a unit is off by 1000000",
}
SLIP_SLACK = 0.002


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement. ``value``: seconds of a batch, or bytes per second of all threads, as ``kind`` says.

    ``number``: the line of a CSV file, or the place in a JSON list, from 1 on. ``rounding``: half a unit of the last
    digit that was written, over the value: how well the row can be met at all. ``whole``: only the bytes of the whole
    transfer are known, which ``msg_bytes`` then is.
    """

    file: str
    number: int
    table: str
    system: str
    link: str
    op: str
    quantity: str
    msg_bytes: int
    batch: int
    threads: int
    kind: str
    value: float
    rounding: float
    whole: bool = False

    @property
    def bytes_moved(self) -> int:
        """Bytes of one batch of all threads."""
        return self.msg_bytes * self.batch * self.threads

    @property
    def batch_s(self) -> float:
        """How long one batch takes a thread, seconds; from the throughput where that was measured."""
        return self.value if self.kind == TIME else self.bytes_moved / self.value


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A row that is not used, and why."""

    file: str
    row: int
    table: str
    reason: str


class _UnusableError(ValueError):
    """Why a row cannot be used."""


def unknown_columns(path: Path, rows: Sequence[Row]) -> list[str]:
    """Names of the columns of a CSV file that nothing is read from; what bench-link writes beside is known."""
    if path.suffix == ".json" or all(row.table.startswith("bench_link_") for row in rows):
        return []
    return [name for name in _csv_lines(path)[0][1] if name and name not in KNOWN]


def read_rows(path: Path) -> tuple[list[Row], list[LeftOut]]:
    """The rows of a CSV or of a bench-link JSON file, and those that are left out.

    Raises UserError for a file that cannot be read or is no such table at all.
    """
    lines = _json_lines(path) if path.suffix == ".json" else _csv_lines(path)
    if not lines:
        raise UserError(f"{str(path)!r} has no rows")
    _check_columns(path, set(lines[0][1]))
    rows: list[Row] = []
    left_out: list[LeftOut] = []
    in_segments = {_table(fields) for _, fields in lines if fields.get(COUNTS[0])}
    for number, fields in lines:
        try:
            rows.append(_row(path.name, number, fields, whole=_table(fields) not in in_segments))
        except _UnusableError as problem:
            left_out.append(LeftOut(file=path.name, row=number, table=_table(fields), reason=str(problem)))
    return rows, left_out


def _csv_lines(path: Path) -> list[tuple[int, dict[str, str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            check_names(str(path), header)
            lines = []
            for fields in reader:
                if fields:
                    fitted = fit(fields, header, f"{str(path)!r}, line {reader.line_num}", short=True)
                    lines.append((reader.line_num, dict(zip(header, map(str.strip, fitted), strict=True))))
            return lines
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{str(path)!r} cannot be read as CSV: {error}") from None


def _json_lines(path: Path) -> list[tuple[int, dict[str, str]]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{str(path)!r} cannot be read as JSON: {error}") from None
    found = content.get("rows") if isinstance(content, dict) else None
    if not isinstance(found, list) or not all(isinstance(line, dict) for line in found):
        raise UserError(f"{str(path)!r} has no rows, it must be what bufferlab bench-link writes")
    return [(number, {name: str(value) for name, value in line.items()}) for number, line in enumerate(found, 1)]


def _check_columns(path: Path, found: set[str]) -> None:
    missing = [name for name in COUNTS if name not in found and not (COUNTS[0] not in found and TOTAL in found)]
    if "table" not in found and not found.issuperset(IDENTITY):
        missing.insert(0, "table")
    if not found.intersection((*TIMES, RATE)):
        missing.append("time_us or bw_GBps")
    if missing:
        unitless = sorted(name for name in found if re.fullmatch(r"(time|bw|bandwidth|throughput|size|msg)", name))
        hint = f" ({', '.join(unitless)} has no unit in its name)" if unitless else ""
        raise UserError(
            f"{str(path)!r} has no column {', '.join(missing)}{hint}; a calibration table has {', '.join(COLUMNS)}"
        )


def _table(fields: Mapping[str, str]) -> str:
    if "table" in fields:
        return fields["table"]
    return "/".join(fields.get(name, "") for name in IDENTITY)


def _row(file: str, number: int, fields: Mapping[str, str], *, whole: bool) -> Row:
    """``whole``: no row of its table has a size of segments. Raises _UnusableError saying why it cannot be used."""
    if not _table(fields):
        raise _UnusableError("table is empty")
    whole = whole and bool(fields.get(TOTAL))
    counts = _counts_of_total(fields) if whole else {name: _count(fields, name) for name in COUNTS}
    moved = math.prod(counts.values())
    if fields.get(TOTAL):
        _agree(TOTAL, _number(fields, TOTAL), moved, "msg_bytes × batch × threads", 0.0)
    time = next((name for name in TIMES if fields.get(name)), None)
    rate = RATE if fields.get(RATE) else None
    if time is None and rate is None:
        raise _UnusableError("neither time_us nor bw_GBps is given")
    quantity = fields.get("quantity", "")
    measured = {name: _number(fields, name) for name in (time, rate) if name}
    roundings = {name: _rounding(fields[name]) / value for name, value in measured.items()}
    # A median time and a median rate are of different batches; on a busy machine they are several times apart.
    if time and rate and "median" not in quantity:
        _agree(
            rate, measured[rate] * GIGA, moved / (measured[time] * MICRO), f"bytes over {time}",
            ROUNDING_SLACK + sum(roundings.values()),
        )  # fmt: skip
    system, link = fields.get("system", ""), fields.get("link", "")
    line_rate = line_rate_Bps(link)
    bytes_per_s = measured[rate] * GIGA if rate else moved / (measured[time] * MICRO) if time else 0.0
    if line_rate and bytes_per_s > line_rate * (1 + LINE_RATE_SLACK):
        raise _UnusableError(
            f"{bytes_per_s / GIGA:.4g} GB/s is more than the link's line rate, {line_rate / GIGA:.4g} GB/s"
        )
    by_time = time is not None and (rate is None or not quantity.startswith(THROUGHPUT))
    chosen = time if by_time else rate
    assert chosen is not None  # one of them was given
    return Row(
        file=file, number=number, table=_table(fields), system=system, link=link, op=fields.get("op", ""),
        quantity=quantity, **counts, kind=TIME if by_time else THROUGHPUT,
        value=measured[chosen] * (MICRO if by_time else GIGA), rounding=roundings[chosen], whole=whole,
    )  # fmt: skip


def _counts_of_total(fields: Mapping[str, str]) -> dict[str, int]:
    """Size, segments and threads where only the bytes of all of them are known: what is not given is one."""
    shares = {name: _count(fields, name) if fields.get(name) else 1 for name in COUNTS[1:]}
    total, parts = _count(fields, TOTAL), math.prod(shares.values())
    if total % parts:
        raise _UnusableError(f"{TOTAL} is {total}, it must be a multiple of batch × threads, {parts}")
    return {COUNTS[0]: total // parts, **shares}


def _number(fields: Mapping[str, str], name: str) -> float:
    text = fields.get(name, "")
    if not text:
        raise _UnusableError(f"{name} is empty")
    try:
        value = float(text)
    except ValueError:
        raise _UnusableError(f"{name} is {text!r}, it must be a number without a unit") from None
    if not (math.isfinite(value) and value > 0):
        raise _UnusableError(f"{name} is {text}, it must be finite and more than 0")
    return value


def _count(fields: Mapping[str, str], name: str) -> int:
    value = _number(fields, name)
    if value % 1:
        raise _UnusableError(f"{name} is {fields[name]}, it must be a whole number")
    return int(value)


def _rounding(text: str) -> float:
    """Half a unit of the last digit written."""
    mantissa, _, exponent = text.lower().partition("e")
    decimals = len(mantissa.partition(".")[2])
    return float(0.5 * 10.0 ** (int(exponent or 0) - decimals))


def _agree(name: str, found: float, expected: float, of: str, slack: float) -> None:
    """Raises _UnusableError, with the slip that explains it, if two ways to say the same are too far apart."""
    ratio = max(found / expected, expected / found)
    slip = next((text for factor, text in SLIPS.items() if abs(ratio / factor - 1) <= SLIP_SLACK), "")
    if ratio <= 1 + slack:
        return
    because = f": {slip}" if slip else ""
    raise _UnusableError(f"{name} is {found / expected:.5g} times {of}{because}")
