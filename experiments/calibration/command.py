"""``bufferlab calibrate``: from files and run directories to a report, and to a profile if one is asked for."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from experiments.calibration.bench_link import CSV_FILE, JSON_FILE
from experiments.calibration.host.host import Account, Found, accounts_of, host_costs, tells_inputs, why_unfit
from experiments.calibration.host.software import SIMULATED, asleep, first_contact, link_law, software
from experiments.calibration.host.spreads import spreads
from experiments.calibration.input.groups import Group, split
from experiments.calibration.input.rows import MICRO, LeftOut, Row, read_rows
from experiments.calibration.input.runs import Observed, observe
from experiments.calibration.input.tables import (
    DIMENSIONS,
    HOLDOUTS,
    describe,
    fit_table,
    held_out,
    predict,
    predict_table,
    repeat_spread,
)
from experiments.calibration.laws.cells import Cells, cells_of
from experiments.calibration.laws.choosing import Chosen, choose
from experiments.calibration.laws.fitting import Fit, certainty
from experiments.calibration.profiles import REFUSED, NoProfileError, make_profile, write_profile
from experiments.errors import UserError
from experiments.files import Claim
from experiments.progress import Step
from experiments.runs.rundir import StoredRun, is_finished_run
from experiments.stats.intervals import Estimate, unbounded
from protocol.naming import did_you_mean
from sim.network.link import HOST, LinkProfile, load_profile
from sim.streams import stream

SCHEMA = "bufferlab-calibration/1"
BASE = "tcp-loopback"
SOCKET = "socket"
"""The transport that resembles no other: a law of it says nothing about Mooncake, and the other way round."""


@dataclass
class Inputs:
    """What the measurements hold: rows and what is wrong with others, runs, first contacts of bench-link (seconds),
    and which transports are known to have been measured."""

    rows: list[Row] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    seen: Observed = field(default_factory=Observed)
    first_contacts_s: list[float] = field(default_factory=list)
    transports: set[str] = field(default_factory=set)

    @property
    def transport(self) -> str | None:
        """The transport of all measurements; None where that is not known of any, or it is more than one."""
        return next(iter(self.transports)) if len(self.transports) == 1 else None


def read_inputs(paths: Sequence[Path], progress: Step = lambda _: None) -> Inputs:
    """Read all measurements. Raises UserError for one that cannot be used, or if no row of any can.

    ``progress`` is told of each when it is about to be read.
    """
    from real.engine.registry import transports

    found, known_transports = Inputs(), set(transports())
    for path in paths:
        progress(path.name)
        if is_finished_run(path):
            run = StoredRun(path)
            observe(run, found.seen)
            if run.kind == "real":
                found.transports.add(run.config.real.transport)
            continue
        if path.is_dir():
            # What bench-link leaves; its JSON knows more than its CSV.
            known = [path / name for name in (JSON_FILE, CSV_FILE) if (path / name).is_file()]
            if not known:
                raise UserError(
                    f"MEASUREMENTS has {str(path)!r}, it must be a CSV file, bench-link output or a run directory"
                )
            path = known[0]
        rows, left_out = read_rows(path)
        found.rows.extend(rows)
        found.transports |= {row.link for row in rows} & known_transports
        found.left_out.extend(left_out)
        if path.suffix == ".json":
            contact_us = json.loads(path.read_text(encoding="utf-8")).get("first_contact_us")
            if isinstance(contact_us, int | float):
                found.first_contacts_s.append(contact_us * MICRO)
    if SOCKET in found.transports and len(found.transports) > 1:
        others = " and ".join(sorted(found.transports - {SOCKET}))
        raise UserError(
            f"MEASUREMENTS were made over {others} and over {SOCKET}, the engine of our own: they must all be of one "
            f"transport, since a profile is the law of one"
        )
    if not found.rows and not found.seen.runs:
        first = found.left_out[0]
        raise UserError(f"no row can be used: {first.file} row {first.row}, {first.reason}")
    return found


def read_accounts(asked: Sequence[Path], measurements: Sequence[Path]) -> list[Account]:
    """What the processes of measured runs kept account of: those of ``asked``, or else of the runs in ``measurements``.

    Raises UserError for a run in ``asked`` that keeps none, and where all of them together tell no costs.
    """
    if not asked:
        return [account for path in measurements if is_finished_run(path) for account in accounts_of(StoredRun(path))]
    found = []
    for path in asked:
        if not is_finished_run(path):
            raise UserError(f"--accounts has {str(path)!r}, it must be a finished run directory (with a summary.json)")
        run = StoredRun(path)
        reason = why_unfit(run)
        if reason is not None:
            raise UserError(f"--accounts has {str(path)!r}, {reason}")
        found += accounts_of(run)
    if not any(map(tells_inputs, found)):
        raise UserError(
            "--accounts has only runs whose groups have several ranks, it must have one with encode.tp = 1 and "
            "language.tp = 1 as well: only that tells what an input costs"
        )
    return found


def calibrate(
    paths: Sequence[Path],
    *,
    holdout: str = "none",
    tables: Sequence[str] = (),
    predicted: Sequence[str] = (),
    accounts: Sequence[Path] = (),
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
    for the others, as is the profile's. ``accounts``: measured runs that only say what the software costs the
    processors, in place of those in ``paths``. ``runs_decide``: the writes of the runs make the law of the profile if
    they have a good one, whatever tables there are. ``busy``: what others did with the processors meanwhile, where that
    is known; the profile keeps it. ``progress`` is told of every path and, ``more`` says how many, of every
    table that is fitted. Raises UserError for bad input, before anything is written, and NoProfileError, which has the
    report, for measurements of which no profile can be made.
    """
    taken_from = check_target(holdout, seed, out, base)
    if accounts and out is None:
        raise UserError("--accounts has runs, but there is no --out: the costs are told for a profile, so give one")
    with contextlib.nullcontext() if out is None else Claim(out, make_parents=False):
        return _calibrated(
            paths, taken_from, holdout=holdout, tables=tables, predicted=predicted, accounts=accounts, out=out,
            base=base, seed=seed, command=command, runs_decide=runs_decide, busy=busy, more=more, progress=progress,
        )  # fmt: skip


