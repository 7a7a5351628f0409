"""What a validation came to: as JSON, as a table for a terminal, and as files."""

from __future__ import annotations

import contextlib
import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bufferlab.experiments.figures.style import KIND_NAMES
from bufferlab.experiments.files import Claim, new_folder, write_json
from bufferlab.experiments.runs.rundir import StoredRun
from bufferlab.experiments.stats.quantiles import LEVELS
from bufferlab.experiments.text import counted, table
from bufferlab.experiments.units import format_duration, format_number
from bufferlab.experiments.validation.agreement import quantile_pairs
from bufferlab.experiments.validation.cases import CaseScore, differing
from bufferlab.experiments.validation.decision import Decision
from bufferlab.experiments.validation.figures import draw_all, latencies
from bufferlab.experiments.validation.frozen import FrozenProfile
from bufferlab.experiments.validation.lacks import all_lacks
from bufferlab.experiments.validation.noise import Noise
from bufferlab.experiments.validation.origin import of_profile, of_runs, told
from bufferlab.experiments.validation.others import others_sentence, warnings_of
from bufferlab.experiments.validation.pairing import BOUNDARY, TTFT_BOUNDARY
from bufferlab.experiments.validation.scores import FigureScore, Scores
from bufferlab.experiments.validation.stages import STAGES
from bufferlab.experiments.validation.timelines import write_timelines
from bufferlab.experiments.validation.tolerances import OFF_RUN

SCHEMA = "bufferlab-validation/1"
TOLD_OUTCOMES = 10
STAND_IN = "sim"


def report_content(cases: Sequence[CaseScore], decision: Decision, profile: FrozenProfile) -> dict[str, Any]:
    """Everything, as validation.json has it. What is infinite or not known is None."""
    content = {
        "schema": SCHEMA,
        "profile": {
            "name": profile.name,
            "sha256": profile.digest,
            **of_profile(profile),
            "busy": None if profile.busy is None else profile.busy.content(),
        },
        "measured": of_runs(_runs(cases)),
        "boundary": BOUNDARY,
        "ttft_boundary": TTFT_BOUNDARY,
        "differ_in": differing([case.settings for case in cases]),
        "merge": "where several ranks record an event, the last of them counts",
        "cases": [_case(case) for case in cases],
        "decision": [{**asdict(one), "good": one.good, "verdict": one.verdict} for one in decision.choices],
        "no_choice": list(decision.left_out),
        "busy": warnings_of(cases, profile),
        "profile_lacks": lacking(cases, profile),
        "stages": {name: {"from": begin, "to": end} for name, (begin, end) in STAGES.items()},
        "misses": misses(cases),
    }
    plain: dict[str, Any] = _plain(content)
    return plain


def lacking(cases: Sequence[CaseScore], profile: FrozenProfile) -> list[str]:
    """A sentence for everything that the profile does not say and a measured run had need of."""
    return all_lacks(_runs(cases), profile)


def _runs(cases: Sequence[CaseScore]) -> list[StoredRun]:
    return [StoredRun(run) for case in cases for run in case.runs]


def misses(cases: Sequence[CaseScore]) -> list[str]:
    """A sentence for every figure that is off by more than is allowed, and for every case with differing outcomes."""
    found = []
    for case in cases:
        for one in case.misses:
            sure = "" if one.bias["low"] is not None else ", of which nothing says how sure it is"
            sure = f"{sure}; nothing is known of other runs" if one.verdict == OFF_RUN else sure
            spread = _span(one.bias, "+")
            bias = f"{_percent(one.bias['value'], '+')}{f' ({spread})' if spread else ''}"
            found.append(
                f"{case.name}: {one.called} is off by {bias}, the tolerance is {_percent(one.tolerance)}{sure}"
            )
        if case.outcomes:
            found.append(
                f"{case.name}: {counted(len(case.outcomes), 'request')} ended otherwise on one side, first "
                f"{case.outcomes[0]}"
            )
    return found


