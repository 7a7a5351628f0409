"""Whether a run that lies in a folder is the one that is asked for, so that a cell of a notebook can be run twice."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from bufferlab.experiments.config.schema import Config
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.runs.rundir import StoredRun, is_finished_run
from bufferlab.experiments.sweeps.folder import code_digest

__all__ = ["Kept", "code_digest", "is_the_very_same"]


class Kept(NamedTuple):
    """What is to be in the folder of a run beside its figures."""

    events: bool
    plots: bool
    timeline: bool

    def is_in(self, run: StoredRun) -> bool:
        """Whether all of it is there."""
        plots = run.path / "plots"
        return (
            (run.keeps_events or not self.events)
            and (not self.plots or (plots.is_dir() and any(plots.iterdir())))
            and (not self.timeline or (run.path / "timeline.json").is_file())
        )


def is_the_very_same(path: Path, config: Config, code: str, kept: Kept) -> bool:
    """Whether a finished simulated run of this configuration, by code with this digest, lies at ``path``, with all that
    is to be kept. Its input files must have held then what they hold now."""
    if not is_finished_run(path):
        return False
    run = StoredRun(path)
    try:
        same = run.kind == "sim" and run.config.tree() == config.tree()
    except UserError:  # a file that it names is there no more
        return False
    return same and run.code == code and run.inputs == config.input_digests() and kept.is_in(run)
