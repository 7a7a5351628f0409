"""A trace for every case: its first repeat, as it was predicted above as it was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bufferlab.experiments.figures.timeline import HOW_TO_OPEN, config_about, timeline, write_timeline
from bufferlab.experiments.figures.timeline_drawing import Scene
from bufferlab.experiments.runs.environment import versions
from bufferlab.experiments.runs.rundir import StoredRun
from bufferlab.experiments.validation.cases import CaseScore
from bufferlab.experiments.validation.frozen import FrozenProfile
from bufferlab.experiments.validation.origin import of_profile
from bufferlab.experiments.validation.pairing import Repeat, profile_on


def write_timelines(cases: Sequence[CaseScore], profile: FrozenProfile, folder: Path) -> list[str]:
    """Write them into a new folder; what is to be said of them. Raises ValueError for a case whose records were not
    kept."""
    folder.mkdir()
    notes = []
    for number, case in enumerate(cases, 1):
        one = case.repeats[0]
        if one.records is None:
            raise ValueError(f"the records of {case.name} were not kept")
        run = StoredRun(one.run)
        measured, predicted = one.records
        scenario, arrivals_s = one.config.scenario(), one.arrivals_s
        made = timeline(
            [
                Scene("simulated", predicted, scenario, arrivals_s, _about_prediction(one, run, profile)),
                Scene("measured", measured, scenario, arrivals_s, _about_run(one, run)),
            ]
        )
        name = f"case-{number}.json"
        write_timeline(made, folder / name)
        notes.append(f"timelines/{name} is {case.name}{f': {made.note}' if made.note else ''}")
    notes.append(f"timelines: {HOW_TO_OPEN}")
    return notes


def _about_run(one: Repeat, run: StoredRun) -> dict[str, Any]:
    return config_about(one.config, one.kind, run.transport, run=one.run, replication=one.number, versions=run.versions)


def _about_prediction(one: Repeat, run: StoredRun, profile: FrozenProfile) -> dict[str, Any]:
    """Of the run's configuration with what took the place of its network: the profile, and the run's processors."""
    about = config_about(
        one.config, "sim", profile.name, predicts=one.run, replication=one.number, versions=versions(),
        profile={"name": profile.name, "sha256": profile.digest, **of_profile(profile)},
    )  # fmt: skip
    host = profile_on(run, profile).link.host
    link = {**about["config"].get("link", {}), "profile": profile.name}
    if host is not None:
        link["processors"] = host.processors
    # Nobody ran this configuration, so it has no name of its own.
    return {**about, "fingerprint": None, "config": {**about["config"], "link": link}}
