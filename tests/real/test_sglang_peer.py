"""A peer that is not ours, written from the protocol's description: raw frames, an engine of its own, plain HTTP.

It plays the SGLang fork's language rank against our encode rank, and its encode rank against our language rank. Nothing
of our codec or wire is used on its side; what is ours is the test content, the process under test and its commands. Names
and layouts are those of the fork's own code: its registry's fields are embedding_tp_size and embedding_dp_size, it packs
base pointers as 64-bit words, and of a row of aux it writes word 0 (the length) and word 1 (the mrope delta).
"""

from __future__ import annotations

import http.server
import json
import struct
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("mooncake", reason="needs Mooncake's Transfer Engine")

import msgspec
import numpy as np
import torch
import zmq

from bufferlab.protocol.emulation.scenario import Scenario, ServiceTimes, WriteFault
from bufferlab.protocol.layout import BufferLayout
from bufferlab.protocol.messages import EncodeRequest, LanguageRequest
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side
from bufferlab.real.control.channel import Inbox, Outbox
from bufferlab.real.control.route import ROUTER, Route
from bufferlab.real.control.spec import Heartbeats, RankSpec
from bufferlab.real.engine.content import room_content
from bufferlab.real.hosts.places import ThisHost
from bufferlab.real.run.commands import (
    Command,
    Concluded,
    Ready,
    Report,
    Start,
    Stop,
    Submit,
    command_frames,
    parse_command,
)

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

HOST = "127.0.0.1"
BLOCK, HIDDEN, BLOCKS = 16, 64, 12
STRIDES = (BLOCK * HIDDEN * 2, BLOCK * 4, BLOCK * 12, 64)
AUX = 3
ENCODE, LANGUAGE = RankId(Side.ENCODE, 0, 0), RankId(Side.LANGUAGE, 0, 0)
ENCODE1, LANGUAGE1 = RankId(Side.ENCODE, 0, 1), RankId(Side.LANGUAGE, 0, 1)
PATIENCE_S = 30.0

Wanted = TypeVar("Wanted")


def scenario(**changes: object) -> Scenario:
    fields: dict[str, object] = {
        "block_tokens": BLOCK,
        "hidden": HIDDEN,
        "sizing_options": {"tokens": 64},
        "encode_blocks": 32,
        "language_blocks": BLOCKS,
        "timeout_s": 20.0,
        "wire": "sglang",
        "discipline": "alloc_then_free",
        "services": ServiceTimes(encode_poll_interval_s=0.002, language_poll_interval_s=0.002),
    }
    return Scenario(**(fields | changes))  # type: ignore[arg-type]


class Alone:
    """One rank of ours as a process, with the test in the place of the router."""

    def __init__(self, spec: Scenario, rank_id: RankId, bootstrap: str = "", meeting: str = "") -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._inbox = Inbox(self._context, HOST)
        self._payloads: list[Command] = []
        self._host = ThisHost(HOST)
        self._host.__enter__()
        self.bootstrap = bootstrap or self._host.bind_registry(rank_id)
        self.meeting = self._host.bind_registry(rank_id) if meeting == "here" else meeting
        self.process = self._host.start(
            RankSpec(
                rank_id=rank_id,
                scenario=spec,
                bootstraps=(self.bootstrap,),
                meeting=self.meeting,
                router=Route(rank_id=ROUTER, host=HOST, control_port=self._inbox.port),
                heartbeats=Heartbeats(interval_s=0.5, failures=2),
                longest_tokens=500,
            )
        )
        self._outbox: Outbox | None = None

    def begin(self) -> None:
        route = self.expect(Ready).route
        self._outbox = Outbox(self._context, route.host, route.control_port)
        self.tell(Start(time.monotonic()))

    def tell(self, command: Command) -> None:
        assert self._outbox is not None
        self._outbox.send(command_frames(command))

    def expect(self, kind: type[Wanted]) -> Wanted:
        """The next order of this kind that the rank gives."""
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            for number, command in enumerate(self._payloads):
                if isinstance(command, kind):
                    del self._payloads[number]
                    return command
            assert self.process.poll() is None, self.process.last_words()
            assert time.monotonic() < deadline_s, f"no {kind.__name__} came"
            self._inbox.wait(0.05)
            for frames in self._inbox.messages():
                command = parse_command(frames)
                # What it recorded meanwhile comes along with the end of a room.
                self._payloads.append(
                    msgspec.structs.replace(command, records=[]) if isinstance(command, Concluded) else command
                )

    def end(self) -> Report:
        self.tell(Stop())
        report = self.expect(Report)
        assert self.process.wait(PATIENCE_S) == 0
        return report

    def close(self) -> None:
        if self._outbox is not None:
            self._outbox.close(discard=True)
        self._inbox.close()
        self._context.destroy(linger=0)
        self._host.__exit__(None, None, None)


