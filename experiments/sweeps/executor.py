"""Runs independent tasks on the cores of this machine, or on a dask cluster, through joblib.

Tasks are pure functions of their arguments, so where and in which order they run changes no result. joblib puts short
tasks together until a batch takes a few tenths of a second, so that handing out work costs little.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from experiments.errors import UserError
from experiments.starting import collect_seldom
from protocol.naming import Renamed

EXECUTORS = ("local", "dask")
CONNECT_TIMEOUT_S = 10

Task = Callable[..., Any]


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
                "pip install 'bufferlab[cluster]'"
            ) from None


def run_tasks(
    function: Task, tasks: Sequence[Sequence[Any]], *, jobs: int, executor: str = "local", address: str | None = None
) -> Generator[tuple[int, Any]]:
    """(index, result) of ``function(*task)`` for every task, as they finish.

    ``jobs``: tasks at once on this machine; a cluster with an address decides for itself. Closing the iterator stops
    what still runs. Raises UserError if no cluster answers at ``address``, and what a task raises.
    """
    check_executor(executor, address)
    if not tasks:
        return
    jobs = min(jobs, len(tasks))
    if executor == "local" and jobs == 1:
        for index, task in enumerate(tasks):
            yield index, function(*task)
        return
    from joblib import Parallel, delayed, parallel_config

    with ExitStack() as stack:
        workers = stack.enter_context(_cluster(executor, address, jobs))
        stack.enter_context(parallel_config(backend="loky" if executor == "local" else executor, n_jobs=workers))
        calls = [delayed(_numbered)(index, function, task) for index, task in enumerate(tasks)]
        yield from Parallel(return_as="generator_unordered")(calls)


def _numbered(index: int, function: Task, task: Sequence[Any]) -> tuple[int, Any]:
    in_worker = multiprocessing.parent_process() is not None
    if in_worker:
        collect_seldom()
        # The process that checked the configuration has said so already.
        warnings.simplefilter("ignore", Renamed)
    if in_worker and threading.current_thread() is threading.main_thread():
        # Ctrl-C goes to all processes of a terminal; only the one that started the others should answer it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return index, function(*task)


@contextmanager
def _cluster(executor: str, address: str | None, jobs: int) -> Iterator[int]:
    """Connects to a cluster, or starts one on this machine where no address is given; yields joblib's ``n_jobs``."""
    if executor == "dask":
        from distributed import Client

        options: dict[str, Any] = {"address": address} if address else {"n_workers": jobs, "threads_per_worker": 1}
        try:
            client = Client(**options, timeout=CONNECT_TIMEOUT_S)
        except (OSError, ValueError) as error:
            raise _no_answer(executor, address, error) from None
        with client:
            yield -1
    else:
        yield jobs


def _no_answer(executor: str, address: str | None, error: Exception) -> UserError:
    if address is None:
        return UserError(f"--executor is {executor!r}, but no cluster could be started on this machine: {error}")
    return UserError(f"--address is {address!r}, it must be where a {executor} scheduler answers")
