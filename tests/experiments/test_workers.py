"""Workers on this machine: where a task runs changes nothing, and a process that dies costs nothing but time."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Future
from pathlib import Path
from typing import Any, ClassVar

import pytest

from bufferlab.experiments.errors import RunFailedError
from bufferlab.experiments.sweeps import local
from bufferlab.experiments.sweeps.executor import open_workers
from bufferlab.experiments.sweeps.packs import MOST_LOSSES


def square(number: int) -> tuple[int, int]:
    time.sleep(0.001)
    return number * number, os.getpid()


def dies_once(number: int, mark: str) -> int:
    """The process that runs the first of these with a mark is killed by it; it is a worker."""
    with contextlib.suppress(FileExistsError):
        Path(mark).touch(exist_ok=False)
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def dies(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def dies_late(number: int) -> int:
    if number == 1500:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def breaks(number: int) -> int:
    if number == 30:
        raise RunFailedError(f"run {number} broke")
    return number


def odd_error(number: int) -> int:
    if number == 1:
        raise ZeroDivisionError("oh")
    return number


@pytest.fixture
def pair() -> Iterator[Any]:
    with open_workers(jobs=2) as workers:
        yield workers


def test_workers_stay_warm_from_call_to_call(pair: Any) -> None:
    pids: set[int] = set()
    for _ in range(3):
        done = dict(pair.run(square, [(number,) for number in range(100)]))
        assert {index: result for index, (result, _) in done.items()} == {n: n * n for n in range(100)}
        pids |= {pid for _, pid in done.values()}
    assert os.getpid() not in pids
    assert len(pids) <= 2
    # A single run needs no other process, however many may be had.
    ((_, (_, pid)),) = pair.run(square, [(3,)])
    assert pid == os.getpid()


def test_what_a_notebook_defines_runs_as_well(pair: Any) -> None:
    offset = 7
    assert dict(pair.run(lambda number: number + offset, [(1,), (2,)])) == {0: 8, 1: 9}


def test_a_process_that_dies_is_replaced(pair: Any, tmp_path: Path) -> None:
    mark = str(tmp_path / "mark")
    done = list(pair.run(dies_once, ((number, mark) for number in range(50))))
    assert sorted(done) == [(number, number) for number in range(50)]
    assert pair.lost == 1
    assert pair.handed_again >= 1


def test_a_run_that_kills_its_process_again_and_again_is_named(pair: Any) -> None:
    done = []
    with pytest.raises(RunFailedError, match=r"^number 3: the worker was lost 4 times while it was at it"):
        done.extend(pair.run(dies, [(number,) for number in range(6)], name=lambda task: f"number {task[0]}"))
    assert pair.lost == MOST_LOSSES + 1
    # They can be used again.
    assert len(dict(pair.run(square, [(number,) for number in range(6)]))) == 6


def test_a_run_that_kills_its_process_is_named_among_thousands(pair: Any) -> None:
    done = []
    with pytest.raises(RunFailedError, match=r"^number 1500: the worker was lost 4 times while it was at it"):
        done.extend(pair.run(dies_late, [(number,) for number in range(2000)], name=lambda task: f"number {task[0]}"))
    assert 1500 not in dict(done)
    assert len(done) == len(dict(done)), "a run came twice"


class Scripted:
    """An executor whose first one turns out to be broken when it has a pack and is given another."""

    made: ClassVar[list["Scripted"]] = []

    def __init__(self) -> None:
        self.futures: list[Future[bytes]] = []
        self.ended_with: list[int] = []
        self.made.append(self)

    def submit(self, run: Any, call: bytes) -> Future[bytes]:
        if self is self.made[0] and self.futures:
            error = BrokenExecutor("it died")
            self.futures[0].set_exception(error)
            raise error
        future: Future[bytes] = Future()
        self.futures.append(future)
        if self is not self.made[0]:
            future.set_result(run(call))
        return future

    def shutdown(self, **_: Any) -> None:
        self.ended_with.append(len(self.futures))


def test_a_process_that_replaces_a_dead_one_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_idle", [])
    monkeypatch.setattr(local, "_new_worker", Scripted)
    monkeypatch.setattr(Scripted, "made", [])
    workers = local.LocalWorkers(2)
    assert dict(workers.run(breaks, [(number,) for number in range(20)])) == {n: n for n in range(20)}
    dead, *others = Scripted.made
    assert dead.ended_with == [1]
    assert [one.ended_with for one in others] == [[], []], "a healthy process was killed"
    assert workers.lost == 1


def test_a_run_that_breaks_is_told_as_it_is_here(pair: Any) -> None:
    with pytest.raises(RunFailedError, match=r"^run 30 broke$"):
        list(pair.run(breaks, [(number,) for number in range(50)]))
    with pytest.raises(ZeroDivisionError, match=r"^oh") as broken:
        list(pair.run(odd_error, [(number,) for number in range(5)]))
    assert "in odd_error" in "".join(broken.value.__notes__)


def test_tasks_are_taken_as_they_are_needed(pair: Any) -> None:
    taken = 0

    def endless() -> Iterator[tuple[int]]:
        nonlocal taken
        while True:
            taken += 1
            yield (taken,)

    with contextlib.closing(pair.run(square, endless())) as running:
        for _, _ in zip(range(20), running, strict=False):
            pass
    assert taken < 5000