class Peer:
    """What every rank of the fork has: an engine, a pool of each buffer kind, a socket to be told at.

    ``layers``: of deepstack, which is the fifth kind.
    """

    def __init__(self, layers: int = 0) -> None:
        from mooncake.engine import TransferEngine

        self.layers = layers
        self.strides = (*STRIDES, *([BLOCK * HIDDEN * 2 * layers] if layers else []))
        self.engine: Any = TransferEngine()
        assert self.engine.initialize(HOST, "P2PHANDSHAKE", "tcp", "") == 0
        self.session = f"{HOST}:{self.engine.get_rpc_port()}"
        self.pools = [np.zeros(BLOCKS * stride, dtype=np.uint8) for stride in self.strides]
        for pool in self.pools:
            assert self.engine.register_memory(pool.ctypes.data, pool.nbytes) == 0
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.pull = self.context.socket(zmq.PULL)
        self.port = self.pull.bind_to_random_port(f"tcp://{HOST}")
        self.push: zmq.Socket[bytes] | None = None

    def connect(self, port: int) -> None:
        self.push = self.context.socket(zmq.PUSH)
        self.push.connect(f"tcp://{HOST}:{port}")

    def say(self, *fields: bytes) -> None:
        assert self.push is not None
        self.push.send_multipart(fields)

    def hear(self) -> list[bytes]:
        assert self.pull.poll(1000 * PATIENCE_S), "nothing was said"
        return self.pull.recv_multipart()

    def hears_nothing_for(self, seconds: float) -> bool:
        return not self.pull.poll(1000 * seconds)

    @property
    def pointers(self) -> bytes:
        return struct.pack(f"<{len(self.pools)}Q", *(pool.ctypes.data for pool in self.pools))

    @property
    def address(self) -> tuple[bytes, bytes, bytes]:
        return HOST.encode(), str(self.port).encode(), self.session.encode()

    def block(self, kind: int, number: int) -> bytes:
        stride = self.strides[kind]
        return self.pools[kind][number * stride : (number + 1) * stride].tobytes()

    def close(self) -> None:
        self.context.destroy(linger=0)
        for pool in self.pools:
            self.engine.unregister_memory(pool.ctypes.data)


@contextmanager
def closing(*things: Alone | Peer | Server) -> Iterator[None]:
    try:
        yield
    finally:
        for thing in things:
            thing.close()


def block_bytes(room: int, total: int, start: int, layers: int = 0) -> list[bytes]:
    """What the block that begins with token ``start`` holds, kind by kind, as the fork lays it out."""
    content = room_content(room, 0, total, BufferLayout(BLOCK, HIDDEN, layers))
    end = min(start + BLOCK, total)
    assert content.aux is not None
    deepstack = [] if content.deepstack is None else [content.deepstack[start:end].contiguous()]
    return [
        content.embeddings[start:end].contiguous().view(torch.int16).numpy().tobytes(),
        content.fill_ids[start:end].numpy().tobytes(),
        content.mrope[:, start:end].contiguous().numpy().tobytes(),
        # The length and the mrope delta; nothing else of aux is laid down.
        content.aux[:2].numpy().tobytes() if start == 0 else b"",
        *(rows.view(torch.int16).numpy().tobytes() for rows in deepstack),
    ]


def get(address: str, path: str) -> Any:
    with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as answer:
        return json.loads(answer.read())


# --- the fork's language rank, against our encode rank ---


def look_up(address: str, peer: Peer, encode_tp: int = 1) -> None:
    """Wait for the encode rank's route, as the fork's language rank finds it, and connect to it."""
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            sizes = get(address, "/route?engine_rank=-1&target_dp_group=-1")
            found = get(address, "/route?engine_rank=0&target_dp_group=0")
            break
        except urllib.error.HTTPError:
            assert time.monotonic() < deadline_s, "the encode rank has not registered"
            time.sleep(0.02)
    assert sizes == {"embedding_tp_size": encode_tp, "embedding_dp_size": 1}
    assert found["rank_ip"] == HOST
    peer.connect(found["rank_port"])


