"""Reads workload files, and writes the plain one.

* A table in CSV or Parquet has ``arrival_s`` (seconds from the run's start) or ``timestamp_s`` (any origin), and
  ``total_tokens`` or ``text_tokens`` and ``image_tokens``; every other column of ``OPTIONAL`` and ``client`` may be
  there. Without ``text_tokens`` nothing is said to be text.
* Azure's CSV files have TIMESTAMP, ContextTokens and perhaps NumImages (Azure/AzurePublicDataset, CC-BY 4.0). Context
  tokens are text and images together; NumImages counts tiles, as far as the numbers tell.
* Mooncake's JSONL files have timestamp (ms) and input_length (kvcache-ai/Mooncake, Apache-2.0). Text only.
* The requests.parquet of a run directory, simulated or measured (``experiments.recorded``).
* ServeGen's clients are a folder (``experiments.servegen``).
* A distribution of lengths is a CSV with ``value`` (or ``tokens``), ``cdf_low`` and ``cdf_high``, or the latter in
  percent as ``cdf_percent_low`` and ``cdf_percent_high``. It needs arrivals from the configuration.

CSV and JSONL may be compressed (.gz).
"""

from __future__ import annotations

import contextlib
import gzip
import math
import os
import tempfile
import zlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from experiments.errors import UserError
from experiments.recorded import MARKS, with_all_fields
from experiments.servegen import DAY_S, DRAWS, is_folder_of_clients, read_service
from sim.workload import Columns, Constant, Mix, Option, Quantiles, RequestKind

if TYPE_CHECKING:
    import pandas as pd

    from sim.workload import Reals

MAX_TOKENS = 10**8
SUFFIXES = {".csv": "csv", ".csv.gz": "csv", ".parquet": "parquet", ".jsonl": "jsonl", ".jsonl.gz": "jsonl"}
WHOLE = ("text_tokens", "images", "image_tokens_hint", "image_squares")
FACTORS = ("encode_factor", "prefill_factor")
OPTIONAL = (*WHOLE, *FACTORS)
MOST_SQUARES = 2**62

FileKind = Literal["trace", "recorded", "ticks", "lengths", "clients"]
FILE_OPTIONS: dict[FileKind, dict[str, Option]] = {
    "trace": {},
    "recorded": {"replication": Option(default=0, least=0, most=9999, help="which replication of the run")},
    "ticks": {
        "ticks": Option(
            default="spread",
            choices=("spread", "kept"),
            help="requests that share a coarse time stamp are spread evenly until the next, or all come at once",
        )
    },
    "lengths": {
        "content": Option(default="images", choices=("images", "text"), help="what the tokens of the file are")
    },
    "clients": {
        "start_s": Option(default=0.0, least=0, most=DAY_S - 1, help="second of the day at which the replay starts"),
        "draw": Option(
            default="comonotone",
            choices=DRAWS,
            help="whether long texts come with many images, as in ServeGen's generator, or each is drawn by itself",
        ),
    },
}
"""What ``workload.options`` may hold for each kind of file: tables, runs, Mooncake's JSONL, distributions, ServeGen."""


def file_kind(path: Path) -> FileKind:
    """What kind of workload ``path`` holds. Raises UserError if it cannot be read."""
    if path.is_dir():
        if not is_folder_of_clients(path):
            read_service(path)  # says what is missing
        return "clients"
    return _kind(path, _modified(path))


@lru_cache(maxsize=8)
def _kind(path: Path, _modified_ns: int) -> FileKind:
    if _format(path) == "jsonl":
        return "ticks"
    if _format(path) == "csv" and _cdf_columns(_table(path, rows=0)) is not None:
        return "lengths"
    return "recorded" if _format(path) == "parquet" and set(_parquet_columns(path)) >= MARKS else "trace"


def _parquet_columns(path: Path) -> list[str]:
    """The names of its columns; none if it cannot be read, which whoever reads it will say."""
    import pyarrow.parquet as pq

    try:
        names: list[str] = pq.read_schema(path).names
    except (OSError, ValueError):
        return []
    return names


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        raise UserError(f"workload.file is {str(path)!r}, it must be a file that can be read") from None


# --- tables and public traces ---


