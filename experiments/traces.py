"""Reads request traces: own tables in CSV or Parquet, and the public formats of Azure and Mooncake.

A table has ``arrival_s`` (seconds from the run's start) or ``timestamp_s`` (any origin), and ``total_tokens`` or
``text_tokens`` and ``image_tokens``; ``images``, ``image_tokens_hint`` and ``client`` are optional. Azure's CSV files
have TIMESTAMP, ContextTokens and perhaps NumImages; Mooncake's JSONL files have timestamp (ms) and input_length.
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from experiments.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

MAX_TOKENS = 10**8
SUFFIXES = {".csv": "csv", ".parquet": "parquet", ".jsonl": "jsonl"}
OPTIONAL = ("images", "image_tokens_hint", "text_tokens")


class TraceRow(NamedTuple):
    """One request of a trace."""

    arrival_s: float
    total_tokens: int
    text_tokens: int
    images: int
    image_tokens_hint: int
    client: str


def read_trace(path: Path) -> list[TraceRow]:
    """The rows of a trace in order of arrival. Raises UserError naming the file and what it lacks."""
    try:
        modified = path.stat().st_mtime_ns
    except OSError:
        raise UserError(f"workload.file is {str(path)!r}, it must be a file that can be read") from None
    # A run asks several times: to check, to count and once per replication.
    return list(_read(path, modified))


@lru_cache(maxsize=4)
def _read(path: Path, _modified: int) -> tuple[TraceRow, ...]:
    frame = _normalised(_table(path), path)
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
    columns = [
        frame["arrival_s"].astype(float).tolist(),
        *(frame[name].astype(int).tolist() for name in TraceRow._fields[1:-1]),
        frame["client"].tolist(),
    ]
    return tuple(TraceRow(*row) for row in zip(*columns, strict=True))


def _table(path: Path) -> pd.DataFrame:
    import pandas as pd

    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise UserError(f"workload.file is {str(path)!r}, its name must end in one of {', '.join(SUFFIXES)}")
    try:
        if kind == "csv":
            return pd.read_csv(path, skipinitialspace=True)
        if kind == "parquet":
            return pd.read_parquet(path)
        return pd.read_json(path, lines=True)
    except (OSError, ValueError) as error:
        # pandas' and pyarrow's parser errors are ValueErrors; their first line says it.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"workload.file is {str(path)!r}, which cannot be read as {kind}: {reason}") from None


def _normalised(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The columns of TraceRow, not yet checked."""
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
        # NumImages counts tiles, and the text part is not told.
        out["images"] = table["NumImages"] if "NumImages" in have else 0
    elif {"timestamp", "input_length"} <= have:
        out["arrival_s"] = (table["timestamp"] - table["timestamp"].min()) / 1000
        out["total_tokens"] = table["input_length"]
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
            out[name] = 0
    out["client"] = table["client"].fillna("").astype(str) if "client" in have else ""
    return out


def _lacks(path: Path, column: str, have: set[str]) -> UserError:
    found = ", ".join(sorted(map(str, have))) or "none"
    return UserError(f"workload.file {path.name} lacks the column {column}; its columns are {found}")


def _check_numbers(table: pd.DataFrame, column: str, path: Path) -> None:
    import pandas as pd

    numbers = pd.to_numeric(table[column], errors="coerce").to_numpy(dtype=float, na_value=math.nan)
    least = 1 if column == "total_tokens" else 0
    good = (numbers >= least) & (numbers < math.inf)
    wanted = f"a number of at least {least}"
    if column != "arrival_s":
        good &= (numbers % 1 == 0) & (numbers <= MAX_TOKENS)
        wanted = f"a whole number from {least} to {MAX_TOKENS}"
    if not good.all():
        row = int((~good).argmax())
        raise UserError(
            f"workload.file {path.name}, row {row + 1}: {column} is {table[column].iloc[row]}, it must be {wanted}"
        )
    table[column] = numbers
