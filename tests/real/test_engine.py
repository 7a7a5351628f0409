"""What Mooncake's engine does beyond the contract of every engine (test_engine_contract.py): its limits and its transport."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed (extra real-cpu)")

from bufferlab.protocol.chunks import plan_chunk
from bufferlab.protocol.layout import EMBEDDINGS, BufferLayout
from bufferlab.real.engine.content import room_content
from bufferlab.real.engine.memory import Pool, addresses
from bufferlab.real.engine.mooncake_engine import SEGMENTS_IN_FLIGHT, MooncakeEngine
from bufferlab.real.engine.mooncake_start import (
    SYSTEM_LIBRARIES_COMMAND,
    WHEEL_COMMAND,
    captured_stderr,
    identify,
    import_mooncake,
)
from bufferlab.real.engine.proof import (
    ProofError,
    TransportProof,
    prove,
    sent_counters,
    with_traffic,
)
from bufferlab.real.errors import EngineError, EngineMissing

try:
    import_mooncake()
except EngineMissing as missing:
    pytest.skip(str(missing), allow_module_level=True)

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]

ROOT = Path(__file__).resolve().parents[2]
LAYOUT = BufferLayout(block_tokens=16, hidden=512, deepstack_layers=2)
PEER_BLOCKS = 40
PEER = """
import json, sys
from bufferlab.protocol.layout import BufferLayout
from bufferlab.real.engine.mooncake_engine import MooncakeEngine
from bufferlab.real.engine.content import first_difference, room_content
from bufferlab.real.engine.memory import Pool
block_tokens, hidden, layers, blocks = map(int, sys.argv[1:])
layout = BufferLayout(block_tokens, hidden, layers)
engine, pool = MooncakeEngine(), Pool(layout, blocks)
engine.register(pool)
print(json.dumps([engine.session, pool.bases, engine.proof.actual]), flush=True)
for line in sys.stdin:
    room, incarnation, total, start, tokens, own = json.loads(line)
    expected = room_content(room, incarnation, total, layout).rows(start, start + tokens)
    received = pool.gather(own, tokens, start_token=start)
    print(json.dumps(first_difference(expected, received)), flush=True)
"""


class Peer:
    """A process with a registered pool that tells whether the expected rows have arrived."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PEER, *map(str, (16, 512, 2, PEER_BLOCKS))],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.session, self.bases, self.transport = self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()  # bounded by the test's timeout
        assert line, "the peer process ended early"
        return json.loads(line)

    def difference(self, *question: object) -> str | None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        answer: str | None = self._answer()
        return answer

    def end(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=10)


@pytest.fixture(scope="module")
def engine() -> MooncakeEngine:
    return MooncakeEngine()


@pytest.fixture(scope="module")
def pool(engine: MooncakeEngine) -> Pool:
    pool = Pool(LAYOUT, 64)
    engine.register(pool)
    return pool


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    """One peer for all tests that leave it well."""
    peer = Peer()
    yield peer
    peer.end()


def test_every_kind_arrives_in_chunks_with_a_partial_last_block(engine: MooncakeEngine, pool: Pool, peer: Peer) -> None:
    total, room = 6 * 16 + 5, 4711
    source_blocks = [9, 3, 4, 5, 0, 30, 21]
    pool.fill(source_blocks, room_content(room, 2, total, LAYOUT))
    sent, grants = 0, [[7, 8, 1], [1, 7, 39], [20]]
    for target_blocks in grants:
        chunk = plan_chunk(
            total_tokens=total, sent_tokens=sent, capacities_tokens=[len(target_blocks) * 16], block_tokens=16
        )
        segments = LAYOUT.segments(chunk, source_blocks, target_blocks)
        result = engine.write(peer.session, addresses(segments, pool.bases, peer.bases))
        assert result.ok, result.failure
        assert result.quiet
        assert result.completed_bytes == LAYOUT.chunk_bytes(chunk)
        question = (total, sent, chunk.tokens, target_blocks)
        assert peer.difference(room, 2, *question) is None
        # The peer would have noticed: the same blocks do not pass for another incarnation.
        assert peer.difference(room, 3, *question) is not None
        sent = chunk.end_token
    assert sent == total