def write_report(
    cases: Sequence[CaseScore],
    decision: Decision,
    profile: FrozenProfile,
    folder: Path,
    *,
    timelines: bool = False,
    claimed: bool = False,
) -> list[str]:
    """Write validation.json, cases.csv and figures/ into ``folder``, which appears when it is complete.

    ``timelines``: also one trace for every case, its first repeat, predicted above measured. Returns what is to be said
    of them. ``claimed``: the caller has a claim of the folder. Raises UserError or RunFailedError if the folder cannot
    be written, ValueError for timelines of cases whose records were not kept.
    """
    notes: list[str] = []
    with contextlib.nullcontext() if claimed else Claim(folder), new_folder(folder) as partial:
        write_json(partial / "validation.json", report_content(cases, decision, profile))
        _write_csv(cases, partial / "cases.csv")
        draw_all(cases, partial / "figures")
        if timelines:
            notes = write_timelines(cases, profile, partial / "timelines")
    return notes


# --- text ---


def report_text(cases: Sequence[CaseScore], decision: Decision, profile: FrozenProfile, *, stages: bool = False) -> str:
    """All scores for a terminal; with ``stages`` the stages of every case as well."""
    parts = [
        f"profile {profile.name}, frozen: sha256 {profile.digest}\n{_origins(cases, profile)}latency: {BOUNDARY}"
        + (f"\nttft: {TTFT_BOUNDARY}" if any(case.scores.ttft for case in cases) else ""),
        *_differing_text(cases),
        *(_about(case, profile) for case in cases),
        *warnings_of(cases, profile),
        *lacking(cases, profile),
        table(
            [
                ("case", "figure", "measured", "predicted", "bias", "95 %", "noise", "tolerance", "verdict"),
                *_rows(cases),
            ]
        ),
        table(_agreement_rows(cases)),
    ]
    if stages:
        parts += [_legend(), *(_stages_text(case) for case in cases)]
    if decision.choices:
        parts.append(_decision_text(decision))
    parts += ["\n".join(decision.left_out)] * bool(decision.left_out)
    outcomes = [str(outcome) for case in cases for outcome in case.outcomes]
    if outcomes:
        left = len(outcomes) - TOLD_OUTCOMES
        more = [f"and {left} more"] if left > 0 else []
        parts.append("\n".join(["ENDED OTHERWISE ON ONE SIDE, and left out:", *outcomes[:TOLD_OUTCOMES], *more]))
    missed = misses(cases)
    parts.append("\n".join(["misses:", *missed]) if missed else "no misses")
    return "\n\n".join(parts)


def _origins(cases: Sequence[CaseScore], profile: FrozenProfile) -> str:
    """Whence the profile and the runs come; nothing where all runs are simulated."""
    measured = of_runs(_runs(cases))
    return f"profile: {told(of_profile(profile))}; runs: {told(measured)}\n" if measured["transport"] else ""


def _differing_text(cases: Sequence[CaseScore]) -> Iterator[str]:
    names = differing([case.settings for case in cases])
    if names:
        yield f"cases differ in {', '.join(names)}"


def _about(case: CaseScore, profile: FrozenProfile) -> str:
    what = "SIMULATED runs that stand in for measured ones" if case.kind == STAND_IN else "measured runs"
    return (
        f"{case.name}: {what} {', '.join(case.runs)}; {counted(len(case.repeats), 'repeat')}, "
        f"{counted(case.offered, 'request')}, {case.compared} compared; "
        f"{intervals_text(case.scores)}{'; no noise: no other run met the same requests' if _alone(case) else ''}"
        + (f"; {others}" if (others := others_sentence(case, profile)) else "")
    )


INTERVALS = {
    "blocks": "intervals of this run alone, over blocks of requests",
    "repeats": "intervals over repeats",
    "repeats and blocks": "intervals over repeats and blocks of requests, the wider one",
}


