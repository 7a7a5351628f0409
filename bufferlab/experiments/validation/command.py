"""``bufferlab validate``: from run directories and a profile to scores, files and a verdict."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bufferlab.experiments.errors import UserError
from bufferlab.experiments.files import Claim
from bufferlab.experiments.runs.rundir import StoredRun
from bufferlab.experiments.validation.cases import CaseScore, cases_of, score_case
from bufferlab.experiments.validation.decision import Decision, decide
from bufferlab.experiments.validation.frozen import FrozenProfile, freeze
from bufferlab.experiments.validation.report import misses, report_content, report_text, write_report
from bufferlab.experiments.validation.tolerances import USUAL, parse_tolerances


@dataclass(frozen=True)
class Validation:
    """All scores, and ``notes``: what is to be said of files that were written."""

    cases: tuple[CaseScore, ...]
    decision: Decision
    profile: FrozenProfile
    gated: bool
    notes: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """No request ended otherwise on one side, and no figure missed a tolerance that was asked for."""
        return not any(case.outcomes or (self.gated and case.misses) for case in self.cases)

    def content(self) -> dict[str, Any]:
        """What ``--json`` prints: validation.json and whether it passed."""
        return {**report_content(self.cases, self.decision, self.profile), "gated": self.gated, "passed": self.passed}

    def text(self, *, stages: bool) -> str:
        """What is printed otherwise."""
        parts = [report_text(self.cases, self.decision, self.profile, stages=stages), *self.notes]
        return "\n".join(parts)

    def missed(self) -> list[str]:
        """A sentence for every miss."""
        return misses(self.cases)


def validate(
    runs: Sequence[Path],
    profile: str,
    *,
    max_error: str | None = None,
    out: Path | None = None,
    timelines: bool = False,
    seed: int = 0,
    progress: Callable[[str], object] = lambda _: None,
) -> Validation:
    """Predict ``runs`` with ``profile``, score them case by case, and write ``out`` if it is given.

    ``max_error``: tolerances such as ``p50=0.05`` that must be met; otherwise the usual ones are told and nothing hangs
    on them. ``progress`` is told the name of a run's case, once for every run that is scored.
    Raises UserError, in one sentence, for bad input; nothing is written then.
    """
    tolerances = check_options(max_error=max_error, out=out, timelines=timelines, seed=seed)
    with contextlib.nullcontext() if out is None else Claim(out):
        return _validate(
            runs, freeze(profile), tolerances, gated=max_error is not None, out=out, timelines=timelines, seed=seed,
            progress=progress,
        )  # fmt: skip


def check_options(*, max_error: str | None, out: Path | None, timelines: bool, seed: int) -> Mapping[str, float]:
    """What may be off by how much. Raises UserError for options that do not fit."""
    tolerances: Mapping[str, float] = USUAL if max_error is None else parse_tolerances(max_error)
    if seed < 0:
        raise UserError(f"--seed is {seed}, it must be at least 0")
    if timelines and out is None:
        raise UserError("--timeline is given without --out, it needs a folder to write to")
    if out is not None and out.exists():
        raise UserError(f"--out is {str(out)!r}, it must be a folder that does not exist yet")
    return tolerances


def _validate(
    runs: Sequence[Path],
    frozen: FrozenProfile,
    tolerances: Mapping[str, float],
    *,
    gated: bool,
    out: Path | None,
    timelines: bool,
    seed: int,
    progress: Callable[[str], object],
) -> Validation:
    members = cases_of([StoredRun(path) for path in runs])
    cases = []
    for name, repeats in members.items():
        cases.append(score_case(repeats, frozen, name=name, tolerances=tolerances, seed=seed, keep_records=timelines))
        for _ in repeats:
            progress(name)
    decision = decide(cases)
    notes = [] if out is None else write_report(cases, decision, frozen, out, timelines=timelines, claimed=True)
    return Validation(tuple(cases), decision, frozen, gated, tuple(notes))
