"""Ten thousand frames at every port of a run that goes on: nothing of them gets in, and nothing of the run changes."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import random
import socket
import threading
import time
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("mooncake", reason="needs Mooncake's Transfer Engine")
pytest.importorskip("psutil", reason="needs psutil")

import zmq

from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario, ServiceTimes
from bufferlab.protocol.messages import Offer
from bufferlab.protocol.recording import Record, histories
from bufferlab.protocol.topology import RankId, Side
from bufferlab.protocol.wire.codec import encode
from bufferlab.real.control.channel import Outbox
from bufferlab.real.control.guard import Guard, new_token
from bufferlab.real.control.registry_client import RegistryClient, http_session
from bufferlab.real.hosts import agent
from bufferlab.real.hosts.coordinator import Coordinator
from bufferlab.real.run.commands import Ready, Stop, command_frames
from bufferlab.real.run.launcher import RealOutcome, run_real
from bufferlab.real.run.ranks import Ranks
from bufferlab.sim.network.link import load_profile
from bufferlab.sim.run import simulate

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]

HOST = "127.0.0.1"
FRAMES = 10_000
LANGUAGE = RankId(Side.LANGUAGE, 0, 0)
FRAMES_OF_A_CONNECTION = (1, 4, 20, 100, 400)
LENGTHS = [1, 15, 16, 17, 63, 64, 65, 128, 327, 777] * 4


class Listener:
    """Stands in the way to a port, hands everything on, and keeps what was said to the port."""

    def __init__(self, port: int) -> None:
        self.heard = bytearray()
        self._port = port
        self._server = socket.create_server((HOST, 0))
        self.port = int(self._server.getsockname()[1])
        self._sockets = [self._server]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._server.accept()
                there = socket.create_connection((HOST, self._port))
                self._sockets += [here, there]
                for one, other, keeps in ((here, there, True), (there, here, False)):
                    threading.Thread(target=self._pass_on, args=(one, other, keeps), daemon=True).start()

    def _pass_on(self, one: socket.socket, other: socket.socket, keeps: bool) -> None:
        with contextlib.suppress(OSError):
            while said := one.recv(1 << 16):
                if keeps:
                    self.heard += said
                other.sendall(said)
            other.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        for one in self._sockets:
            one.close()


class Strangers:
    """Say so many frames at one port: noise, beginnings of what is said there, and all of it again."""

    def __init__(self, seed: int, port: int, known: list[bytes]) -> None:
        self.sent = 0
        self._draw = random.Random(seed)
        self._port = port
        self._known = known
        self._thread = threading.Thread(target=self._speak, daemon=True)
        self._thread.start()

    def _frame(self) -> bytes:
        known = self._draw.choice(self._known)
        match self._draw.randrange(4):
            case 0:
                return self._draw.randbytes(self._draw.randrange(1, 300))
            case 1:
                return known[: self._draw.randrange(1, len(known) + 1)]
            case 2:
                changed = bytearray(known)
                changed[self._draw.randrange(len(known))] ^= 1 << self._draw.randrange(8)
                return bytes(changed)
            case _:
                return known

    def _speak(self) -> None:
        while self.sent < FRAMES:
            count = min(self._draw.choice(FRAMES_OF_A_CONNECTION), FRAMES - self.sent)
            with contextlib.suppress(OSError), socket.create_connection((HOST, self._port), 5.0) as connection:
                for number in range(count):
                    self.sent += 1
                    connection.sendall(self._frame())
                    if number % 50 == 0:
                        time.sleep(0)
                if self._draw.random() < 0.5:
                    connection.shutdown(socket.SHUT_WR)
                    connection.settimeout(0.05)
                    connection.recv(4096)

    def join(self) -> None:
        self._thread.join(60)


class Run:
    """A run whose coordinator, ranks and router are all here, and what strangers need to know of it."""

    def __init__(self, spec: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
        self.spec = spec
        self.token = new_token()
        self.strangers: list[Strangers] = []
        self._monkeypatch = monkeypatch
        self._listeners: list[Listener] = []

    def measure(self, requests: list[Request]) -> RealOutcome:
        ids = [*self.spec.encode_ids(), *self.spec.language_ids()]
        numbers = {
            rank_id: number for side in Side for number, rank_id in enumerate(one for one in ids if one.side is side)
        }
        with Coordinator(self.spec, HOST, 0, token=self.token) as hosts:
            port = int(hosts.address.rpartition(":")[2])
            way = Listener(port)
            self._listeners.append(way)
            agents = [
                threading.Thread(
                    target=agent.take_part,
                    args=((HOST, way.port), rank_id.side, numbers[rank_id]),
                    kwargs={"host": HOST, "wait_s": 10.0, "token": lambda: self.token},
                )
                for rank_id in ids
            ]
            for one in agents:
                one.start()
            hosts.gather(30.0)
            self.begin_when_ready(len(ids), port, bytes(way.heard))
            outcome = run_real(self.spec, requests, hosts=hosts)
            for speaker in self.strangers:
                speaker.join()
        for one in agents:
            one.join()
        for one in self._listeners:
            one.close()
        return outcome

    def begin_when_ready(self, ranks: int, coordinator_port: int, joined: bytes) -> None:
        """As soon as every rank is ready, strangers come to all ports."""
        ready: list[Ready] = []
        before = Ranks.note_ready

        def note(made: Ranks, command: Ready) -> bool:
            taken = before(made, command)
            ready.append(command)
            if len(ready) == ranks:
                control = [one.route.control_port for one in ready] + [made._inbox.port]
                registries = [int(address.rpartition(":")[2]) for address in made._bootstraps]
                self.begin(coordinator_port, joined, control, registries)
            return taken

        self._monkeypatch.setattr(Ranks, "note_ready", note)

    def begin(self, coordinator_port: int, joined: bytes, control: list[int], registries: list[int]) -> None:
        spoken = {port: overheard_message(self._way(port), self.token) for port in control}
        asked = {port: overheard_requests(self._way(port), self.token) for port in registries}
        known = [bytes(line) + b"\n" for line in joined.split(b"\n") if line] + [joined]
        talk = {coordinator_port: known, **spoken, **asked}
        self.strangers = [Strangers(seed, port, what) for seed, (port, what) in enumerate(talk.items())]

    def _way(self, port: int) -> Listener:
        self._listeners.append(Listener(port))
        return self._listeners[-1]


def overheard_message(way: Listener, token: str) -> list[bytes]:
    """What a holder of the token says to a control port, and what is said where there is no token."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    outbox = Outbox(context, HOST, way.port, Guard(token))
    outbox.send([b"a message that nobody understands"])
    while len(way.heard) < 500:
        time.sleep(0.01)
    outbox.close()
    context.term()
    offer = encode(Offer(1, 0, 0, LANGUAGE, (1, 2, 3), 48, 0))
    frames = [*command_frames(Stop()), *offer, b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48)]
    return [bytes(way.heard), bytes(way.heard[:64]), *frames]


