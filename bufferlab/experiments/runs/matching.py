"""Which replications two stored runs of the same requests have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bufferlab.experiments.runs.rundir import StoredRun


def only_resampled(first: StoredRun, second: StoredRun) -> StoredRun | None:
    """The one of two runs whose replications are resamples of its file, if those of the other are not.

    Then they have replication 0 in common, the file itself, and no other.
    """
    resampled = [run for run in (first, second) if run.summary.get("replication_kind") == "resampled"]
    return resampled[0] if len(resampled) == 1 else None


def only_the_file(resampled: StoredRun) -> str:
    """What is said of such a comparison."""
    return f"only the file itself is compared: the other replications of {resampled.path} are resamples of it"
