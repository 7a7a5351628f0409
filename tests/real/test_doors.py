"""Whom the ports of a run serve: those who hold its token. No Mooncake and no rank processes here."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp", reason="needs aiohttp")
pytest.importorskip("zmq", reason="needs pyzmq")
pytest.importorskip("psutil", reason="needs psutil")

import aiohttp
import msgspec
import zmq

from bufferlab.experiments.errors import UserError
from bufferlab.experiments.runs import tokens
from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.protocol.topology import RankId, Side
from bufferlab.real.control import doors
from bufferlab.real.control.addresses import listen
from bufferlab.real.control.bootstrap import Registry
from bufferlab.real.control.channel import Inbox, Outbox
from bufferlab.real.control.guard import Guard, HttpServer, LineSigner, Refusal, Refusals, new_token, parse_signed
from bufferlab.real.control.registry_client import RegistryClient, http_session
from bufferlab.real.control.route import Route
from bufferlab.real.errors import EngineStartError
from bufferlab.real.hosts import agent
from bufferlab.real.hosts.coordinator import Coordinator
from bufferlab.real.hosts.joining import (
    TO_COORDINATOR,
    TO_RANK,
    Ask,
    ConnectionLost,
    Join,
    Line,
    NotOfThisRun,
    Tell,
    Welcome,
    sources_digest,
)
from bufferlab.real.run.commands import ORDER, Describe, Ready, Stop, command_frames, parse_command

pytestmark = pytest.mark.timeout(60)

HOST = "127.0.0.1"
TOKEN = "a token of a test, 32 characters.".replace(" ", "-")
OTHER = TOKEN.upper()
ENCODE = RankId(Side.ENCODE, 0, 0)
ROUTE = Route(rank_id=ENCODE, host=HOST, control_port=5000, session=f"{HOST}:1", bases=(1,))


def until(condition: Callable[[], Any]) -> Any:
    deadline_s = time.monotonic() + 20
    while not (found := condition()):
        assert time.monotonic() < deadline_s, "it did not come to that"
        time.sleep(0.01)
    return found


# --- the control port ---


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    one: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield one
    one.destroy(linger=0)


@pytest.fixture
def inbox(context: zmq.Context[zmq.Socket[bytes]]) -> Iterator[Inbox]:
    with closing(Inbox(context, HOST, Guard(TOKEN), name="port", most_connections=6)) as one:
        yield one


def arrived(inbox: Inbox, wait_s: float = 10.0) -> list[list[bytes]]:
    inbox.wait(wait_s)
    return list(inbox.messages())


def test_holders_of_the_token_are_heard(context: zmq.Context[zmq.Socket[bytes]], inbox: Inbox) -> None:
    with closing(Outbox(context, HOST, inbox.port, Guard(TOKEN))) as outbox:
        outbox.send([b"one", b"two"])
        assert until(lambda: arrived(inbox)) == [[b"one", b"two"]]
        with socket.create_connection((HOST, inbox.port)):
            pass  # one who looks whether the port is there
        assert inbox.refused() == []


@pytest.mark.parametrize("guard", [None, Guard(OTHER)])
def test_nobody_else_is(guard: Guard | None, context: zmq.Context[zmq.Socket[bytes]], inbox: Inbox) -> None:
    with closing(Outbox(context, HOST, inbox.port, guard)) as stranger:
        stranger.send(command_frames(Stop()))
        # ZeroMQ may have closed the connection before anybody could look whose it was.
        assert {(one.port, one.address) for one in until(inbox.refused)} <= {
            ("port", HOST), ("port", "an unknown address")
        }  # fmt: skip
        assert arrived(inbox, 0.3) == []
        with closing(Outbox(context, HOST, inbox.port, Guard(TOKEN))) as outbox:
            outbox.send([b"mine"])
            assert until(lambda: arrived(inbox)) == [[b"mine"]]
        stranger.close(discard=True)


def test_one_who_knows_the_servers_key_alone_is_not_let_in(
    context: zmq.Context[zmq.Socket[bytes]], inbox: Inbox
) -> None:
    stranger = context.socket(zmq.PUSH)
    stranger.setsockopt(zmq.LINGER, 0)
    stranger.setsockopt(zmq.CURVE_SERVERKEY, Guard(TOKEN).curve("server")[0])
    public, secret = zmq.curve_keypair()
    stranger.setsockopt(zmq.CURVE_PUBLICKEY, public)
    stranger.setsockopt(zmq.CURVE_SECRETKEY, secret)
    stranger.connect(f"tcp://{HOST}:{inbox.port}")
    with contextlib.suppress(zmq.Again):  # there is nowhere to send to if it has been refused already
        stranger.send(b"let me in", zmq.NOBLOCK)
    assert until(lambda: [one for one in inbox.refused() if one.address == HOST])
    assert arrived(inbox, 0.2) == []


def test_those_who_said_nothing_are_not_refused_however_many_and_whoever_closed_them(
    context: zmq.Context[zmq.Socket[bytes]], inbox: Inbox
) -> None:
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection((HOST, inbox.port))) for _ in range(30)]
        until(lambda: sum(map(is_closed, silent)) == 24)
        assert inbox.refused() == []
    with closing(Outbox(context, HOST, inbox.port, Guard(TOKEN))) as outbox:
        outbox.send([b"mine"])
        assert until(lambda: arrived(inbox)) == [[b"mine"]]
    assert inbox.refused() == []


def test_connections_beyond_those_of_a_run_are_closed(context: zmq.Context[zmq.Socket[bytes]], inbox: Inbox) -> None:
    with contextlib.ExitStack() as stack:
        strangers = [stack.enter_context(socket.create_connection((HOST, inbox.port))) for _ in range(20)]
        until(lambda: sum(map(is_closed, strangers)) == 14)
        assert [is_closed(one) for one in strangers] == [True] * 14 + [False] * 6, "the oldest ones"
    with closing(Outbox(context, HOST, inbox.port, Guard(TOKEN))) as outbox:
        outbox.send([b"mine"])
        assert until(lambda: arrived(inbox)) == [[b"mine"]]


def is_closed(connection: socket.socket) -> bool:
    """Whether the other end has closed it; what it has said before is passed over."""
    connection.setblocking(False)
    try:
        while connection.recv(64):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    return True


class Flood:
    """Strangers who say nothing, hold so many connections to a port, and come again as soon as one is closed."""

    def __init__(self, port: int, count: int, said: bytes = b"") -> None:
        self.came = 0
        self._port, self._count, self._said = port, count, said
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._hold, daemon=True)
        self._thread.start()

    def _hold(self) -> None:
        held: list[socket.socket] = []
        while not self._stopping.is_set():
            for one in [one for one in held if is_closed(one)]:
                held.remove(one)
                one.close()
            while len(held) < self._count:
                held.append(socket.create_connection((HOST, self._port)))
                with contextlib.suppress(OSError):
                    held[-1].sendall(self._said)
                self.came += 1
            time.sleep(0.002)
        for one in held:
            one.close()

    def close(self) -> None:
        self._stopping.set()
        self._thread.join(10.0)


GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01CURVE" + bytes(47)
"""The beginning of what a holder of the token says, which anybody can."""


@pytest.mark.parametrize("said", [b"", GREETING], ids=["silent", "greeting"])
def test_strangers_who_hold_their_connections_keep_no_rank_out_and_put_none_out(
    said: bytes, context: zmq.Context[zmq.Socket[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice as many as there are places, for longer than anybody waits here, beside one who was in before them."""
    monkeypatch.setattr("bufferlab.real.control.doorkeeper.HANDSHAKE_MS", 120_000)
    with (
        closing(Inbox(context, HOST, Guard(TOKEN), most_connections=6)) as inbox,
        closing(Outbox(context, HOST, inbox.port, Guard(TOKEN))) as first,
    ):
        lost = first._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        first.send([b"before"])
        assert until(lambda: arrived(inbox)) == [[b"before"]]
        with closing(Flood(inbox.port, 12, said)) as flood:
            until(lambda: flood.came > 40)
            for number in range(4):
                with closing(Outbox(context, HOST, inbox.port, Guard(TOKEN))) as outbox:
                    outbox.send([b"rank", bytes([number])])
                    assert until(lambda: arrived(inbox)) == [[b"rank", bytes([number])]]
            first.send([b"after"])
            assert until(lambda: arrived(inbox)) == [[b"after"]]
        assert lost.poll(0) == 0, "its connection was never closed"
        lost.close(0)