def read_trace(path: Path, options: Mapping[str, Any] | None = None) -> Columns:
    """The rows of a trace in order of arrival. Raises UserError naming the file and what it lacks."""
    chosen = options or {}
    replication = chosen.get("replication", 0) if file_kind(path) == "recorded" else None
    # A run asks several times: to check, to count and once per replication.
    return _read(path, _modified(path), chosen.get("ticks", "spread"), replication)


@lru_cache(maxsize=4)
def _read(path: Path, _modified_ns: int, ticks: str, replication: int | None) -> Columns:
    table = _table(path)
    if replication is None:
        return _columns(table, path, ticks)
    numbers = table["replication"]
    if not (numbers == replication).any():
        raise UserError(
            f"workload.options.replication is {replication}, it must be one of those of the run, 0 to {numbers.max()}"
        )
    # In the order in which they came: the table has them in the order in which they ended.
    rows = table[numbers == replication].sort_values("room", ignore_index=True)
    return with_all_fields(_columns(rows, path, ticks), path, replication)


def _columns(table: pd.DataFrame, path: Path, ticks: str) -> Columns:
    frame = _normalised(table, path, spread=ticks == "spread")
    if frame.empty:
        raise UserError(f"workload.file is {str(path)!r}, it must have at least one row")
    for column in frame.columns:
        if column != "client":
            _check_numbers(frame, column, path)
    over = frame["text_tokens"] > frame["total_tokens"]
    if over.any():
        number = int(over.to_numpy().argmax())
        raise UserError(
            f"workload.file {path.name}, row {number + 1}: text_tokens is {int(frame['text_tokens'].iloc[number])}, it "
            f"must be at most total_tokens, {int(frame['total_tokens'].iloc[number])}"
        )
    frame = frame.sort_values("arrival_s", kind="stable")
    codes, clients = frame["client"].factorize(sort=True)
    return Columns(
        arrival_s=frame["arrival_s"].to_numpy(dtype=float),
        total_tokens=frame["total_tokens"].to_numpy(dtype=np.int64),
        text_tokens=frame["text_tokens"].to_numpy(dtype=np.int64),
        images=frame["images"].to_numpy(dtype=np.int64),
        image_tokens_hint=frame["image_tokens_hint"].to_numpy(dtype=np.int64),
        image_squares=frame["image_squares"].to_numpy(dtype=np.int64),
        encode_factor=frame["encode_factor"].to_numpy(dtype=float),
        prefill_factor=frame["prefill_factor"].to_numpy(dtype=float),
        client=codes.astype(np.int64),
        clients=tuple(str(client) for client in clients),
    )


def write_trace(columns: Columns, path: Path) -> None:
    """Write a table that ``read_trace`` reads again, every number as it was; it appears when it is complete.

    Raises UserError if ``path`` cannot be written or has another suffix than .csv, .csv.gz or .parquet.
    """
    import pandas as pd

    kind = SUFFIXES.get(_suffix(path))
    if kind not in ("csv", "parquet"):
        raise UserError(f"--out is {str(path)!r}, its name must end in .csv, .csv.gz or .parquet")
    names = np.asarray(columns.clients, dtype=object)
    told = {name: getattr(columns, name) for name in ("arrival_s", "total_tokens", *OPTIONAL)}
    frame = pd.DataFrame({**told, "client": names[columns.client]})
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=_suffix(path), dir=path.parent)
    except OSError as error:
        raise UserError(f"--out is {str(path)!r}, which cannot be written: {error.strerror}") from None
    os.close(handle)
    part = Path(temporary)
    try:
        if kind == "parquet":
            frame.to_parquet(part, index=False)
        elif path.suffix == ".gz":
            # Without a time and a name inside, the same table gives the same bytes.
            with part.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed:
                frame.to_csv(packed, index=False)
        else:
            frame.to_csv(part, index=False)
        mask = os.umask(0)
        os.umask(mask)
        part.chmod(0o666 & ~mask)
        part.replace(path)
    except OSError as error:
        raise UserError(f"--out is {str(path)!r}, which cannot be written: {error.strerror}") from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()


