"""Runs on this machine, each worker a process of its own that stays warm between calls.

A worker is given a pack that lasts some tenths of a second and the next one ahead of time, so that it never waits. The
processes are loky's, which start as a new Python does and share nothing with this one. Those that are idle are kept for
five minutes for whoever runs something next.
"""

from __future__ import annotations

import atexit
import os
import pickle
import queue
import signal
import warnings
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Future
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from operator import length_hint
from typing import Any

from bufferlab.experiments.errors import RunFailedError
from bufferlab.experiments.starting import THREADS, collect_seldom
from bufferlab.experiments.sweeps.carrying import Ended, Function, run_pack, write_call
from bufferlab.experiments.sweeps.packs import Group, LostRunError, Name, Task, Work
from bufferlab.protocol.naming import Renamed

PACK_S = 0.3
"""Handing out a pack costs a millisecond or so; what has ended of it is told, and kept, when it is over."""
IDLE_S = 300
AHEAD = 2
"""Packs that a worker has at a time: the one it is at, and the next."""
ONE_THREAD = (THREADS, "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""Variables for libraries that would start a thread a core in every worker, unless the user sets them."""

Executor = Any
Inbox = queue.SimpleQueue[tuple[int, Future[bytes]]]
_idle: list[Executor] = []


class LocalWorkers:
    """``jobs`` processes of this machine; with one job, or a single run, this process itself."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._workers: list[Executor] = []
        self._busy = False
        self.lost = 0
        self.handed_again = 0

    def check(self) -> None:
        """Nothing here can be refused."""

    def run(
        self, function: Function, tasks: Iterable[Task], *, group: Group | None = None, name: Name | None = None
    ) -> Generator[tuple[int, Any]]:
        """See ``Workers.run``."""
        first = list(islice(unread := iter(tasks), 2))
        if self._jobs == 1 or len(first) < 2:
            for index, task in enumerate(chain(first, unread)):
                yield index, function(*task)
            return
        count = length_hint(tasks, -1)
        work = Work(chain(first, unread), PACK_S, group, count if count >= 0 else None, tells_each=False)
        self._busy = True
        try:
            for ended in self._ended(function, work):
                if ended.error is not None:
                    raise ended.error
                yield ended.index, ended.result
            self._busy = False
        except LostRunError as lost:
            raise RunFailedError(lost.sentence(name)) from None
        finally:
            self.handed_again += work.handed_again
            if self._busy:
                self._stop()

    def _ended(self, function: Function, work: Work) -> Generator[Ended]:
        inbox: Inbox = queue.SimpleQueue()
        under_way: list[list[int]] = [[] for _ in range(self._jobs)]

        def hand_out() -> None:
            # First a pack for everybody, then the next ones.
            for ahead in range(1, AHEAD + 1):
                for place, numbers in enumerate(under_way):
                    if len(numbers) < ahead and (number := work.pack_for(place, self._jobs)) is not None:
                        numbers.append(number)
                        call = write_call(function, work.packs[number].tasks.items())
                        future = self._submit(place, call, idle=len(numbers) == 1)
                        future.add_done_callback(partial(_put, inbox, number))

        hand_out()
        while work.packs:
            number, done = inbox.get()
            pack = work.packs.get(number)
            if pack is None:
                continue
            place = int(str(pack.worker))
            if (error := done.exception()) is not None:
                if not isinstance(error, BrokenExecutor):
                    raise error
                self.lost += 1
                for position, one in enumerate(list(under_way[place])):
                    work.lost(one, begun=position == 0)
                under_way[place].clear()
                self._replace(place)
            else:
                for ended in pickle.loads(done.result()):
                    if work.finished(number, ended.index, ended.seconds):
                        yield ended
                under_way[place].remove(number)
                work.returned(number)
            hand_out()

    def _submit(self, place: int, call: bytes, *, idle: bool) -> Future[bytes]:
        """Give a pack to a process; ``idle``: one that has no other."""
        while len(self._workers) <= place:
            self._workers.append(_idle.pop() if _idle else _new_worker())
        with uninterrupted_children():
            try:
                return self._workers[place].submit(_run_here, call)
            except BrokenExecutor as error:
                if not idle:  # the loss is that of what it was at; this pack goes to the next process with that
                    lost: Future[bytes] = Future()
                    lost.set_exception(error)
                    return lost
                self._replace(place)
                return self._workers[place].submit(_run_here, call)

    def _replace(self, place: int) -> None:
        self._workers[place].shutdown(wait=False, kill_workers=True)
        self._workers[place] = _new_worker()

    def _stop(self) -> None:
        """End what is still under way: nobody waits for it."""
        self._busy = False
        for worker in self._workers:
            worker.shutdown(wait=True, kill_workers=True)
        self._workers.clear()

    def close(self) -> None:
        """Let others have the workers."""
        if self._busy:
            self._stop()
        _idle.extend(self._workers)
        self._workers.clear()


def _new_worker() -> Executor:
    from joblib.externals.loky import ProcessPoolExecutor

    atexit.unregister(_end_idle)
    atexit.register(_end_idle)  # after loky's own, so that it comes before it
    variables = {name: "1" for name in ONE_THREAD if name not in os.environ}
    return ProcessPoolExecutor(1, timeout=IDLE_S, initializer=_begin, env=variables)


def _end_idle() -> None:
    while _idle:
        _idle.pop().shutdown(wait=True, kill_workers=True)


def _begin() -> None:
    """Set up a worker."""
    collect_seldom()
    # The process that checked the configuration has said so already.
    warnings.simplefilter("ignore", Renamed)


def _put(inbox: Inbox, number: int, done: Future[bytes]) -> None:
    inbox.put((number, done))


def _run_here(call: bytes) -> bytes:
    return pickle.dumps(list(run_pack(call, PACK_S)))


@contextmanager
def uninterrupted_children() -> Iterator[None]:
    """Processes and threads that are started within it do not see Ctrl-C, which a terminal sends to all of them.

    Only the process that started the others should answer it. One that comes meanwhile is answered afterwards.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
