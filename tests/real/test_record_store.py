"""What is written down of processes that were killed."""

from __future__ import annotations

import errno
import io
import tempfile
import tracemalloc
from itertools import chain
from pathlib import Path

import pytest

from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.protocol.observe.monitor import InvariantMonitor
from bufferlab.protocol.recording import Event, Record
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side
from bufferlab.real.run.commands import Records
from bufferlab.real.run.record_store import RecordStore

LANGUAGE = RankId(Side.LANGUAGE, 0, 0)
SCENARIO = Scenario(block_tokens=16, hidden=64, encode_blocks=64, language_blocks=64)


def told(*steps: tuple[float, int, Event, Status, int]) -> Records:
    return Records(LANGUAGE, 0, [(*step, 0, "") for step in steps])


def lasts(record_store: RecordStore, room: int) -> list[tuple[float, Event, Status | None, int]]:
    (kept,) = [listed for listed in map(list, record_store.records()) if any(one.room == room for one in listed)]
    return [(one.time_s, one.event, one.status, one.tokens) for one in kept if one.room == room]


def test_a_room_fails_where_it_was_when_its_process_ended() -> None:
    record_store = RecordStore()
    record_store.end(LANGUAGE, 0, [1], 2.0)
    # What it said before its end may be read after that was noticed.
    record_store.add(
        told(
            (0.1, 1, Event.SUBMITTED, Status.Bootstrapping, 0),
            (0.2, 1, Event.OFFERED, Status.WaitingForInput, 0),
            (0.3, 1, Event.CHUNK_RECEIVED, Status.Transferring, 64),
            (0.4, 1, Event.ALLOCATED, Status.Transferring, 1024),
        )
    )
    assert lasts(record_store, 1)[-2:] == [
        (2.0, Event.FAILED, Status.Failed, 64),
        (2.0, Event.RELEASED, Status.Failed, 64),
    ]


def test_a_delivered_room_is_released_and_one_that_was_over_stays_as_it_is() -> None:
    record_store = RecordStore()
    over = (
        (0.1, 1, Event.SUBMITTED, Status.Bootstrapping, 0),
        (0.5, 1, Event.DELIVERED, Status.Success, 64),
        (0.5, 1, Event.RELEASED, Status.Success, 64),
    )
    record_store.add(
        told(*over, (0.6, 2, Event.SUBMITTED, Status.Bootstrapping, 0), (0.9, 2, Event.DELIVERED, Status.Success, 80))
    )
    record_store.end(LANGUAGE, 0, [], 0.8)
    assert len(lasts(record_store, 1)) == 3
    # Not before the last thing it wrote down, however early its end was noticed.
    assert lasts(record_store, 2)[-1] == (0.9, Event.RELEASED, Status.Success, 80)
    assert len(lasts(record_store, 2)) == 3


def test_rooms_of_which_nothing_was_heard_and_refused_ones_failed_as_they_came() -> None:
    record_store = RecordStore()
    record_store.end(LANGUAGE, 0, [3], 1.5)
    record_store.refuse(LANGUAGE, 4, 2.5, "refused: language0 is down")
    for room, time_s in ((3, 1.5), (4, 2.5)):
        assert lasts(record_store, room) == [
            (time_s, Event.SUBMITTED, Status.Bootstrapping, 0),
            (time_s, Event.FAILED, Status.Failed, 0),
            (time_s, Event.RELEASED, Status.Failed, 0),
        ]


def test_a_new_process_has_records_of_its_own_and_no_invariant_is_violated() -> None:
    record_store = RecordStore()
    record_store.add(told((0.1, 1, Event.SUBMITTED, Status.Bootstrapping, 0)))
    record_store.end(LANGUAGE, 0, [1], 0.5)
    record_store.add(Records(LANGUAGE, 1, [(0.9, 2, Event.SUBMITTED, Status.Bootstrapping, 0, 0, "")]))
    record_store.end(LANGUAGE, 1, [2], 1.0)
    invariants = InvariantMonitor(SCENARIO)
    for room in (1, 2):
        invariants.expect(Request(room, 0.0, 10))
    records: list[Record] = sorted(chain(*record_store.records()), key=lambda one: one.time_s)
    for record in records:
        invariants(*record)
    assert [(one.room, one.event.value) for one in records] == [
        *((1, event) for event in ("submitted", "failed", "released")),
        *((2, event) for event in ("submitted", "failed", "released")),
    ]
    assert (invariants.violations, invariants.open_rooms) == (0, [])


