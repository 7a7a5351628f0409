"""Ranks that come to a coordinator from other hosts: who is taken, who is not, and how either side notices an end.

No rank process runs here; what a rank does with its place is in test_several_hosts.py.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("zmq", reason="needs pyzmq")
pytest.importorskip("aiohttp", reason="needs aiohttp")
pytest.importorskip("psutil", reason="needs psutil")

import msgspec

from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.protocol.topology import RankId, Side
from bufferlab.real.control.addresses import (
    interface_of,
    is_loopback,
    own,
    parse_address,
    require_own,
    resolve,
    towards,
)
from bufferlab.real.control.route import ROUTER, Route
from bufferlab.real.control.spec import RankSpec
from bufferlab.real.errors import EngineError, EngineStartError
from bufferlab.real.faults import Kill, RefuseRegistration
from bufferlab.real.hosts import agent, joining
from bufferlab.real.hosts.coordinator import Coordinator
from bufferlab.real.hosts.joining import (
    TO_COORDINATOR,
    TO_RANK,
    Ask,
    ConnectionLost,
    Count,
    Counted,
    Ended,
    Gone,
    Join,
    Launch,
    Leave,
    Line,
    Signal,
    Tell,
    Welcome,
    first_difference,
    sources_digest,
)
from bufferlab.real.hosts.places import ThisHost
from bufferlab.real.run.launcher import run_real

pytestmark = pytest.mark.timeout(60)

HOST = "127.0.0.1"
SCENARIO = Scenario(block_tokens=16, hidden=64, encode_instances=1, language_instances=2, language_tp=2)
ENCODE = RankId(Side.ENCODE, 0, 0)
CONFIG = {"run": {"seed": 1}, "protocol": {"sizing": {"tokens": 1024}}}
OVER_TCP = CONFIG | {"real": {"transport": "tcp"}}


def port_of(hosts: Coordinator) -> int:
    return int(hosts.address.rpartition(":")[2])


class Guest:
    """The other end of a place, as a test would have it."""

    def __init__(self, hosts: Coordinator, side: Side, number: int, host: str = HOST, **more: Any) -> None:
        self.line = Line(socket.create_connection((HOST, port_of(hosts))))
        fields: dict[str, Any] = {"sources": sources_digest()} | more
        self.line.send(Join(side=side, number=number, host=host, **fields))
        self.answer = self.line.receive(TO_RANK)

    def answers(self, clock: Callable[[], float]) -> None:
        """Answer for a clock until the place is given up."""

        def serve() -> None:
            try:
                while True:
                    match self.line.receive(TO_RANK):
                        case Ask(sent_s):
                            self.line.send(Tell(sent_s, clock()))
                        case Count():
                            self.line.send(Counted({"tcp:lo": 7}))
                        case Leave():
                            self.line.close()
            except ConnectionLost:
                return

        threading.Thread(target=serve, daemon=True).start()


@contextmanager
def everybody(hosts: Coordinator) -> Iterator[dict[RankId, Guest]]:
    """All ranks of SCENARIO in their places."""
    guests = {ENCODE: Guest(hosts, Side.ENCODE, 0)}
    guests |= {rank_id: Guest(hosts, Side.LANGUAGE, n) for n, rank_id in enumerate(SCENARIO.language_ids())}
    try:
        hosts.gather(5.0)
        yield guests
    finally:
        for guest in guests.values():
            guest.line.close()


def spec_of(rank_id: RankId) -> RankSpec:
    return RankSpec(
        rank_id=rank_id, scenario=SCENARIO, bootstraps=(), router=Route(rank_id=ROUTER, host="", control_port=0)
    )


# --- who is taken ---


def test_a_number_counts_over_the_instances() -> None:
    with Coordinator(SCENARIO, HOST, 0) as hosts:
        taken = [Guest(hosts, Side.LANGUAGE, number) for number in range(4)]
        found = [guest.answer for guest in taken]
        for guest in taken:
            guest.line.close()
    assert found == [Welcome(RankId(Side.LANGUAGE, number // 2, number % 2)) for number in range(4)]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"number": 4}, "the run has language ranks 0 to 3 (instance × tp + rank)"),
        ({"number": -1}, "the run has language ranks 0 to 3"),
        ({"number": 0}, "it has come already, from 127.0.0.9"),
        ({"device": "mlx5_0"}, "--device is 'mlx5_0', which has no effect in a run over tcp: only rdma has devices"),
        ({"sources": "x"}, "it runs other sources than the coordinator"),
        (
            {"config": OVER_TCP | {"protocol": {"sizing": {"tokens": 512}}}},
            "its configuration has protocol.sizing.tokens = 512, the run's has 1024",
        ),
        (
            {"config": {"run": {"seed": 1}, "real": OVER_TCP["real"]}},
            "its configuration has protocol.sizing.tokens = None, the run's has 1024",
        ),
    ],
)
def test_who_is_refused(change: dict[str, Any], reason: str) -> None:
    with Coordinator(SCENARIO, HOST, 0, OVER_TCP) as hosts, closing(Guest(hosts, Side.LANGUAGE, 0, "127.0.0.9").line):
        guest = Guest(hosts, **({"side": Side.LANGUAGE, "number": 1, "config": OVER_TCP} | change))
        assert reason in guest.answer.reason  # type: ignore[union-attr]
        with pytest.raises(ConnectionLost):
            guest.line.receive(TO_RANK)
        guest.line.close()


def test_the_refused_rank_says_why() -> None:
    words = r"refuses encode rank 1: the run has encode ranks 0 to 0"
    with Coordinator(SCENARIO, HOST, 0) as hosts, pytest.raises(EngineStartError, match=words):
        agent.take_part((HOST, port_of(hosts)), Side.ENCODE, 1, host=HOST, wait_s=5.0)


def test_a_rank_that_leaves_before_the_run_can_be_replaced_and_later_not() -> None:
    said: list[str] = []
    with Coordinator(SCENARIO, HOST, 0) as hosts:
        first = Guest(hosts, Side.ENCODE, 0)
        first.line.send(Gone("was interrupted"))
        first.line.close()
        with pytest.raises(EngineStartError, match="these ranks have not come: encode 0, language 0"):
            hosts.gather(0.5, said.append)
        assert said == [
            "encode 0 (encode0.0) has come from 127.0.0.1",
            "encode0.0 was interrupted (on 127.0.0.1)",
        ]
        with everybody(hosts) as guests:
            guests[ENCODE].line.close()
            late = Guest(hosts, Side.ENCODE, 0)
            assert "has come already" in late.answer.reason  # type: ignore[union-attr]
            late.line.close()


def test_those_that_stay_away_are_named() -> None:
    words = r"after 0\.3 s these ranks have not come: encode 0, language 0, language 1, language 3"
    with Coordinator(SCENARIO, HOST, 0) as hosts:
        guest = Guest(hosts, Side.LANGUAGE, 2)
        with pytest.raises(EngineStartError, match=words):
            hosts.gather(0.3)
        guest.line.close()


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"\xff\xfe\n", b'{"type":"gone","reason":""}\n', b""])
def test_a_stranger_at_the_port_disturbs_nobody(said: bytes) -> None:
    with Coordinator(SCENARIO, HOST, 0) as hosts, socket.create_connection((HOST, port_of(hosts))) as stranger:
        stranger.sendall(said)
        if said:
            stranger.settimeout(10.0)
            assert stranger.recv(100) == b""  # it is shown the door
        with everybody(hosts):
            pass  # all have come


# --- nobody there ---


def test_no_coordinator() -> None:
    with closing(socket.socket()) as reserved:
        reserved.bind((HOST, 0))
        with pytest.raises(EngineStartError, match=r"no coordinator is at 127\.0\.0\.1:\d+ after 0\.3 s"):
            agent.take_part((HOST, reserved.getsockname()[1]), Side.ENCODE, 0, host=HOST, wait_s=0.3)


def test_a_coordinator_that_comes_later_is_met() -> None:
    with closing(socket.socket()) as reserved:
        reserved.bind((HOST, 0))
        port = reserved.getsockname()[1]
    met: list[BaseException] = []

    def come() -> None:
        try:
            agent.take_part((HOST, port), Side.ENCODE, 5, host=HOST, wait_s=20.0)
        except EngineStartError as error:
            met.append(error)

    rank = threading.Thread(target=come)
    rank.start()
    time.sleep(0.5)
    with Coordinator(SCENARIO, HOST, port):
        rank.join(20.0)
    assert "encode ranks 0 to 0" in str(met[0])


def test_something_else_is_at_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "SILENCE_S", 0.2)
    words = r"is no coordinator of this version: nothing was heard for 0\.2 s"
    with closing(socket.create_server((HOST, 0))) as other, pytest.raises(EngineStartError, match=words):
        agent.take_part(other.getsockname(), Side.ENCODE, 0, host=HOST, wait_s=5.0)


def test_a_taken_address_is_refused() -> None:
    with Coordinator(SCENARIO, HOST, 0) as hosts, pytest.raises(EngineStartError, match="Address already in use"):
        Coordinator(SCENARIO, HOST, port_of(hosts))


# --- clocks ---


def test_a_clock_is_measured_and_measured_again() -> None:
    ahead_s = [1000.0]
    with Coordinator(SCENARIO, HOST, 0) as hosts, everybody(hosts) as guests:
        guests[ENCODE].answers(lambda: time.monotonic() + ahead_s[0])
        clock = hosts.measure_clock(ENCODE)
        assert abs(clock.before.offset_s - 1000.0) <= clock.uncertainty_s < 1.0
        assert clock.after is None
        ahead_s[0] = 1000.5
        again = hosts.measure_clock(ENCODE, clock)
        assert again.before == clock.before
        assert again.after is not None
        assert abs(again.after.offset_s - 1000.5) <= again.after.uncertainty_s
        guests[ENCODE].line.close()
        while hosts.measure_clock(ENCODE, clock) != clock:  # until the news has come
            time.sleep(0.01)
        assert hosts.measure_clock(ENCODE, clock) == clock
        with pytest.raises(
            EngineStartError, match=r"encode0\.0 is lost: the connection was closed \(on 127\.0\.0\.1\)"
        ):
            hosts.measure_clock(ENCODE)


def test_a_host_that_does_not_say_what_it_sent_is_left_out() -> None:
    """What it said once, before the run, is not what it sent until its end."""
    with Coordinator(SCENARIO, HOST, 0) as hosts, everybody(hosts) as guests:
        for guest in guests.values():
            guest.answers(time.monotonic)
        assert hosts.sent_counters() == {HOST: {"tcp:lo": 7}}
        for guest in guests.values():
            guest.line.close()
        while hosts.sent_counters():  # until the news has come
            time.sleep(0.01)


# --- processes ---


def test_a_process_elsewhere_as_its_place_tells_of_it() -> None:
    with Coordinator(SCENARIO, HOST, 0) as hosts, everybody(hosts) as guests:
        line = guests[ENCODE].line
        process = hosts.start(spec_of(ENCODE))
        assert (
            next(one for one in iter(lambda: line.receive(TO_RANK), None) if isinstance(one, Launch)).spec.rank_id
            == ENCODE
        )
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        process.send_signal(signal.SIGTERM)
        assert (
            next(one for one in iter(lambda: line.receive(TO_RANK), None) if isinstance(one, Signal)).number
            == signal.SIGTERM
        )
        line.send(Ended(3, "it wants Mooncake"))
        assert process.wait(5.0) == process.poll() == 3
        assert process.last_words() == "it wants Mooncake"
        assert process.how_it_ended() == "ended with status 3 (on 127.0.0.1)"
        process.send_signal(signal.SIGTERM)  # too late, and no error


@pytest.mark.parametrize(
    ("end", "how"),
    [
        (lambda line: line.send(Gone("was interrupted")), "was interrupted (on 127.0.0.1)"),
        (lambda line: line.close(), "is lost: the connection was closed (on 127.0.0.1)"),
        (lambda line: line.send(Leave()), "is lost: it does not speak this language (on 127.0.0.1)"),
    ],
    ids=["on its own account", "without a word", "nonsense"],
)
def test_a_process_ends_with_its_place(end: Callable[[Line], None], how: str) -> None:
    with Coordinator(SCENARIO, HOST, 0) as hosts, everybody(hosts) as guests:
        process = hosts.start(spec_of(ENCODE))
        end(guests[ENCODE].line)
        assert process.wait(5.0) < 0
        assert (process.how_it_ended(), process.last_words()) == (how, f"encode0.0 {how}")
        again = hosts.start(spec_of(ENCODE))
        assert again.wait(5.0) < 0


def test_a_silent_place_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "SILENCE_S", 0.5)
    with Coordinator(SCENARIO, HOST, 0) as hosts, everybody(hosts):
        process = hosts.start(spec_of(ENCODE))
        process.wait(10.0)
        assert process.how_it_ended() == "is lost: nothing was heard for 0.5 s (on 127.0.0.1)"


# --- a rank agent whose coordinator goes ---


@contextmanager
def seated(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Line, list[str]]]:
    """A rank in its place: the coordinator's end of its connection, and what it said in the end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    # Such a pair has no TCP options.
    monkeypatch.setattr(socket.socket, "setsockopt", lambda *_: None)
    said: list[str] = []

    def sit() -> None:
        with closing(Line(theirs)) as line, ThisHost() as here:
            try:
                agent.RankAgent(line, ENCODE, here).take_part()
            except EngineError as error:
                said.append(str(error))
            else:
                said.append("")

    thread = threading.Thread(target=sit)
    thread.start()
    line = Line(ours)
    try:
        yield line, said
    finally:
        line.close()
        thread.join(10.0)
    assert not thread.is_alive()