def _calibrated(
    paths: Sequence[Path],
    taken_from: LinkProfile,
    *,
    holdout: str,
    tables: Sequence[str],
    predicted: Sequence[str],
    accounts: Sequence[Path],
    out: Path | None,
    base: str,
    seed: int,
    command: str,
    runs_decide: bool,
    busy: Mapping[str, Any] | None,
    more: Callable[[int], object],
    progress: Step,
) -> dict[str, Any]:
    kept = read_accounts(accounts, paths)
    inputs = read_inputs(paths, progress)
    groups = split(inputs.rows)
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
        "left_out": [
            {"file": one.file, "row": one.row, "table": one.table, "reason": one.reason, "done": "left out"}
            for one in inputs.left_out
        ],
        "repeats": repeat_spread(groups),
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
        joint = _joint(fitted, holdout, from_runs, runs_decide=runs_decide)
        result["joint"] = _joint_report(joint, seed)
        result["predictions"] = [predict_table(joint.chosen, joint.cells, group) for group in asked]
        made = None if out is None else make_profile(out.stem, joint.chosen.fit, around, taken_from)
    except NoProfileError as error:
        none = NoProfileError(f"{error}; {_next_step(fitted, reports)}")
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


# --- one law for several tables, or for the writes of runs ---


@dataclass(frozen=True)
class Joint:
    """A law that a profile can say, the cells it was fitted to, and where these are from; ``hidden`` rows were not."""

    chosen: Chosen
    cells: Cells
    tables: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()
    hidden: tuple[Row, ...] = ()


