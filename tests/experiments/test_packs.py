"""Packs of runs: every run ends once whatever happens to workers, and what is handed out is as much as is wanted."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bufferlab.experiments.sweeps.packs import LOOKED_AHEAD, MOST_LOSSES, LostRunError, Work


def hand_all(work: Work, workers: int, run_s: float = 1.0) -> list[tuple[int, int, list[int]]]:
    """(worker, number, runs) of the packs of workers that take turns, one pack at a time, until nothing is left."""
    packs = []
    while not work.is_done:
        for worker in range(workers):
            number = work.pack_for(worker, workers)
            if number is not None:
                runs = list(work.packs[number].tasks)
                packs.append((worker, number, runs))
                for index in runs:
                    assert work.finished(number, index, run_s)
                work.returned(number)
    return packs


@given(st.integers(0, 300), st.integers(1, 5), st.integers(1, 40), st.floats(1e-4, 100), st.booleans())
def test_every_run_is_handed_out_once(count: int, workers: int, groups: int, run_s: float, known: bool) -> None:
    work = Work(((index,) for index in range(count)), 6.0, lambda task: task[0] % groups, count if known else None)
    packs = hand_all(work, workers, run_s)
    assert sorted(index for _, _, runs in packs for index in runs) == list(range(count))


ENDS = ("returned", "lost before it began", "lost")
EVENT = st.tuples(st.integers(0, 3), st.integers(0, 9), st.sampled_from(ENDS))


@given(st.integers(1, 60), st.lists(EVENT, max_size=30))
def test_every_run_ends_once_whatever_happens_to_workers(count: int, events: list[tuple[int, int, str]]) -> None:
    work = Work(((index,) for index in range(count)), 3.0, lambda task: task[0] // 7, count)
    ended: Counter[int] = Counter()
    left = MOST_LOSSES  # no more, so that no run can be given up
    for worker, told, end in [*events, *[(0, 60, "returned")] * count]:
        number = work.pack_for(worker, 4)
        if number is None:
            continue
        runs = list(work.packs[number].tasks)
        for index in runs[:told]:
            ended[index] += work.finished(number, index, 1.0)
            assert not work.finished(number, index, 1.0), "the same run is taken twice"
        if end == "returned":
            work.returned(number)
        elif end == "lost" and left:
            left -= 1
            work.lost(number, begun=True)
            work.forget(worker)
        else:
            work.lost(number, begun=False)
        assert not any(work.finished(number, index, 1.0) for index in runs), "it is somebody else's by now"
    assert work.is_done
    assert ended == dict.fromkeys(range(count), 1)


def test_packs_grow_to_the_length_that_is_wanted_and_are_short_in_the_end() -> None:
    work = Work(((index,) for index in range(100_000)), 6.0, count=100_000)
    sizes = [len(runs) for _, _, runs in hand_all(work, 4, run_s=0.01)]
    assert sizes[0] == 1
    assert max(sizes) == 600
    assert sizes[-1] <= 12
    assert len(sizes) < 350
    # Runs that last longer than a pack are handed out one by one.
    assert {len(runs) for _, _, runs in hand_all(Work([(0,)] * 50, 6.0), 2, run_s=60.0)} == {1}


def test_tasks_are_read_no_further_ahead_than_is_said() -> None:
    read = []

    def endless() -> Any:
        index = 0
        while True:
            read.append(index)
            yield (index,)
            index += 1

    work = Work(endless(), 6.0)  # one group: the second worker looks for another one in vain
    for worker in (0, 1):
        number = work.pack_for(worker, 2)
        assert number is not None
        assert list(work.packs[number].tasks) == [worker]
    assert len(read) <= 2 + 2 * LOOKED_AHEAD


def test_runs_that_see_the_same_go_to_the_same_worker() -> None:
    work = Work([(group, run) for group in range(6) for run in range(50)], 6.0, lambda task: task[0], 300)
    groups: dict[int, set[int]] = {}
    for worker, _, runs in hand_all(work, 2):
        for index in runs:
            groups.setdefault(index // 50, set()).add(worker)
    # Towards the end a worker that has nothing left helps the other one.
    assert sum(len(workers) for workers in groups.values()) <= 6 + 1


def test_a_run_that_loses_worker_after_worker_is_given_up() -> None:
    work = Work([(index,) for index in range(3)], 6.0, count=3)
    for _ in range(MOST_LOSSES):
        number = work.pack_for("worker", 1)
        assert number is not None
        work.lost(number, begun=True)
    with pytest.raises(LostRunError) as lost:
        while (number := work.pack_for("worker", 1)) is not None:
            work.lost(number, begun=True)
    assert lost.value.losses == MOST_LOSSES + 1
    assert "configuration 7: the worker was lost 4 times" in lost.value.sentence(lambda _task: "configuration 7")


@pytest.mark.parametrize("tells_each", [True, False])
def test_the_run_that_costs_workers_is_named_wherever_it_is_in_a_pack(tells_each: bool) -> None:
    work = Work([(index,) for index in range(2000)], 6.0, count=2000, tells_each=tells_each)
    losses = 0
    with pytest.raises(LostRunError) as lost:
        while (number := work.pack_for("worker", 1)) is not None:
            pack = work.packs[number]
            runs = list(pack.tasks)
            ended = runs[: runs.index(1500)] if 1500 in runs else runs
            # What ended of a pack that breaks off is known where it was told, which nobody does without need.
            for index in ended if 1500 not in runs or (pack.careful and tells_each) else []:
                assert work.finished(number, index, 0.01)
            if 1500 in runs:
                losses += 1
                work.lost(number, begun=True)
            else:
                work.returned(number)
    assert lost.value.index == 1500
    assert lost.value.losses == MOST_LOSSES + 1
    assert losses <= MOST_LOSSES + 2


def test_runs_beside_one_that_costs_workers_stay_under_watch() -> None:
    work = Work([(index,) for index in range(8)], 6.0, count=8, tells_each=False)
    for index in range(4):
        number = work.pack_for("worker", 1)
        assert number is not None
        assert work.finished(number, index, 1.0)
        work.returned(number)
    number = work.pack_for("worker", 1)
    assert number is not None
    assert list(work.packs[number].tasks) == [4, 5]
    work.lost(number, begun=True)
    begun, ahead = work.pack_for("worker", 1), work.pack_for("worker", 1)
    assert begun is not None
    assert ahead is not None
    work.lost(begun, begun=True)
    work.lost(ahead, begun=False)
    number = work.pack_for("worker", 1)
    assert number is not None
    assert list(work.packs[number].tasks) == [5]
    assert work.packs[number].careful
