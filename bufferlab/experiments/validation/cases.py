"""Cases: measured runs of one configuration are repeats of each other, and are scored together."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bufferlab.experiments.errors import UserError
from bufferlab.experiments.runs.busy import Busy, together
from bufferlab.experiments.runs.rundir import StoredRun
from bufferlab.experiments.validation.frozen import FrozenProfile
from bufferlab.experiments.validation.pairing import Outcome, Repeat, pair_run, profile_on
from bufferlab.experiments.validation.scores import FigureScore, Scores, score
from bufferlab.experiments.validation.stages import StageScore, stage_scores
from bufferlab.experiments.validation.tolerances import USUAL
from bufferlab.protocol.naming import flat

Settings = dict[str, Any]
"""A configuration by the whole names of its settings, without those that say which repeat it is."""

WHICH_REPEAT = ("run.name", "run.seed", "run.replications")
"""Settings in which repeats of one case may differ."""
PROCESSORS = "host.processors"
NAME_LETTERS = 60


@dataclass(frozen=True)
class CaseScore:
    """One case: what was measured, what a frozen profile predicted, and how far it is off.

    ``kind``: "real", or "sim" where a simulated run stands in for a measured one. ``settings``: see ``Settings``.
    ``outcomes``: requests that ended otherwise on one side than on the other; they are in no score.
    """

    name: str
    kind: str
    settings: Settings
    repeats: tuple[Repeat, ...]
    scores: Scores
    stages: tuple[StageScore, ...]

    @property
    def offered(self) -> int:
        """Requests of all repeats."""
        return sum(len(one.arrivals_s) for one in self.repeats)

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """Of all repeats."""
        return tuple(outcome for one in self.repeats for outcome in one.outcomes)

    @property
    def runs(self) -> list[str]:
        """The run directories, each once."""
        return list(dict.fromkeys(one.run for one in self.repeats))

    @property
    def busy(self) -> Busy | None:
        """What others took of the processors while the runs were measured; None where none of them says."""
        found = [StoredRun(run).busy for run in self.runs]
        return together([one for one in found if one is not None])

    @property
    def compared(self) -> int:
        """Requests that were delivered on both sides, after the warm-up, in all repeats."""
        return sum(int(one.both.sum()) for one in self.repeats)

    @property
    def misses(self) -> list[FigureScore]:
        """Figures that are off, or whose value is beyond the tolerance where nothing says how sure it is."""
        return [one for one in (*self.scores.figures, *self.scores.ttft) if one.missed]


def score_case(
    measured_runs: Sequence[StoredRun | Path | str],
    profile: FrozenProfile,
    *,
    name: str = "",
    tolerances: Mapping[str, float] = USUAL,
    seed: int = 0,
    keep_records: bool = False,
) -> CaseScore:
    """Predict runs of one configuration with ``profile`` and score the prediction.

    ``tolerances``: what relative error of which figure is allowed. ``keep_records``: of the first repeat, for a
    timeline.
    Raises UserError, in one sentence, for a run that cannot
    be used, or if the runs differ in more than their name, seed and number of replications.
    """
    runs = [one if isinstance(one, StoredRun) else StoredRun(one) for one in measured_runs]
    if not runs:
        raise UserError("RUN is missing, there must be at least one measured run")
    settings = settings_of(runs[0])
    for other in runs[1:]:
        if other.kind != runs[0].kind or settings_of(other) != settings:
            raise UserError(
                f"RUN is {str(other.path)!r}, it must be a run of the same kind and configuration as "
                f"{str(runs[0].path)!r} to be a repeat of it"
            )
    repeats = tuple(
        repeat
        for run in runs
        for repeat in pair_run(run, profile_on(run, profile), keep_records=keep_records and run is runs[0])
    )
    named = name or runs[0].config.run.name
    return CaseScore(
        name=named, kind=runs[0].kind, settings=settings, repeats=repeats,
        scores=score(repeats, tolerances, seed=seed, name=named), stages=stage_scores([one.stages_s for one in
    repeats]), )  # fmt: skip


def cases_of(runs: Sequence[StoredRun]) -> dict[str, list[StoredRun]]:
    """The runs of each case by its name, cases in the order of their settings, 512 before 1024.

    A name is made of the settings in which cases differ, each called by as much of the end of its path as no other
    setting has: ``policy=fixed tokens=512``. Where that is long, it is the path of a run. Raises UserError for a run
    that is given twice.
    """
    seen: dict[Path, str] = {}
    for run in runs:
        path = run.path.resolve()
        if path in seen:
            raise UserError(f"RUN {str(run.path)!r} is given twice, it must be given once")
        seen[path] = str(run.path)
    cases: list[tuple[str, Settings, list[StoredRun]]] = []
    for run in runs:
        settings = settings_of(run)
        for kind, known, members in cases:
            if (kind, known) == (run.kind, settings):
                members.append(run)
                break
        else:
            cases.append((run.kind, settings, [run]))
    every = {name for _, settings, _ in cases for name in settings}
    varied = differing([settings for _, settings, _ in cases])
    kinds = len({kind for kind, _, _ in cases}) > 1
    short = {name: _short(name, every) for name in varied}
    named: dict[str, list[StoredRun]] = {}
    for kind, settings, members in sorted(
        cases, key=lambda case: ([_place(case[1].get(name)) for name in varied], case[0])
    ):
        label = " ".join(
            [f"{short[name]}={settings[name]}" for name in varied if settings.get(name) is not None] + [kind] * kinds
        )
        if not label:
            label = members[0].config.run.name
        named[label if len(label) <= NAME_LETTERS else str(members[0].path)] = members
    return named


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings that are not the same in all of these, by their whole names in order."""
    every = sorted({name for one in settings for name in one})
    return [name for name in every if any(one.get(name) != settings[0].get(name) for one in settings)]


def _short(name: str, every: Collection[str]) -> str:
    """The end of a name that no other name has."""
    parts = name.split(".")
    ends = (".".join(parts[begin:]) for begin in range(len(parts) - 1, 0, -1))
    return next((end for end in ends if sum(other.endswith(f".{end}") for other in every) == 1), name)


def _place(value: Any) -> tuple[int, float, str]:
    """Where a value of a setting stands among others: what is not set first, then numbers by their size."""
    if value is None:
        return 0, 0.0, ""
    if isinstance(value, int | float):
        return 1, float(value), ""
    return 2, 0.0, str(value)


def settings_of(run: StoredRun) -> Settings:
    """What tells the case of a run, the processors that it could use (``PROCESSORS``) among it.

    A measured run does not depend on the simulator's link profile, and a simulated one not on its host.
    """
    settings = dict(flat(run.config.tree()))
    if run.kind == "real" and run.processors is not None:
        settings[PROCESSORS] = run.processors
    ignored = (*WHICH_REPEAT, "link.profile", "link.processors") if run.kind == "real" else WHICH_REPEAT
    return {name: value for name, value in settings.items() if name not in ignored}