def assert_received(peer: Peer, room: int, total: int, start: int, blocks: list[int]) -> None:
    for number, block in enumerate(blocks):
        for kind, expected in enumerate(block_bytes(room, total, start + number * BLOCK, peer.layers)):
            assert peer.block(kind, block)[: len(expected)] == expected, f"kind {kind} of block {block}"


def test_our_encode_rank_serves_a_language_rank_of_the_fork() -> None:
    ours, peer = Alone(scenario(), ENCODE), Peer()
    with closing(ours, peer):
        ours.begin()
        look_up(ours.bootstrap, peer)
        peer.say(b"None", *peer.address, peer.pointers)
        # Room 7 needs a resume; its init comes before the request does.
        peer.say(b"7", *peer.address, b"5,2,9,0", b"1", b"64")
        ours.tell(Submit.of(EncodeRequest(7, 0, 100)))
        assert peer.hear() == [b"7", b"3"]
        assert_received(peer, 7, 100, 0, [5, 2, 9, 0])
        assert struct.unpack("<16i", peer.block(3, 5))[0] == 100
        assert peer.block(3, 2) == bytes(64)  # aux lies in the first block only
        peer.say(b"7", *peer.address, b"5,2,9,0", b"1", b"64")  # a double of what has been served
        peer.say(b"7", *peer.address, b"11,3,4", b"1", b"64", b"48")
        assert peer.hear() == [b"7", b"4"]
        assert_received(peer, 7, 100, 64, [11, 3, 4])
        # Room 8 fits; it is asked for at once.
        ours.tell(Submit.of(EncodeRequest(8, 0, 33)))
        peer.say(b"8", *peer.address, b"1,6,7", b"1", b"48")
        assert peer.hear() == [b"8", b"4"]
        assert_received(peer, 8, 33, 0, [1, 6, 7])
        concluded = [ours.expect(Concluded), ours.expect(Concluded)]
        assert {(one.room, one.status) for one in concluded} == {(7, Status.Success), (8, Status.Success)}
        report = ours.end()
        assert (report.rooms_left, report.blocks_lost, report.frames_dropped) == (0, 0, 0)
        assert report.ignored_messages == 1
        assert peer.hears_nothing_for(0.2)


def test_our_encode_rank_survives_nonsense_and_says_when_a_room_failed() -> None:
    ours, peer = Alone(scenario(faults=(WriteFault(room=3),)), ENCODE), Peer()
    with closing(ours, peer):
        ours.begin()
        look_up(ours.bootstrap, peer)
        nonsense: list[tuple[bytes, ...]] = [
            (b"",),
            (b"1", b"2", b"3"),
            (b"1", b"3"),  # a status, which an encode rank says and does not hear
            (b"None", *peer.address, b"short"),
            (b"None", *peer.address, peer.pointers + bytes(8)),  # five buffers where there are four
            (b"1", *peer.address, b"0", b"1", b"16"),  # has not registered
            (b"x", *peer.address, b"0", b"1", b"16"),
        ]
        for fields in nonsense:
            peer.say(*fields)
        peer.say(b"None", *peer.address, peer.pointers)
        peer.say(b"99", *peer.address, b"0", b"1", b"16")  # a room that never comes
        # Room 2 is too long for the source pool and fails before anybody has asked for it; room 3's write fails.
        ours.tell(Submit.of(EncodeRequest(2, 0, 1000)))
        assert ours.expect(Concluded).status is Status.Failed
        peer.say(b"2", *peer.address, b"0,1,2,3", b"1", b"64")
        assert peer.hear() == [b"2", b"0"]
        ours.tell(Submit.of(EncodeRequest(3, 0, 40)))
        peer.say(b"3", *peer.address, b"0,1,2", b"1", b"48")
        assert peer.hear() == [b"3", b"0"]
        # An allocation that is not its blocks': refused, and no room but its own.
        ours.tell(Submit.of(EncodeRequest(4, 0, 40)))
        peer.say(b"4", *peer.address, b"0,1,2", b"1", b"64")
        assert peer.hear() == [b"4", b"0"]
        ours.tell(Submit.of(EncodeRequest(5, 0, 40)))
        peer.say(b"5", *peer.address, b"3,4,5", b"1", b"48")
        assert peer.hear() == [b"5", b"4"]
        assert_received(peer, 5, 40, 0, [3, 4, 5])
        report = ours.end()
        assert report.frames_dropped == len(nonsense)
        assert (report.rooms_left, report.blocks_lost) == (0, 0)