def _suffix(path: Path) -> str:
    ends = [suffix.lower() for suffix in path.suffixes[-2:]]
    return "".join(ends) if ends[-1:] == [".gz"] else "".join(ends[-1:])


def _format(path: Path) -> str:
    kind = SUFFIXES.get(_suffix(path))
    if kind is None:
        raise UserError(f"workload.file is {str(path)!r}, its name must end in one of {', '.join(SUFFIXES)}")
    return kind


def _table(path: Path, rows: int | None = None) -> pd.DataFrame:
    import pandas as pd

    kind = _format(path)
    try:
        if kind == "csv":
            return pd.read_csv(path, skipinitialspace=True, nrows=rows)
        if kind == "parquet":
            return pd.read_parquet(path)
        return pd.read_json(path, lines=True)
    except (OSError, ValueError, EOFError, zlib.error) as error:
        # pandas' and pyarrow's parser errors are ValueErrors; their first line says it.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"workload.file is {str(path)!r}, which cannot be read as {kind}: {reason}") from None


def _normalised(table: pd.DataFrame, path: Path, *, spread: bool) -> pd.DataFrame:
    """The fields of a request, not yet checked."""
    import pandas as pd

    have = set(table.columns)
    out = pd.DataFrame(index=table.index)
    if {"TIMESTAMP", "ContextTokens"} <= have:
        try:
            moments = pd.to_datetime(table["TIMESTAMP"], utc=True, format="ISO8601")
        except (ValueError, TypeError):
            raise UserError(f"workload.file {path.name}: TIMESTAMP must hold dates and times (ISO 8601)") from None
        out["arrival_s"] = (moments - moments.min()).dt.total_seconds()
        out["total_tokens"] = table["ContextTokens"]
        out["images"] = table["NumImages"] if "NumImages" in have else 0
        # Where there are images, the trace does not say how much is text.
        out["text_tokens"] = out["total_tokens"].where(out["images"] == 0, 0)
    elif {"timestamp", "input_length"} <= have:
        _check_numbers(table, "timestamp", path)
        out["arrival_s"] = (table["timestamp"] - table["timestamp"].min()) / 1000
        if spread:
            out["arrival_s"] = spread_ticks(out["arrival_s"].to_numpy(dtype=float))
        out["total_tokens"] = out["text_tokens"] = table["input_length"]
    else:
        if "arrival_s" in have:
            out["arrival_s"] = table["arrival_s"]
        elif "timestamp_s" in have:
            numbers = pd.to_numeric(table["timestamp_s"], errors="coerce")
            if numbers.isna().any():
                row = int(numbers.isna().to_numpy().argmax())
                raise UserError(
                    f"workload.file {path.name}, row {row + 1}: timestamp_s is {table['timestamp_s'].iloc[row]}, "
                    f"it must be a number"
                )
            out["arrival_s"] = numbers - numbers.min()
        else:
            raise _lacks(path, "arrival_s (or timestamp_s)", have)
        if "total_tokens" in have:
            out["total_tokens"] = table["total_tokens"]
        elif {"text_tokens", "image_tokens"} <= have:
            for name in ("text_tokens", "image_tokens"):
                _check_numbers(table, name, path)
            out["total_tokens"] = table["text_tokens"] + table["image_tokens"]
        else:
            raise _lacks(path, "total_tokens (or text_tokens and image_tokens)", have)
        for name in OPTIONAL:
            if name in have:
                out[name] = table[name]
    for name in OPTIONAL:
        if name not in out:
            out[name] = 1.0 if name in FACTORS else 0
    out["client"] = table["client"].fillna("").astype(str) if "client" in have else ""
    return out


def spread_ticks(times_s: Reals) -> Reals:
    """Times whose clock has coarse ticks, spread evenly between them; others as they are.

    A clock is coarse if most requests share their time with another. A tick lasts as long as ticks usually do (the
    median), but not beyond the next one.
    """
    order = np.argsort(times_s, kind="stable")
    ticks_s, first, sizes = np.unique(times_s[order], return_index=True, return_counts=True)
    if len(ticks_s) < 2 or sizes[sizes > 1].sum() <= len(times_s) / 2:
        return times_s
    gaps_s = np.diff(ticks_s)
    usual_s = float(np.median(gaps_s))
    lasts_s = np.minimum(np.append(gaps_s, usual_s), usual_s)
    place = np.arange(len(times_s)) - np.repeat(first, sizes)
    spread = np.empty(len(times_s))
    spread[order] = times_s[order] + np.repeat(lasts_s / sizes, sizes) * place
    return spread


