"""How runs travel to a worker and back: one after the other through a pack, what each came to, and what broke one."""

from __future__ import annotations

import pickle
import time
import traceback
import zlib
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any

from bufferlab.experiments.errors import RunFailedError, UserError
from bufferlab.experiments.sweeps.packs import Task

Function = Callable[..., Any]
OVERTIME = 4
"""A pack that lasts so many times as long as it was meant to is cut off: what it did not get to is handed out again."""


@dataclass
class Ended:
    """A run that ended: what it came to, or the error that broke it."""

    index: int
    seconds: float
    result: Any = None
    error: Exception | None = None


def write_call(function: Function, tasks: Iterable[tuple[int, Task]]) -> bytes:
    """A pack as it is sent. Runs of one sweep are much alike, so that packing them together leaves little of each."""
    import cloudpickle  # also takes what a notebook or a script defines

    return zlib.compress(cloudpickle.dumps((function, list(tasks))), 1)


def run_pack(call: bytes, lasts_s: float) -> Generator[Ended]:
    """Run a pack to its end, to the first run that breaks, or until it has lasted too long by far."""
    function, tasks = pickle.loads(zlib.decompress(call))
    begun_s = time.perf_counter()
    for index, task in tasks:
        started_s = time.perf_counter()
        if started_s - begun_s > OVERTIME * lasts_s:
            return
        try:
            result = function(*task)
        except Exception as error:
            yield Ended(index, time.perf_counter() - started_s, error=_portable(error))
            return
        yield Ended(index, time.perf_counter() - started_s, result)


def _portable(error: Exception) -> Exception:
    """The error as another process can read it: the same sentence, and where it happened for whoever looks for that."""
    if not isinstance(error, UserError | RunFailedError):
        error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # it holds what cannot be sent, or asks for more than its message to be made again
        return RunFailedError(f"{type(error).__name__}: {error}")
    return error