def test_two_language_ranks_of_the_fork_share_an_encode_rank() -> None:
    ours, peers = Alone(scenario(language_tp=2), ENCODE), [Peer(), Peer()]
    with closing(ours, *peers):
        ours.begin()
        for peer in peers:
            look_up(ours.bootstrap, peer)
            peer.say(b"None", *peer.address, peer.pointers)
        ours.tell(Submit.of(EncodeRequest(1, 0, 100)))
        for peer in reversed(peers):
            peer.say(b"1", *peer.address, b"0,1,2,3", b"2", b"64")
        assert [peer.hear() for peer in peers] == [[b"1", b"3"]] * 2
        peers[0].say(b"1", *peers[0].address, b"4,5,6", b"2", b"64", b"48")
        assert peers[1].hears_nothing_for(0.2), "the second chunk was written before everybody had asked for it"
        peers[1].say(b"1", *peers[1].address, b"9,8,7", b"2", b"64", b"48")
        assert [peer.hear() for peer in peers] == [[b"1", b"4"]] * 2
        for peer, blocks in zip(peers, ([4, 5, 6], [9, 8, 7]), strict=True):
            assert_received(peer, 1, 100, 0, [0, 1, 2, 3])
            assert_received(peer, 1, 100, 64, blocks)
        # Unequal memory: no common cut can be told, so that the room fails for both.
        ours.tell(Submit.of(EncodeRequest(2, 0, 100)))
        peers[0].say(b"2", *peers[0].address, b"0,1,2,3", b"2", b"64")
        peers[1].say(b"2", *peers[1].address, b"0,1,2", b"2", b"48")
        assert [peer.hear() for peer in peers] == [[b"2", b"0"]] * 2
        concluded = {one.room: one for one in (ours.expect(Concluded), ours.expect(Concluded))}
        assert concluded[1].status is Status.Success
        assert "offer 48 and 64 tokens" in concluded[2].reason
        ours.end()


@pytest.mark.parametrize("gone", [True, False])
def test_a_language_process_of_the_fork_that_comes_later_is_a_destination(gone: bool) -> None:
    """Nobody has missed its predecessor, which ended while nothing was under way, or is there and asks as well."""
    ours, peers = Alone(scenario(), ENCODE), [Peer(), Peer()]
    with closing(ours, *peers):
        ours.begin()
        first, second = peers

        def serve(peer: Peer, room: int) -> None:
            ours.tell(Submit.of(EncodeRequest(room, 0, 40)))
            peer.say(str(room).encode(), *peer.address, b"3,1,2", b"1", b"48")
            assert peer.hear() == [str(room).encode(), b"4"]
            assert_received(peer, room, 40, 0, [3, 1, 2])

        for peer in peers:
            look_up(ours.bootstrap, peer)
            peer.say(b"None", *peer.address, peer.pointers)
            serve(peer, 1 + peers.index(peer))
            if gone and peer is first:
                first.close()
        for room in range(3, 9):
            serve(first if room % 2 and not gone else second, room)
        report = ours.end()
        assert (report.rooms_left, report.blocks_lost, report.frames_dropped) == (0, 0, 0)


def test_two_encode_ranks_of_ours_serve_one_language_rank_of_the_fork() -> None:
    spec = scenario(encode_tp=2)
    first = Alone(spec, ENCODE)
    second, peer = Alone(spec, ENCODE1, first.bootstrap), Peer()
    with closing(first, second, peer):
        for ours in (first, second):
            ours.begin()
        look_up(first.bootstrap, peer, encode_tp=2)
        peer.say(b"None", *peer.address, peer.pointers)
        for ours in (first, second):  # all ranks of an instance have every request
            ours.tell(Submit.of(EncodeRequest(7, 0, 100)))
        peer.say(b"7", *peer.address, b"5,2,9,0", b"1", b"64")
        assert peer.hear() == [b"7", b"3"]
        assert_received(peer, 7, 100, 0, [5, 2, 9, 0])
        peer.say(b"7", *peer.address, b"11,3,4", b"1", b"64", b"48")
        assert peer.hear() == [b"7", b"4"]
        assert_received(peer, 7, 100, 64, [11, 3, 4])
        assert [ours.expect(Concluded).status for ours in (first, second)] == [Status.Success] * 2
        for ours in (first, second):
            ours.tell(Stop())
        for ours in (first, second):
            report = ours.expect(Report)
            assert (report.rooms_left, report.blocks_lost, report.frames_dropped) == (0, 0, 0)


