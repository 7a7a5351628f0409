"""Runs on a dask cluster: who its workers are, whether they run the same code, and what they are at.

Every pack is bound to one worker, which has two at a time: the one it is at, and the next. So runs that see the same
requests stay together, and the scheduler never starts a pack again by itself, some of whose runs have ended. What ends
comes back while a pack goes on, through the scheduler, since workers and clients of a cluster often neither share a
file system nor reach each other; nothing of it stays in a worker. When a worker is gone, what it had not told is handed
out again. Workers may come and go at any time.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import queue
import time
import uuid
import warnings
import zlib
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from operator import length_hint
from typing import Any

from bufferlab.experiments.errors import RunFailedError, UserError
from bufferlab.experiments.sweeps.carrying import Ended, Function, write_call
from bufferlab.experiments.sweeps.local import uninterrupted_children
from bufferlab.experiments.sweeps.packs import Group, LostRunError, Name, Task, Work
from bufferlab.experiments.sweeps.remote import PACK_S, Has, Told, run_remote, what_it_has

CONNECT_TIMEOUT_S = 10
CHECK_TIMEOUT_S = 20
"""How long workers have to say what they run before anything begins; whoever is busy then is asked when it is free."""
LOOK_EVERY_S = 1.0
SILENT_S = 30
"""A scheduler that has not answered for so long is gone."""
AHEAD = 2
GONE_AFTER = 2
"""Looks in which a worker is missing before it is given up: by then all that it told has come."""

Notice = Callable[[str], None]


@dataclass
class Worker:
    """One process of the cluster."""

    address: str
    threads: int
    process: str = ""
    """Its name, as soon as it is known to run the same code."""
    refused: str = ""
    """Why it gets nothing."""
    asked: Any = None
    """The future of what it has."""
    packs: dict[int, bool] = field(default_factory=dict)
    """By number, whether it has begun with it."""
    missing: int = 0


class ClusterWorkers:
    """The workers of the cluster at ``address``, or of one with ``jobs`` processes that is started here without one."""

    def __init__(self, jobs: int, address: str | None, inputs: Mapping[str, str], notice: Notice | None) -> None:
        self._jobs = jobs
        self._address = address
        self._inputs = inputs
        self._notice = notice or (lambda _text: None)
        self._cluster: Any = None
        self._client: Any = None
        self._inbox: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._workers: dict[str, Worker] = {}
        self._futures: dict[int, Any] = {}
        self._lure: Any = None
        self._looked_s = 0.0
        self._answer: Future[dict[str, int]] | None = None
        self._asked_s = 0.0
        self.lost = 0
        self.handed_again = 0

    # --- the cluster ---

    def check(self) -> None:
        """Connect, and see what the workers run that are there. Raises UserError for one that runs something else."""
        if self._client is not None:
            return
        client = self._connect()
        self._see(client.sync(client.scheduler.ncores))
        waiting = {worker.address for worker in self._workers.values()}
        while waiting:
            try:
                kind, content = self._inbox.get(timeout=CHECK_TIMEOUT_S)
            except queue.Empty:
                break
            if kind == "has":
                self._take_answer(*content)
                waiting.discard(content[0])
        for worker in self._workers.values():
            if worker.refused:
                raise UserError(worker.refused)

    def _connect(self) -> Any:
        from distributed import Client, LocalCluster

        with uninterrupted_children(), warnings.catch_warnings():
            # That its usual port is in use, which it then does without, is of no use to anybody.
            warnings.filterwarnings("ignore", message="Port ")
            try:
                if self._address is None:
                    self._cluster = LocalCluster(
                        n_workers=self._jobs,
                        threads_per_worker=1,
                        dashboard_address=None,
                        silence_logs=logging.CRITICAL,
                        preload=["bufferlab.experiments.sweeps.uninterrupted"],
                    )
                self._client = Client(self._cluster or self._address, timeout=CONNECT_TIMEOUT_S, set_as_default=False)
            except (OSError, ValueError) as error:
                raise self._no_answer(error) from None
        for name in list(logging.root.manager.loggerDict):
            if name.startswith("distributed"):  # what the user has to know is said in a sentence
                logging.getLogger(name).setLevel(logging.CRITICAL)
        # The scheduler forgets a topic of this name some time after the client has left.
        self._client.subscribe_topic(self._client.id, self._hear)
        return self._client

    def _no_answer(self, error: Exception) -> UserError:
        if self._address is None:
            return UserError(f"--executor is 'dask', but no cluster could be started on this machine: {error}")
        return UserError(f"--address is {self._address!r}, it must be where a dask scheduler answers")

    def _hear(self, event: tuple[float, Any]) -> None:
        """In the client's thread."""
        _, message = event
        if isinstance(message, dict) and "bufferlab" in message:
            self._inbox.put(("told", message["bufferlab"]))

    def close(self) -> None:
        """Leave the cluster, or end the one that was started here, whatever of it goes wrong."""
        client, cluster = self._client, self._cluster
        self._client = self._cluster = None
        self._workers.clear()
        with ExitStack() as stack:
            if cluster is not None:
                stack.callback(_quietly, cluster.close, timeout=5)
            if client is not None:
                stack.callback(_quietly, client.close, timeout=5)
                stack.callback(_quietly, client.unsubscribe_topic, client.id)

    def _drop_all(self) -> None:
        """Nobody waits for the packs any more. Who was asked what it runs may still answer, for the next runs."""
        futures = list(self._futures.values())
        self._futures.clear()
        if self._client.status == "running":
            with suppress(OSError, TimeoutError):
                self._client.cancel(futures)
        for worker in self._workers.values():
            worker.packs.clear()

    # --- who is there ---

    def _look(self) -> None:
        """Ask the scheduler who is there, without waiting; the answer comes into the inbox."""
        if self._client.status != "running":
            raise self._gone()
        if self._answer is not None and not self._answer.done():
            if time.monotonic() - self._asked_s > SILENT_S:
                raise self._gone()
            return
        if self._answer is not None:
            if self._answer.exception() is not None:
                raise self._gone()
            self._inbox.put(("there", self._answer.result()))
        self._asked_s = time.monotonic()
        self._answer = asyncio.run_coroutine_threadsafe(_ncores(self._client), self._client.loop.asyncio_loop)

    def _gone(self) -> RunFailedError:
        where = f"at {self._address}" if self._address else "on this machine"
        return RunFailedError(f"the dask scheduler {where} does not answer any more")

    def _see(self, there: Mapping[str, int]) -> list[Worker]:
        """Take note of who is there, and ask newcomers what they run; returns who is gone."""
        for address, threads in there.items():
            known = self._workers.get(address)
            if known is None:
                self._workers[address] = known = Worker(address, threads)
                self._ask(known)
            known.missing = 0
        gone = []
        for address in self._workers.keys() - there.keys():
            worker = self._workers[address]
            worker.missing += 1
            if worker.missing >= GONE_AFTER:
                gone.append(self._workers.pop(address))
        self._lure_workers(bool(there))
        return gone

    def _lure_workers(self, has_some: bool) -> None:
        """A cluster that has no worker until there is something to do is given something."""
        if has_some:
            self._lure = None
        elif self._lure is None:
            self._notice("the dask cluster has no worker yet; waiting for the first")
            self._lure = self._client.submit(_nothing, pure=False, key=f"bufferlab_waits-{uuid.uuid4().hex}")

    def _ask(self, worker: Worker) -> None:
        worker.process = ""
        worker.asked = self._client.submit(
            what_it_has,
            list(self._inputs),
            workers=[worker.address],
            allow_other_workers=False,
            pure=False,
            key=f"bufferlab_has-{uuid.uuid4().hex}",
        )
        worker.asked.add_done_callback(partial(self._answered, worker.address))

    def _answered(self, address: str, future: Any) -> None:
        """In another thread."""
        try:
            answer = future.result(timeout=CHECK_TIMEOUT_S)
        except Exception as error:
            answer = error
        self._inbox.put(("has", (address, future, answer)))

    def _take_answer(self, address: str, future: Any, answer: Has | Exception) -> None:
        worker = self._workers.get(address)
        if worker is None or worker.asked is not future or future.cancelled():
            return
        worker.asked = None
        worker.refused = self._why_refused(worker.address, answer)
        if not worker.refused and isinstance(answer, Has):
            worker.process = answer.process

    def _why_refused(self, address: str, answer: Has | Exception) -> str:
        """What a worker has that this process has not; empty if they are the same."""
        if isinstance(answer, Exception):
            return (
                f"the dask worker {address} cannot load bufferlab ({type(answer).__name__}: {answer}); install the "
                "same version there"
            )
        own = self._own
        if answer.code != own.code:
            return (
                f"the dask worker {address} has another version of bufferlab's code (its digest is {answer.code[:12]}, "
                f"here it is {own.code[:12]}); install the same version there"
            )
        if answer.build != own.build:
            there, here = (
                f"runs the build {one.build}" if one.build else f"is interpreted ({one.interpreted_because})"
                for one in (answer, own)
            )
            return (
                f"the dask worker {address} {there}, but this process {here}; compile the same there "
                "(docs/compiled.md), or set BUFFERLAB_COMPILED=0 in both"
            )
        for path, digest in self._inputs.items():
            if answer.inputs[path] != digest:
                found = answer.inputs[path]
                what = found if found.startswith("cannot") else "has another content there"
                return f"the dask worker {address} must see the input file {path} as it is here, but it {what}"
        return ""

    @cached_property
    def _own(self) -> Has:
        """What this process has."""
        return what_it_has(())

    # --- runs ---

    def run(
        self, function: Function, tasks: Iterable[Task], *, group: Group | None = None, name: Name | None = None
    ) -> Generator[tuple[int, Any]]:
        """See ``Workers.run``."""
        self.check()
        count = length_hint(tasks, -1)
        work = Work(tasks, PACK_S, group, count if count >= 0 else None)
        try:
            for ended in self._ended(function, work):
                if ended.error is not None:
                    raise ended.error
                yield ended.index, ended.result
        except LostRunError as lost:
            raise RunFailedError(lost.sentence(name)) from None
        finally:
            self.handed_again += work.handed_again
            self._drop_all()

    def _ended(self, function: Function, work: Work) -> Generator[Ended]:
        run = uuid.uuid4().hex
        self._hand_out(function, work, run)
        while not work.is_done:
            try:
                kind, content = self._inbox.get(timeout=LOOK_EVERY_S)
            except queue.Empty:
                kind, content = "", None
            if kind == "told":
                told: Told = pickle.loads(content)
                if told.run == run:
                    yield from self._take(told, work)
            elif kind == "has":
                self._take_answer(*content)
                self._refuse(content[0])
            elif kind == "there":
                for worker in self._see(content):
                    self._lose(worker, work)
            elif kind == "broken":
                self._check_broken(work, *content)
            self._look_now_and_then()
            self._hand_out(function, work, run)

    def _take(self, told: Told, work: Work) -> Generator[Ended]:
        pack = work.packs.get(told.number)
        worker = None if pack is None else self._workers.get(str(pack.worker))
        if pack is None or worker is None:
            return
        if told.turned_down:  # another process has the address of the one that is lost
            self._lose(worker, work)
            self._ask(worker)
            return
        worker.packs[told.number] = True
        for one in told.ended:
            ended: Ended = pickle.loads(zlib.decompress(one))
            if work.finished(told.number, ended.index, ended.seconds):
                yield ended
        if told.is_over:
            work.returned(told.number)
            self._futures.pop(told.number, None)
            worker.packs.pop(told.number, None)

    def _lose(self, worker: Worker, work: Work) -> None:
        """Hand out again what a worker has not told."""
        self.lost += bool(worker.packs)
        futures = [self._futures.pop(number) for number in worker.packs if number in self._futures]
        self._client.cancel(futures)
        packs, worker.packs = worker.packs, {}
        work.forget(worker.address)
        for place, (number, begun) in enumerate(packs.items()):
            # A worker that is killed by what it begins with has no time to tell that it has begun.
            work.lost(number, begun=begun or place < worker.threads)

    def _refuse(self, address: str) -> None:
        """Say that a worker that came later gets nothing; that is the end if there is no other."""
        worker = self._workers.get(address)
        if worker is None or not worker.refused:
            return
        if all(one.refused for one in self._workers.values()):
            raise RunFailedError(worker.refused)
        self._notice(f"{worker.refused}; it gets nothing to do")

    def _check_broken(self, work: Work, number: int, future: Any) -> None:
        """A pack that has failed as a whole, which no run of it can bring about."""
        pack = work.packs.get(number)
        worker = None if pack is None else self._workers.get(str(pack.worker))
        if worker is None or self._futures.get(number) != future:
            return
        if future.status == "error":
            error = future.exception(timeout=CHECK_TIMEOUT_S)
            if type(error).__name__ == "KilledWorker":
                # Another process may have its address before anybody sees that it was gone.
                self._lose(worker, work)
                self._ask(worker)
                return
            raise RunFailedError(f"the dask worker {worker.address} cannot run a pack: {type(error).__name__}: {error}")
        # Somebody cancelled it, or the scheduler was started anew.
        self._look()
        self._lose(worker, work)

    def _hand_out(self, function: Function, work: Work, run: str) -> None:
        ready = [worker for worker in self._workers.values() if worker.process and not worker.missing]
        places = sum(worker.threads for worker in ready)
        # First a pack for everybody, then the next ones.
        for ahead in range(1, AHEAD + 1):
            for worker in ready:
                while len(worker.packs) < ahead * worker.threads:
                    number = work.pack_for(worker.address, places)
                    if number is None:
                        return
                    self._submit(worker, number, work, write_call(function, work.packs[number].tasks.items()), run)

    def _submit(self, worker: Worker, number: int, work: Work, call: bytes, run: str) -> None:
        future = self._client.submit(
            run_remote,
            call,
            process=worker.process,
            topic=self._client.id,
            run=run,
            number=number,
            careful=work.packs[number].careful,
            workers=[worker.address],
            allow_other_workers=False,
            pure=False,
            key=f"bufferlab_runs-{uuid.uuid4().hex}",
        )
        worker.packs[number] = False
        self._futures[number] = future
        future.add_done_callback(partial(self._over, number))

    def _over(self, number: int, future: Any) -> None:
        """In another thread. That a pack has ended as it should is told by the worker, after all of its runs."""
        if future.status != "finished":
            self._inbox.put(("broken", (number, future)))

    def _look_now_and_then(self) -> None:
        if time.monotonic() - self._looked_s >= LOOK_EVERY_S:
            self._looked_s = time.monotonic()
            self._look()


async def _ncores(client: Any) -> dict[str, int]:
    return dict(await client.scheduler.ncores())


def _quietly(close: Callable[..., object], *arguments: Any, **more: Any) -> None:
    with suppress(OSError, TimeoutError):
        close(*arguments, **more)


def _nothing() -> None:
    """Something to do for a cluster that starts workers when there is."""
