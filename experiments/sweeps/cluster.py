"""Runs on a dask cluster."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import ExitStack
from typing import Any

from experiments.errors import UserError
from experiments.sweeps.carrying import Function
from experiments.sweeps.packs import Group, Name, Task

CONNECT_TIMEOUT_S = 10


class ClusterWorkers:
    """The workers of the cluster at ``address``, or of one with ``jobs`` processes that is started here without one."""

    def __init__(self, jobs: int, address: str | None) -> None:
        self._options: dict[str, Any] = (
            {"address": address} if address else {"n_workers": jobs, "threads_per_worker": 1}
        )
        self._address = address
        self._stack = ExitStack()
        self._client: Any = None
        self.lost = 0
        self.handed_again = 0

    def check(self) -> None:
        """Connect. Raises UserError if no cluster answers."""
        if self._client is not None:
            return
        from distributed import Client

        try:
            self._client = self._stack.enter_context(Client(**self._options, timeout=CONNECT_TIMEOUT_S))
        except (OSError, ValueError) as error:
            raise self._no_answer(error) from None

    def run(
        self, function: Function, tasks: Iterable[Task], *, group: Group | None = None, name: Name | None = None
    ) -> Generator[tuple[int, Any]]:
        """See ``Workers.run``."""
        from joblib import Parallel, delayed, parallel_config

        self.check()
        with parallel_config(backend="dask", n_jobs=-1):
            calls = (delayed(_numbered)(index, function, task) for index, task in enumerate(tasks))
            yield from Parallel(return_as="generator_unordered")(calls)

    def close(self) -> None:
        """Leave the cluster, or end the one that was started here."""
        self._stack.close()
        self._client = None

    def _no_answer(self, error: Exception) -> UserError:
        if self._address is None:
            return UserError(f"--executor is 'dask', but no cluster could be started on this machine: {error}")
        return UserError(f"--address is {self._address!r}, it must be where a dask scheduler answers")


def _numbered(index: int, function: Function, task: Task) -> tuple[int, Any]:
    return index, function(*task)
