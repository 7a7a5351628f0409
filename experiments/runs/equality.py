"""Compares two runs by what happened to every room on every rank, not by when.

A simulated and a measured run of one configuration must have equal histories wherever the order of events does not
depend on chance; that is the evidence that both execute the same protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from experiments.progress import counted
from protocol.recording import Record, Step, histories

if TYPE_CHECKING:
    from pathlib import Path


def differences(
    left: Iterable[Record], right: Iterable[Record], names: tuple[str, str] = ("left", "right")
) -> list[str]:
    """One readable line per (room, rank, track) whose history differs; empty for equal recordings."""
    first, second = histories(left), histories(right)
    lines = []
    for key in sorted(first.keys() | second.keys(), key=lambda key: (key[0], str(key[1]), key[2])):
        room, rank_id, track = key
        steps, others = first.get(key, []), second.get(key, [])
        if steps == others:
            continue
        where = f"room {room} on {rank_id}, {track}"
        if not steps or not others:
            present, absent, found = (names[1], names[0], others) if not steps else (*names, steps)
            lines.append(f"{where}: {len(found)} events in {present}, none in {absent}")
            continue
        for number, (step, other) in enumerate(zip_longest(steps, others), 1):
            if step != other:
                lines.append(f"{where}, event {number}: {_told(step)} in {names[0]}, {_told(other)} in {names[1]}")
                break
    return lines


def compare_runs(left: Path, right: Path, *, progress: Callable[[int], object] | None = None) -> dict[str, Any]:
    """Compare two run directories, replication by replication: ``equal``, ``histories`` compared, ``differences``.

    ``progress`` is told how many more events were read.
    """
    from experiments.runs.rundir import StoredRun

    runs = [StoredRun(left), StoredRun(right)]
    # Directories may share their last name, so the whole path tells them apart.
    names = (str(left), str(right))
    recorded: list[dict[int, list[Record]]] = []
    for run in runs:
        by_replication: dict[int, list[Record]] = {}
        for replication, record in counted(run.records(), progress):
            by_replication.setdefault(replication, []).append(record)
        recorded.append(by_replication)
    found: list[str] = []
    compared = 0
    for replication in sorted(recorded[0].keys() | recorded[1].keys()):
        sides = [one.get(replication, []) for one in recorded]
        compared += len(histories(sides[0]).keys() | histories(sides[1]).keys())
        prefix = f"replication {replication}, " if len(recorded[0].keys() | recorded[1].keys()) > 1 else ""
        found.extend(prefix + line for line in differences(sides[0], sides[1], names))
    return {"equal": not found, "histories": compared, "differences": found}


def _told(step: Step | None) -> str:
    if step is None:
        return "nothing more"
    event, status, tokens = step
    return f"{event.value} ({f'{status.name}, ' if status is not None else ''}{tokens} tokens)"
