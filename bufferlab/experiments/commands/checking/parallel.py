"""Searches and runs that do not depend on each other, as many at once as there are cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from joblib import Parallel

Progress = Callable[[str], object]
"""Called with one line about what is finished."""


def in_parallel(jobs: int, tasks: Iterable[Any]) -> Iterator[Any]:
    """Results as they come. One job runs here, so that patches and debuggers reach it."""
    if jobs == 1:
        yield from (function(*arguments, **options) for function, arguments, options in tasks)
    else:
        yield from Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1)(tasks)


def default_jobs() -> int:
    """As many searches at once as there are cores for this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