def test_what_was_told_in_parts_is_read_as_one_and_by_several_at_a_time() -> None:
    record_store = RecordStore()
    for first in range(0, 6, 2):
        record_store.add(
            told(*((0.1 * room, room, Event.SUBMITTED, Status.Bootstrapping, 0) for room in (first, first + 1)))
        )
    record_store.add(told())
    _, process = record_store.records(lambda records: (one._replace(time_s=one.time_s + 1.0) for one in records))
    assert [(round(one.time_s, 3), one.room) for one in process] == [(1 + room / 10, room) for room in range(6)]
    (_, once), (_, again) = record_store.records(), record_store.records()
    assert [one.room for pair in zip(once, again, strict=True) for one in pair] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_a_room_that_ended_before_its_process_did_is_not_failed_for_want_of_the_last_part() -> None:
    record_store = RecordStore()
    record_store.add(told((0.1, 1, Event.SUBMITTED, Status.Bootstrapping, 0)))
    record_store.end(LANGUAGE, 0, [], 2.0)
    assert lasts(record_store, 1) == [(0.1, Event.SUBMITTED, Status.Bootstrapping, 0)]


def test_all_records_are_read_in_order_and_anew_and_never_held_at_once() -> None:
    record_store = RecordStore()
    for part in range(40):
        for rank in (0, 1):
            steps = [(part + step / 1000, 1, Event.SUBMITTED, Status.Bootstrapping, 0, 0, "") for step in range(1000)]
            record_store.add(Records(RankId(Side.ENCODE, 0, rank), 0, steps))
    merged = record_store.merged()
    for _ in range(2):
        tracemalloc.start()
        last_s, count = 0.0, 0
        for record in merged:
            assert record.time_s >= last_s
            last_s, count = record.time_s, count + 1
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert count == 80_000
        assert peak_bytes < 4_000_000, "a list of them takes four times as much"


class FullDisk:
    """A file on a disk with room for ``room`` bytes."""

    def __init__(self, room: int) -> None:
        self._file = io.BytesIO()
        self._room = room

    def seek(self, place: int) -> int:
        return self._file.seek(place)

    def read(self, size: int) -> bytes:
        return self._file.read(size)

    def write(self, content: memoryview) -> int:
        """As the operating system does it: less than was wanted, and only then an error."""
        if not self._room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self._file.write(content[: self._room])
        self._room -= written
        return written


@pytest.mark.parametrize("room", [0, 100, 100_000])
def test_what_the_disk_has_no_room_for_is_said_once_and_not_lost(
    room: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: FullDisk(room))
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    record_store = RecordStore()
    rank = RankId(Side.ENCODE, 0, 0)
    refused = []
    for part in range(10):
        steps = [(part + step / 1000, 1, Event.DELIVERED, None, 0, 0, "") for step in range(1000)]
        try:
            record_store.add(Records(rank, 0, steps))
        except OSError as error:
            refused.append(error.filename)
    assert refused == [str(tmp_path)]
    assert record_store.delivered(rank, 0) == 10_000
    for _ in range(2):
        assert [round(1000 * one.time_s) for one in record_store.merged()] == list(range(10_000))


def test_that_no_file_can_be_made_is_like_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    record_store = RecordStore()
    rank = RankId(Side.ENCODE, 0, 0)
    steps = [(step / 1000, 1, Event.DELIVERED, None, 0, 0, "") for step in range(1000)]
    with pytest.raises(OSError, match="Too many open files"):
        record_store.add(Records(rank, 0, steps))
    assert len(list(record_store.merged())) == 1000
