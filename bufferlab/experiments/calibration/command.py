"""``bufferlab calibrate``: from files and run directories to a report, and to a profile if one is asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bufferlab.experiments.calibration.host.host import CpuUsage, Found, host_costs
from bufferlab.experiments.calibration.host.software import asleep, first_contact, link_law, software
from bufferlab.experiments.calibration.host.spreads import spreads
from bufferlab.experiments.calibration.input.groups import Group, split
from bufferlab.experiments.calibration.input.reading import Inputs, read_cpu_usages, read_inputs
from bufferlab.experiments.calibration.input.runs import Observed
from bufferlab.experiments.calibration.input.tables import (
    HOLDOUTS,
    describe,
    fit_table,
    predict_table,
    repeat_spread,
)
from bufferlab.experiments.calibration.joint import joint_law, joint_report, next_step
from bufferlab.experiments.calibration.laws.choosing import Chosen
from bufferlab.experiments.calibration.laws.fitting import Fit, certainty
from bufferlab.experiments.calibration.laws.samples import Samples
from bufferlab.experiments.calibration.profiles import NoProfileError, make_profile, write_profile
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.files import Claim
from bufferlab.experiments.progress import Step
from bufferlab.experiments.runs.busy import read_busy, together
from bufferlab.experiments.stats.intervals import Estimate, unbounded
from bufferlab.protocol.naming import did_you_mean
from bufferlab.sim.network.link import HOST, LinkProfile, load_profile
from bufferlab.sim.streams import stream

SCHEMA = "bufferlab-calibration/1"
BASE = "tcp-loopback"


def calibrate(
    paths: Sequence[Path],
    *,
    holdout: str = "none",
    tables: Sequence[str] = (),
    predicted: Sequence[str] = (),
    usages: Sequence[Path] = (),
    out: Path | None = None,
    base: str = BASE,
    seed: int = 0,
    command: str = "",
    runs_decide: bool = False,
    busy: Mapping[str, Any] | None = None,
    more: Callable[[int], object] = lambda _: None,
    progress: Step = lambda _: None,
) -> dict[str, Any]:
    """Fit what ``paths`` hold, and write the profile ``out`` if one is asked for; the result is the JSON report.

    ``tables``: only these; all of them otherwise. ``predicted``: tables that are not fitted but predicted by one law
    for the others, as is the profile's. ``usages``: measured runs that say nothing but what the software costs the
    processors, in place of those in ``paths``. ``runs_decide``: the writes of the runs make the law of the profile if
    they have a good one, whatever tables there are. ``busy``: what others did with the processors meanwhile; what the
    measurements themselves say of it if it is not given. The profile keeps it. ``progress`` is told of every path and,
    ``more`` says how many, of every table that is fitted.
    Raises UserError for bad input, before anything is written, and NoProfileError, which has the report, for
    measurements of which no profile can be made.
    """
    taken_from = check_target(holdout, seed, out, base)
    if usages and out is None:
        raise UserError("--cpu-usage has runs, but there is no --out: the costs are told for a profile, so give one")
    with contextlib.nullcontext() if out is None else Claim(out, make_parents=False):
        return _calibrated(
            paths, taken_from, holdout=holdout, tables=tables, predicted=predicted, usages=usages, out=out,
            base=base, seed=seed, command=command, runs_decide=runs_decide, busy=busy, more=more, progress=progress,
        )  # fmt: skip


def _calibrated(
    paths: Sequence[Path],
    taken_from: LinkProfile,
    *,
    holdout: str,
    tables: Sequence[str],
    predicted: Sequence[str],
    usages: Sequence[Path],
    out: Path | None,
    base: str,
    seed: int,
    command: str,
    runs_decide: bool,
    busy: Mapping[str, Any] | None,
    more: Callable[[int], object],
    progress: Step,
) -> dict[str, Any]:
    kept = read_cpu_usages(usages, paths)
    inputs = read_inputs(paths, progress)
    groups = split(inputs.rows)
    if busy is None and (met := together(inputs.busy)) is not None:
        busy = met.content()
    fitted, asked = _select(groups, tables, predicted)
    reports: list[dict[str, Any]] = []
    not_fitted: list[dict[str, Any]] = []
    more(len(fitted) + 1)
    for group in fitted:
        progress(group.name)
        report = fit_table(
            group, holdout=holdout, seed=seed, left_out=[one for one in inputs.left_out if one.table == _table(group)]
        )
        if report is None:
            reason = "too few rows, or too much alike, for any law"
            not_fitted.append({"name": group.name, "rows": len(group.rows), "reason": reason})
        else:
            reports.append(report)
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "holdout": holdout,
        "seed": seed,
        "transport": inputs.transport,
        "tables": reports,
        "not_fitted": not_fitted,
        "columns_not_used": inputs.not_used,
        "left_out": [
            {"file": one.file, "row": one.row, "table": one.table, "reason": one.reason, "done": "left out"}
            for one in inputs.left_out
        ],
        "repeats": repeat_spread(groups),
        **({} if busy is None else {"busy": busy}),
    }
    if not reports and not inputs.seen.runs and not asked:
        raise UserError(
            f"no table has enough rows to fit and to hold out: {', '.join(one['name'] for one in not_fitted)}"
        )
    progress("runs and profile")
    from_runs = link_law(inputs.seen)
    around = _around(inputs, from_runs, seed)
    if inputs.seen.runs:
        result["runs"] = _runs_report(inputs.seen, from_runs, around, seed)
    if out is None and not asked:
        return result
    try:
        joint = joint_law(fitted, holdout, from_runs, runs_decide=runs_decide)
        result["joint"] = joint_report(joint, seed)
        result["predictions"] = [predict_table(joint.chosen, joint.samples, group) for group in asked]
        made = None if out is None else make_profile(out.stem, joint.chosen.fit, around, taken_from)
    except NoProfileError as error:
        met = read_busy(busy)
        step = next_step(fitted, reports)
        if met is not None and met.too_busy:
            step = f"{met}: measure again when it is idle, what is measured on a busy host follows no law"
        none = NoProfileError(f"{error}; {step}")
        none.report = {**result, "no_profile": str(none)}
        raise none from None
    if out is not None and made is not None:
        profile, assumed = made
        host = host_costs(kept, profile, taken_from.host)
        if host is not None:
            costs = msgspec.structs.replace(host.costs, **asleep(inputs.seen, around))
            varied = spreads(inputs.seen, msgspec.structs.replace(profile, host=costs))
            profile = msgspec.structs.replace(profile, host=msgspec.structs.replace(costs, **varied))
            assumed += [f"{HOST}.{name}" for name in host.untold]
        elif taken_from.host is not None:
            assumed.append(HOST)
        result["host"] = None if host is None else _host_report(host, kept)
        result["profile"] = {"path": str(out), "assumed": assumed, "assumed_from": base}
        _write(out, profile, result, around, command, busy)
    return result


def check_target(holdout: str, seed: int, out: Path | None, base: str) -> LinkProfile:
    """Refuse what could not be written in the end; the base. Raises UserError."""
    _check(holdout, seed, out)
    return _base(base)


def _check(holdout: str, seed: int, out: Path | None) -> None:
    if holdout not in HOLDOUTS:
        raise UserError(f"--holdout is {holdout!r}, it must be one of {', '.join(HOLDOUTS)}")
    if seed < 0:
        raise UserError(f"--seed is {seed}, it must be at least 0")
    if out is None:
        return
    if out.suffix != ".toml" or out.exists():
        raise UserError(f"--out is {str(out)!r}, it must be a .toml file that does not exist yet")
    if not out.absolute().parent.is_dir():
        raise UserError(f"--out is {str(out)!r}, it must be in a folder that can be written")


def _base(base: str) -> LinkProfile:
    try:
        return load_profile(base)
    except ValueError as error:
        raise UserError(f"--base is {base!r}: {error}") from None


def _select(
    groups: Sequence[Group], tables: Sequence[str], predicted: Sequence[str]
) -> tuple[list[Group], list[Group]]:
    """The groups to fit and those to predict. Raises UserError for a name that there is not."""
    names = [group.name for group in groups]
    for option, wanted in (("--table", tables), ("--predict", predicted)):
        for name in wanted:
            if name not in names:
                allowed = ", ".join(names) or "none, since there are only run directories"
                raise UserError(f"{option} is {name!r}, it must be one of {allowed}{did_you_mean(name, names)}")
    asked = [group for group in groups if group.name in predicted]
    fitted = [group for group in groups if group not in asked and (not tables or group.name in tables)]
    return fitted, asked


def _table(group: Group) -> str:
    return group.rows[0].table


def _around(inputs: Inputs, from_runs: tuple[Chosen, Samples] | None, seed: int) -> dict[str, Any]:
    """What is known beside the law of the link; first contacts of bench-link before those of runs."""
    found = software(inputs.seen, seed)
    contact: Estimate | None = None
    if inputs.first_contacts_s:
        contact = unbounded(float(np.median(inputs.first_contacts_s)))
    elif from_runs is not None:
        contact = first_contact(inputs.seen, from_runs[0])
    return found if contact is None else {**found, "first_contact_s": contact}


def _runs_report(
    seen: Observed, from_runs: tuple[Chosen, Samples] | None, around: dict[str, Any], seed: int
) -> dict[str, Any]:
    link: dict[str, Any] | None = None
    if from_runs is not None:
        chosen, samples = from_runs
        fit: Fit = chosen.fit
        link = {
            "form": chosen.name,
            "formula": fit.form.formula,
            "samples": len(samples),
            "mean_error": float(np.abs(fit.errors).mean()),
            "max_error": float(np.abs(fit.errors).max()),
            "cross_validated_error": chosen.cross_error,
            **describe(chosen, certainty(fit, samples, stream(seed, 0, "calibration", "writes"))),
        }
    return {
        "directories": seen.runs,
        "kinds": sorted(seen.kinds),
        "counts": {
            "writes": len(seen.writes),
            "control_messages": len(seen.control_s),
            "copies": len(seen.copies) + len(seen.cold_copies),
            "iterations": len(seen.encode_iterations_s) + len(seen.language_iterations_s),
            "requests": len(seen.requests),
        },
        "unused": dict(seen.unused),
        "link": link,
        "software": around,
    }


def _host_report(host: Found, kept: Sequence[CpuUsage]) -> dict[str, Any]:
    with_groups = sum(one.largest_group > 1 for one in kept)
    return {
        "runs": {"one rank a group": len(kept) - with_groups, "several ranks a group": with_groups},
        "parameters": host.estimates,
        "untold": host.untold,
    }


def _write(
    out: Path,
    profile: LinkProfile,
    result: dict[str, Any],
    around: dict[str, Any],
    command: str,
    busy: Mapping[str, Any] | None,
) -> None:
    joint = result["joint"]
    runs = result.get("runs", {}).get("directories", [])
    of = ", ".join(joint["tables"]) or f"the writes of {', '.join(runs)}"
    alike = "".join(
        f" All have the same {name}, so what depends on it cannot be told." for name in joint["alike_in_all_rows"]
    )
    assumed = result["profile"]["assumed"]
    source = (
        f"Fitted by bufferlab calibrate to {of}: {joint['form']}, {joint['fitted_rows']} rows, mean error "
        f"{joint['mean_error']:.2%}, largest {joint['max_error']:.2%}.{alike} Not measured, taken from "
        f"{result['profile']['assumed_from']}: {', '.join(assumed)}."
    )
    calibration = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": command,
        "busy": busy,
        "holdout": result["holdout"],
        "seed": result["seed"],
        **{name: value for name, value in joint.items() if name not in ("parameters", "covariance", "residuals")},
        "transport": result["transport"],
        "runs": runs,
        "assumed": assumed,
        "parameters": joint["parameters"],
        "software": around,
        "host": {} if result["host"] is None else result["host"]["parameters"],
        "covariance": joint["covariance"],
        "left_out": result["left_out"],
        "residuals": joint["residuals"],
    }
    comment = f"Written by bufferlab calibrate. {joint['formula']}\nSeconds and bytes (decimal) per second."
    write_profile(
        out, msgspec.structs.replace(profile, description=f"Calibrated: {of}", source=source), calibration, comment
    )
