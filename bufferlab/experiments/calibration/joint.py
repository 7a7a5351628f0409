"""One law for several tables, or for the writes of runs: the one that a profile can say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bufferlab.experiments.calibration.host.software import SIMULATED
from bufferlab.experiments.calibration.input.groups import Group
from bufferlab.experiments.calibration.input.rows import Row
from bufferlab.experiments.calibration.input.tables import (
    DIMENSIONS,
    describe,
    held_out,
    predict,
)
from bufferlab.experiments.calibration.laws.choosing import Chosen, choose
from bufferlab.experiments.calibration.laws.fitting import certainty
from bufferlab.experiments.calibration.laws.samples import Samples, samples_of
from bufferlab.experiments.calibration.profiles import REFUSED, NoProfileError
from bufferlab.sim.streams import stream


@dataclass(frozen=True)
class Joint:
    """A law that a profile can say, the samples it was fitted to, and their origin; ``hidden`` rows were not."""

    chosen: Chosen
    samples: Samples
    tables: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()
    hidden: tuple[Row, ...] = ()


def joint_law(
    groups: Sequence[Group], holdout: str, from_runs: tuple[Chosen, Samples] | None, *, runs_decide: bool = False
) -> Joint:
    """Tables decide what a write costs; where there are none, or ``runs_decide`` and have a law, writes of runs do."""
    if runs_decide and from_runs is not None and float(np.abs(from_runs[0].fit.errors).mean()) <= REFUSED:
        return Joint(*from_runs)
    parts: dict[bool, list[Row]] = {False: [], True: []}
    for group in groups:
        for row, hidden in zip(group.rows, held_out(len(group.rows), holdout), strict=True):
            parts[hidden].append(row)
    seen = parts[False]
    if len(seen) >= 2:
        samples = samples_of(seen)
        chosen = choose(samples, SIMULATED, may_fill=False)
        if chosen is not None:
            return Joint(chosen, samples, tuple(group.name for group in groups), tuple(seen), tuple(parts[True]))
    if from_runs is not None:
        return Joint(*from_runs)
    raise NoProfileError(
        "nothing says what a write costs: there are too few rows, or writes of different sizes, for a law"
    )


def next_step(groups: Sequence[Group], reports: Sequence[dict[str, Any]]) -> str:
    """What makes a profile after all."""
    measure = "bufferlab bench-link --out runs/bench-link"
    if not groups:
        return f"measure the link with {measure}, and give the folder runs/bench-link beside what is given now"
    alone = [
        one["name"] for one in reports if one["simulated"] and one["mean_error"] <= REFUSED and len(groups) > 1
    ]  # fmt: skip
    one_table = f"fit only tables of one link with --table (alone it goes for {', '.join(alone)}), or " if alone else ""
    return f"{one_table}measure the link with {measure}, and give the folder runs/bench-link in place of these tables"


def joint_report(joint: Joint, seed: int) -> dict[str, Any]:
    """What the report says of the law of the profile."""
    errors = np.abs(joint.chosen.fit.errors)
    sure = certainty(joint.chosen.fit, joint.samples, stream(seed, 0, "calibration", "joint"))
    columns = (joint.samples.size_bytes, joint.samples.segments, joint.samples.threads)
    asked = [abs(line["error"]) for line in predict(joint.chosen, joint.hidden, None)] if joint.hidden else []
    held = {"rows": len(asked), "mean_error": float(np.mean(asked)), "max_error": max(asked)} if asked else None
    return {
        "form": joint.chosen.name,
        "formula": joint.chosen.fit.form.formula,
        "tables": list(joint.tables),
        "fitted_rows": len(joint.samples),
        "mean_error": float(errors.mean()),
        "max_error": float(errors.max()),
        "cross_validated_error": joint.chosen.cross_error,
        "held_out": held,
        "alike_in_all_rows": [name for name, one in zip(DIMENSIONS, columns, strict=True) if len(set(one)) == 1],
        **describe(joint.chosen, sure),
        "residuals": _residuals(joint),
    }


def _residuals(joint: Joint) -> list[dict[str, Any]]:
    said = joint.chosen.fit.seconds(joint.samples)
    lines = []
    for place, (measured, predicted) in enumerate(zip(joint.samples.seconds.tolist(), said.tolist(), strict=True)):
        origin = {"file": joint.rows[place].file, "row": joint.rows[place].number} if joint.rows else {}
        shape = {
            "msg_bytes": float(joint.samples.size_bytes[place]),
            "batch": int(joint.samples.segments[place]),
            "threads": int(joint.samples.threads[place]),
        }
        lines.append({**origin, **shape, "measured_s": measured, "predicted_s": predicted})
    return lines
