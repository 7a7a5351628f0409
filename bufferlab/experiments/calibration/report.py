"""Turns the report of a calibration into text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bufferlab.experiments.runs.busy import TOO_BUSY, Busy
from bufferlab.experiments.text import table
from bufferlab.experiments.units import format_duration, format_number

GIGA = 1e9
TOLD = 20
"""Rows left out that are told; all are in the JSON."""


def report_text(result: Mapping[str, Any]) -> str:
    """Every table with its law, errors and parameters; what was left out and why; runs, predictions and the profile."""
    sections = [
        _tables(result["tables"]),
        *_parameters(result["tables"]),
        _not_used(result),
        _repeats(result["repeats"]),
        _runs(result["runs"]) if "runs" in result else "",
        _joint(result) if "joint" in result else "",
        _host(result["host"]) if result.get("host") is not None else "",
        busy_text(result["busy"]) if "busy" in result else "",
        f"profile: {result['profile']['path']}" if "profile" in result else "",
    ]
    return "\n\n".join(section for section in sections if section)


def errors_table(tables: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """A line a table: its law, its rows and its errors; the first line is the heading."""
    lines: list[tuple[str, ...]] = [
        ("table", "form", "fitted", "judged", "mean error", "max error", "rounding", "cross-validated")
    ]
    for one in tables:
        crossed = one["cross_validated_error"]
        lines.append(
            (
                one["name"],
                one["form"],
                str(one["fitted_rows"]),
                str(one["judged_rows"]),
                f"{percent(one['mean_error'])}",
                f"{percent(one['max_error'])}",
                f"{percent(one['rounding_max'])}",
                "" if crossed is None else f"{percent(crossed)}",
            )
        )
    return lines


def percent(share: float) -> str:
    """``2.65 %``."""
    return f"{100 * share:.2f} %"


def _tables(tables: Sequence[Mapping[str, Any]]) -> str:
    if not tables:
        return ""
    on = tables[0]["errors_on"]
    return (
        f"{table(errors_table(tables))}\n\nmean and max error: on the {on}; rounding: the largest that the written "
        f"digits allow there;\ncross-validated: on fitted rows left out in turn, by which the form was chosen"
    )


def _parameters(tables: Sequence[Mapping[str, Any]]) -> list[str]:
    return [f"{one['name']}: {one['formula']}\n{parameters_text(one['parameters'])}{_notes(one)}" for one in tables]


def parameters_text(parameters: Mapping[str, Mapping[str, Any]]) -> str:
    """A line a parameter, with its 95 % interval."""
    lines = []
    for name, found in parameters.items():
        low, high = found["low"], found["high"]
        between = f"   {_shown(name, low)} .. {_shown(name, high)}" if low is not None or high is not None else ""
        lines.append(f"  {name.ljust(22)} {_shown(name, found['value'])}{between}")
    return "\n".join(lines)


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return "any"
    if name.endswith("_Bps"):
        return f"{value / GIGA:.4g} GB/s"
    if name.endswith("_s_per_byte"):
        return f"{value:.4g} s"
    if name.endswith("_per_s"):
        return f"{format_number(value)} a second"
    return format_duration(value) if name.endswith("_s") else f"{value:.4g}"


def _notes(one: Mapping[str, Any]) -> str:
    notes = []
    if one["on_totals"]:
        notes.append("fitted on total_bytes, as transfers of one segment: the table has no msg_bytes")
    if one["filled_in"]:
        notes.append("what the law leaves is interpolated between the fitted rows: it says nothing of other samples")
    elif not one["simulated"]:
        notes.append("the simulator does not know this law; a profile has the best one that it knows")
    notes += [f"outlier: {row['file']} row {row['row']}" for row in one["outliers"]]
    return "".join(f"\n  {note}" for note in notes)


def _not_used(result: Mapping[str, Any]) -> str:
    lines = [
        f"left out: {one['file']} row {one['row']} ({one['table'] or 'no table'}): {one['reason']}"
        for one in result["left_out"][:TOLD]
    ]
    if len(result["left_out"]) > TOLD:
        lines.append(f"and {len(result['left_out']) - TOLD} rows more, see --json")
    lines += [f"columns of {file} not used: {', '.join(names)}" for file, names in result["columns_not_used"].items()]
    lines += [f"not fitted: {one['name']} (rows: {one['rows']}): {one['reason']}" for one in result["not_fitted"]]
    return "\n".join(lines)


def _repeats(repeats: Sequence[Mapping[str, Any]]) -> str:
    if not repeats:
        return ""
    largest = max(repeats, key=lambda one: one["spread"])
    rows = " and ".join(f"{row['file']} row {row['row']}" for row in largest["rows"])
    return (
        f"{len(repeats)} samples were measured more than once on one system and differ by up to "
        f"{percent(largest['spread'])} ({rows}): no law can say both"
    )


def _runs(runs: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in runs["counts"].items())
    lines = [f"runs ({', '.join(runs['kinds'])}): {', '.join(runs['directories'])}", f"seen: {counts}"]
    if runs["link"] is not None:
        link = runs["link"]
        lines.append(f"writes: {link['form']}, {link['formula']}; mean error {percent(link['mean_error'])} of medians")
        lines.append(parameters_text(link["parameters"]))
    lines.append("around them:")
    lines.append(parameters_text(runs["software"]))
    lines += [f"not used: {reason}: {number}" for reason, number in runs["unused"].items()]
    return "\n".join(lines)


def _host(host: Mapping[str, Any]) -> str:
    runs = ", ".join(f"{number} with {kind}" for kind, number in host["runs"].items() if number)
    lines = [f"on the processors of the host (runs: {runs}):", parameters_text(host["parameters"])]
    if host["untold"]:
        lines.append(f"no run tells {', '.join(host['untold'])}")
    return "\n".join(lines)


def busy_text(busy: Mapping[str, Any]) -> str:
    """How much of the host others had while it was measured."""
    found = Busy(*(busy[name] for name in Busy._fields))
    measured = f"measured in {found.lasts_s:.0f} s; {found}"
    if not found.too_busy:
        return measured
    return (
        f"THIS HOST IS TOO BUSY TO BE MEASURED: {found}, and more than {TOO_BUSY:.0%} cannot be told from what it "
        f"costs by itself.\nThe profile describes this host while it is as busy as that; measure again when it is idle"
    )


def _joint(result: Mapping[str, Any]) -> str:
    joint = result["joint"]
    of = ", ".join(joint["tables"]) or "the writes of the runs"
    lines = [
        f"one law for {of}: {joint['form']}, {joint['formula']}; mean error {percent(joint['mean_error'])}, "
        f"largest {percent(joint['max_error'])} on {joint['fitted_rows']} fitted rows",
        parameters_text(joint["parameters"]),
    ]
    if joint["held_out"] is not None:
        held = joint["held_out"]
        lines.append(
            f"on {held['rows']} rows held out: mean {percent(held['mean_error'])}, largest {percent(held['max_error'])}"
        )
    for one in result.get("predictions", ()):
        beyond = f"; the fitted rows all have the same {' and '.join(one['untold'])}" if one["untold"] else ""
        lines.append(
            f"predicts {one['name']}: mean error {percent(one['mean_error'])}, "
            f"largest {percent(one['max_error'])}{beyond}"
        )
    return "\n".join(lines)