def overheard_requests(way: Listener, token: str) -> list[bytes]:
    """What a holder of the token asks of a registry, and what is asked where there is no token."""

    async def ask() -> None:
        async with http_session(5.0) as session:
            await RegistryClient(session, f"{HOST}:{way.port}", Guard(token)).entries()

    asyncio.run(ask())
    plain = [b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /routes HTTP/1.1\r\nHost: a\r\n\r\n"]
    route = b'{"rank_id":["language",0,0],"host":"127.0.0.1","control_port":1,"generation":9,"session":"x"}'
    put = b"PUT /route HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(route) + route
    return [bytes(way.heard), *plain, put]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    return Run(
        Scenario(
            block_tokens=16,
            hidden=64,
            sizing_options={"tokens": 64},
            encode_blocks=512,
            language_blocks=1024,
            timeout_s=60.0,
            services=ServiceTimes(encode_poll_interval_s=0.002, language_poll_interval_s=0.002, encode_base_s=0.001),
        ),
        monkeypatch,
    )


def test_ten_thousand_frames_at_every_port_leave_a_run_unharmed(run: Run) -> None:
    requests = [Request(room, 0.3 * room, tokens, text_tokens=1) for room, tokens in enumerate(LENGTHS, 1)]
    simulated: list[Record] = []

    def record(*fields: Any) -> None:
        simulated.append(Record(*fields))

    simulate(run.spec, requests, load_profile("tcp-loopback"), recorder=record)
    outcome = run.measure(requests)
    assert [one.sent for one in run.strangers] == [FRAMES] * 5
    assert histories(outcome.records) == histories(simulated)
    assert len(outcome.succeeded_rooms) == len(requests)
    assert (outcome.mismatches, outcome.rooms_left, outcome.blocks_lost, outcome.faults) == ([], 0, 0, ())
    assert outcome.verified_rooms == len(requests)
    # Nothing got as far as being a message but what the overheard holder of the token said himself, once a port.
    assert outcome.frames_dropped + outcome.messages_stale == 3
    refused: collections.Counter[str] = collections.Counter()
    for one in outcome.refused:
        refused[one.port] += one.count
    assert set(refused) == {
        "port of the coordinator", "control port of the router", "control port of encode0.0",
        "control port of language0.0", "registry of encode0.0",
    }  # fmt: skip
    assert min(refused.values()) >= 20
    assert {one.address for one in outcome.refused} <= {HOST, "an unknown address"}  # of who is gone at once
    assert {one.port for one in outcome.refused if one.address == HOST} >= {
        "port of the coordinator", "registry of encode0.0"
    }  # fmt: skip