def test_twelve_rooms_at_once_with_deepstack() -> None:
    ours, peer = Alone(scenario(deepstack_layers=2, faults=(WriteFault(room=5),)), ENCODE), Peer(layers=2)
    with closing(ours, peer):
        ours.begin()
        look_up(ours.bootstrap, peer)
        peer.say(b"None", *peer.address, peer.pointers)
        for room in range(12):
            peer.say(str(room).encode(), *peer.address, str(11 - room).encode(), b"1", b"16")
        for room in range(12):
            ours.tell(Submit.of(EncodeRequest(room, 0, 16 - room)))
        told = dict(peer.hear() for _ in range(12))
        assert told == {str(room).encode(): b"0" if room == 5 else b"4" for room in range(12)}
        for room in set(range(12)) - {5}:
            assert_received(peer, room, 16 - room, 0, [11 - room])
        report = ours.end()
        assert (report.rooms_left, report.blocks_lost, report.frames_dropped) == (0, 0, 0)


# --- the fork's encode rank, against our language rank ---


class Server:
    """The fork's bootstrap server with one encode rank: plain answers, as a server that knows nothing of us gives."""

    def __init__(self, rank_port: int, encode_tp: int = 1) -> None:
        self.asked: list[str] = []
        asked = self.asked

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                url = urllib.parse.urlparse(self.path)
                query = {name: values[0] for name, values in urllib.parse.parse_qs(url.query).items()}
                if url.path == "/health":
                    self._answer(200, b"OK", "text/plain")
                elif query == {"engine_rank": "-1", "target_dp_group": "-1"}:
                    self._answer(200, json.dumps({"embedding_tp_size": encode_tp, "embedding_dp_size": 1}).encode())
                elif query == {"engine_rank": "0", "target_dp_group": "0"}:
                    self._answer(200, json.dumps({"rank_ip": HOST, "rank_port": rank_port}).encode())
                else:
                    self._answer(404, b"nothing here", "text/plain")

            def _answer(self, status: int, body: bytes, kind: str = "application/json") -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer((HOST, 0), Handler)
        self.address = f"{HOST}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Register:
    """What our language rank registers with, taken apart."""

    def __init__(self, frames: list[bytes]) -> None:
        assert len(frames) == 5
        assert frames[:2] == [b"None", HOST.encode()]
        self.address = frames[1:4]
        self.port = int(frames[2])
        self.session = frames[3].decode()
        self.frames = frames
        self.bases = struct.unpack(f"<{len(frames[4]) // 8}Q", frames[4])


def blocks_of(frames: list[bytes]) -> list[int]:
    return [int(block) for block in frames[4].split(b",")]


def write(peer: Peer, to: Register, room: int, total: int, start: int, blocks: list[int], end: int) -> None:
    """Write tokens from ``start`` to ``end``, a block's end, into the receiver's blocks, aux with the first of all."""
    segments: list[tuple[int, int, int]] = []
    for number, block in enumerate(blocks):
        first = start + number * BLOCK
        if first >= end:
            break
        for kind, content in enumerate(block_bytes(room, total, first, peer.layers)):
            if kind == AUX:
                continue
            # Laid out in the peer's own registered pool, at its block of the same number, and written from there.
            source = peer.pools[kind][number * peer.strides[kind] :]
            source[: len(content)] = np.frombuffer(content, dtype=np.uint8)
            segments.append((source.ctypes.data, to.bases[kind] + block * peer.strides[kind], len(content)))
    if start == 0:
        aux = block_bytes(room, total, 0)[AUX]
        peer.pools[AUX][: len(aux)] = np.frombuffer(aux, dtype=np.uint8)
        segments.append((peer.pools[AUX].ctypes.data, to.bases[AUX] + blocks[0] * 64, 64))
    sources, targets, lengths = (list(column) for column in zip(*segments, strict=True))
    assert peer.engine.batch_transfer_sync_write(to.session, sources, targets, lengths) == 0


