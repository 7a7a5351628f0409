"""The campaign's tables, of scores that were just made or of the figures of every round that stand beside its page.

Judging anew needs no run: p50 and p99 of every round are in ``PAGE-rounds.csv``, the interval of the throughput and all
noise in ``PAGE.csv``.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bufferlab.experiments.calibration.here import EXAMPLE, Planned
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.stats.intervals import Estimate
from bufferlab.experiments.validation.campaign import CASES
from bufferlab.experiments.validation.cases import WHICH_REPEAT, CaseScore
from bufferlab.experiments.validation.decision import OBJECTIVES, Candidate, Decision, choices_of
from bufferlab.experiments.validation.resampling import over_repeats
from bufferlab.experiments.validation.scores import called
from bufferlab.experiments.validation.tolerances import TOLERANCES, judge
from bufferlab.experiments.workloads.loading import load
from bufferlab.protocol.naming import flat

BARRED = ("p50", "p99", "throughput")
UNITS = {"throughput": "rps"}


@dataclass(frozen=True)
class Judged:
    """A figure of a case: what was measured (seconds, or requests a second), the bias, and the verdict."""

    measured: float
    bias: Estimate
    noise: float | None
    tolerance: float | None
    verdict: str | None
    called: str


Rows = Mapping[str, Mapping[str, Judged]]
"""By case and figure."""


def rows_of(scores: Sequence[CaseScore]) -> Rows:
    """Those of cases that were just scored."""
    return {
        case.name: {
            one.name: Judged(
                one.measured,
                one.bias,
                None if one.noise is None else one.noise.mean,
                one.tolerance,
                one.verdict,
                one.called,
            )
            for one in case.scores.figures
            if one.name in BARRED
        }
        for case in scores
    }


def read_rounds(page: Path) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The rows of the tables beside a page: of cases, and of the rounds of cases. Raises UserError without them."""
    found = []
    for path in (page.with_suffix(".csv"), page.with_name(f"{page.stem}-rounds.csv")):
        try:
            with path.open(encoding="utf-8", newline="") as file:
                found.append(list(csv.DictReader(file)))
        except OSError as error:
            raise UserError(f"--rescore needs {str(path)!r}, which cannot be read: {error.strerror}") from None
    return found[0], found[1]


def rescored(cases: Sequence[Mapping[str, str]], rounds: Sequence[Mapping[str, str]]) -> Rows:
    """Every figure of every case that has a tolerance, judged by the interval of its bias over the rounds."""
    rows: dict[str, dict[str, Judged]] = {}
    for case in cases:
        name = case["case"]
        own = [one for one in rounds if one["case"] == name]
        fewest = min(int(one["requests"]) for one in own)
        rows[name] = {}
        for figure in BARRED:
            bias = _number(case, f"{figure}_bias") or 0.0
            ends = {end: _number(case, f"{figure}_bias_{end}") for end in ("low", "high")}
            found: Estimate = {"value": bias, "low": ends["low"], "high": ends["high"]}
            of_rounds = [float(one["predicted"]) / float(one["measured"]) - 1 for one in own
                         if one["figure"] == f"{figure}_s"]  # fmt: skip
            if of_rounds:
                found = over_repeats(bias, of_rounds)
            tolerance = TOLERANCES[figure]
            rows[name][figure] = Judged(
                _number(case, f"{figure}_measured_{UNITS.get(figure, 's')}") or 0.0, found,
                _number(case, f"{figure}_noise"), tolerance, judge(found, tolerance), called(figure, fewest),
            )  # fmt: skip
    return rows


