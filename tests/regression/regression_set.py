"""The regression set: small configurations and what they gave, shared by the test and by tools/record_regression.py.

What a case gives is told in three parts. *Digests* are of everything in the two tables that is no time: which room did
what on which rank, in which order, with which status, tokens and bytes; they must be equal. *Times* are sums of each
column and of each kind of event; they must agree to a part in 1e9, since one processor's logarithm differs from
another's in the last bit. The *summary* is the text that the command prints, less what depends on the machine.
"""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bufferlab.experiments.figures.text import summary_text
from bufferlab.experiments.runs.rundir import StoredRun
from bufferlab.experiments.runs.simulate import run_sim
from bufferlab.experiments.workloads.loading import load

if TYPE_CHECKING:
    import pandas as pd

FOLDER = Path(__file__).resolve().parent
INPUTS = FOLDER / "inputs"
RECORDED = FOLDER / "recorded.json"
TOLERANCE = 1e-9
OF_THE_MACHINE = ("took ",)
"""How lines of the summary begin that say how fast the machine is."""


class Case(NamedTuple):
    """One configuration: ``base`` is an example or a file of inputs/, ``settings`` what it changes."""

    name: str
    base: str
    settings: tuple[str, ...]


def cases() -> list[Case]:
    """All of them, in the order of the file."""
    listed = tomllib.loads((FOLDER / "cases.toml").read_text(encoding="utf-8"))["case"]
    return [
        Case(one["name"], one["base"], tuple(setting.replace("{inputs}", str(INPUTS)) for setting in one["set"]))
        for one in listed
    ]


def recorded() -> dict[str, Any]:
    """What the cases gave when they were recorded, by name."""
    found: dict[str, Any] = json.loads(RECORDED.read_text(encoding="utf-8"))
    return found


def outcome_of(case: Case, target: Path) -> dict[str, Any]:
    """Simulate a case into the new folder ``target`` and tell what it gave."""
    own = INPUTS / case.base
    config = load(str(own) if own.is_file() else case.base, case.settings)
    summary = run_sim(config, target)
    run = StoredRun(target)
    requests, events = run.requests(), run.events()
    return {
        "requests": {"digest": digest(requests), "times": column_sums(requests)},
        "events": {"digest": digest(events), "times": event_sums(events)},
        "summary": [
            line.replace(str(INPUTS), "{inputs}")
            for line in summary_text(summary).splitlines()
            if not line.startswith(OF_THE_MACHINE)
        ],
    }


def digest(table: pd.DataFrame) -> str:
    """Names of all columns and the content of those that are no times, row by row."""
    told = table[[name for name in table.columns if not is_time(name)]]
    content = "\n".join([",".join(table.columns), told.to_csv(index=False)])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def is_time(column: str) -> bool:
    """Whether a column holds seconds."""
    return column.endswith("_s")


def column_sums(table: pd.DataFrame) -> dict[str, float]:
    """The sum of each column of times; what has no time counts for nothing."""
    return {name: float(table[name].sum()) for name in table.columns if is_time(name)}


def event_sums(events: pd.DataFrame) -> dict[str, float]:
    """The sum of the times of each kind of event."""
    sums = events.groupby("event", sort=True)["time_s"].sum()
    return {str(name): float(value) for name, value in sums.items()}


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What a case gives otherwise than it did, one sentence each."""
    told = []
    for table in ("requests", "events"):
        if found[table]["digest"] != wanted[table]["digest"]:
            told.append(f"the {table} are {found[table]['digest']}, they were {wanted[table]['digest']}")
        times, before = found[table]["times"], wanted[table]["times"]
        if times.keys() != before.keys():
            told.append(f"the times of {table} are {sorted(times)}, they were {sorted(before)}")
        for name in times.keys() & before.keys():
            if not math.isclose(times[name], before[name], rel_tol=TOLERANCE, abs_tol=TOLERANCE):
                told.append(f"the sum of {name} of {table} is {times[name]!r}, it was {before[name]!r}")
    if found["summary"] != wanted["summary"]:
        changed = [
            f"  was: {was}\n  is:  {now}"
            for was, now in zip(wanted["summary"], found["summary"], strict=False)
            if was != now
        ]
        lengths = f"{len(found['summary'])} lines, {len(wanted['summary'])} before"
        told.append("\n".join([f"the summary differs ({lengths}):", *changed]))
    return told
