"""Random faults on the full simulator, one seed a run: ``bufferlab check --random``."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from joblib import delayed

from bufferlab.experiments.commands.checking.parallel import Progress, in_parallel
from bufferlab.sim.chaos import ChaosOutcome, run_seed
from bufferlab.sim.chaos import describe as describe_outcome


def check_random(count: int, seed: int, *, jobs: int, progress: Progress | None = None) -> dict[str, Any]:
    """Run ``count`` seeds from ``seed`` on through the full simulator with random faults."""
    began = time.perf_counter()
    outcomes: list[ChaosOutcome] = []
    tasks = (delayed(run_seed)(one) for one in range(seed, seed + count))
    faults: dict[str, int] = {}
    for outcome in in_parallel(jobs, tasks):
        if outcome.violations:
            outcomes.append(outcome)
        for kind, happened in outcome.faults.items():
            faults[kind] = faults.get(kind, 0) + happened
        if progress is not None:
            progress("")
    outcomes.sort(key=lambda outcome: outcome.seed)
    return {
        "seeds": count,
        "first_seed": seed,
        "faults": dict(sorted(faults.items())),
        "violations": [msgspec.to_builtins(outcome) for outcome in outcomes],
        "wall_s": time.perf_counter() - began,
    }


def random_text(report: dict[str, Any]) -> str:
    """The random runs for a terminal."""
    faults = ", ".join(f"{count} × {kind}" for kind, count in report["faults"].items()) or "none"
    lines = [describe_outcome(msgspec.convert(one, ChaosOutcome)) for one in report["violations"]]
    lines.append(f"faults that happened: {faults}")
    lines.append(
        f"{report['seeds']} seeds from {report['first_seed']} on in {report['wall_s']:.1f} s: "
        f"{len(report['violations'])} with violations"
    )
    return "\n".join(lines)