def _lacks(path: Path, column: str, have: set[str]) -> UserError:
    found = ", ".join(sorted(map(str, have))) or "none"
    return UserError(f"workload.file {path.name} lacks the column {column}; its columns are {found}")


def _check_numbers(table: pd.DataFrame, column: str, path: Path) -> None:
    import pandas as pd

    numbers = pd.to_numeric(table[column], errors="coerce").to_numpy(dtype=float, na_value=math.nan)
    least = 1 if column == "total_tokens" else 0
    good = (numbers >= least) & (numbers < math.inf)
    wanted = f"a number of at least {least}"
    if column not in ("arrival_s", "timestamp", *FACTORS):
        most = MOST_SQUARES if column == "image_squares" else MAX_TOKENS
        good &= (numbers % 1 == 0) & (numbers <= most)
        wanted = f"a whole number from {least} to {most}"
    if not good.all():
        row = int((~good).argmax())
        raise UserError(
            f"workload.file {path.name}, row {row + 1}: {column} is {table[column].iloc[row]}, it must be {wanted}"
        )
    table[column] = numbers


# --- distributions ---


def read_lengths(path: Path, options: Mapping[str, Any] | None = None) -> Mix:
    """The mix of a file of lengths. Raises UserError naming the file and what is wrong with it."""
    return _read_lengths(path, _modified(path), (options or {}).get("content", "images"))


@lru_cache(maxsize=4)
def _read_lengths(path: Path, _modified_ns: int, content: str) -> Mix:
    table = _table(path)
    columns = _cdf_columns(table)
    if columns is None:
        raise _lacks(path, "cdf_low (or cdf_percent_low)", set(table.columns))
    value, low, high, whole = columns
    if table.empty:
        raise UserError(f"workload.file is {str(path)!r}, it must have at least one row")
    for column in (value, low, high):
        _check_share(table, column, path, math.inf if column == value else whole)
    table = table.sort_values([value, low], kind="stable")
    # A step is a row whose low and high differ, so each row is two points of the curve; where the curve was drawn with
    # some width they overlap, and it follows its upper edge.
    points = np.column_stack((table[low], table[high])).ravel() / whole
    levels = np.concatenate(([0.0], np.maximum.accumulate(points), [1.0]))
    values = np.repeat(table[value].to_numpy(dtype=float), 2)
    values = np.concatenate(([values[0]], values, [values[-1]]))
    # Lengths are spread over orders of magnitude, and so are the points of such curves.
    lengths = Quantiles(tuple(values.tolist()), tuple(levels.tolist()), logarithmic=bool(values[0] >= 1))
    kind = RequestKind(1.0, lengths) if content == "text" else RequestKind(1.0, Constant(0), total=lengths)
    return Mix(kinds=(kind,), max_tokens=MAX_TOKENS, hint="none")


def _cdf_columns(table: pd.DataFrame) -> tuple[str, str, str, float] | None:
    """The columns of value, low and high, and what is the whole; None if it is no distribution."""
    have = set(table.columns)
    for low, high, whole in (("cdf_low", "cdf_high", 1.0), ("cdf_percent_low", "cdf_percent_high", 100.0)):
        for value in ("value", "tokens"):
            if {value, low, high} <= have:
                return value, low, high, whole
    return None


def _check_share(table: pd.DataFrame, column: str, path: Path, most: float) -> None:
    import pandas as pd

    numbers = pd.to_numeric(table[column], errors="coerce").to_numpy(dtype=float, na_value=math.nan)
    good = (numbers >= 0) & (numbers <= min(most, MAX_TOKENS))
    if not good.all():
        row = int((~good).argmax())
        raise UserError(
            f"workload.file {path.name}, row {row + 1}: {column} is {table[column].iloc[row]}, it must be a number "
            f"from 0 to {min(most, MAX_TOKENS):g}"
        )
    table[column] = numbers
