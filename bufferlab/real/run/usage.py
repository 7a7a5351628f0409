"""Where the processor time of a process of a measured run went, and what it did in that time.

Threads of all ranks share few cores, so what the software costs shows in processor time and not in elapsed time. The
kernel counts it by thread: ``/proc/self/task/TID/schedstat`` in nanoseconds, or ``.../stat`` in ticks of 10 ms where
the kernel keeps no such statistics (proc_pid_schedstat(5), proc_pid_stat(5)). Nothing is read but at the two ends of
a run, and what a process counts meanwhile is an addition each.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path

import msgspec

from bufferlab.protocol.compiled import state
from bufferlab.real.counts import Counts, Durations, WriteCounts

TASKS = Path("/proc/self/task")


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What one process spent and did between time zero of the run (a restarted one: its own order to start) and the
    order to stop, which comes when every request is concluded.

    ``lasts_s``: elapsed time between the two. ``*_cpu_s``: processor time, user's and system's together, in seconds:

    - ``main``: the main thread, a rank's scheduler loop or the router's;
    - ``writer``: the writer's threads; ``engine``: those that the engine started; ``control``: ZeroMQ's;
    - ``collective``: gloo's and its store's; ``other``: heartbeat, registry, verifier, first contacts.

    A thread that ended before the stop is missed, as the threads of a writer are whose peer was replaced and those of
    first contacts.

    Counts: ``inputs``: messages, requests, completions and timers fed to the core, for the router commands taken.
    ``submissions``: requests taken, for the router requests submitted. ``iterations``: iterations of the scheduler loop
    that were held. ``collectives``: all-reduces. ``fills``: rooms whose test content was made in an encoder pass,
    ``fill_bytes`` of it, in ``fill_cpu_s`` of the main thread's processor time. ``copies``: chunks copied out of the
    blocks, with ``copy_bytes`` in ``copy_cpu_s``. Both bytes are of tokens; a write's (``write_bytes``, those that
    arrived) have the aux words as well. ``writes``: those that the engine took, ``segments`` in all, in ``write_s`` of
    the writer's threads' elapsed time, added up.

    ``collective_quantiles_s``: the quantiles 0, 0.025 … 1 of how long the all-reduces took, the wait for the group's
    other ranks with it; empty without any.

    ``build``: the name of the compiled cores that the process ran, empty where they were interpreted.
    """

    lasts_s: float
    main_cpu_s: float
    writer_cpu_s: float
    engine_cpu_s: float
    control_cpu_s: float
    collective_cpu_s: float
    other_cpu_s: float
    inputs: int = 0
    submissions: int = 0
    iterations: int = 0
    collectives: int = 0
    fills: int = 0
    fill_bytes: int = 0
    fill_cpu_s: float = 0.0
    copies: int = 0
    copy_bytes: int = 0
    copy_cpu_s: float = 0.0
    writes: int = 0
    write_bytes: int = 0
    write_s: float = 0.0
    segments: int = 0
    collective_quantiles_s: tuple[float, ...] = ()
    build: str = ""


class Part(StrEnum):
    """Whose a thread is."""

    MAIN = "main"
    WRITER = "writer"
    ENGINE = "engine"
    CONTROL = "control"
    COLLECTIVE = "collective"
    OTHER = "other"


class Thread(msgspec.Struct, frozen=True):
    """What the kernel says of one thread. ``name``: at most 15 characters, the process's unless the thread has one of
    its own. ``cpu_s``: processor time since it began."""

    name: str
    cpu_s: float


_NATIVE_NAMES = {
    "ZMQbg": Part.CONTROL,
    "gloo": Part.COLLECTIVE,
    "pt_gloo": Part.COLLECTIVE,
    "pt_tcpstore": Part.COLLECTIVE,
}