def choices_from(cases: Sequence[Mapping[str, str]], rounds: Sequence[Mapping[str, str]]) -> Decision:
    """What the simulator would have chosen, from the figures of the rounds."""
    planned = {one.name: one for one in CASES}
    candidates = []
    for case in cases:
        name = case["case"]
        values: dict[str, tuple[list[float], list[float], float | None]] = {}
        for objective in OBJECTIVES:
            own = [one for one in rounds if (one["case"], one["figure"]) == (name, f"{objective}_s")]
            sides = [[float(one[side]) for one in own] for side in ("measured", "predicted")]
            values[objective] = sides[0], sides[1], _number(case, f"{objective}_noise")
        candidates.append(Candidate(name, "real", _settings(planned[name]), values))
    return choices_of(candidates)


def _settings(planned: Planned) -> dict[str, Any]:
    config = load(EXAMPLE, list(planned.overrides))
    loaded = {} if planned.load is None else {"workload.rate_rps": planned.load}
    more = {"workload.requests": planned.requests, "host.processors": planned.processors}
    plain = {name: value for name, value in flat(config.tree()) if name not in WHICH_REPEAT}
    return {**plain, **more, **loaded}


def _number(row: Mapping[str, str], name: str) -> float | None:
    return float(row[name]) if row.get(name) else None


# --- Markdown ---


def case_table(rows: Rows) -> list[str]:
    """A line a case: what was measured, what the prediction is off by with its interval and verdict, the noise."""
    lines = [
        "| case | p50, ms | bias | noise | p99, ms | bias | noise | throughput, /s | bias | noise |",
        "|---|" + "--:|" * 9,
    ]
    for name, row in rows.items():
        columns = [name]
        for figure in BARRED:
            one = row[figure]
            measured = one.measured if figure == "throughput" else 1e3 * one.measured
            what = "" if one.called == figure else one.called.removeprefix(figure)
            noise = "–" if one.noise is None else f"{100 * one.noise:.1f} %"
            columns += [f"{measured:.3g}{what}", _bias(one), noise]
        lines.append("| " + " | ".join(columns) + " |")
    return lines


def _bias(one: Judged) -> str:
    value, low, high = one.bias["value"] or 0.0, one.bias["low"], one.bias["high"]
    span = "" if low is None or high is None else f" ({100 * low:+.1f} to {100 * high:+.1f})"
    mark = "" if one.verdict in (None, "within the tolerance") else f" **{one.verdict}**"
    return f"{100 * value:+.1f} %{span}{mark}"


def count_line(rows: Rows) -> str:
    """How many figures came to which verdict."""
    verdicts = [one.verdict for row in rows.values() for one in row.values()]
    counts = {verdict: verdicts.count(verdict) for verdict in dict.fromkeys(sorted(map(str, verdicts)))}
    return f"Of {len(verdicts)} figures: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.items()) + "."


def choice_table(decision: Decision) -> list[str]:
    """A line a choice."""
    lines = [
        "| setting | by | simulator's choice | measured, cannot be told from the best | regret | noise | Kendall |",
        "|---|---|---|---|--:|--:|--:|",
    ]
    for one in decision.choices:
        noise = "–" if one.noise is None else f"{100 * one.noise:.1f} %"
        rank = "–" if one.kendall is None else f"{one.kendall:.2f}"
        alike = "not known" if one.alike is None else ", ".join(one.alike)
        picked = one.picked if one.good else f"{one.picked} **worse**"
        lines.append(
            f"| `{one.setting}` ({len(one.candidates)}) | {one.objective} | {picked} | {alike} | "
            f"{100 * one.regret:.1f} % | {noise} | {rank} |"
        )
    return lines


def replaced(text: str, head: str, lines: Sequence[str]) -> str:
    """``text`` with ``lines`` in place of the table that begins with ``head``. Raises ValueError without one."""
    old = text.splitlines()
    begin = next((place for place, line in enumerate(old) if line.startswith(head)), None)
    if begin is None:
        raise ValueError(f"there is no table that begins with {head}")
    end = next((place for place in range(begin, len(old)) if not old[place].startswith("|")), len(old))
    return "\n".join([*old[:begin], *lines, *old[end:]]) + "\n"