@contextmanager
def our_language_rank(
    layers: int = 0, encode_tp: int = 1, **changes: object
) -> Iterator[tuple[Alone, Peer, Register, Server]]:
    peer = Peer(layers)
    server = Server(peer.port, encode_tp)
    changes |= {"deepstack_layers": layers, "encode_tp": encode_tp}
    ours = Alone(scenario(**changes), LANGUAGE, server.address)
    with closing(ours, server, peer):
        ours.begin()
        register = Register(peer.hear())
        peer.connect(register.port)
        yield ours, peer, register, server


def test_our_language_rank_is_served_by_an_encode_rank_of_the_fork() -> None:
    with our_language_rank() as (ours, peer, to, server):
        ours.tell(Submit.of(LanguageRequest(7, 0, 3)))
        assert peer.hear() == [b"7", *to.address, b"0,1,2,3", b"1", b"64"]
        write(peer, to, 7, 100, 0, [0, 1, 2, 3], 64)
        peer.say(b"7", b"3")
        assert peer.hear() == [b"7", *to.address, b"4,5,6", b"1", b"64", b"48"]
        peer.say(b"7", b"3")  # a double of the first, in the middle of the resume
        write(peer, to, 7, 100, 64, [4, 5, 6], 100)
        peer.say(b"7", b"4")
        peer.say(b"7", b"4")
        assert ours.expect(Concluded) == Concluded(LANGUAGE, 7, 0, Status.Success)
        ours.tell(Submit.of(LanguageRequest(8, 0, 3)))
        init = peer.hear()
        assert init[:4] + init[5:] == [b"8", *to.address, b"1", b"64"]
        write(peer, to, 8, 33, 0, blocks_of(init), 33)
        peer.say(b"8", b"4")
        assert ours.expect(Concluded).status is Status.Success
        report = ours.end()
        assert report.differences == []
        assert report.verified_rooms == 2
        assert (report.rooms_left, report.blocks_lost, report.frames_dropped) == (0, 0, 0)
        assert report.messages_stale + report.ignored_messages == 2  # both doubles
    assert {path for path in server.asked if "=-1" in path} == {"/route?engine_rank=-1&target_dp_group=-1"}
    assert "/route?engine_rank=0&target_dp_group=0" in server.asked
    assert "/health" in server.asked


def test_our_language_rank_survives_nonsense_and_a_failure() -> None:
    with our_language_rank() as (ours, peer, to, _):
        nonsense = [
            (b"",),
            (b"1", b"9"),
            (b"1", b"1"),
            (b"x", b"3"),
            (b"1",) * 7,
            (b"None", *to.address, peer.pointers),
        ]
        for fields in nonsense:
            peer.say(*fields)
        peer.say(b"55", b"4")  # of a room that nobody has
        ours.tell(Submit.of(LanguageRequest(1, 0, 3)))
        assert peer.hear()[4] == b"0,1,2,3"
        peer.say(b"1", b"0")
        failed = ours.expect(Concluded)
        assert (failed.status, failed.reason) == (Status.Failed, "the encode side failed")
        # A session to which a write has failed is barred until its register frame comes once more.
        assert peer.hear() == to.frames
        # A total that the status contradicts, and one that was never written.
        for room, number in ((2, b"3"), (3, b"4")):
            ours.tell(Submit.of(LanguageRequest(room, 0, 3)))
            blocks = blocks_of(peer.hear())
            if room == 2:
                write(peer, to, 2, 40, 0, blocks, 40)
            peer.say(str(room).encode(), number)
            assert ours.expect(Concluded).reason.startswith("impossible status")
        report = ours.end()
        assert report.frames_dropped == len(nonsense)
        assert report.messages_stale == 1
        # What a fork's engine gave up may still land: room 1's blocks are in quarantine, those of 2 and 3 are free.
        assert (report.rooms_quarantined, report.blocks_fenced, report.blocks_lost) == (1, 4, 0)


