"""The registries over HTTP, the heartbeats, and which process a message may come from; no Mooncake, no rank processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

pytest.importorskip("aiohttp", reason="needs aiohttp")
pytest.importorskip("zmq", reason="needs pyzmq")

import msgspec
import zmq

from bufferlab.protocol.topology import RankId, Side
from bufferlab.real.control.addresses import listen
from bufferlab.real.control.bootstrap import Registry
from bufferlab.real.control.channel import MOST_HELD, Outbox, Processes, Standing
from bufferlab.real.control.heartbeat import Found, Heartbeat, Lost, News
from bufferlab.real.control.registry_client import RegistrationRefused, RegistryClient, http_session, register_and_find
from bufferlab.real.control.route import Route
from bufferlab.real.control.spec import Heartbeats

pytestmark = pytest.mark.timeout(30)

HOST = "127.0.0.1"
ENCODE0, ENCODE1 = RankId(Side.ENCODE, 0, 0), RankId(Side.ENCODE, 0, 1)
LANGUAGE0, LANGUAGE1 = RankId(Side.LANGUAGE, 0, 0), RankId(Side.LANGUAGE, 0, 1)
QUICK = Heartbeats(interval_s=0.1, failures=2)


def route(rank_id: RankId, *, generation: int = 0, port: int = 5000) -> Route:
    number = port + 100 * generation + 10 * rank_id.rank + (rank_id.side is Side.LANGUAGE)
    return Route(
        rank_id=rank_id, host=HOST, control_port=number, generation=generation, session=f"{HOST}:{number}", bases=(1,)
    )


class Served:
    """A registry on a port of its own."""

    def __init__(self, port: int = 0, generation: int = 0, **options: object) -> None:
        listener = listen(HOST, port)
        self.port = int(listener.getsockname()[1])
        self.address = f"{HOST}:{self.port}"
        self.registry = Registry(listener, route(ENCODE0, generation=generation).process, **options)  # type: ignore[arg-type]

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        request = urllib.request.Request(f"http://{self.address}{path}", data=body, method=method)
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def put(self, entry: Route) -> tuple[int, bytes]:
        return self.ask("PUT", "/route", msgspec.json.encode(entry))

    def close(self) -> None:
        self.registry.close()


@pytest.fixture
def served() -> Iterator[Served]:
    one = Served(encode_tp=2)
    with contextlib.closing(one):
        yield one


# --- the registry ---


def test_a_process_registers_and_is_listed(served: Served) -> None:
    assert served.put(route(ENCODE0)) == (200, b"registered")
    assert served.put(route(LANGUAGE0))[0] == 200
    status, body = served.ask("GET", "/routes")
    entries = json.loads(body)
    assert status == 200
    assert [entry["route"]["rank_id"] for entry in entries] == [["encode", 0, 0], ["language", 0, 0]]
    assert entries[1]["route"]["session"] == route(LANGUAGE0).session


def test_the_lookups_of_the_original(served: Served) -> None:
    served.put(route(ENCODE1))
    served.put(route(LANGUAGE0))  # has the same rank number as the encode rank that is missing
    sizes = json.loads(served.ask("GET", "/route?engine_rank=-1&target_dp_group=-1")[1])
    assert sizes == {"embedding_tp_size": 2, "embedding_dp_size": 1}
    found = json.loads(served.ask("GET", "/route?engine_rank=1&target_dp_group=0")[1])
    assert found == {"rank_ip": HOST, "rank_port": route(ENCODE1).control_port}
    assert served.ask("GET", "/route?engine_rank=0&target_dp_group=0")[0] == 404
    assert served.ask("GET", "/route?engine_rank=1&target_dp_group=1")[0] == 404
    for query in ("", "?engine_rank=1", "?engine_rank=x&target_dp_group=0"):
        assert served.ask("GET", f"/route{query}")[0] == 400


def test_an_encode_rank_of_the_original_registers_and_is_found(served: Served) -> None:
    entry = {
        "role": "Encode", "tp_size": 4, "dp_size": 1, "rank_ip": "192.0.2.7", "rank_port": 4711, "engine_rank": 3
    }  # fmt: skip
    assert served.ask("PUT", "/route", json.dumps(entry).encode()) == (200, b"registered")
    sizes = json.loads(served.ask("GET", "/route?engine_rank=-1&target_dp_group=-1")[1])
    assert sizes == {"embedding_tp_size": 4, "embedding_dp_size": 1}
    found = json.loads(served.ask("GET", "/route?engine_rank=3&target_dp_group=0")[1])
    assert found == {"rank_ip": "192.0.2.7", "rank_port": 4711}
    assert json.loads(served.ask("GET", "/routes")[1]) == []  # it speaks another wire than our language ranks
    for wrong in ({"role": "Language"}, {"dp_size": 2}, {"engine_rank": 4}, {"engine_rank": -1}, {"tp_size": "4"}):
        status, reason = served.ask("PUT", "/route", json.dumps(entry | wrong).encode())
        assert status == 400
        assert next(iter(wrong)) in reason.decode() or "role" in reason.decode()


def test_what_is_no_route_is_refused_and_changes_nothing(served: Served) -> None:
    for body in (b"", b"{", b'{"rank_id": 3}', b"[]"):
        assert served.ask("PUT", "/route", body)[0] == 400
    assert json.loads(served.ask("GET", "/routes")[1]) == []


def test_a_later_process_takes_the_name_over_and_the_earlier_one_does_not_get_it_back(served: Served) -> None:
    old, new = route(LANGUAGE0), route(LANGUAGE0, generation=1)
    assert served.put(old)[0] == 200
    assert served.put(new)[0] == 200
    status, reason = served.put(old)
    assert (status, reason) == (409, b"language0.0 has been taken over by a later process")
    [entry] = json.loads(served.ask("GET", "/routes")[1])
    assert entry["route"]["generation"] == 1


def test_an_engine_port_of_an_ended_process_is_not_taken_again(served: Served) -> None:
    """Writes for the old process may still be queued somewhere; they must not find a new one behind its address."""
    old = route(LANGUAGE0)
    served.put(old)
    again = msgspec.structs.replace(route(LANGUAGE0, generation=1), session=old.session)
    other = msgspec.structs.replace(route(LANGUAGE1), session=old.session)
    for entry in (again, other):
        status, reason = served.put(entry)
        assert (status, reason) == (409, f"session {old.session} has been that of language0.0".encode())


def test_a_probe_is_a_sign_of_life_of_the_process_that_registered(served: Served) -> None:
    served.put(route(LANGUAGE0, generation=1))

    def health(entry: Route) -> dict[str, object]:
        body = served.ask("GET", f"/health?rank={entry.rank_id}&process={entry.process}")[1]
        return json.loads(body)

    def silent_s() -> float:
        return json.loads(served.ask("GET", "/routes")[1])[0]["silent_s"]

    assert served.ask("GET", "/health")[0] == 200  # whoever only wants to know whether it lives
    assert silent_s() == 0  # it has not begun to probe
    assert health(route(LANGUAGE0, generation=1)) == {
        "process": route(ENCODE0).process, "version": 1, "registered": True
    }  # fmt: skip
    time.sleep(0.05)
    assert silent_s() > 0.04
    assert health(route(LANGUAGE0))["registered"] is False  # its predecessor
    assert silent_s() > 0.04
    assert health(route(LANGUAGE0, generation=1))["registered"] is True
    assert silent_s() < 0.04
    served.put(route(LANGUAGE1))
    assert health(route(LANGUAGE0, generation=1))["version"] == 2


def test_register_and_find_waits_for_the_last_one() -> None:
    with contextlib.closing(Served()) as first, contextlib.closing(Served()) as second:
        second_encode = RankId(Side.ENCODE, 1, 0)
        first.put(route(ENCODE0))
        threading.Timer(0.3, second.put, [route(second_encode, port=7000)]).start()
        begun_s = time.monotonic()
        wanted = {first.address: [ENCODE0], second.address: [second_encode]}
        found = register_and_find(wanted, route(LANGUAGE0), [LANGUAGE0], 10.0)
        assert time.monotonic() - begun_s >= 0.3
        assert found == {
            ENCODE0: route(ENCODE0), second_encode: route(second_encode, port=7000), LANGUAGE0: route(LANGUAGE0)
        }  # fmt: skip


def test_a_group_is_found_by_its_own_generation(served: Served) -> None:
    """An entry of the old rank 0 would send the new ones to a store that is not there any more."""
    served.put(route(ENCODE0))
    served.put(route(LANGUAGE0))
    wanted = {served.address: [ENCODE0]}
    with pytest.raises(TimeoutError, match=r"still lack language0\.0$"):
        register_and_find(wanted, route(LANGUAGE1, generation=1), [LANGUAGE0, LANGUAGE1], 0.3)
    served.put(route(LANGUAGE0, generation=1))
    found = register_and_find(wanted, route(LANGUAGE1, generation=1), [LANGUAGE0, LANGUAGE1], 5.0)
    assert found[LANGUAGE0].generation == 1


def test_who_is_missing_is_named_and_so_is_a_registry_that_does_not_answer(served: Served) -> None:
    with pytest.raises(TimeoutError, match=r"still lack encode0\.0, encode0\.1$"):
        register_and_find({served.address: [ENCODE0, ENCODE1]}, route(LANGUAGE0), [LANGUAGE0], 0.3)
    with socket.socket() as unused:
        unused.bind((HOST, 0))
        nobody = f"{HOST}:{unused.getsockname()[1]}"
        with pytest.raises(TimeoutError, match=f"{nobody} (has not answered|still lack)"):
            register_and_find({nobody: []}, route(LANGUAGE0), [], 0.3)


def test_a_refused_process_is_told_at_once_and_another_generation_is_not() -> None:
    with contextlib.closing(Served(refused=[(LANGUAGE0, 0)])) as served:
        begun_s = time.monotonic()
        with pytest.raises(RegistrationRefused, match=r"refuses language0\.0: language0\.0 may not register here"):
            register_and_find({served.address: []}, route(LANGUAGE0), [LANGUAGE0], 20.0)
        assert time.monotonic() - begun_s < 5
        found = register_and_find({served.address: []}, route(LANGUAGE0, generation=1), [LANGUAGE0], 20.0)
        assert found[LANGUAGE0].generation == 1


# --- heartbeats ---


class Watched:
    """A heartbeat and what it reports."""

    def __init__(self, own: Route, served: Served, ranks: list[Route]) -> None:
        self.news: queue.SimpleQueue[News | Exception] = queue.SimpleQueue()
        known = {one.rank_id: one for one in ranks}
        self.heartbeat = Heartbeat(own, {served.address: list(known)}, known, QUICK, self.news.put)

    def next(self, timeout_s: float = 10.0) -> News | Exception:
        return self.news.get(timeout=timeout_s)

    def nothing(self, for_s: float) -> bool:
        with contextlib.suppress(queue.Empty):
            raise AssertionError(f"unexpected {self.news.get(timeout=for_s)}")
        return True

    def close(self) -> None:
        self.heartbeat.close()


def test_a_language_rank_notices_a_dead_encode_instance_and_its_successor() -> None:
    served = Served()
    served.put(route(ENCODE0))
    own = route(LANGUAGE0)
    with contextlib.closing(Watched(own, served, [route(ENCODE0)])) as watched:
        assert watched.nothing(0.5)
        served.close()
        begun_s = time.monotonic()
        assert watched.next() == Lost(ENCODE0, route(ENCODE0).process)
        assert time.monotonic() - begun_s > QUICK.interval_s / 2  # one failure is not enough
        assert watched.nothing(0.4)  # and it is said once
        with contextlib.closing(Served(served.port, generation=1)) as successor:
            successor.put(route(ENCODE0, generation=1))
            assert watched.next() == Found(route(ENCODE0, generation=1))
            routes = json.loads(successor.ask("GET", "/routes")[1])
            assert [LANGUAGE0._asdict()["side"], 0, 0] in [entry["route"]["rank_id"] for entry in routes]
            assert watched.nothing(0.4)


def test_a_language_rank_notices_a_registration_without_a_failure_in_between(served: Served) -> None:
    served.put(route(ENCODE0))
    with contextlib.closing(Watched(route(LANGUAGE0), served, [route(ENCODE0)])) as watched:
        assert watched.nothing(0.3)
        served.put(route(ENCODE0, generation=1))
        assert watched.next() == Found(route(ENCODE0, generation=1))


def test_hurry_does_not_wait_for_the_next_beat(served: Served) -> None:
    served.put(route(ENCODE0))
    slow = Heartbeats(interval_s=20.0, failures=2)
    news: queue.SimpleQueue[News | Exception] = queue.SimpleQueue()
    heartbeat = Heartbeat(
        route(LANGUAGE0), {served.address: [ENCODE0]}, {ENCODE0: route(ENCODE0)}, slow, news.put
    )  # fmt: skip
    with contextlib.closing(heartbeat):
        time.sleep(0.3)  # the first probe is over
        served.put(route(ENCODE0, generation=1))
        heartbeat.hurry()
        assert news.get(timeout=5) == Found(route(ENCODE0, generation=1))


def test_an_encode_rank_notices_silence_and_a_voice_after_it(served: Served) -> None:
    peer = route(LANGUAGE0)
    served.put(route(ENCODE0))
    served.put(peer)

    def probe() -> None:
        served.ask("GET", f"/health?rank={peer.rank_id}&process={peer.process}")

    with contextlib.closing(Watched(route(ENCODE0), served, [peer])) as watched:
        assert watched.nothing(0.5)  # it has not begun to probe, so its silence says nothing
        probe()
        begun_s = time.monotonic()
        assert watched.next() == Lost(LANGUAGE0, peer.process)
        assert time.monotonic() - begun_s > QUICK.failures * QUICK.interval_s
        probe()
        assert watched.next() == Found(peer)
        served.put(route(LANGUAGE0, generation=1))
        while (news := watched.next()) == Lost(LANGUAGE0, peer.process):
            pass  # a slow machine may have found it silent again meanwhile
        assert news == Found(route(LANGUAGE0, generation=1))


def test_a_look_at_a_dead_peer_needs_no_heartbeat_and_one_at_a_living_peer_says_nothing(served: Served) -> None:
    listener = listen(HOST)
    peer = msgspec.structs.replace(route(LANGUAGE0), control_port=int(listener.getsockname()[1]))
    served.put(route(ENCODE0))
    served.put(peer)
    with contextlib.closing(Watched(route(ENCODE0), served, [peer])) as watched:
        watched.heartbeat.look_at(LANGUAGE0)
        assert watched.nothing(0.7)
        listener.close()
        watched.heartbeat.look_at(LANGUAGE0)
        assert watched.next() == Lost(LANGUAGE0, peer.process)
        assert watched.nothing(0.5)  # its entry is still in the registry, which does not bring it back


def test_an_error_of_the_heartbeat_reaches_its_rank() -> None:
    with contextlib.closing(Served(refused=[(LANGUAGE0, 0)])) as served:
        served.put(route(ENCODE0))
        with contextlib.closing(Watched(route(LANGUAGE0), served, [route(ENCODE0)])) as watched:
            assert isinstance(watched.next(), RegistrationRefused)


def test_impossible_heartbeats() -> None:
    for interval_s, failures in ((0.0, 2), (-1.0, 2), (float("nan"), 2), (1.0, 0)):
        with pytest.raises(ValueError, match="must be more than 0"):
            Heartbeats(interval_s=interval_s, failures=failures)


def test_the_client_reads_what_the_server_writes(served: Served) -> None:
    async def talk() -> None:
        async with http_session(5.0) as session:
            client = RegistryClient(session, served.address)
            await client.register(route(LANGUAGE0))
            health = await client.health(route(LANGUAGE0))
            assert (health.process, health.registered) == (route(ENCODE0).process, True)
            [entry] = await client.entries()
            assert entry.route == route(LANGUAGE0)
            assert 0 <= entry.silent_s < 5

    asyncio.run(talk())


# --- which process a message comes from ---

OLD, NEW = route(LANGUAGE0), route(LANGUAGE0, generation=1)


def sealed_by(sender: Route, receiver: Route, frames: list[bytes]) -> list[bytes]:
    return Processes(sender.process).seal(frames, receiver)


def test_a_message_of_a_process_that_was_replaced_is_stale() -> None:
    """The old Offer: it names blocks of a memory that is gone, under a name that lives on."""
    own = route(ENCODE0)
    processes = Processes(own.process)
    processes.meet(OLD)
    offer = sealed_by(OLD, own, [b"offer"])
    assert processes.open(offer) == (Standing.CURRENT, [b"offer"])
    processes.meet(NEW)
    assert processes.open(offer) == (Standing.STALE, [b"offer"])
    assert processes.current(LANGUAGE0) == NEW
    assert processes.open(sealed_by(NEW, own, [b"offer"])) == (Standing.CURRENT, [b"offer"])


def test_a_message_for_a_process_that_had_the_name_before_is_stale() -> None:
    processes = Processes(NEW.process)
    processes.meet(route(ENCODE0))
    assert processes.open(sealed_by(route(ENCODE0), OLD, [b"quiet"]))[0] is Standing.STALE
    assert processes.open(sealed_by(route(ENCODE0), NEW, [b"quiet"]))[0] is Standing.CURRENT


def test_a_message_that_is_faster_than_the_news_of_its_sender_waits_for_them() -> None:
    own = route(ENCODE0)
    processes = Processes(own.process)
    processes.meet(OLD)
    for number in range(3):
        assert processes.open(sealed_by(NEW, own, [b"%d" % number]))[0] is Standing.UNKNOWN
    assert processes.open(sealed_by(route(LANGUAGE1), own, [b"other"]))[0] is Standing.UNKNOWN
    assert processes.released() == []
    processes.meet(NEW)
    assert processes.released() == [[b"0"], [b"1"], [b"2"]]
    assert processes.released() == []
    processes.meet(route(LANGUAGE1))
    assert processes.released() == [[b"other"]]


def test_strangers_do_not_fill_the_memory() -> None:
    own = route(ENCODE0)
    processes = Processes(own.process)
    for number in range(MOST_HELD + 5):
        processes.open(sealed_by(NEW, own, [b"%d" % number]))
    processes.meet(NEW)
    released = processes.released()
    assert len(released) == MOST_HELD
    assert released[0] == [b"5"]


def test_a_queue_to_a_dead_peer_fills_up_without_holding_anybody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bufferlab.real.control.channel.HIGH_WATER_MARK", 10)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with socket.socket() as unused:
        unused.bind((HOST, 0))
        outbox = Outbox(context, HOST, unused.getsockname()[1])
        begun_s = time.monotonic()
        sent = [outbox.try_send([b"x"]) for _ in range(50)]
        assert time.monotonic() - begun_s < 1
        assert sent == [True] * sent.count(True) + [False] * sent.count(False)
        assert 10 <= sent.count(True) < 50
        outbox.close(discard=True)
        context.term()  # does not wait for what cannot be delivered


def test_a_message_without_its_processes_is_worth_nothing() -> None:
    processes = Processes(route(ENCODE0).process)
    for frames in ([], [b"a"], [b"a", b"b"]):
        assert processes.open(frames)[0] is Standing.STALE