def read_threads(tasks: Path = TASKS) -> dict[int, Thread] | None:
    """By thread id, what the kernel says of this process's threads; None where it has no such files.

    ``tasks``: the folder with a folder for each thread.
    """
    try:
        ids = [int(folder.name) for folder in tasks.iterdir()]
    except OSError:
        return None
    threads: dict[int, Thread] = {}
    for thread_id in ids:
        folder = tasks / str(thread_id)
        try:
            name = (folder / "comm").read_text(encoding="utf-8", errors="replace").rstrip("\n")
            threads[thread_id] = Thread(name, _cpu_s(folder))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended since
    return threads or None


def _cpu_s(folder: Path) -> float:
    try:
        running_ns = int((folder / "schedstat").read_text(encoding="ascii").split()[0])
    except FileNotFoundError:
        running_ns = 0
    if running_ns:
        return running_ns / 1e9
    # The name, in parentheses, may have spaces and parentheses itself. Behind it the state is field 3.
    fields = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    utime, stime = int(fields[11]), int(fields[12])
    return (utime + stime) / os.sysconf("SC_CLK_TCK")


def _read_own() -> dict[int, Thread] | None:
    """``read_threads``, with the calling thread's own time to the moment: what lies in /proc may be a tick old."""
    threads = read_threads()
    own = threading.get_native_id()
    if threads is not None and own in threads:
        threads[own] = Thread(threads[own].name, time.thread_time())
    return threads


def part_of(thread_id: int, name: str, main: int, python: Mapping[int, str], unnamed: Part) -> Part:
    """Whose the thread is that the kernel calls ``name``.

    ``main``: the id of the main thread. ``python``: names of the threads that Python started, by id. ``unnamed``: whose
    the others are, which have been started by a library and have no name of their own.
    """
    if thread_id == main:
        return Part.MAIN
    if thread_id in python:
        whose = {"writer": Part.WRITER, "engine": Part.ENGINE}
        return whose.get(python[thread_id].partition(" ")[0], Part.OTHER)
    return next((part for start, part in _NATIVE_NAMES.items() if name.startswith(start)), unnamed)


class Meter:
    """Measures between ``start`` and ``stop``, which the thread calls that counts as the main one.

    ``unnamed``: whose the native threads without a name are, in a rank the engine's. ``read``: how the threads' times
    are read.
    """

    def __init__(
        self, unnamed: Part = Part.ENGINE, read: Callable[[], Mapping[int, Thread] | None] = _read_own
    ) -> None:
        self.started = False
        self._unnamed = unnamed
        self._read = read
        self._began_s = 0.0
        self._before: Mapping[int, Thread] | None = None

    def start(self) -> None:
        """From now on."""
        self.started = True
        self._began_s = time.monotonic()
        self._before = self._read()

    def stop(
        self, counts: Counts, writes: WriteCounts | None = None, collectives: Durations | None = None
    ) -> Usage | None:
        """Until now, with what was counted meanwhile; None where the kernel does not say what threads spend, and
        before ``start``."""
        now = self._read()
        if self._before is None or now is None:
            return None
        main = threading.get_native_id()
        python = {one.native_id: one.name for one in threading.enumerate() if one.native_id is not None}
        spent_s = dict.fromkeys(Part, 0.0)
        for thread_id, thread in now.items():
            before = self._before.get(thread_id)
            # A thread id may be used again: less than before is another thread.
            since_s = before.cpu_s if before is not None and before.cpu_s <= thread.cpu_s else 0.0
            spent_s[part_of(thread_id, thread.name, main, python, self._unnamed)] += thread.cpu_s - since_s
        written = writes or WriteCounts()
        return Usage(
            lasts_s=time.monotonic() - self._began_s,
            main_cpu_s=spent_s[Part.MAIN],
            writer_cpu_s=spent_s[Part.WRITER],
            engine_cpu_s=spent_s[Part.ENGINE],
            control_cpu_s=spent_s[Part.CONTROL],
            collective_cpu_s=spent_s[Part.COLLECTIVE],
            other_cpu_s=spent_s[Part.OTHER],
            **msgspec.structs.asdict(counts),
            **msgspec.structs.asdict(written),
            collectives=collectives.count if collectives is not None else 0,
            collective_quantiles_s=collectives.quantiles_s() if collectives is not None else (),
            build=state().digest,
        )
