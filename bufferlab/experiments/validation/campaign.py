"""The validation campaign: what is measured, in which order, and what of it fits the profile that predicts the rest.

Runs that tell *latencies* have one request at a time on one encode and one language rank, at a rate so low that all
threads sleep between two of them. Of two others only the *CPU usage* is used, which say where processors' time went: a
closed loop, and two language ranks with hardly anything to do. So no latency under load, with several ranks or of
another discipline is in the profile: all *cases* are held out. A round measures every run once, in an order drawn
anew, so that what disturbs the machine disturbs all alike.

What is there is not measured again, so a campaign that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bufferlab.experiments.calibration.here import (
    ALONE,
    CALIBRATING,
    CAPACITY,
    USAGES,
    Planned,
    measure_one,
    of_blocks,
    run_folder,
)
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.files import write_json
from bufferlab.experiments.runs.rundir import StoredRun
from bufferlab.sim.streams import stream

RATES = "rates.json"
PROFILE = "profile.toml"

CAPACITY_ROUNDS = 3
"""Of the closed loop before all else, since they set the rates of the cases."""
LOADS = {"low": 0.2, "medium": 0.5, "high": 0.85}
"""Parts of the rate that a closed loop reached."""

TEXT = ("workload.preset=text-only",)
SERVING = (
    "encode.profile=h100-qwen2.5-vl-7b",
    "encode.per_token_s=12us",
    "language.profile=h100-qwen2.5-vl-7b",
    "workload.rate_rps=8",
)
"""Passes that take as long as on a GPU: the processors have time for everything else."""

CASES = (
    *(
        Planned(f"default-{tokens}", "default", (f"protocol.sizing.tokens={tokens}",))
        for tokens in (256, 512, 2048, 4096)
    ),
    Planned("default-1024", "default"),
    Planned("load-low", "load", load="low", requests=60),
    Planned("load-high", "load", load="high", requests=160),
    *(Planned(f"block-{tokens}", "block", of_blocks(tokens)) for tokens in (32, 512)),
    Planned("ranks-1x2", "ranks", ("language.tp=2",), load="low", requests=60),
    Planned("ranks-2x2", "ranks", ("encode.tp=2", "language.tp=2"), load="low", requests=60),
    Planned("processors-1", "processors", load="low", requests=60, processors=1),
    *(
        Planned(f"discipline-{name}", "discipline", (f"protocol.discipline={name}",))
        for name in ("free_then_alloc", "exact_announce")
    ),
    *(
        Planned(f"serving-{tokens}", "serving", (*SERVING, f"protocol.sizing.tokens={tokens}"), load=None, requests=32)
        for tokens in (512, 4096)
    ),
    *(Planned(f"text-{tokens}", "text", (*TEXT, f"protocol.sizing.tokens={tokens}")) for tokens in (512, 1024, 2048)),
)


def chosen_cases(names: str) -> tuple[Planned, ...]:
    """The cases whose names begin with one of the comma-separated ``names``; all for "". Raises UserError for none."""
    if not names:
        return CASES
    wanted = tuple(names.split(","))
    found = tuple(case for case in CASES if case.name.startswith(wanted))
    if not found:
        raise UserError(f"--cases is {names!r}, it must name some of {', '.join(case.name for case in CASES)}")
    return found


def measure(
    folder: Path,
    cases: tuple[Planned, ...],
    rounds: int,
    progress: Callable[[str], None],
) -> None:
    """Measure all that is missing in ``folder``. ``progress`` is told the name of every run when it is there.

    Raises what ``run_measured`` raises; what is complete is kept.
    """
    first = tuple(one for one in CALIBRATING if one.name == CAPACITY)
    for planned, number in _schedule(first, min(CAPACITY_ROUNDS, rounds)):
        measure_one(folder, planned, number, {})
        progress(planned.name)
    rates = _rates(folder, min(CAPACITY_ROUNDS, rounds))
    for planned, number in _schedule((*CALIBRATING, *cases), rounds):
        if planned in first and number < CAPACITY_ROUNDS:
            continue  # it was measured before
        measure_one(folder, planned, number, rates)
        progress(planned.name)


def _schedule(planned: tuple[Planned, ...], rounds: int) -> Iterator[tuple[Planned, int]]:
    for number in range(rounds):
        for place in stream(0, number, "campaign-order").permutation(len(planned)):
            yield planned[place], number


def _rates(folder: Path, rounds: int) -> dict[str, float]:
    """Requests a second of every load. Drawn up once: a campaign that goes on has the same."""
    path = folder / RATES
    if not path.exists():
        reached = sorted(_throughput_rps(run_folder(folder, CAPACITY, number)) for number in range(rounds))
        capacity_rps = reached[len(reached) // 2]
        write_json(
            path,
            {"capacity_rps": capacity_rps, **{name: round(part * capacity_rps, 2) for name, part in LOADS.items()}},
        )
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return {name: float(value) for name, value in found.items()}


def _throughput_rps(folder: Path) -> float:
    value = StoredRun(folder).summary["throughput_rps"]
    return float(value["value"] if isinstance(value, dict) else value)


def calibration_runs(folder: Path, rounds: int) -> list[Path]:
    """The runs that the latencies of the profile are fitted to."""
    return _runs(folder, rounds, ALONE)


def cpu_usage_runs(folder: Path, rounds: int) -> list[Path]:
    """The runs that tell what the software costs the processors."""
    return _runs(folder, rounds, USAGES)


def _runs(folder: Path, rounds: int, names: tuple[str, ...]) -> list[Path]:
    return [run_folder(folder, name, number) for name in names for number in range(rounds)]