def intervals_text(scores: Scores) -> str:
    """Where intervals come from, and which figures have none."""
    shown = (*scores.figures, *scores.ttft)
    without = [one.name for one in shown if one.bias["low"] is None]
    if len(without) == len(shown):
        return "no intervals: one repeat, and too short"
    said = INTERVALS[scores.intervals or "blocks"]
    return f"{said}, too short for one of {', '.join(without)}" if without else said


def _alone(case: CaseScore) -> bool:
    return all(one.noise is None for one in case.scores.figures)


def _rows(cases: Sequence[CaseScore]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for case in cases:
        for number, one in enumerate((*case.scores.figures, *case.scores.ttft)):
            rows.append(
                (
                    "" if number else case.name, one.called, _shown(one, one.measured), _shown(one, one.predicted),
                    _percent(one.bias["value"], "+"), _span(one.bias, "+"), _noise(one.noise),
                    _percent(one.tolerance), one.verdict or "",
                )
            )  # fmt: skip
    return rows


def _agreement_rows(cases: Sequence[CaseScore]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        ("case", "Wasserstein-1", "95 %", "its noise", "bias of a request", "limits of agreement", "within")
    ]
    for case in cases:
        distance, agreement = case.scores.wasserstein, case.scores.agreement
        low, high = distance.value_us["low"], distance.value_us["high"]
        rows.append(
            (
                case.name,
                _microseconds(distance.value_us["value"]),
                "" if low is None or high is None else f"{_microseconds(low)} .. {_microseconds(high)}",
                "-" if distance.noise_us is None else _microseconds(distance.noise_us.mean),
                _signed(agreement.bias_s),
                f"{_signed(agreement.low_s)} .. {_signed(agreement.high_s)}",
                _percent(agreement.within),
            )
        )
    return rows


def _stages_text(case: CaseScore) -> str:
    rows: list[tuple[str, ...]] = [
        (
            "stage",
            "mean measured",
            "predicted",
            "off by",
            "of all",
            "p50 measured",
            "predicted",
            "p99 measured",
            "predicted",
        )
    ]
    for one in case.stages:
        if not one.measured["mean"] and not one.predicted["mean"]:
            continue
        values = [side[name] for name in ("p50", "p99") for side in (one.measured, one.predicted)]
        rows.append(
            (
                one.name, format_duration(one.measured["mean"]), format_duration(one.predicted["mean"]),
                _signed(one.difference_s), _percent(one.share), *map(format_duration, values),
            )
        )  # fmt: skip
    return f"{case.name}: where the time of a request goes, on average and at p50 and p99\n{table(rows)}"


def _legend() -> str:
    width = max(map(len, STAGES))
    lines = [f"  {name.ljust(width)}  from {begin} to {end}" for name, (begin, end) in STAGES.items()]
    return "\n".join(["stages, each from the end of the one before it:", *lines])


def _decision_text(decision: Decision) -> str:
    heading = "setting,lowest,candidates,picked,best,Kendall,Spearman,regret,noise,cannot be told from the best,verdict"
    rows: list[tuple[str, ...]] = [tuple(heading.split(","))]
    for one in decision.choices:
        rows.append(
            (
                one.setting, one.objective, str(len(one.candidates)), one.picked, one.best, _correlation(one.kendall),
                _correlation(one.spearman), _percent(one.regret), _percent(one.noise),
                "not known" if one.alike is None else ", ".join(one.alike), one.verdict,
            )
        )  # fmt: skip
    return f"what the simulator would choose, and what that costs when it is measured\n{table(rows)}"


def _correlation(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _shown(one: FigureScore, value: float) -> str:
    return f"{format_number(value)} req/s" if one.name == "throughput" else format_duration(value)


def _percent(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{100 * value:{sign}.3g} %"


def _span(estimate: Mapping[str, Any], sign: str) -> str:
    low, high = estimate["low"], estimate["high"]
    return "" if low is None or high is None else f"{_percent(low, sign)} .. {_percent(high, sign)}"


def _noise(noise: Noise | None) -> str:
    return "-" if noise is None else _percent(noise.mean)


def _microseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g} µs"


def _signed(seconds: float) -> str:
    return f"{'-' if seconds < 0 else '+'}{format_duration(abs(seconds))}"


# --- content ---


def _case(case: CaseScore) -> dict[str, Any]:
    scores = case.scores
    measured, predicted = quantile_pairs(*latencies(case))
    return {
        "name": case.name,
        "kind": case.kind,
        "stands_in_for_a_measurement": case.kind == STAND_IN,
        "settings": case.settings,
        "runs": case.runs,
        "busy": None if case.busy is None else case.busy.content(),
        "repeats": len(case.repeats),
        "requests": {"offered": case.offered, "compared": case.compared},
        "outcomes": [asdict(outcome) for outcome in case.outcomes],
        "intervals_over": scores.intervals or None,
        "figures": {one.name: _figure(one) for one in (*scores.figures, *scores.ttft)},
        "wasserstein_us": {**scores.wasserstein.value_us, "noise": _noise_content(scores.wasserstein.noise_us)},
        "bland_altman": {**asdict(scores.agreement), "bias_interval_s": scores.agreement_bias_s},
        "qq": {"levels": LEVELS.tolist(), "measured_s": measured.tolist(), "predicted_s": predicted.tolist()},
        "stages": [
            {
                "name": one.name,
                "measured_s": dict(one.measured),
                "predicted_s": dict(one.predicted),
                "difference_s": one.difference_s,
                "share": one.share,
            }
            for one in case.stages
        ],
    }


def _figure(one: FigureScore) -> dict[str, Any]:
    return {
        "measured": one.measured,
        "predicted": one.predicted,
        "bias": one.bias,
        "error": one.error,
        "noise": _noise_content(one.noise),
        "tolerance": one.tolerance,
        "called": one.called,
        "verdict": one.verdict,
    }


def _noise_content(noise: Noise | None) -> dict[str, Any] | None:
    return None if noise is None else {"floor": noise.mean, "largest": noise.largest, "each": list(noise.each)}


def _plain(content: Any) -> Any:
    """The same with None for numbers that JSON has not."""
    if isinstance(content, Mapping):
        return {name: _plain(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _write_csv(cases: Sequence[CaseScore], path: Path) -> None:
    """One row a case; latencies in seconds, errors relative."""
    rows = []
    for case in cases:
        row: dict[str, Any] = {
            "case": case.name, "kind": KIND_NAMES[case.kind], "repeats": len(case.repeats), "compared": case.compared,
            "ended_otherwise": len(case.outcomes),
        }  # fmt: skip
        row |= _columns(case.scores.figures)
        distance, agreement = case.scores.wasserstein, case.scores.agreement
        row |= {
            "wasserstein_us": distance.value_us["value"], "wasserstein_low_us": distance.value_us["low"],
            "wasserstein_high_us": distance.value_us["high"],
            "wasserstein_noise_us": None if distance.noise_us is None else distance.noise_us.mean,
            "difference_bias_s": agreement.bias_s, "difference_low_s": agreement.low_s,
            "difference_high_s": agreement.high_s,
        }  # fmt: skip
        rows.append(_plain(row | _columns(case.scores.ttft)))
    with path.open("w", encoding="utf-8", newline="") as file:
        names = dict.fromkeys(
            name for row in rows for name in row
        )  # not every case need have a time to the first token
        writer = csv.DictWriter(file, list(names), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _columns(figures: Sequence[FigureScore]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for one in figures:
        unit = "rps" if one.name == "throughput" else "s"
        row |= {
            f"{one.name}_measured_{unit}": one.measured, f"{one.name}_predicted_{unit}": one.predicted,
            f"{one.name}_bias": one.bias["value"], f"{one.name}_bias_low": one.bias["low"],
            f"{one.name}_bias_high": one.bias["high"],
            f"{one.name}_noise": None if one.noise is None else one.noise.mean, f"{one.name}_tolerance": one.tolerance,
            f"{one.name}_verdict": one.verdict,
        }  # fmt: skip
    return row