def test_a_rank_agent_answers_and_leaves_when_the_run_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with seated(monkeypatch) as (line, said):
        before_s = time.monotonic()
        line.send(Ask(12.5))
        answer = line.receive(TO_COORDINATOR)
        assert isinstance(answer, Tell)
        assert answer.sent_s == 12.5
        assert before_s <= answer.taken_s <= time.monotonic()
        line.send(Leave())
    assert said == [""]


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (lambda line: line.close(), "encode0.0 ends because the coordinator is gone: the connection was closed"),
        (
            lambda line: line.send(Signal(15)),
            "encode0.0 ends because the coordinator is gone: it sent a Signal out of place",
        ),
        (lambda line: line.send(Leave("it broke")), "the run was not carried through: it broke"),
    ],
)
def test_a_rank_agent_leaves_when_the_coordinator_does(
    monkeypatch: pytest.MonkeyPatch, end: Callable[[Line], None], reason: str
) -> None:
    with seated(monkeypatch) as (line, said):
        end(line)
    assert said == [reason]


def test_a_rank_agent_leaves_when_the_coordinator_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "SILENCE_S", 0.3)
    with seated(monkeypatch) as (_, said):
        deadline_s = time.monotonic() + 10.0
        while not said and time.monotonic() < deadline_s:
            time.sleep(0.01)
    assert said == ["encode0.0 ends because the coordinator is gone: nothing was heard for 0.3 s"]


