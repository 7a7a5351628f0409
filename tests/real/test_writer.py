"""The transfer workers, with an engine in place of the wire that copies within this process or is held up."""

import ctypes
import queue
import threading
from collections.abc import Sequence
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed (extra real-cpu)")

from bufferlab.protocol.chunks import plan_chunk
from bufferlab.protocol.emulation.scenario import Scenario, WriteFault
from bufferlab.protocol.messages import StartWrite, WriteDone
from bufferlab.protocol.topology import RankId, Side
from bufferlab.real.control.route import Route
from bufferlab.real.engine.base import WriteResult
from bufferlab.real.engine.content import first_difference, room_content
from bufferlab.real.engine.memory import Pool
from bufferlab.real.engine.writer import Writer
from bufferlab.real.errors import EngineError

pytestmark = [pytest.mark.real, pytest.mark.timeout(30)]

TOKENS = 21
WAIT_S = 10.0


class Wire:
    """Takes the place of an engine: moves the segments, after ``gates[session]`` has opened where there is one."""

    def __init__(self) -> None:
        self.gates: dict[str, threading.Event] = {}
        self.writes: list[tuple[str, int]] = []  # (session, segments)
        self.refusal: Exception | None = None
        self.registered: list[range] = []  # addresses; what lies elsewhere is refused, as an engine does

    def write(self, session: str, segments: Sequence[tuple[int, int, int]], timeout_s: float = 30.0) -> WriteResult:
        assert self.gates.get(session) is None or self.gates[session].wait(WAIT_S)
        self.writes.append((session, len(segments)))
        if self.refusal is not None:
            raise self.refusal
        if not all(any(target in region for region in self.registered) for _, target, _ in segments):
            return WriteResult(ok=False, elapsed_s=0.0, completed_bytes=0, quiet=False, failure="no such memory")
        for source, target, length in segments:
            ctypes.memmove(target, source, length)
        return WriteResult(ok=True, elapsed_s=0.0, completed_bytes=sum(segment[2] for segment in segments), quiet=True)


class Bench:
    """A writer between two pools per language instance."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.source = Pool(scenario.layout, 16)
        self.targets = {rank_id: Pool(scenario.layout, 16) for rank_id in scenario.language_ids()}
        self.wire = Wire()
        for pool in self.targets.values():
            sizes = zip(pool.bases, pool.sizes_bytes, strict=True)
            self.wire.registered += [range(base, base + size_bytes) for base, size_bytes in sizes]
        self.done: queue.Queue[WriteDone] = queue.Queue()
        routes = {
            rank_id: Route(rank_id=rank_id, host="", control_port=0, session=str(rank_id), bases=pool.bases)
            for rank_id, pool in self.targets.items()
        }
        engine: Any = self.wire
        self.writer = Writer(engine, self.source, scenario.layout, routes, scenario, self.done.put)

    def start(self, room: int, instance: int, source: tuple[int, ...], target: tuple[int, ...]) -> StartWrite:
        self.source.fill(source, room_content(room, 0, TOKENS, self.scenario.layout))
        chunk = plan_chunk(total_tokens=TOKENS, sent_tokens=0, capacities_tokens=[64], block_tokens=8)
        write = StartWrite(room, 0, 0, RankId(Side.LANGUAGE, instance, 0), chunk, source, target)
        self.writer.start(write)
        return write

    def next_done(self) -> WriteDone:
        return self.done.get(timeout=WAIT_S)


def bench(**changes: Any) -> Bench:
    return Bench(Scenario(block_tokens=8, hidden=32, language_instances=2, **changes))


def test_neighbouring_blocks_are_one_segment_and_arrive() -> None:
    one = bench()
    for room, source, target, segments in (
        (1, (0, 1, 2), (5, 6, 7), 4),  # one segment for each of three kinds, and aux
        (2, (4, 9, 3), (0, 1, 2), 10),  # neighbours on one side only are no neighbours
        (3, (10, 11, 13), (10, 11, 12), 7),
    ):
        write = one.start(room, 0, source, target)
        assert one.next_done() == WriteDone(room, 0, 0, write.destination, True)
        assert one.wire.writes[-1] == (str(write.destination), segments)
        received = one.targets[write.destination].gather(target, TOKENS)
        assert first_difference(room_content(room, 0, TOKENS, one.scenario.layout), received) is None
    one.writer.close()


def test_one_worker_keeps_the_order_over_all_instances() -> None:
    one = bench()
    one.wire.gates["language1.0"] = threading.Event()
    held, behind = one.start(1, 1, (0, 1, 2), (0, 1, 2)), one.start(2, 0, (3, 4, 5), (0, 1, 2))
    with pytest.raises(queue.Empty):
        one.done.get(timeout=0.1)
    one.wire.gates["language1.0"].set()
    assert [one.next_done().room, one.next_done().room] == [held.room, behind.room]
    one.writer.close()


def test_with_two_workers_an_instance_does_not_hold_up_the_other() -> None:
    one = bench(transfer_workers=2)
    one.wire.gates["language1.0"] = threading.Event()
    one.start(1, 1, (0, 1, 2), (0, 1, 2))
    one.start(2, 1, (3, 4, 5), (3, 4, 5))
    one.start(3, 0, (6, 7, 8), (0, 1, 2))
    assert one.next_done().room == 3
    one.wire.gates["language1.0"].set()
    assert [one.next_done().room, one.next_done().room] == [1, 2], "the writes to one instance stay in order"
    one.writer.close()
    assert not any(thread.name.startswith("writer ") for thread in threading.enumerate())


def test_closing_finishes_what_is_queued() -> None:
    one = bench(transfer_workers=2)
    for room in range(1, 9):
        one.start(room, room % 2, (0, 1, 2), (0, 1, 2))
    one.writer.close()
    assert sorted(one.done.get_nowait().room for _ in range(8)) == list(range(1, 9))


def test_a_write_that_is_refused_fails_its_room_and_no_other() -> None:
    one = bench()
    one.wire.refusal = EngineError("source memory is not registered")
    one.start(1, 0, (0, 1, 2), (0, 1, 2))
    failed = one.next_done()
    assert (failed.ok, failed.quiet, failed.reason) == (False, True, "source memory is not registered")
    one.wire.refusal = None
    one.start(2, 0, (0, 1, 2), (0, 1))  # fewer blocks than the chunk needs
    failed = one.next_done()
    assert (failed.room, failed.ok, failed.quiet) == (2, False, True)
    assert "does not fit" in failed.reason
    one.start(3, 0, (0, 1, 2), (0, 1, 2))
    assert one.next_done().ok
    one.writer.close()


def test_an_injected_fault_is_one_segment_that_can_never_land() -> None:
    one = bench(faults=(WriteFault(room=1),))
    one.start(1, 0, (0, 2, 4), (0, 1, 2))
    done = one.next_done()
    assert (done.ok, done.quiet, done.reason) == (False, True, "no such memory")
    assert one.wire.writes == [("language0.0", 1)]
    one.writer.close()