def test_a_target_out_of_range_fails_at_once(engine: MooncakeEngine, pool: Pool, peer: Peer) -> None:
    source, good = pool.bases[EMBEDDINGS], peer.bases[EMBEDDINGS]
    engine.connect(peer.session)
    for bad in (good + (1 << 40), good + pool.sizes_bytes[EMBEDDINGS] * PEER_BLOCKS // 64 - 10):
        result = engine.write(peer.session, [(source, good, 64), (source, bad, 64), (source, good, 64)])
        assert not result.ok
        assert result.elapsed_s < 1.0
        assert result.completed_bytes == 128, "the other segments are written all the same"
        assert not result.quiet
        assert peer.session in result.failure
    assert engine.write(peer.session, [(source, good, 64)]).ok, "the connection stays usable"


def test_more_segments_than_the_engine_can_queue_are_cut(engine: MooncakeEngine, pool: Pool, peer: Peer) -> None:
    """Handed over at once, 3000 segments leave some unfinished for ever and spoil the connection."""
    segments = [(pool.bases[0] + 8 * n, peer.bases[0] + 8 * n, 8) for n in range(3 * SEGMENTS_IN_FLIGHT)]
    result = engine.write(peer.session, segments)
    assert result.ok, result.failure
    assert result.completed_bytes == 8 * len(segments)
    assert engine.write(peer.session, segments[:1]).ok


def test_a_peer_that_is_not_there_is_named(engine: MooncakeEngine, pool: Pool) -> None:
    result = engine.write("127.0.0.1:1", [(pool.bases[0], 4096, 64)])
    assert not result.ok
    assert result.quiet
    assert result.failure == "write to 127.0.0.1:1: the peer cannot be reached"
    assert not engine.connect("127.0.0.1:1")


def test_registration_refusals_name_kind_and_size(engine: MooncakeEngine, pool: Pool) -> None:
    size = pool.sizes_bytes[EMBEDDINGS]
    with pytest.raises(EngineError, match=f"embeddings, {size} bytes: it overlaps"):
        engine.register(pool)
    mixed = Pool(LAYOUT, 2)
    mixed.memory = (*mixed.memory[:2], pool.memory[2], *mixed.memory[3:])
    with pytest.raises(EngineError, match="register mrope"):
        engine.register(mixed)
    assert not mixed.registered
    # Its first regions were taken back, so that they can be registered again.
    again = Pool(LAYOUT, 2)
    again.memory = (*mixed.memory[:2], *again.memory[2:])
    engine.register(again)
    assert again.registered
    engine.unregister(again)
    assert not again.registered


def test_the_transport_is_proved(engine: MooncakeEngine, peer: Peer) -> None:
    assert engine.transport == engine.proof.actual == peer.transport == "tcp"
    assert any("TcpTransport: listen" in sentence for sentence in engine.proof.evidence)


def test_without_its_log_the_engine_is_known_by_its_sockets(engine: MooncakeEngine) -> None:
    transport, evidence = identify("", int(engine.session.rsplit(":", 1)[1]))
    assert transport == "tcp"
    assert "listens on" in evidence[0]


def test_the_loopback_counter_sees_the_bytes(engine: MooncakeEngine, pool: Pool, peer: Peer) -> None:
    before = sent_counters()
    if "tcp:lo" not in before:
        pytest.skip("this system has no counters under /sys/class/net")
    size = LAYOUT.kinds[EMBEDDINGS].bytes_per_block * PEER_BLOCKS
    segments = [(pool.bases[0], peer.bases[0], size)] * 8
    assert engine.write(peer.session, segments).ok
    proof = with_traffic(engine.proof, before, sent_counters(), 8 * size)
    assert proof.actual == "tcp"
    assert "rose by" in proof.evidence[-1]
    assert "less than that" not in proof.evidence[-1]


def run(source: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", source],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


START = "from bufferlab.real.engine.mooncake_engine import MooncakeEngine; engine = MooncakeEngine(transport={!r}); print(engine.proof.actual)"


def test_rdma_without_an_adapter_is_refused_with_the_reason() -> None:
    if Path("/sys/class/infiniband").is_dir() and any(Path("/sys/class/infiniband").iterdir()):
        pytest.skip("this machine has an RDMA adapter")
    # The user's wish for tcp must not win silently either.
    done = run(START.format("rdma"), MC_FORCE_TCP="1")
    assert done.returncode == 1
    assert "EngineError" in done.stderr
    assert "No available RNIC" in done.stderr


def test_tcp_runs_whatever_the_environment_forces_and_logs() -> None:
    done = run(START.format("tcp"), MC_FORCE_HCA="0", MC_LOG_LEVEL="ERROR")
    assert done.stdout.strip() == "tcp", done.stderr


def test_a_start_is_silent_unless_a_log_level_is_wanted() -> None:
    twice = START.format("tcp") + "; MooncakeEngine(); import os; print(os.environ.get('MC_LOG_LEVEL'))"
    quiet = run(twice)
    assert quiet.stdout.split() == ["tcp", "None"]
    assert quiet.stderr == ""
    loud = run(twice, MC_LOG_LEVEL="INFO")
    assert loud.stdout.split() == ["tcp", "INFO"]
    assert loud.stderr.count("TcpTransport: listen on port") == 2


def test_the_module_imports_without_mooncake_and_says_what_mends_it() -> None:
    hide = "import sys; sys.modules['mooncake'] = None\n"
    done = run(hide + START.format("tcp"))
    assert "EngineMissing" in done.stderr
    assert WHEEL_COMMAND in done.stderr
    broken = """
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "mooncake.engine":
            raise ImportError("libibverbs.so.1: cannot open shared object file")
sys.meta_path.insert(0, Finder())
"""
    done = run(broken + START.format("tcp"))
    assert "EngineMissing" in done.stderr
    assert SYSTEM_LIBRARIES_COMMAND in done.stderr
    assert "libibverbs.so.1" in done.stderr


def test_importing_loads_neither_mooncake_nor_torch() -> None:
    done = run(
        "import sys; from bufferlab.real.engine import registry; registry.engines(); print({'mooncake', 'torch'} & set(sys.modules))"
    )
    assert done.stdout.strip() == "set()", done.stderr


RDMA_LOG = "I1124 04:09 1 multi_transport.cpp:1] installTransport, type=rdma"
TCP_LOG = "I1124 04:09 1 tcp_transport.cpp:391] TcpTransport: listen on port 15631"


@pytest.mark.parametrize(
    ("log", "transport"),
    [(RDMA_LOG, "rdma"), (TCP_LOG, "tcp"), (f"{TCP_LOG}\n{RDMA_LOG}", "unknown")],
)
def test_the_log_names_the_transport(log: str, transport: str) -> None:
    found, evidence = identify(log, 0)
    assert found == transport
    assert evidence[0].startswith("engine log: ")


def test_a_failed_installation_is_no_installation() -> None:
    assert identify("E1 x.cpp:1] Failed to install transport, type=rdma", 0)[0] != "rdma"


def test_prove_refuses_what_was_not_asked_for() -> None:
    assert prove("tcp", "tcp", ["seen"]) == TransportProof("tcp", "tcp", ["seen"])
    with pytest.raises(ProofError, match=r"rdma was asked for, but the engine runs tcp \(seen\)"):
        prove("rdma", "tcp", ["seen"])
    with pytest.raises(ProofError, match="runs unknown"):
        prove("tcp", "unknown")


def test_counters_unmask_rdma_that_goes_over_tcp() -> None:
    claim = prove("rdma", "rdma")
    before = {"tcp:eth0": 10, "rdma:mlx5_0/1": 5}
    bad = with_traffic(claim, before, {"tcp:eth0": 1_000_010, "rdma:mlx5_0/1": 5}, 1_000_000)
    assert (bad.requested, bad.actual) == ("rdma", "tcp")
    sentence = "while 1000000 bytes were written, rdma:mlx5_0/1 rose by 0, tcp:eth0 by 1000000"
    assert bad.refuted == f"the data of an rdma engine went over tcp ({sentence})"
    assert bad.evidence == [sentence]
    # On another host all is well, which mends nothing.
    both = with_traffic(bad, before, {"tcp:eth0": 400, "rdma:mlx5_0/1": 1_000_300}, 1_000_000, "on b, ")
    assert (both.actual, both.refuted, len(both.evidence)) == ("tcp", bad.refuted, 2)
    good = with_traffic(claim, before, {"tcp:eth0": 400, "rdma:mlx5_0/1": 1_000_300}, 1_000_000)
    assert "rdma:mlx5_0/1 rose by 1000295" in good.evidence[-1]
    assert (good.actual, good.refuted) == ("rdma", "")


def test_capturing_stderr_restores_it_when_the_block_raises(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        os.write(2, b"from native code\n")
        raise RuntimeError

    with pytest.raises(RuntimeError), captured_stderr() as captured:
        fail()
    os.write(2, b"afterwards\n")
    assert captured.text == "from native code\n"
    assert capfd.readouterr().err == "afterwards\n"
