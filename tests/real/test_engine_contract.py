"""What every transfer engine must do (``real.engine.base``): each transport that is registered passes this class.

The peer is a process of its own, with memory that has unregistered bytes on both sides of the registered ones.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bufferlab.real.engine.base import Segment, TransferEngine, WriteResult
from bufferlab.real.engine.registry import engine_class, engines, start_engine, transports
from bufferlab.real.errors import EngineError, EngineMissing

pytestmark = pytest.mark.timeout(90)

ROOT = Path(__file__).resolve().parents[2]
SIZE = 24 << 20
GUARD = 4096
PEER = """
import hashlib, json, sys
import numpy as np
from bufferlab.real.engine.registry import start_engine
transport, size, guard = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
memory = np.zeros(size + 2 * guard, dtype=np.uint8)
base = int(memory.ctypes.data) + guard
engine = start_engine(transport)
engine.register_region(base, size, "memory")
print(json.dumps([engine.session, base, engine.proof.actual]), flush=True)
for line in sys.stdin:
    match json.loads(line):
        case "digest", start, length:
            answer = hashlib.sha256(memory[guard + start : guard + start + length].tobytes()).hexdigest()
        case ["withdraw"]:
            engine.unregister_region(base)
            answer = "done"
        case ["traffic"]:
            answer = [] if engine.traffic() is None else [engine.traffic().sent_bytes, engine.traffic().placed_bytes]
    print(json.dumps(answer), flush=True)
"""


def lacking(transport: str) -> str:
    """Why this transport cannot be tried here; empty when it can."""
    engine = engine_class(transport)
    try:
        engine.require()
    except EngineMissing as missing:
        return str(missing)
    adapters = Path("/sys/class/infiniband")
    if transport in engine.device_transports and not (adapters.is_dir() and any(adapters.iterdir())):
        return f"this machine has no adapter for {transport}"
    return ""


class Peer:
    """A process with registered memory."""

    def __init__(self, transport: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PEER, transport, str(SIZE), str(GUARD)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.session, self.base, self.transport = self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()  # bounded by the test's timeout
        assert line, "the peer process ended early"
        return json.loads(line)

    def ask(self, *question: object) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def holds(self, start: int, expected: bytes | np.ndarray) -> bool:
        """Whether these bytes lie at ``start`` of its registered memory, which may be negative."""
        content = bytes(expected)
        return bool(self.ask("digest", start, len(content)) == hashlib.sha256(content).hexdigest())

    def stop(self) -> None:
        """Let it hang; the signal takes effect when it is delivered."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)

    def end(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=10)


def test_every_transport_has_one_engine_and_says_what_it_is() -> None:
    assert list(engines()) == list(transports())
    for transport, engine in engines().items():
        assert engine.transports[transport]
        assert engine.device_transports <= engine.transports.keys()
        assert engine.late_write_s > 0


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=pytest.mark.real if engine_class(name).needs_mooncake else ()) for name in transports()
    ],
)
def transport(request: pytest.FixtureRequest) -> str:
    if why := lacking(request.param):
        pytest.skip(why)
    return str(request.param)


@pytest.fixture(scope="module")
def engine(transport: str) -> Iterator[TransferEngine]:
    engine = start_engine(transport)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def memory(engine: TransferEngine) -> Iterator[np.ndarray]:
    """Registered memory of this process, full of noise."""
    memory = np.random.default_rng(11).integers(0, 256, SIZE, dtype=np.uint8)
    engine.register_region(int(memory.ctypes.data), SIZE, "memory")
    yield memory
    engine.unregister_region(int(memory.ctypes.data))


@pytest.fixture(scope="module")
def source(memory: np.ndarray) -> int:
    return int(memory.ctypes.data)


@pytest.fixture(scope="module")
def peer(engine: TransferEngine, transport: str) -> Iterator[Peer]:
    """One peer for all tests that leave it well."""
    peer = Peer(transport)
    yield peer
    peer.end()


