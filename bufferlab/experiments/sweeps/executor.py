"""Runs independent tasks on the cores of this machine, or on a dask cluster.

Tasks are pure functions of their arguments, so where and in which order they run changes no result.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TypedDict

from bufferlab.experiments.errors import UserError
from bufferlab.experiments.installing import install_command
from bufferlab.experiments.sweeps.carrying import Function
from bufferlab.experiments.sweeps.local import LocalWorkers
from bufferlab.experiments.sweeps.packs import Group, Name, Task

EXECUTORS = ("local", "dask")


class Workers(Protocol):
    """Where tasks run."""

    lost: int
    """Workers that were lost while they had something to do."""
    handed_again: int
    """Runs that were given to another worker because theirs was lost."""

    def check(self) -> None:
        """Raise UserError if nothing can run there."""

    def run(
        self, function: Function, tasks: Iterable[Task], *, group: Group | None = None, name: Name | None = None
    ) -> Generator[tuple[int, Any]]:
        """(index, result) of ``function(*task)`` for every task, as they finish.

        ``tasks`` is read as workers become free, a bounded number ahead. Tasks of which ``group`` says the same go to
        the same worker where that costs no time. ``name`` is what a sentence calls a task. Closing the iterator stops
        what still runs. Raises UserError if there is no cluster to run them, what a task raises, and RunFailedError if
        workers cannot be kept.
        """


def check_executor(executor: str, address: str | None) -> None:
    """Raise UserError for an executor that is not known, has no use for an address, or whose package is absent."""
    if executor not in EXECUTORS:
        raise UserError(f"--executor is {executor!r}, it must be one of {', '.join(EXECUTORS)}")
    if executor == "local" and address is not None:
        raise UserError(f"--address is {address!r}, which is only allowed with --executor dask")
    if executor == "dask":
        try:
            import distributed  # noqa: F401
        except ImportError:
            raise UserError(
                "--executor is 'dask', which needs dask.distributed, but that is not installed; run: "
                f"{install_command('distributed')}"
            ) from None


class Where(TypedDict):
    """Where tasks run, as ``open_workers`` takes it."""

    executor: str
    address: str | None
    inputs: Mapping[str, str]
    notice: Callable[[str], None] | None


def lost_text(workers: Workers) -> str:
    """What a user is told of workers that were lost."""
    were = "worker was" if workers.lost == 1 else "workers were"
    runs = "run was" if workers.handed_again == 1 else "runs were"
    return f"{workers.lost} {were} lost; {workers.handed_again} {runs} handed out again, and nothing that had finished"


@contextmanager
def open_workers(
    *,
    jobs: int,
    executor: str = "local",
    address: str | None = None,
    inputs: Mapping[str, str] | None = None,
    notice: Callable[[str], None] | None = None,
) -> Iterator[Workers]:
    """Workers that stay warm from call to call of ``run``; they are started by the first that needs them.

    ``jobs``: tasks at once on this machine; a cluster with an address decides for itself. ``inputs``: files that tasks
    read, with the SHA-256 of each, which workers of a cluster must see. ``notice`` is told what a user may want to
    know of a cluster meanwhile. Raises UserError.
    """
    check_executor(executor, address)
    workers: LocalWorkers | ClusterWorkers
    if executor == "dask":
        from bufferlab.experiments.sweeps.cluster import ClusterWorkers

        workers = ClusterWorkers(jobs, address, inputs or {}, notice)
    else:
        workers = LocalWorkers(jobs)
    try:
        yield workers
    finally:
        workers.close()
