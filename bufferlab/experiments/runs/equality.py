"""Compares two runs by what happened to every room on every rank, not by when.

A simulated and a measured run of one configuration must have equal histories wherever the order of events does not
depend on chance; that is the evidence that both execute the same protocol.

A measured run does not wait for the end of a quarantine. The release of a failed room that was still in it when the run
ended, as the rank itself said, is no difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from bufferlab.experiments.progress import counted
from bufferlab.experiments.runs.matching import only_resampled, only_the_file
from bufferlab.protocol.recording import Event, HistoryKey, Record, Step, histories
from bufferlab.protocol.topology import RankId

if TYPE_CHECKING:
    from pathlib import Path


Fenced = Set[tuple[int, RankId]]
"""Rooms that were in quarantine on a rank when their run ended."""

NONE: tuple[Fenced, Fenced] = (frozenset(), frozenset())

RESTART = (
    "a measured instance is up again some seconds after its restart is over, when its processes have started and met "
    "the others; a simulated one at once, so requests that come meanwhile differ"
)


def differences(
    left: Iterable[Record],
    right: Iterable[Record],
    names: tuple[str, str] = ("left", "right"),
    fenced: tuple[Fenced, Fenced] = NONE,
) -> list[str]:
    """One readable line per (room, rank, domain) whose history differs; empty for equal recordings.

    ``fenced``: what was in quarantine at the end of each.
    """
    return _compared(histories(left), histories(right), names, fenced)[0]


def _compared(
    first: Mapping[HistoryKey, list[Step]],
    second: Mapping[HistoryKey, list[Step]],
    names: tuple[str, str],
    fenced: tuple[Fenced, Fenced],
) -> tuple[list[str], int]:
    """The lines, and how many rooms lack nothing but their release, after a quarantine that outlasted the run."""
    lines = []
    forgiven = 0
    for key in sorted(first.keys() | second.keys(), key=lambda key: (key[0], str(key[1]), key[2])):
        room, rank_id, domain = key
        steps, others = first.get(key, []), second.get(key, [])
        if steps == others:
            continue
        if _is_fenced(steps, others, (room, rank_id) in fenced[0]) or _is_fenced(
            others, steps, (room, rank_id) in fenced[1]
        ):
            forgiven += 1
            continue
        where = f"room {room} on {rank_id}, {domain}"
        if not steps or not others:
            present, absent, found = (names[1], names[0], others) if not steps else (*names, steps)
            lines.append(f"{where}: {len(found)} events in {present}, none in {absent}")
            continue
        for number, (step, other) in enumerate(zip_longest(steps, others), 1):
            if step != other:
                lines.append(
                    f"{where}, event {number}: {_described(step)} in {names[0]}, {_described(other)} in {names[1]}"
                )
                break
    return lines, forgiven


def _is_fenced(steps: Sequence[Step], others: Sequence[Step], told: bool) -> bool:
    """Whether ``steps`` are those of a failed room of which it was ``told`` that its quarantine was not over."""
    return (
        told
        and bool(steps)
        and steps[-1][0] is Event.FAILED
        and len(others) == len(steps) + 1
        and others[-1][0] is Event.RELEASED
        and list(others[:-1]) == list(steps)
    )


def compare_runs(left: Path, right: Path, *, progress: Callable[[int], object] | None = None) -> dict[str, Any]:
    """Compare two run directories, replication by replication: ``equal``, ``histories`` compared, ``differences``.

    ``notes``: what was not held against them, and what may be behind differences, a sentence each.

    ``progress`` is told how many more events were read.
    """
    from bufferlab.experiments.runs.rundir import StoredRun

    runs = StoredRun(left), StoredRun(right)
    # Directories may share their last name, so the whole path tells them apart.
    names = (str(left), str(right))
    recorded: list[dict[int, list[Record]]] = []
    for run in runs:
        by_replication: dict[int, list[Record]] = {}
        for replication, record in counted(run.records(), progress):
            by_replication.setdefault(replication, []).append(record)
        recorded.append(by_replication)
    found: list[str] = []
    compared = forgiven = 0
    replications = sorted(recorded[0].keys() | recorded[1].keys())
    resampled = only_resampled(*runs)
    if resampled is not None:
        replications = replications[:1]
    for replication in replications:
        first, second = (histories(one.get(replication, [])) for one in recorded)
        compared += len(first.keys() | second.keys())
        prefix = f"replication {replication}, " if len(replications) > 1 else ""
        fenced = runs[0].quarantined(replication), runs[1].quarantined(replication)
        lines, count = _compared(first, second, names, fenced)
        found.extend(prefix + line for line in lines)
        forgiven += count
    notes = []
    if resampled is not None:
        notes.append(only_the_file(resampled))
    if forgiven:
        several = forgiven > 1
        what = f"{forgiven} rooms of a measured run were" if several else "1 room of a measured run was"
        whose = "their" if several else "its"
        notes.append(f"{what} in quarantine at its end; that {whose} release is missing is no difference")
    if found and {run.kind for run in runs} == {"sim", "real"} and any(run.has_restart for run in runs):
        notes.append(RESTART)
    return {"equal": not found, "histories": compared, "differences": found, "notes": notes}


def _described(step: Step | None) -> str:
    if step is None:
        return "nothing more"
    event, status, tokens = step
    return f"{event.value} ({f'{status.name}, ' if status is not None else ''}{tokens} tokens)"
