"""Which run goes to which worker, and when: packs of runs that last long enough to be worth handing out.

A worker gets a few runs at first, and more as it is known how long they last. It goes on with runs of the group it has
begun (``group``: those that see the same requests) while others take other groups. Towards the end packs become short,
so that no worker waits long for the last one. A run that was given to a worker that is lost is given to another one,
in such a way that it is known which run was under way if that one is lost as well; one that loses worker after worker
is given up. Nothing here knows a process, a network or a clock.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Task = Sequence[Any]
"""The arguments of one run."""
Name = Callable[[Task], str]
Group = Callable[[Task], Hashable]

LOOKED_AHEAD = 256
"""Runs per worker that are read from the caller before they are handed out, to find a group that nobody has begun."""
MOST_RUNS = 5_000
"""Runs in one pack: what is handed out at once stays small however short they are."""
MOST_LOSSES = 3
"""Workers that may be lost with a run under way before it is given up."""
REMEMBERED = 0.98
"""How much what is known of the length of a run counts after another one has ended."""


class LostRunError(Exception):
    """A run was under way on too many workers that were lost."""

    def __init__(self, index: int, task: Task, losses: int) -> None:
        super().__init__(index, task, losses)
        self.index, self.task, self.losses = index, task, losses

    def sentence(self, name: Name | None) -> str:
        """What a user is told, with the run by its name."""
        run = name(self.task) if name is not None else f"run {self.index}"
        return (
            f"{run}: the worker was lost {self.losses} times while it was at it, so it is given up; it may "
            "need more memory than there is"
        )


@dataclass
class Pack:
    """What a worker has been given and has not finished."""

    worker: Hashable
    tasks: dict[int, Task]
    """By index, in the order in which they are run."""
    careful: bool
    """Whether what is finished is to be told run by run, since one of them may have cost a worker already."""
    names_the_lost: bool
    """Whether it is known which run was under way if the worker is lost: the first of those that have not ended."""


class Work:
    """Hands out ``tasks`` in packs that last ``pack_s`` if they are long enough, and knows what is not finished.

    ``tasks`` is read as packs are asked for, ahead of them by no more than ``LOOKED_AHEAD`` per worker; ``count``:
    how many there are, if that is known. ``tells_each``: whether workers tell run by run what is finished of a pack
    that is ``careful``; if they tell nothing before the end of a pack, such a one is a single run.
    """

    def __init__(
        self,
        tasks: Iterable[Task],
        pack_s: float,
        group: Group | None = None,
        count: int | None = None,
        *,
        tells_each: bool = True,
    ) -> None:
        self._unread: Iterator[tuple[int, Task]] = iter(enumerate(tasks))
        self._left = count
        self._pack_s = pack_s
        self._group = group or (lambda _task: None)
        self._tells_each = tells_each
        self._waiting: dict[Hashable, deque[tuple[int, Task]]] = {}
        self._ahead = 0
        self._owners: dict[Hashable, Hashable] = {}
        self._current: dict[Hashable, Hashable] = {}
        self._again: deque[tuple[int, Task]] = deque()
        self._packs: dict[int, Pack] = {}
        self._numbers = 0
        self._losses: Counter[int] = Counter()
        self._finished = 0
        self._seconds = self._runs = 0.0
        self.handed_again = 0
        """Runs that were given to another worker because theirs was lost."""

    @property
    def packs(self) -> dict[int, Pack]:
        """What is under way, by number."""
        return self._packs

    @property
    def is_done(self) -> bool:
        """Whether every run has finished."""
        return not self._packs and not self._has_more()

    def pack_for(self, worker: Hashable, workers: int) -> int | None:
        """The number of a pack for this one of so many workers; None if there is nothing left to hand out."""
        size = self._size(workers)
        if careful := bool(self._again):
            size = min(size, len(self._again)) if self._tells_each else 1
            runs = [self._again.popleft() for _ in range(size)]
        else:
            runs = self._take(worker, size, LOOKED_AHEAD * workers)
        if not runs:
            return None
        if self._left is not None:
            self._left -= len(runs)
        number, self._numbers = self._numbers, self._numbers + 1
        self._packs[number] = Pack(worker, dict(runs), careful, names_the_lost=careful or len(runs) == 1)
        return number

    def finished(self, number: int, index: int, seconds: float) -> bool:
        """A run of a pack has ended after so long; whether it is the first time that this is said."""
        pack = self._packs.get(number)
        if pack is None or pack.tasks.pop(index, None) is None:
            return False
        self._seconds = self._seconds * REMEMBERED + seconds
        self._runs = self._runs * REMEMBERED + 1
        self._finished += 1
        return True

    def returned(self, number: int) -> None:
        """The worker has nothing more of this pack; what it did not get to is the next to be handed out."""
        pack = self._packs.pop(number, None)
        if pack is None:
            return
        for index, task in reversed(pack.tasks.items()):
            if pack.careful:
                self._again.appendleft((index, task))
            else:
                self._put(index, task, first=True)
        self._left = None if self._left is None else self._left + len(pack.tasks)

    def lost(self, number: int, *, begun: bool) -> None:
        """The worker is lost. Raises LostRunError for a run that was under way on too many lost workers.

        ``begun``: whether it had begun with the pack. A loss counts where it is known which run it is the fault of.
        """
        pack = self._packs.get(number)
        if pack is None:
            return
        self.handed_again += len(pack.tasks)
        if not begun:
            self.returned(number)
            return
        del self._packs[number]
        self._left = None if self._left is None else self._left + len(pack.tasks)
        self._again.extend(pack.tasks.items())
        if pack.tasks and pack.names_the_lost:
            index, task = next(iter(pack.tasks.items()))
            self._losses[index] += 1
            if self._losses[index] > MOST_LOSSES:
                raise LostRunError(index, task, self._losses[index])

    def forget(self, worker: Hashable) -> None:
        """This worker asks for nothing any more; others may go on with its group."""
        group = self._current.pop(worker, None)
        if group is not None and self._owners.get(group) == worker:
            del self._owners[group]

    # --- how many ---

    def _size(self, workers: int) -> int:
        if not self._finished:
            return 1
        mean_s = max(self._seconds / self._runs, 1e-9)
        lasts_s = self._pack_s
        if self._left is not None:  # two more packs for everybody at least, down to short ones
            lasts_s = min(lasts_s, max(self._left * mean_s / (2 * workers), self._pack_s / 50))
        # The first runs tell little: no worker is given more at once than each has finished by then.
        return max(1, min(round(lasts_s / mean_s), self._finished // workers, MOST_RUNS))

    # --- which ---

    def _take(self, worker: Hashable, size: int, ahead: int) -> list[tuple[int, Task]]:
        runs: list[tuple[int, Task]] = []
        while len(runs) < size:
            group = self._group_for(worker, ahead)
            if group is None:
                break
            queue = self._waiting[group]
            while queue and len(runs) < size:
                runs.append(queue.popleft())
                self._ahead -= 1
                if not queue and len(runs) < size and self._ahead < ahead:
                    self._read()
            if not queue:
                del self._waiting[group]
        return runs

    def _group_for(self, worker: Hashable, ahead: int) -> Hashable | None:
        """The group to go on with: as a one-tuple of its name, which is a key of what waits; None if nothing does."""
        own = self._current.get(worker)
        if own is not None and (own in self._waiting or self._reads_more_of(own, ahead)):
            return own
        self.forget(worker)
        free = next((group for group in self._waiting if group not in self._owners), None)
        while free is None and self._ahead < ahead and (read := self._read()) is not None:
            free = read if read not in self._owners else None
        if free is None:
            # Everybody has a group: help with the one that has most left, without taking it over.
            return max(self._waiting, key=lambda group: len(self._waiting[group]), default=None)
        self._owners[free] = worker
        self._current[worker] = free
        return free

    def _reads_more_of(self, group: Hashable, ahead: int) -> bool:
        """Whether the next run that is read is one more of this group."""
        return self._ahead < ahead and self._read() == group

    def _read(self) -> Hashable | None:
        """Read one more run and return its group; None at the end."""
        following = next(self._unread, None)
        return None if following is None else self._put(*following)

    def _put(self, index: int, task: Task, *, first: bool = False) -> Hashable:
        group = (self._group(task),)  # a tuple, so that None is a name like any other
        queue = self._waiting.setdefault(group, deque())
        if first:
            queue.appendleft((index, task))
        else:
            queue.append((index, task))
        self._ahead += 1
        return group

    def _has_more(self) -> bool:
        return bool(self._again) or bool(self._waiting) or self._read() is not None
