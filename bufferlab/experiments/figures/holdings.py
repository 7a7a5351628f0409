"""How many blocks the rooms of a stored run held on either side in the course of time, from its events.

The table is read a row group at a time and only in the columns that matter; from one row group to the next it is kept
what each room holds on each rank.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bufferlab.experiments.runs.rundir import StoredRun
from bufferlab.experiments.runs.tables import Columns, row_groups
from bufferlab.protocol.recording import Event
from bufferlab.protocol.topology import Side

HOLDS = (Event.ALLOCATED.value, Event.ENCODE_STARTED.value, Event.RELEASED.value)
"""Events after which a room holds another number of blocks."""
NUMBERS = ("replication", "time_s", "instance", "rank", "room", "tokens")
OWNER = ("replication", "side", "instance", "rank", "room")

Table = dict[str, NDArray[Any]]


class Changes(NamedTuple):
    """Changes of the blocks held, in the order recorded: when, and how many more or less."""

    times_s: NDArray[np.float64]
    blocks: NDArray[np.int32]


def changes_of_holdings(run: StoredRun, replication: int | None = None) -> dict[tuple[int, Side], Changes]:
    """By replication and side, over all ranks; of one replication only, or of all."""
    held: Table = {name: np.zeros(0, dtype=np.int64) for name in (*OWNER, "blocks")}
    found: dict[tuple[int, Side], list[Changes]] = {}
    for columns in row_groups(run.events_path, NUMBERS, ("side", "event"), replication=replication):
        rows = _holdings(columns, run.config.protocol.block_tokens)
        if replication is not None:
            rows = {name: values[rows["replication"] == replication] for name, values in rows.items()}
        changes, held = _changes(held, rows)
        for number in np.unique(rows["replication"]).tolist():
            for encodes, side in enumerate((Side.LANGUAGE, Side.ENCODE)):
                here = (rows["replication"] == number) & (rows["side"] == encodes)
                if here.any():
                    found.setdefault((number, side), []).append(Changes(rows["time_s"][here], changes[here]))
    return {key: Changes(*map(np.concatenate, zip(*found[key], strict=True))) for key in sorted(found)}


def _holdings(columns: Columns, block_tokens: int) -> Table:
    """Of every event that changes what a room holds: whose, when, and the blocks it holds from then on."""
    chosen = columns.texts["event"].among(HOLDS)
    rows = {name: values[chosen] for name, values in columns.numbers.items()}
    rows["side"] = columns.texts["side"].among({Side.ENCODE.value})[chosen].astype(np.int64)
    # An allocation tells its tokens, a release means none.
    released = columns.texts["event"].among({Event.RELEASED.value})[chosen]
    rows["blocks"] = np.where(released, 0, -(-rows["tokens"] // block_tokens))
    return rows


def _changes(held: Table, rows: Table) -> tuple[NDArray[np.int32], Table]:
    """The change of every row against its owner's last, or against what it held before; and what is held after all."""
    both = {name: np.concatenate([held[name], rows[name]]) for name in held}
    order = np.lexsort([both[name] for name in OWNER])
    again = np.ones(max(len(order) - 1, 0), dtype=np.bool_)
    for name in OWNER:
        again &= np.diff(both[name][order]) == 0
    blocks = both["blocks"][order]
    changes = np.empty(len(order), dtype=np.int32)
    changes[order] = blocks - np.where([False, *again], [0, *blocks[:-1]], 0) if len(order) else 0
    last = order[~np.append(again, False)] if len(order) else order
    last = last[both["blocks"][last] > 0]
    return changes[len(held["room"]) :], {name: values[last] for name, values in both.items()}