def test_a_late_write_finds_the_blocks_of_its_room_still_fenced() -> None:
    """The language side gives a room up and cannot say so. Nobody gets its blocks before the writer is heard."""
    with our_language_rank(timeout_s=1.0, language_blocks=4) as (ours, peer, to, _):
        ours.tell(Submit.of(LanguageRequest(1, 0, 3)))
        assert peer.hear()[4] == b"0,1,2,3"
        assert "timed out" in ours.expect(Concluded).reason
        ours.tell(Submit.of(LanguageRequest(2, 0, 3)))
        assert peer.hears_nothing_for(0.3), "the blocks were given away while they could be written to"
        write(peer, to, 1, 60, 0, [0, 1, 2, 3], 60)
        peer.say(b"1", b"4")
        frames = peer.hear()
        assert frames[0] == b"2"
        blocks = blocks_of(frames)
        assert sorted(blocks) == [0, 1, 2, 3]
        write(peer, to, 2, 50, 0, blocks, 50)
        peer.say(b"2", b"4")
        assert ours.expect(Concluded) == Concluded(LANGUAGE, 2, 0, Status.Success)
        report = ours.end()
        assert (report.verified_rooms, report.differences) == (1, [])
        assert (report.rooms_left, report.blocks_lost) == (0, 0)


def test_an_encode_rank_of_the_fork_that_bars_a_session_takes_it_again() -> None:
    """As its own code does: after a failed write it fails whatever the session asks for, until that registers again."""
    with our_language_rank() as (ours, peer, to, _):
        barred = False
        outcomes = []
        for room in range(1, 5):
            ours.tell(Submit.of(LanguageRequest(room, 0, 3)))
            while (frames := peer.hear()) == to.frames:
                barred = False
            barred = barred or room in (1, 3)  # the writes that fail
            if not barred:
                write(peer, to, room, 33, 0, blocks_of(frames), 33)
            peer.say(str(room).encode(), b"0" if barred else b"4")
            outcomes.append(ours.expect(Concluded).status)
        assert outcomes == [Status.Failed, Status.Success] * 2
        assert ours.end().verified_rooms == 2


def test_our_language_rank_takes_many_rooms_at_once_from_one_of_two_encode_ranks_of_the_fork() -> None:
    with our_language_rank(layers=2, encode_tp=2) as (ours, peer, to, server):
        for room in range(12):
            ours.tell(Submit.of(LanguageRequest(room, 0, 3)))
        asked: dict[int, list[int]] = {}
        for room in range(12):  # three at a time have room for their four blocks
            if room not in asked:
                frames = peer.hear()
                asked[int(frames[0])] = blocks_of(frames)
            write(peer, to, room, 40 + room, 0, asked[room], 40 + room)
            peer.say(str(room).encode(), b"4")
            assert ours.expect(Concluded) == Concluded(LANGUAGE, room, 0, Status.Success)
        report = ours.end()
        assert (report.verified_rooms, report.differences) == (12, [])
        assert (report.rooms_left, report.blocks_lost, report.frames_dropped) == (0, 0, 0)
    assert "/route?engine_rank=0&target_dp_group=0" in server.asked


def test_two_language_ranks_of_ours_are_served_by_one_encode_rank_of_the_fork() -> None:
    peer = Peer()
    server = Server(peer.port)
    spec = scenario(language_tp=2)
    first = Alone(spec, LANGUAGE, server.address, "here")
    second = Alone(spec, LANGUAGE1, server.address, first.meeting)
    with closing(first, second, server, peer):
        for ours in (first, second):
            ours.begin()
        registers = {one.session: one for one in (Register(peer.hear()), Register(peer.hear()))}
        sockets = {}
        for session, one in registers.items():
            sockets[session] = peer.context.socket(zmq.PUSH)
            sockets[session].connect(f"tcp://{HOST}:{one.port}")
        for ours in (first, second):
            ours.tell(Submit.of(LanguageRequest(7, 0, 3)))
        for start, end, status in ((0, 64, b"3"), (64, 100, b"4")):
            for _ in registers:
                frames = peer.hear()
                to = registers[frames[3].decode()]
                assert frames[5] == b"2"
                assert frames[6:] == ([b"64"] if start == 0 else [b"64", b"48"])
                write(peer, to, 7, 100, start, blocks_of(frames), end)
            for one in sockets.values():
                one.send_multipart([b"7", status])
        assert [ours.expect(Concluded).status for ours in (first, second)] == [Status.Success] * 2
        for ours in (first, second):
            ours.tell(Stop())
        reports = [ours.expect(Report) for ours in (first, second)]
        assert [(one.verified_rooms, one.differences, one.blocks_lost) for one in reports] == [(1, [], 0)] * 2
