"""Requests that are drawn once for all configurations that see the same.

Configurations that differ in anything but their workload and their seed see the same requests in a replication, so a
process that runs them one after the other draws these once. It keeps the last ones, as columns and as the requests
that are made of them for so many instances. Requests are immutable and the columns are locked: no run can change what
the next one sees.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sized
from typing import Generic, Self, TypeVar

from bufferlab.experiments.config.schema import Config
from bufferlab.experiments.workloads.requests import (
    count_requests,
    make_columns,
    make_requests,
    requests_from,
    states_of_files,
)
from bufferlab.protocol.emulation.requests import Request
from bufferlab.sim.workload import Columns, joined

MOST_KEPT = 200_000
"""Requests that a process keeps, some 80 MB with their columns. A replication with more is drawn as the run goes on."""

Rows = TypeVar("Rows", bound=Sized)


class SharedRequests:
    """Makes the requests of configurations, and keeps the last ones, at most ``most``."""

    def __init__(self, most: int = MOST_KEPT) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._columns: _Last[Columns] = _Last(most)
        self._requests: _Last[list[Request]] = _Last(most)

    def of(self, config: Config, replication: int) -> Iterable[Request]:
        """The requests of one replication in order of arrival, the same as ``make_requests`` makes."""
        if count_requests(config) > self._most:
            return make_requests(config, replication)
        drawn = drawn_from(config, replication)
        instances = f"{config.encode.instances} {config.language.instances}"

        def draw() -> Columns:
            return joined(make_columns(config, replication)).locked()

        def spread() -> list[Request]:
            return list(requests_from(config, [self._columns.get(drawn, draw)]))

        with self._lock:  # a worker of a cluster may have several threads
            return self._requests.get(f"{drawn} {instances}", spread)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Keep nothing any more."""
        self._columns.clear()
        self._requests.clear()


class _Last(Generic[Rows]):
    """What was made last: together no more than ``most`` rows, of which one thing alone has no more either."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[str, Rows] = OrderedDict()

    def get(self, key: str, make: Callable[[], Rows]) -> Rows:
        """What was made for this key, or is made now."""
        if key not in self._kept:
            self._kept[key] = make()
            while sum(map(len, self._kept.values())) > self._most:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def clear(self) -> None:
        """Keep nothing any more."""
        self._kept.clear()


def drawn_from(config: Config, replication: int) -> str:
    """All that the requests of a replication depend on, apart from the instances that they go to."""
    # A configuration says how many are under way at a time beside what is drawn.
    workload = config.workload.model_dump_json(exclude={"concurrency"})
    return json.dumps([workload, config.run.seed, replication, states_of_files(config.workload)])
