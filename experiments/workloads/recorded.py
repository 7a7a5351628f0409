"""The requests of a finished run as a workload: what was asked of it, at the times at which it was.

A run's requests.parquet says when its requests came and how long they were. What else belongs to them (what the
language side is told, what their passes cost) is drawn again from the config.toml beside it; without one the columns
count alone. A simulated and a measured run have the same columns, so each can be replayed as the other.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.errors import UserError

if TYPE_CHECKING:
    from sim.workload import Columns

TABLE = "requests.parquet"
MARKS = frozenset({"replication", "room", "arrival_s", "total_tokens"})
"""Columns by which such a table is known."""


def config_beside(table: Path) -> Path | None:
    """The configuration of the run that ``table`` is of, if it lies in its directory."""
    path = table.parent / "config.toml"
    return path if table.name == TABLE and path.is_file() else None


def with_all_fields(columns: Columns, table: Path, replication: int) -> Columns:
    """The first rows of a replication with the fields that its table has not.

    Raises UserError, in one sentence, if the configuration beside it does not make these requests.
    """
    config_path = config_beside(table)
    if config_path is None:
        return columns
    import numpy as np

    from experiments.config.loading import load
    from experiments.workloads.requests import make_columns
    from sim.workload import joined

    where = f"workload.file is {str(table)!r}, the config.toml beside it must make the same requests"
    try:
        made = joined(make_columns(load(str(config_path)), replication)).first(len(columns))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    for name in ("total_tokens", "text_tokens", "images"):
        if not np.array_equal(getattr(made, name), getattr(columns, name)):
            raise UserError(f"{where}, but their {name} are not those of replication {replication}")
    return replace(made, arrival_s=columns.arrival_s)