# --- the rest ---


def test_processes_cannot_be_made_to_fail_on_other_hosts() -> None:
    requests: list[Any] = []
    with Coordinator(SCENARIO, HOST, 0) as hosts:
        with pytest.raises(ValueError, match="need all ranks on this host"):
            run_real(SCENARIO, requests, plan=[Kill(rank=ENCODE, time_s=0.0)], hosts=hosts)
        # What a rank does to itself it does anywhere; here nobody has come who could.
        with pytest.raises(KeyError):
            run_real(SCENARIO, requests, plan=[RefuseRegistration(rank=ENCODE)], hosts=hosts)


@pytest.mark.parametrize(
    ("theirs", "difference"),
    [
        (CONFIG, None),
        ({"protocol": {"sizing": {"tokens": 1024.0}}, "run": {"seed": 1}}, None),
        (
            {"run": {"seed": 1}, "protocol": {"sizing": {"tokens": 1024, "least": 1}}},
            ("protocol.sizing.least", None, 1),
        ),
        ({"run": {"seed": 2}, "protocol": {"sizing": {"tokens": 1024}}}, ("run.seed", 1, 2)),
        ({"run": 5, "protocol": {"sizing": {"tokens": 1024}}}, ("run", None, 5)),
    ],
)
def test_the_first_difference(theirs: dict[str, Any], difference: tuple[str, Any, Any] | None) -> None:
    assert first_difference(CONFIG, theirs) == difference