def _joint(
    groups: Sequence[Group], holdout: str, from_runs: tuple[Chosen, Cells] | None, *, runs_decide: bool = False
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
        cells = cells_of(seen)
        chosen = choose(cells, SIMULATED, may_fill=False)
        if chosen is not None:
            return Joint(chosen, cells, tuple(group.name for group in groups), tuple(seen), tuple(parts[True]))
    if from_runs is not None:
        return Joint(*from_runs)
    raise NoProfileError(
        "nothing says what a write costs: there are too few rows, or writes of different sizes, for a law"
    )


def _next_step(groups: Sequence[Group], reports: Sequence[dict[str, Any]]) -> str:
    """What makes a profile after all."""
    measure = "bufferlab bench-link --out runs/bench-link"
    if not groups:
        return f"measure the link with {measure}, and give the folder runs/bench-link beside what is given now"
    alone = [
        one["name"] for one in reports if one["simulated"] and one["mean_error"] <= REFUSED and len(groups) > 1
    ]  # fmt: skip
    one_table = f"fit only tables of one link with --table (alone it goes for {', '.join(alone)}), or " if alone else ""
    return f"{one_table}measure the link with {measure}, and give the folder runs/bench-link in place of these tables"


def _joint_report(joint: Joint, seed: int) -> dict[str, Any]:
    errors = np.abs(joint.chosen.fit.errors)
    sure = certainty(joint.chosen.fit, joint.cells, stream(seed, 0, "calibration", "joint"))
    columns = (joint.cells.size_bytes, joint.cells.pieces, joint.cells.threads)
    asked = [abs(line["error"]) for line in predict(joint.chosen, joint.hidden, None)] if joint.hidden else []
    held = {"rows": len(asked), "mean_error": float(np.mean(asked)), "max_error": max(asked)} if asked else None
    return {
        "form": joint.chosen.name,
        "formula": joint.chosen.fit.form.formula,
        "tables": list(joint.tables),
        "fitted_rows": len(joint.cells),
        "mean_error": float(errors.mean()),
        "max_error": float(errors.max()),
        "cross_validated_error": joint.chosen.cross_error,
        "held_out": held,
        "alike_in_all_rows": [name for name, one in zip(DIMENSIONS, columns, strict=True) if len(set(one)) == 1],
        **describe(joint.chosen, sure),
        "residuals": _residuals(joint),
    }


def _residuals(joint: Joint) -> list[dict[str, Any]]:
    said = joint.chosen.fit.seconds(joint.cells)
    lines = []
    for place, (measured, predicted) in enumerate(zip(joint.cells.seconds.tolist(), said.tolist(), strict=True)):
        origin = {"file": joint.rows[place].file, "row": joint.rows[place].number} if joint.rows else {}
        shape = {
            "msg_bytes": float(joint.cells.size_bytes[place]),
            "batch": int(joint.cells.pieces[place]),
            "threads": int(joint.cells.threads[place]),
        }
        lines.append({**origin, **shape, "measured_s": measured, "predicted_s": predicted})
    return lines


# --- what runs show ---


def _around(inputs: Inputs, from_runs: tuple[Chosen, Cells] | None, seed: int) -> dict[str, Any]:
    """What is known beside the law of the link; first contacts of bench-link before those of runs."""
    found = software(inputs.seen, seed)
    contact: Estimate | None = None
    if inputs.first_contacts_s:
        contact = unbounded(float(np.median(inputs.first_contacts_s)))
    elif from_runs is not None:
        contact = first_contact(inputs.seen, from_runs[0])
    return found if contact is None else {**found, "first_contact_s": contact}


def _runs_report(
    seen: Observed, from_runs: tuple[Chosen, Cells] | None, around: dict[str, Any], seed: int
) -> dict[str, Any]:
    link: dict[str, Any] | None = None
    if from_runs is not None:
        chosen, cells = from_runs
        fit: Fit = chosen.fit
        link = {
            "form": chosen.name,
            "formula": fit.form.formula,
            "cells": len(cells),
            "mean_error": float(np.abs(fit.errors).mean()),
            "max_error": float(np.abs(fit.errors).max()),
            "cross_validated_error": chosen.cross_error,
            **describe(chosen, certainty(fit, cells, stream(seed, 0, "calibration", "writes"))),
        }
    return {
        "directories": seen.runs,
        "kinds": sorted(seen.kinds),
        "counts": {
            "writes": len(seen.writes),
            "control_messages": len(seen.control_s),
            "copies": len(seen.copies) + len(seen.cold_copies),
            "turns": len(seen.encode_turns_s) + len(seen.language_turns_s),
            "requests": len(seen.requests),
        },
        "unused": dict(seen.unused),
        "link": link,
        "software": around,
    }


def _host_report(host: Found, kept: Sequence[Account]) -> dict[str, Any]:
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
