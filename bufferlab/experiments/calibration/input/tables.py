"""What becomes of one group of rows: a law for the rows it may see, and its error on those it may not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from bufferlab.experiments.calibration.input.groups import Group
from bufferlab.experiments.calibration.input.rows import TIME, LeftOut, Row
from bufferlab.experiments.calibration.laws.choosing import Chosen, choose, dimension
from bufferlab.experiments.calibration.laws.fitting import Certainty, certainty
from bufferlab.experiments.calibration.laws.forms import FORMS, Form
from bufferlab.experiments.calibration.laws.samples import Array, Samples, samples_of
from bufferlab.sim.streams import stream

HOLDOUTS = ("odd", "even", "none")
FEWEST_FITTED = 2
DIMENSIONS = ("msg_bytes", "batch", "threads")


def held_out(count: int, holdout: str) -> list[bool]:
    """Whether each of ``count`` rows is held out; the first row is even."""
    hidden = {"odd": 1, "even": 0}.get(holdout)
    return [number % 2 == hidden for number in range(count)]


def fit_table(
    group: Group, *, holdout: str, seed: int, forms: Sequence[Form] = FORMS, left_out: Iterable[LeftOut] = ()
) -> dict[str, Any] | None:
    """The report on one group, or None where its rows are too few or too alike for any law.

    The errors are those on the rows held out, which nothing else has seen; with "none" those on the fitted rows.
    """
    rows = group.rows
    hidden = held_out(len(rows), holdout)
    seen = [row for row, one in zip(rows, hidden, strict=True) if not one]
    if len(seen) < FEWEST_FITTED or (holdout != "none" and len(seen) == len(rows)):
        return None
    samples = samples_of(seen)
    chosen = choose(samples, forms)
    if chosen is None:
        return None
    residuals = predict(chosen, rows, dimension(samples))
    judged = hidden if any(hidden) else [True] * len(rows)
    errors = [abs(line["error"]) for line, one in zip(residuals, judged, strict=True) if one]
    roundings = [row.rounding for row, one in zip(rows, judged, strict=True) if one]
    sure = certainty(chosen.fit, samples, stream(seed, 0, "calibration", group.name))
    return {
        "name": group.name,
        "form": chosen.name,
        "formula": chosen.fit.form.formula,
        "filled_in": chosen.filling is not None,
        "on_totals": any(row.whole for row in rows),
        "simulated": chosen.fit.form.simulated and chosen.filling is None,
        "quantity": "time_s" if rows[0].kind == TIME else "throughput_Bps",
        "errors_on": f"{holdout} rows" if any(hidden) else "fitted rows",
        "mean_error": float(np.mean(errors)),
        "max_error": max(errors),
        "rounding_mean": float(np.mean(roundings)),
        "rounding_max": max(roundings),
        "fitted_rows": len(seen),
        "judged_rows": len(errors),
        "cross_validated_error": chosen.cross_error,
        "tried": dict(sorted(chosen.tried.items(), key=lambda item: item[1])),
        **describe(chosen, sure),
        "outliers": [{"file": seen[place].file, "row": seen[place].number} for place in chosen.fit.outliers],
        "left_out": [{"file": one.file, "row": one.row, "reason": one.reason} for one in left_out],
        "residuals": [
            {**line, "fitted": not one} for line, one in zip(residuals, hidden, strict=True)
        ],
    }  # fmt: skip


def describe(chosen: Chosen, sure: Certainty) -> dict[str, Any]:
    """Parameters with their intervals and standard errors, and their covariance; what is infinite is None."""
    found = {
        name: {
            **sure.intervals[name],
            "value": value if math.isfinite(value) else None,
            "standard_error": sure.standard_errors.get(name),
        }
        for name, value in chosen.fit.parameters.items()
    }
    matrix = [list(line) for line in sure.covariance]
    return {"parameters": found, "covariance": {"parameters": list(sure.names), "matrix": matrix}}


def predict(chosen: Chosen, rows: Sequence[Row], along: int | None) -> list[dict[str, Any]]:
    """Each row beside what the law says of it, in seconds or bytes per second, whichever was measured."""
    samples = samples_of(rows)
    said: Array = chosen.seconds(samples, along)
    lines = []
    for row, seconds in zip(rows, said.tolist(), strict=True):
        value = seconds if row.kind == TIME else row.bytes_moved / seconds
        lines.append(
            {
                "file": row.file, "row": row.number, "msg_bytes": row.msg_bytes, "batch": row.batch,
                "threads": row.threads, "measured": row.value, "predicted": value, "error": value / row.value - 1,
            }
        )  # fmt: skip
    return lines


def predict_table(chosen: Chosen, samples: Samples, group: Group) -> dict[str, Any]:
    """How well a law for ``samples`` says what is in another table; ``untold``: what its own samples had alike."""
    residuals = predict(chosen, group.rows, None)
    errors = [abs(line["error"]) for line in residuals]
    other = samples_of(group.rows)
    untold = [
        name
        for name, own, asked in zip(DIMENSIONS, _columns(samples), _columns(other), strict=True)
        if len(set(own)) == 1 and set(asked) != set(own)
    ]
    return {
        "name": group.name,
        "form": chosen.fit.form.title,
        "mean_error": float(np.mean(errors)),
        "max_error": max(errors),
        "untold": untold,
        "residuals": residuals,
    }


def _columns(samples: Samples) -> tuple[Array, Array, Array]:
    return samples.size_bytes, samples.segments, samples.threads


def repeat_spread(groups: Iterable[Group]) -> list[dict[str, Any]]:
    """Samples that were measured more than once on one system, and how far apart: no law can do better than that."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for group in groups:
        for row in group.rows:
            key = (row.system, row.link, row.op, row.kind, row.msg_bytes, row.batch, row.threads)
            if row.system or row.link:
                found.setdefault(key, []).append(row)
    return [
        {
            "rows": [{"file": row.file, "row": row.number, "table": row.table} for row in rows],
            "spread": max(row.value for row in rows) / min(row.value for row in rows) - 1,
        }
        for rows in found.values()
        if len(rows) > 1
    ]