def test_a_message_of_any_size_arrives_whole() -> None:
    ours, theirs = socket.create_server((HOST, 0)), socket.socket()
    with closing(ours), closing(theirs):
        theirs.connect(ours.getsockname())
        sender, receiver = Line(theirs), Line(ours.accept()[0])
        facts = {"text": "ä" * 3_000_000}
        sent = Join(side=Side.ENCODE, number=0, host=HOST, sources="", facts=facts)
        thread = threading.Thread(target=lambda: [sender.send(sent), sender.send(Gone("done"))])
        thread.start()
        assert receiver.receive(TO_COORDINATOR) == sent
        assert receiver.receive(TO_COORDINATOR) == Gone("done")
        thread.join()
        sender.close()
        receiver.close()
    assert msgspec.json.decode(msgspec.json.encode(sent), type=Join) == sent


# --- addresses ---


def test_addresses() -> None:
    assert parse_address("127.0.0.1:80", "--bootstrap") == (HOST, 80)
    assert parse_address("localhost:80", "--bootstrap") == (HOST, 80)
    assert parse_address("127.0.0.1:0", "--bootstrap", lowest_port=0) == (HOST, 0)
    assert towards(HOST) == HOST
    assert HOST in own()
    assert interface_of(HOST) == interface_of("127.0.0.7") == "lo"
    assert interface_of("203.0.113.77") is None
    assert [is_loopback(one) for one in (HOST, "127.9.9.9", "10.0.0.1")] == [True, True, False]
    require_own(HOST, "--host")


