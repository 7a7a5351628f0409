"""What the processes of a run recorded, completed for those that were killed: how that ended their rooms.

Ranks send their records on in parts, at the latest with the word that a room is over. A process that is killed takes
along what it has not sent; where that is planned, records are sent on at once. The router writes down the rest: whoever
waited for a process sees its connection break, and a request that may not be given to them is refused
(``protocol.lifecycle``). The simulator records the same.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from operator import attrgetter

from bufferlab.protocol.lifecycle import PROCESS_ENDED, life_of_the_lost
from bufferlab.protocol.recording import Event, Record
from bufferlab.protocol.status import FINAL, Status
from bufferlab.protocol.topology import RankId
from bufferlab.real.run.commands import RecordPayload, Records
from bufferlab.real.run.spool import Spool

_PROGRESS = frozenset({Event.CHUNK_STARTED, Event.CHUNK_DONE, Event.CHUNK_RECEIVED, Event.DELIVERED})
"""Events whose tokens say how far a room has come."""


class RecordStore:
    """Keeps the records of a run's processes, and completes those of processes that ended in it.

    Times are seconds of the run.
    """

    def __init__(self) -> None:
        self._payloads: dict[tuple[RankId, int], Spool] = {}
        self._ended: dict[tuple[RankId, int], tuple[float, frozenset[int]]] = {}
        self._refused: list[Record] = []
        self._delivered: Counter[tuple[RankId, int]] = Counter()

    def close(self) -> None:
        """Let go of all records: nobody will read them."""
        for spool in self._payloads.values():
            spool.close()

    def add(self, told: Records) -> None:
        """Take what a process recorded."""
        self.take(told.rank_id, told.generation, told.records)

    def take(self, rank_id: RankId, generation: int, records: list[RecordPayload]) -> None:
        """Take what the process of a rank recorded. Raises OSError, after it is taken, when the disk is full."""
        self._delivered[rank_id, generation] += sum(event is Event.DELIVERED for _, _, event, *_ in records)
        self._of(rank_id, generation).add(records)

    def delivered(self, rank_id: RankId, generation: int) -> int:
        """How many embeddings a process delivered, as far as it told."""
        return self._delivered[rank_id, generation]

    def refuse(self, rank_id: RankId, room: int, time_s: float, reason: str) -> None:
        """A request was not given to this rank."""
        self._refused.extend(_life(rank_id, room, time_s, reason))

    def end(self, rank_id: RankId, generation: int, waiting: Iterable[int], time_s: float) -> None:
        """A process ended, and ``waiting`` are the rooms that had not ended on it. What it said may still come in."""
        self._of(rank_id, generation)
        self._ended[rank_id, generation] = time_s, frozenset(waiting)

    def _of(self, rank_id: RankId, generation: int) -> Spool:
        if (rank_id, generation) not in self._payloads:
            self._payloads[rank_id, generation] = Spool(rank_id)
        return self._payloads[rank_id, generation]

    def merged(self, clocked: Callable[[Iterable[Record]], Iterable[Record]] = iter) -> Iterable[Record]:
        """Everything in order of time; see ``records``."""
        return _Merged(lambda: self.records(clocked))

    def records(self, clocked: Callable[[Iterable[Record]], Iterable[Record]] = iter) -> list[Iterable[Record]]:
        """Everything: one for each process and one for what was refused, each in order of time.

        ``clocked`` turns the times of what processes told into times of the run, where their clocks differ.
        """
        each: list[Iterable[Record]] = [self._refused]
        for (rank_id, generation), told in self._payloads.items():
            records = clocked(told)
            if (rank_id, generation) in self._ended:
                time_s, waiting = self._ended[rank_id, generation]
                records = chain(records, _last_records(rank_id, clocked(told), waiting, time_s))
            each.append(records)
        return each


class _Merged:
    """Records in order of time, read anew whenever they are gone through: those of a long run fill the memory."""

    def __init__(self, parts: Callable[[], list[Iterable[Record]]]) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[Record]:
        return heapq.merge(*self._parts(), key=attrgetter("time_s"))


def _last_records(rank_id: RankId, told: Iterable[Record], waiting: frozenset[int], time_s: float) -> Iterator[Record]:
    """What a process that ended at ``time_s`` would have written down of its end."""
    status: dict[int, Status] = {}
    tokens: dict[int, int] = {}
    known = set()
    for record in told:
        time_s = max(time_s, record.time_s)
        known.add(record.room)
        if record.event is Event.RELEASED:
            del status[record.room]
            continue
        if record.status is not None:
            status[record.room] = record.status
        if record.event in _PROGRESS:
            tokens[record.room] = record.tokens
    for room, ended in status.items():
        got = tokens.get(room, 0)
        if ended not in FINAL:
            if room not in waiting:
                continue  # it ended there; how was in the part that is lost
            yield Record(time_s, rank_id, room, Event.FAILED, Status.Failed, got, 0, PROCESS_ENDED)
        last = ended if ended in FINAL else Status.Failed
        yield Record(time_s, rank_id, room, Event.RELEASED, last, got, 0, PROCESS_ENDED)
    for room in sorted(waiting - known):
        yield from _life(rank_id, room, time_s, PROCESS_ENDED)


def _life(rank_id: RankId, room: int, time_s: float, reason: str) -> Iterator[Record]:
    """A room that failed as it came."""
    for event, status, detail in life_of_the_lost(reason):
        yield Record(time_s, rank_id, room, event, status, 0, 0, detail)