@pytest.fixture
def new_peer(engine: TransferEngine, transport: str) -> Iterator[Callable[[], Peer]]:
    """Peers that the test may stop or kill."""
    peers: list[Peer] = []

    def start() -> Peer:
        peers.append(Peer(transport))
        return peers[-1]

    yield start
    for peer in peers:
        peer.end()


class TestEveryEngine:
    """The contract."""

    # --- what arrives ---

    def test_every_byte_arrives_at_its_place_and_no_other_changes(
        self, engine: TransferEngine, memory: np.ndarray, source: int, peer: Peer
    ) -> None:
        rng = np.random.default_rng(5)
        expected = np.zeros(1 << 20, dtype=np.uint8)
        segments: list[Segment] = []
        starts = np.sort(rng.choice(1 << 12, 60, replace=False)) * 256  # in slots of 256 bytes, never overlapping
        for start in starts.tolist():
            length, at = int(rng.integers(1, 257)), int(rng.integers(0, SIZE - 257))
            segments.append((source + at, peer.base + start, length))
            expected[start : start + length] = memory[at : at + length]
        result = engine.write(peer.session, segments)
        assert result.ok, result.failure
        assert result.quiet
        assert result.failure == ""
        assert result.completed_bytes == sum(length for _, _, length in segments)
        assert peer.holds(0, expected)

    def test_one_large_segment_and_thousands_of_small_ones(
        self, engine: TransferEngine, memory: np.ndarray, source: int, peer: Peer
    ) -> None:
        result = engine.write(peer.session, [(source, peer.base, SIZE)])
        assert result.ok, result.failure
        assert peer.holds(0, memory)
        # Backwards: the last segment of the source first.
        count, size = 3000, 24
        segments = [(source + (count - 1 - n) * size, peer.base + n * size, size) for n in range(count)]
        result = engine.write(peer.session, segments)
        assert result.ok, result.failure
        assert result.completed_bytes == count * size
        assert peer.holds(
            0, np.concatenate([*memory[: count * size].reshape(count, size)[::-1], memory[count * size :]])
        )

    def test_nothing_to_write_is_a_success(self, engine: TransferEngine, source: int, peer: Peer) -> None:
        for session, segments in (("127.0.0.1:1", []), (peer.session, [(source, peer.base, 0)])):
            result = engine.write(session, segments)
            assert result.ok
            assert result.quiet
            assert result.completed_bytes == 0

    def test_threads_may_write_at_once(
        self, engine: TransferEngine, memory: np.ndarray, source: int, peer: Peer
    ) -> None:
        share, results = 256 << 10, []

        def write(number: int) -> None:
            for round_ in range(6):
                at = number * share
                segments = [(source + at + n, peer.base + at + n, 1024) for n in range(0, share, 1024)]
                results.append(
                    engine.write(peer.session, segments if round_ % 2 else [(source + at, peer.base + at, share)])
                )

        threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert [result.failure for result in results] == [""] * 24
        assert peer.holds(0, memory[: 4 * share])

    def test_a_source_may_be_used_again_when_its_write_is_quiet(
        self, engine: TransferEngine, memory: np.ndarray, source: int, peer: Peer
    ) -> None:
        size = 2 << 20
        before = memory[:size].copy()
        try:
            for value in range(5):
                memory[:size] = value
                assert engine.write(peer.session, [(source, peer.base + value * size, size)]).quiet
                memory[:size] = 255
            for value in range(5):
                assert peer.holds(value * size, np.full(size, value, dtype=np.uint8))
        finally:
            memory[:size] = before

    def test_posting_is_a_part_of_the_write(self, engine: TransferEngine, source: int, peer: Peer) -> None:
        segments = [(source + n, peer.base + n, 4096) for n in range(0, 8 << 20, 4096)]
        started = time.perf_counter()
        result = engine.write(peer.session, segments)
        took_s = time.perf_counter() - started
        assert result.ok, result.failure
        assert 0 < result.posted_s <= result.elapsed_s <= took_s
        assert engine.write("127.0.0.1:1", segments[:1]).posted_s == 0, "nothing was handed over"

    # --- what is not registered ---

    def test_unregistered_sources_are_refused_before_anything_is_sent(
        self, engine: TransferEngine, memory: np.ndarray, source: int, peer: Peer
    ) -> None:
        assert engine.write(peer.session, [(source, peer.base, 4096)]).ok
        foreign = np.zeros(64, dtype=np.uint8)
        for bad, length in (
            (int(foreign.ctypes.data), 64),
            (source + SIZE - 10, 20),
            (source - 1, 2),
            (source, -1),
            (0, 1),
        ):
            with pytest.raises(EngineError, match="not registered"):
                engine.write(peer.session, [(source + 5000, peer.base, 8), (bad, peer.base, length)])
        for target in (-1, 1 << 64):
            with pytest.raises(EngineError, match="is no address"):
                engine.write(peer.session, [(source + 5000, peer.base, 8), (source, target, 8)])
        assert peer.holds(0, memory[:4096])

    def test_a_target_that_is_not_registered_is_not_written(
        self, engine: TransferEngine, memory: np.ndarray, source: int, peer: Peer
    ) -> None:
        assert engine.write(peer.session, [(source, peer.base, 8192)]).ok
        for bad in (
            peer.base + SIZE,  # right behind it
            peer.base + SIZE - 10,  # beginning within it
            peer.base - 10,  # ending within it
            peer.base + (1 << 40),
            0,
        ):
            result = engine.write(peer.session, [(source, bad, 64), (source, peer.base, 64)])
            assert not result.ok
            assert peer.session in result.failure
            assert result.elapsed_s < 5.0
            assert result.completed_bytes in (0, 64)
        nothing = np.zeros(GUARD, dtype=np.uint8)
        assert peer.holds(-GUARD, nothing)
        assert peer.holds(SIZE, nothing)
        assert peer.holds(0, memory[:8192])
        assert engine.write(peer.session, [(source, peer.base, 64)]).ok, "the peer can be written to as before"

    def test_regions_never_overlap_and_can_be_withdrawn(self, engine: TransferEngine, source: int, peer: Peer) -> None:
        region = np.zeros(3 * 4096, dtype=np.uint8)
        middle = int(region.ctypes.data) + 4096
        engine.register_region(middle, 4096, "a region")
        for base, size in (
            (middle, 4096),
            (middle - 10, 20),
            (middle + 4086, 20),
            (middle - 10, 8192),
            (middle + 5, 1),
        ):
            with pytest.raises(EngineError, match=f"refused to register another, {size} bytes: it overlaps"):
                engine.register_region(base, size, "another")
        with pytest.raises(EngineError, match="refused to register nothing, 0 bytes"):
            engine.register_region(middle + 4096, 0, "nothing")
        assert engine.write(peer.session, [(middle, peer.base, 4096)]).ok
        engine.unregister_region(middle)
        with pytest.raises(EngineError, match="not registered"):
            engine.write(peer.session, [(middle, peer.base, 4096)])
        engine.register_region(middle, 4096, "again")
        assert engine.write(peer.session, [(middle, peer.base, 4096)]).ok
        engine.unregister_region(middle)

    # --- peers that are not there ---

    def test_a_peer_that_is_not_there_is_named(self, engine: TransferEngine, source: int) -> None:
        result = engine.write("127.0.0.1:1", [(source, 4096, 64)])
        assert not result.ok
        assert result.quiet, "nothing was sent"
        assert result.failure.startswith("write to 127.0.0.1:1: the peer cannot be reached")
        assert not engine.connect("127.0.0.1:1")

    def test_a_killed_peer_fails_in_bounded_time_and_its_successor_is_met_at_once(
        self, engine: TransferEngine, memory: np.ndarray, source: int, new_peer: Callable[[], Peer]
    ) -> None:
        peer = new_peer()
        segments = [(source + n, peer.base + n, 1 << 20) for n in range(0, SIZE, 1 << 20)]
        assert engine.connect(peer.session)
        assert engine.write(peer.session, segments).ok
        killer = threading.Timer(0.05, peer.process.kill)
        killer.start()
        results: list[WriteResult] = [engine.write(peer.session, segments)]
        while results[-1].ok:  # bounded by the test's timeout
            results.append(engine.write(peer.session, segments))
        killer.join()
        assert results[-1].elapsed_s < 10.0
        peer.process.wait(10)
        for _ in range(2):
            result = engine.write(peer.session, segments[:2])
            assert not result.ok
            assert result.elapsed_s < 10.0
        successor = new_peer()
        assert successor.session != peer.session
        result = engine.write(successor.session, [(source, successor.base, SIZE)])
        assert result.ok, result.failure
        assert successor.holds(0, memory)

    def test_a_hung_peer_fails_in_bounded_time_and_may_still_be_written(
        self, engine: TransferEngine, source: int, new_peer: Callable[[], Peer]
    ) -> None:
        peer = new_peer()
        assert engine.write(peer.session, [(source, peer.base, 8192)]).ok
        peer.stop()
        for timeout_s, most_s in ((30.0, 10.0), (0.2, 4.0)):
            result = engine.write(peer.session, [(source, peer.base, 8192)], timeout_s=timeout_s)
            assert not result.ok
            assert result.elapsed_s < most_s
            assert result.completed_bytes == 0
            # A first contact anew may be what failed: then nothing was sent.
            assert not result.quiet or "cannot be reached" in result.failure
            if timeout_s == 30.0:
                assert not result.quiet, "what was sent may land when the peer goes on"

    def test_the_first_contact_with_a_hung_peer_is_bounded(
        self, engine: TransferEngine, source: int, peer: Peer, new_peer: Callable[[], Peer]
    ) -> None:
        hung = new_peer()
        hung.stop()
        result = engine.write(hung.session, [(source, hung.base, 64)], timeout_s=0.5)
        assert not result.ok
        assert result.quiet, "nothing was sent"
        assert result.elapsed_s < 5.0
        hung.process.send_signal(signal.SIGCONT)
        while not engine.connect(hung.session):  # bounded by the test's timeout
            time.sleep(0.1)
        assert engine.write(peer.session, [(source, peer.base, 64)]).ok

    # --- who it is ---

    def test_it_proves_its_transport(self, engine: TransferEngine, transport: str, peer: Peer) -> None:
        assert engine.transport == engine.proof.requested == engine.proof.actual == peer.transport == transport
        assert engine.proof.evidence
        assert all(engine.proof.evidence)
        assert engine.session.startswith("127.0.0.1:")

    def test_its_own_counters_count_every_byte_once(
        self, engine: TransferEngine, source: int, new_peer: Callable[[], Peer]
    ) -> None:
        before = engine.traffic()
        if before is None:
            pytest.skip("this engine has no counters of its own")
        peer = new_peer()
        assert engine.write(peer.session, [(source, peer.base, 1 << 20), (source, peer.base, 77)]).ok
        assert not engine.write(peer.session, [(source, peer.base + SIZE, 500)]).ok
        after = engine.traffic()
        assert after is not None
        assert after.sent_bytes - before.sent_bytes == (1 << 20) + 77
        assert peer.ask("traffic") == [0, (1 << 20) + 77]

    def test_another_transport_than_its_own_is_refused(self, engine: TransferEngine) -> None:
        with pytest.raises(EngineError, match="'carrier pigeon', it must be one of"):
            type(engine)(transport="carrier pigeon")
        with pytest.raises(EngineError, match="'carrier pigeon', it must be one of tcp, rdma, "):
            start_engine("carrier pigeon")