@pytest.mark.parametrize(
    "text", ["", "here", "127.0.0.1", "127.0.0.1:", ":80", "127.0.0.1:x", "127.0.0.1:65536", "127.0.0.1:0"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"--bootstrap is '.*', it must be HOST:PORT"):
        parse_address(text, "--bootstrap")


@pytest.mark.parametrize("host", ["no such host", "256.1.1.1", "a" * 300, "0.0.0.0", "224.0.0.1"])
def test_what_is_no_host(host: str) -> None:
    with pytest.raises(ValueError, match="--host names"):
        resolve(host, "--host")


def test_another_machines_address() -> None:
    with pytest.raises(
        ValueError, match=r"--host names 203\.0\.113\.77, it must be an address of this machine, which has "
    ):
        require_own("203.0.113.77", "--host")


def test_a_thread_of_the_coordinator_that_breaks_ends_the_waiting_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def serve(_self: Coordinator, _line: Line) -> None:
        raise MemoryError("no more")

    monkeypatch.setattr(Coordinator, "_serve", serve)
    with Coordinator(SCENARIO, HOST, 0) as hosts, socket.create_connection((HOST, port_of(hosts))):
        with pytest.raises(EngineError, match=r"the coordinator cannot go on: .* ended with MemoryError: no more"):
            hosts.gather(30.0)
        with pytest.raises(EngineError, match="no more"):
            hosts.check()


def test_a_thread_beside_a_rank_that_breaks_ends_the_rank_with_a_sentence() -> None:
    class Played:
        def poll(self) -> int:
            return 0

        def wait(self, _timeout_s: float | None) -> int:
            return 0

        def last_words(self) -> str:
            raise OSError("the disk is gone")

    here: Any = SimpleNamespace(start=lambda _spec: Played(), token="")
    with socket.create_server((HOST, 0)) as listener:
        theirs = Line(socket.create_connection(listener.getsockname()))
        ours = Line(listener.accept()[0])
    route = Route(rank_id=ROUTER, host="", control_port=0)
    spec = RankSpec(rank_id=ROUTER, scenario=SCENARIO, bootstraps=(), router=route)
    with closing(ours), closing(theirs):
        theirs.send(Launch(spec))
        with pytest.raises(
            EngineError, match=r"encode0\.0 cannot go on: its 'reporter' thread ended with OSError: the"
        ):
            agent.RankAgent(ours, ENCODE, here).take_part()