def test_where_all_have_proved_who_they_are_the_one_who_came_last_is_closed(
    context: zmq.Context[zmq.Socket[bytes]],
) -> None:
    with contextlib.ExitStack() as stack:
        inbox = stack.enter_context(closing(Inbox(context, HOST, Guard(TOKEN), most_connections=3)))
        holders = [stack.enter_context(closing(Outbox(context, HOST, inbox.port, Guard(TOKEN)))) for _ in range(3)]
        for holder in holders:
            holder.send([b"in"])
        heard: list[list[bytes]] = []
        until(lambda: (heard.extend(arrived(inbox)), len(heard) == 3)[1])
        lost = [one._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED) for one in holders]
        late = stack.enter_context(closing(Outbox(context, HOST, inbox.port, Guard(TOKEN))))
        closed = late._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)
        assert closed.poll(10_000)
        assert [one.poll(0) for one in lost] == [0, 0, 0]
        for one in (*lost, closed):
            one.close(0)
        late.close(discard=True)


def test_a_message_that_is_too_long_is_not_taken(
    context: zmq.Context[zmq.Socket[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bufferlab.real.control.channel.LONGEST_MESSAGE_BYTES", 1 << 16)
    with (
        closing(Inbox(context, HOST, Guard(TOKEN))) as inbox,
        closing(Outbox(context, HOST, inbox.port, Guard(TOKEN))) as outbox,
    ):
        outbox.send([bytes(1 << 17)])
        assert arrived(inbox, 0.3) == []
        until(lambda: (outbox.send([b"short"]), time.sleep(0.05), arrived(inbox, 0.1))[2])


def test_commands_have_a_door_of_their_own_where_anybody_may_speak(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    with closing(Inbox(context, HOST, Guard(TOKEN), is_open=True)) as inbox:
        assert inbox.port != inbox.commands_port
        with closing(Outbox(context, HOST, inbox.port)) as stranger:
            stranger.send(command_frames(Stop()))
            assert until(lambda: arrived(inbox)) == [command_frames(Stop())]
            assert list(inbox.commands()) == []
        with closing(Outbox(context, HOST, inbox.commands_port, Guard(TOKEN))) as router:
            router.send(command_frames(Describe(3)))
            assert until(lambda: list(inbox.commands())) == [command_frames(Describe(3))]


def test_what_is_no_command_is_a_value_error_and_nothing_else() -> None:
    draw = random.Random(7)
    good = [command_frames(command) for command in (Stop(), Describe(1))]
    for _ in range(2000):
        [mark, body] = draw.choice(good)
        frames = draw.choice(
            [
                [mark], [mark, body, body], [b"", body], [mark, body[: draw.randrange(len(body))]],
                [mark, draw.randbytes(draw.randrange(60))], [mark, b"\x81" * 20_000 + body],
            ]
        )  # fmt: skip
        with pytest.raises(ValueError, match=r"no order|frames are"):
            parse_command(frames)
    assert parse_command([ORDER, msgspec.msgpack.encode(Stop())]) == Stop()
    assert Ready not in (type(parse_command(frames)) for frames in good)


# --- the registry ---


class Served:
    """A guarded registry."""

    def __init__(self, token: str = TOKEN, port: int = 0, **options: Any) -> None:
        listener = listen(HOST, port)
        self.port = int(listener.getsockname()[1])
        self.address = f"{HOST}:{self.port}"
        self.registry = Registry(listener, "process/0", guard=Guard(token), **options)

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> int:
        request = urllib.request.Request(f"http://{self.address}{path}", data=body, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    def routes(self) -> list[RankId]:
        return [entry.route.rank_id for entry in asyncio.run(self.call(lambda client: client.entries()))]

    async def call(self, what: Callable[[RegistryClient], Any], token: str = TOKEN) -> Any:
        async with http_session(5.0) as session:
            return await what(RegistryClient(session, self.address, Guard(token)))

    def close(self) -> None:
        self.registry.close()


@pytest.fixture
def served() -> Iterator[Served]:
    with closing(Served()) as one:
        yield one


def test_a_registry_serves_those_who_hold_the_token(served: Served) -> None:
    entry = msgspec.json.encode(ROUTE)
    for method, path, body in (
        ("PUT", "/route", entry), ("GET", "/routes", None), ("GET", "/health", None),
        ("GET", "/route?engine_rank=-1&target_dp_group=-1", None), ("GET", "/nothing", None), ("POST", "/route", entry),
    ):  # fmt: skip
        assert served.ask(method, path, body) == 401
        assert served.ask(method, path, body, Authorization="bufferlab a:b:1:c") == 401
    assert served.routes() == []
    with pytest.raises(aiohttp.ClientError, match=r"without the run's token|does not take the run's token"):
        asyncio.run(served.call(lambda client: client.entries(), OTHER))
    asyncio.run(served.call(lambda client: client.register(ROUTE)))
    assert served.routes() == [ENCODE]
    [refusal] = served.registry.strangers()
    assert (refusal.port, refusal.address) == ("registry", HOST)
    assert refusal.count >= 12


def raw(port: int, said: bytes) -> bytes:
    """What a registry answers to these bytes."""
    with socket.create_connection((HOST, port)) as connection:
        connection.settimeout(10)
        connection.sendall(said)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while more := connection.recv(4096):
                answer += more
        return answer


def test_a_request_is_taken_once_by_one_registry_and_as_it_was_said(served: Served) -> None:
    entry = msgspec.json.encode(ROUTE)
    with closing(Served()) as second:
        signer = served.registry._server
        assert signer is not None
        from bufferlab.real.control.guard import HttpClient

        client = HttpClient(Guard(TOKEN))
        client.nonce = signer.nonce
        signed = client.sign("PUT", '["/route",[]]', entry)

        def request(body: bytes, path: str = "/route") -> bytes:
            head = f"PUT {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
            return f"{head}Authorization: {signed.header()}\r\n\r\n".encode() + body

        changed = entry.replace(b"5000", b"5001")
        assert b" 401 " in raw(served.port, request(changed)).split(b"\r\n")[0]
        assert b" 401 " in raw(served.port, request(entry, "/routes")).split(b"\r\n")[0]
        assert b" 401 " in raw(second.port, request(entry)).split(b"\r\n")[0]
        assert served.routes() == second.routes() == []
        assert b" 200 " in raw(served.port, request(entry)).split(b"\r\n")[0]
        assert b" 401 " in raw(served.port, request(entry)).split(b"\r\n")[0]
        assert served.routes() == [ENCODE]


def test_a_registry_in_the_place_of_another_is_met_and_a_false_one_is_not_believed() -> None:
    served = Served()

    async def twice() -> None:
        async with http_session(5.0) as session:
            client = RegistryClient(session, served.address, Guard(TOKEN))
            await client.register(ROUTE)
            served.close()
            with closing(Served(port=served.port)):
                await client.register(ROUTE)
                assert [entry.route.rank_id for entry in await client.entries()] == [ENCODE]
            open_one = Registry(listen(HOST, served.port), "process/0")
            try:
                with pytest.raises(aiohttp.ClientError, match="token"):
                    await client.entries()
            finally:
                open_one.close()

    asyncio.run(twice())


def test_the_forks_calls_are_open_on_its_wire_and_ours_are_not() -> None:
    with closing(Served(fork=True)) as served:
        fork = (
            b'{"role": "Encode", "tp_size": 1, "dp_size": 1, "rank_ip": "192.0.2.7", "rank_port": 1, "engine_rank": 0}'
        )
        assert served.ask("PUT", "/route", fork) == 200
        assert served.ask("GET", "/route?engine_rank=0&target_dp_group=0") == 200
        assert served.ask("GET", "/health") == 200
        assert served.ask("GET", "/routes") == 401
        assert served.ask("PUT", "/route", msgspec.json.encode(ROUTE)) == 401


def test_what_is_said_to_a_registry_has_an_end(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    assert served.ask("PUT", "/route", bytes(2 << 20)) == 413
    assert b" 400 " in raw(served.port, b"\x00\x01 what is this\r\n\r\n")
    monkeypatch.setattr(doors, "PROOF_S", 0.2)
    assert raw(served.port, b"GET /health HTTP/1.1\r\nHost:") == b""  # it does not come to an end
    monkeypatch.setattr(doors, "PROOF_S", 30.0)
    with contextlib.ExitStack() as stack:
        waiting = [
            stack.enter_context(socket.create_connection((HOST, served.port))) for _ in range(doors.MOST_UNPROVEN + 1)
        ]
        waiting[0].settimeout(10)
        with contextlib.suppress(ConnectionError):
            assert waiting[0].recv(10) == b""
        assert served.routes() == []  # whoever holds the token is served all the same


def test_the_last_numbers_of_clients_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bufferlab.real.control.guard.MOST_CLIENTS", 3)
    from bufferlab.real.control.guard import HttpClient

    server = HttpServer(Guard(TOKEN))
    for _ in range(10):
        client = HttpClient(Guard(TOKEN))
        client.nonce = server.nonce
        signed = client.sign("GET", "/", b"")
        assert server.knows(signed, "GET", "/", b"")
        assert server.is_new(signed)
        assert not server.is_new(signed)
    assert len(server._numbers) == 3


@pytest.mark.parametrize("header", ["", "bufferlab", "bufferlab a:b", "bufferlab a:b:x:c", "bufferlab a:b:-1:c", "Basic a:b:1:c",
                                    "bufferlab a:b:²:c", f"bufferlab a:b:{'9' * 400}:c"])  # fmt: skip
def test_what_is_no_proof(header: str) -> None:
    assert parse_signed(header) is None


def test_addresses_are_named_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bufferlab.real.control.guard.MOST_NAMED", 2)
    refusals = Refusals("port")
    for number in range(5):
        refusals.add(f"10.0.0.{number}")
    refusals.add(None)
    assert refusals.list() == [
        Refusal("port", "10.0.0.0", 1), Refusal("port", "10.0.0.1", 1), Refusal("port", "others", 4)
    ]  # fmt: skip
    assert str(refusals.list()[2]) == "the port refused others 4 times: it does not hold the run's token"


# --- the coordinator's connections ---


@contextlib.contextmanager
def two_ends(server: str = TOKEN, client: str = TOKEN) -> Iterator[tuple[Line, Line]]:
    with closing(socket.create_server((HOST, 0))) as listener:
        right = socket.create_connection(listener.getsockname())
        left, _ = listener.accept()
    with closing(Line(left)) as here, closing(Line(right)) as there:
        thread = threading.Thread(target=here.agree, args=(lambda: Guard(server),), kwargs={"is_server": True})
        thread.start()
        there.agree(lambda: Guard(client), is_server=False)
        thread.join()
        yield here, there


def test_lines_are_those_of_a_holder_of_the_token() -> None:
    with two_ends() as (here, there):
        for number in range(3):
            here.send(Ask(float(number)))
            assert there.receive(TO_RANK) == Ask(float(number))
            there.send(Tell(1.0, 2.0))
            assert here.receive(TO_COORDINATOR) == Tell(1.0, 2.0)
    with two_ends(client=OTHER) as (here, there):
        there.send(Tell(1.0, 2.0))
        with pytest.raises(NotOfThisRun, match="does not hold the token"):
            here.receive(TO_COORDINATOR)


def test_a_line_is_taken_once_in_its_place_and_from_the_other_end() -> None:
    nonces = (bytes(16), bytes([1]) * 16)
    server = LineSigner(Guard(TOKEN), is_server=True, nonces=nonces)
    first, second, third = (server.sign(payload) for payload in (b"one", b"two", b"three"))

    def client() -> LineSigner:
        return LineSigner(Guard(TOKEN), is_server=False, nonces=nonces)

    reader = client()
    assert [reader.payload(line) for line in (first, second, third)] == [b"one", b"two", b"three"]
    assert [one.payload(first) for one in [reader]] == [None]  # again
    assert client().payload(second) is None  # before the first
    assert client().payload(first[:-1] + b"f") is None  # changed
    assert client().payload(client().sign(b"one")) is None  # its own
    assert client().payload(b"") is None
    other = LineSigner(Guard(TOKEN), is_server=False, nonces=(nonces[1], nonces[0]))
    assert other.payload(first) is None  # of another connection


SCENARIO = Scenario(block_tokens=16, hidden=64)


def join_of(side: Side) -> Join:
    return Join(side=side, number=0, host=HOST, sources=sources_digest())


def test_the_coordinator_takes_those_who_hold_the_token_and_names_the_others() -> None:
    with Coordinator(SCENARIO, HOST, 0, token=TOKEN) as hosts:
        port = int(hosts.address.rpartition(":")[2])
        with closing(Line(socket.create_connection((HOST, port)))) as stranger:
            stranger.send(join_of(Side.ENCODE))  # as if there were no token
            with pytest.raises(ConnectionLost):
                while True:
                    stranger.receive(TO_RANK)
        with pytest.raises(EngineStartError, match="has another token"):
            agent.take_part((HOST, port), Side.ENCODE, 0, host=HOST, wait_s=5.0, token=lambda: OTHER)
        with pytest.raises(EngineStartError, match=r"these ranks have not come: encode 0, language 0"):
            hosts.gather(0.1)
        with closing(Line(socket.create_connection((HOST, port)))) as rank:
            rank.agree(lambda: Guard(TOKEN), is_server=False)
            rank.send(join_of(Side.ENCODE))
            assert rank.receive(TO_RANK) == Welcome(ENCODE)
        assert until(lambda: hosts.refused() and hosts.refused()[0].count == 2 and hosts.refused()) == [
            Refusal("port of the coordinator", HOST, 2)
        ]


def test_a_rank_obeys_no_coordinator_without_the_token() -> None:
    with closing(socket.create_server((HOST, 0))) as false:

        def serve() -> None:
            connection, _ = false.accept()
            with closing(Line(connection)) as line:
                line.agree(lambda: Guard(OTHER), is_server=True)
                line.send(Welcome(ENCODE))
                with contextlib.suppress(ConnectionLost):
                    line.receive(TO_COORDINATOR)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(EngineStartError, match="has another token"):
            agent.take_part(false.getsockname(), Side.ENCODE, 0, host=HOST, wait_s=5.0, token=lambda: TOKEN)
        thread.join()


def test_ports_of_the_forks_wire_are_not_reached_from_elsewhere_unless_that_is_wanted() -> None:
    spec = Scenario(block_tokens=16, hidden=64, wire="sglang", discipline="alloc_then_free", timeout_s=1.0)
    for expose in (False, True):
        with Coordinator(spec, HOST, 0, expose=expose) as hosts:
            port = int(hosts.address.rpartition(":")[2])
            with closing(Line(socket.create_connection((HOST, port)))) as rank:
                rank.send(msgspec.structs.replace(join_of(Side.ENCODE), host="192.0.2.1"))
                answer = rank.receive(TO_RANK)
                assert isinstance(answer, Welcome) == expose
                if not expose:
                    assert "anybody can speak to its ports" in answer.reason  # type: ignore[union-attr]


# --- where the token lies ---


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv(tokens.VARIABLE, raising=False)
    return tmp_path


def test_a_token_is_made_for_its_owner_and_goes_with_the_coordinator(state: Path) -> None:
    said: list[str] = []
    with tokens.offered(None, said.append) as token:
        made = token("10.0.0.1:7077")
        assert tokens.held(None, "10.0.0.1:7077") == made
        [file] = (state / "state").rglob("token-*")
        assert file.stat().st_mode & 0o777 == 0o600
        assert str(file) in said[0]
        assert made not in said[0]
        with pytest.raises(UserError, match=r"the token of the run at 10\.0\.0\.1:7078 is not in"):
            tokens.held(None, "10.0.0.1:7078")
        with tokens.offered(None, said.append) as again:
            assert again("10.0.0.1:7077") != made  # what a killed one left is not used
    assert list((state / "state").rglob("token-*")) == []


def test_a_token_of_a_file_is_made_once_and_kept(state: Path) -> None:
    file = state / "folder" / "mine"
    said: list[str] = []
    with tokens.offered(file, said.append) as token:
        made = token("10.0.0.1:7077")
    assert file.stat().st_mode & 0o777 == 0o600
    with tokens.offered(file, said.append) as token:
        assert token("10.0.0.1:7077") == made
    assert tokens.held(file, "anywhere:1") == made
    assert str(file) in said[0]
    file.chmod(0o640)
    with pytest.raises(UserError, match=r"can be read by others \(mode 0640\); run: chmod 600"):
        tokens.held(file, "anywhere:1")
    file.chmod(0o600)
    file.write_text("short")
    with pytest.raises(UserError, match="must be one word of at least 32 ASCII characters"):
        tokens.held(file, "anywhere:1")
    with pytest.raises(UserError, match=r"cannot read the token in .*No such file"):
        tokens.held(state / "nothing", "anywhere:1")


def test_a_token_of_the_environment(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = new_token()
    monkeypatch.setenv(tokens.VARIABLE, made)
    with tokens.offered(None, lambda _: None) as token:
        assert token("10.0.0.1:7077") == tokens.held(None, "10.0.0.1:7077") == made
    assert list((state / "state").rglob("*")) == []
    monkeypatch.setenv(tokens.VARIABLE, "x y")
    with pytest.raises(UserError, match="the token in BUFFERLAB_TOKEN must be one word"):
        tokens.held(None, "10.0.0.1:7077")
