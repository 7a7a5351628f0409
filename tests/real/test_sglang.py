"""The SGLang wire of one rank, with a real core and memory but without sockets, processes or time."""

from __future__ import annotations

import contextlib
import http.server
import queue
import re
import struct
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("zmq", reason="needs pyzmq")
pytest.importorskip("aiohttp", reason="needs aiohttp")

import msgspec

from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.protocol.encode import EncodeRank
from bufferlab.protocol.language import CANCEL_RETRY_S, LanguageRank
from bufferlab.protocol.layout import AUX, AUX_TOTAL_TOKENS
from bufferlab.protocol.messages import (
    Abort,
    Conclude,
    Encoded,
    EncodeRequest,
    LanguageRequest,
    Message,
    PeerDown,
    PeerUp,
    Send,
    StartEncode,
    StartWrite,
    WriteDone,
    WriterQuiet,
)
from bufferlab.protocol.rank import EARLY_LIFETIME_S, EARLY_ROOMS
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side
from bufferlab.protocol.wire.codec import SglangInit, SglangResume, SglangStatus, decode_sglang
from bufferlab.real.control.addresses import listen
from bufferlab.real.control.bootstrap import Registry
from bufferlab.real.control.heartbeat import Found, Lost, News
from bufferlab.real.control.route import ROUTER, Route
from bufferlab.real.control.sglang_encode import EncodeWire
from bufferlab.real.control.sglang_language import LanguageWire
from bufferlab.real.control.sglang_peers import SglangHeartbeat, assemble_encode, assemble_language
from bufferlab.real.control.spec import Heartbeats, RankSpec
from bufferlab.real.control.wire import Vacant
from bufferlab.real.engine.memory import Pool
from bufferlab.real.errors import EngineError
from bufferlab.real.faults import CorruptFrame, RealFault, RefuseRegistration, Restart
from bufferlab.real.run.launcher import run_real

pytestmark = pytest.mark.timeout(60)

ENCODE0 = RankId(Side.ENCODE, 0, 0)
LANGUAGE = [RankId(Side.LANGUAGE, 0, rank) for rank in range(4)]
QUARANTINE_S = 60.0


def scenario(**changes: Any) -> Scenario:
    fields: dict[str, Any] = {
        "block_tokens": 16,
        "hidden": 8,
        "sizing_options": {"tokens": 64},
        "encode_blocks": 64,
        "language_blocks": 16,
        "timeout_s": 20.0,
        "wire": "sglang",
        "discipline": "alloc_then_free",
    }
    return Scenario(**(fields | changes))


def spec_of(rank_id: RankId, spec: Scenario) -> RankSpec:
    return RankSpec(
        rank_id=rank_id,
        scenario=spec,
        bootstraps=tuple(f"registry:{instance}" for instance in range(spec.encode_instances)),
        router=Route(rank_id=ROUTER, host="", control_port=1),
    )


class Rank:
    """Stands for the process around a core and its wire: carries out what it must and keeps the rest."""

    core: EncodeRank | LanguageRank
    wire: EncodeWire | LanguageWire

    def __init__(self) -> None:
        self.now = 0.0
        self.pushed: list[tuple[RankId, list[bytes]]] = []
        self.delayed: list[tuple[float, Message]] = []
        self.actions: list[Any] = []
        self.routes: dict[RankId, Route] = {}
        self.contacted: list[str] = []
        self.down: set[RankId] = set()

    # what the wire asks for
    def push(self, to: RankId, frames: list[bytes]) -> None:
        self.pushed.append((to, frames))

    def later(self, delay_s: float, message: Message) -> None:
        self.delayed.append((self.now + delay_s, message))

    def contact(self, session: str) -> None:
        self.contacted.append(session)

    # what the process does
    def feed(self, event: Any) -> None:
        for action in self.core.handle(event, self.now):
            if isinstance(action, Send):
                self.wire.send(action.to, action.message)
            else:
                self.actions.append(action)

    def hear(self, heard: Iterable[Any]) -> None:
        for one in heard:
            if isinstance(one, Found):
                self.routes[one.route.rank_id] = one.route
                self.wire.meet(one.route)
            elif isinstance(one, Vacant):
                self.down.discard(one.rank_id)
                self.feed(PeerUp(one.rank_id))
            else:
                self.feed(one)

    def take(self, *fields: bytes) -> None:
        self.hear(self.wire.take(list(fields)))

    def iteration(self, seconds: float = 0.0) -> None:
        """Let time pass, then what is due, then hold an iteration."""
        self.now += seconds
        due = [message for at_s, message in self.delayed if at_s <= self.now]
        self.delayed = [one for one in self.delayed if one[0] > self.now]
        for message in due:
            self.feed(message)
        self.feed(self.core.lone_iteration())

    def said(self) -> list[list[bytes]]:
        frames = [frames for _, frames in self.pushed]
        self.pushed.clear()
        return frames

    def took(self, kind: type[Any]) -> list[Any]:
        found = [action for action in self.actions if isinstance(action, kind)]
        self.actions = [action for action in self.actions if not isinstance(action, kind)]
        return found


class LanguageSide(Rank):
    """``ours``: whether the encode side is one of ours."""

    def __init__(self, *, ours: bool = False, rank: int = 0, **changes: Any) -> None:
        super().__init__()
        spec = scenario(**changes)
        rank_id = LANGUAGE[rank]
        core = spec.make_language_rank(rank_id, None)
        self.core = core
        self.pool = Pool(spec.layout, spec.language_blocks)
        route = Route(
            rank_id=rank_id, host="10.0.0.7", control_port=31000, session="10.0.0.7:14567", bases=(1, 2, 3, 4)
        )
        self.wire = LanguageWire(
            spec_of(rank_id, spec),
            route,
            self,
            core=core,
            pool=self.pool,
            clock=lambda: self.now,
            quarantine_s=QUARANTINE_S,
        )
        for peer in self.wire.peers:
            self.wire.meet(Route(rank_id=peer, host="10.0.0.9", control_port=5000, failed_is_quiet=ours))
        self.register = self.said()

    def submit(self, room: int) -> None:
        self.feed(LanguageRequest(room, 0, 1))
        self.iteration()

    def writes_total(self, block: int, total: int) -> None:
        self.pool.view(AUX, block, 1)[0, AUX_TOTAL_TOKENS] = total

    @property
    def fenced(self) -> int:
        assert isinstance(self.core, LanguageRank)
        return sum(room.fenced for room in self.core.rooms.values())


class EncodeSide(Rank):
    def __init__(self, **changes: Any) -> None:
        super().__init__()
        spec = scenario(**changes)
        core = spec.make_encode_rank(ENCODE0, None)
        self.core = core
        route = Route(rank_id=ENCODE0, host="10.0.0.9", control_port=5000, session="10.0.0.9:1")
        self.wire = EncodeWire(spec_of(ENCODE0, spec), route, self, core=core, down=self.down, clock=lambda: self.now)

    def submit(self, room: int, tokens: int) -> None:
        self.feed(EncodeRequest(room, 0, tokens))
        self.hear(self.wire.submitted(room))
        self.iteration()

    def encode(self) -> None:
        self.iteration()
        for start in self.took(StartEncode):
            self.feed(Encoded(start.room, start.incarnation))

    def write(self, *, ok: bool = True, quiet: bool = True) -> None:
        for one in self.took(StartWrite):
            self.feed(WriteDone(one.room, one.incarnation, one.epoch, one.destination, ok, quiet, "" if ok else "torn"))


def address(number: int) -> tuple[bytes, bytes, bytes]:
    return b"10.0.0.7", str(31000 + number).encode(), f"10.0.0.7:{14567 + number}".encode()


def register(number: int = 0, pointers: int = 4) -> tuple[bytes, ...]:
    return b"None", *address(number), struct.pack(f"<{pointers}Q", *range(number, number + pointers))


def init(room: int, blocks: bytes, tokens: int, number: int = 0, required: bytes = b"1") -> tuple[bytes, ...]:
    return str(room).encode(), *address(number), blocks, required, str(tokens).encode()


def resume(room: int, blocks: bytes, sent: int, tokens: int, number: int = 0) -> tuple[bytes, ...]:
    return str(room).encode(), *address(number), blocks, b"1", str(sent).encode(), str(tokens).encode()


# --- the language side ---


def test_a_language_rank_registers_and_asks_in_the_forks_frames() -> None:
    rank = LanguageSide()
    assert rank.register == [[b"None", *address(0), struct.pack("<4Q", 1, 2, 3, 4)]]
    rank.submit(9)
    assert rank.said() == [[b"9", *address(0), b"0,1,2,3", b"1", b"64"]]
    rank.writes_total(0, 70)
    rank.take(b"9", b"3")
    rank.iteration()
    assert rank.said() == [[b"9", *address(0), b"4", b"1", b"64", b"16"]]
    rank.take(b"9", b"4")
    rank.iteration()
    assert rank.took(Conclude) == [Conclude(9, 0, Status.Success)]
    assert (rank.said(), rank.core.pool.free, rank.core.rooms) == ([], 16, {})


@pytest.mark.parametrize(
    ("encode_tp", "language_tp", "required"),
    [(1, 1, [1]), (2, 2, [1, 1]), (2, 1, [1]), (1, 2, [2, 2]), (2, 4, [2, 2, 2, 2]), (2, 3, [2, 1, 2])],
)
def test_the_number_of_destinations_is_that_of_the_writer(
    encode_tp: int, language_tp: int, required: list[int]
) -> None:
    """The fork says language_tp // encode_tp, which is wrong where that does not divide (hazard T2)."""
    found = []
    for number in range(language_tp):
        rank = LanguageSide(rank=number, encode_tp=encode_tp, language_tp=language_tp)
        assert rank.wire.peers == (RankId(Side.ENCODE, 0, number % encode_tp),)
        rank.submit(1)
        [frames] = rank.said()
        found.append(int(frames[5]))
    assert found == required


def test_a_double_of_the_first_status_moves_nothing() -> None:
    rank = LanguageSide()
    rank.submit(1)
    rank.writes_total(0, 70)
    for _ in range(3):
        rank.take(b"1", b"3")
    rank.iteration()
    assert len(rank.said()) == 2
    rank.take(b"1", b"3")
    rank.iteration()
    assert rank.said() == []
    rank.take(b"1", b"4")
    rank.take(b"1", b"4")
    rank.iteration()
    assert [one.status for one in rank.took(Conclude)] == [Status.Success]
    rank.take(b"1", b"4")
    rank.take(b"1", b"3")
    rank.iteration()
    assert rank.core.rooms == {}
    assert rank.said() == []


def test_a_length_that_was_never_written_is_not_taken_from_the_blocks_last_owner() -> None:
    rank = LanguageSide()
    rank.writes_total(0, 50)
    rank.submit(1)
    rank.take(b"1", b"4")
    rank.iteration()
    [concluded] = rank.took(Conclude)
    assert (concluded.status, "impossible status" in concluded.reason) == (Status.Failed, True)


@pytest.mark.parametrize(("number", "total"), [(b"4", 65), (b"3", 64), (b"3", 10), (b"4", -5), (b"3", 0)])
def test_a_status_that_contradicts_the_length_fails_the_room_and_frees_its_blocks(number: bytes, total: int) -> None:
    rank = LanguageSide()
    rank.submit(1)
    rank.writes_total(0, total)
    rank.take(b"1", number)
    rank.iteration()
    rank.iteration()
    assert [one.status for one in rank.took(Conclude)] == [Status.Failed]
    # Whatever it says, it comes after its writes.
    assert (rank.core.pool.free, rank.core.rooms) == (16, {})


def test_blocks_of_a_room_that_was_given_up_stay_fenced_until_its_chunk_has_landed() -> None:
    rank = LanguageSide()
    rank.submit(1)
    rank.feed(Abort(1, 0))
    rank.iteration()
    assert [one.status for one in rank.took(Conclude)] == [Status.Failed]
    rank.said()
    for _ in range(1000):  # time alone frees nothing, and nothing can be said about it
        rank.iteration(CANCEL_RETRY_S)
    assert (rank.fenced, rank.core.pool.free) == (1, 12)
    assert rank.said() == []
    rank.take(b"1", b"3")
    rank.iteration()
    assert (rank.fenced, rank.core.pool.free, rank.core.rooms) == (0, 16, {})


def test_in_a_resume_only_the_end_proves_that_the_writer_is_quiet() -> None:
    rank = LanguageSide()
    rank.submit(1)
    rank.writes_total(0, 70)
    rank.take(b"1", b"3")
    rank.iteration()
    rank.feed(Abort(1, 0))
    rank.iteration()
    rank.take(b"1", b"3")  # a double of the first chunk's
    rank.iteration(CANCEL_RETRY_S)
    assert rank.fenced == 1
    rank.take(b"1", b"4")
    rank.iteration()
    assert (rank.fenced, rank.core.pool.free) == (0, 16)


def test_after_failed_a_forks_write_may_still_land_for_a_while() -> None:
    rank = LanguageSide()
    rank.submit(1)
    rank.take(b"1", b"0")
    rank.iteration()
    assert [one.reason for one in rank.took(Conclude)] == ["the encode side failed"]
    assert rank.wire.awaits_quiet(1)
    for _ in range(int(QUARANTINE_S / CANCEL_RETRY_S) - 1):
        rank.iteration(CANCEL_RETRY_S)
    assert rank.fenced == 1
    for _ in range(3):
        rank.iteration(CANCEL_RETRY_S)
    assert (rank.fenced, rank.core.pool.free) == (0, 16)


def test_failed_of_an_encode_rank_of_ours_comes_when_nothing_can_land() -> None:
    rank = LanguageSide(ours=True)
    rank.submit(1)
    rank.take(b"1", b"0")
    rank.iteration()
    rank.iteration()
    assert (rank.fenced, rank.core.pool.free, rank.core.rooms) == (0, 16, {})


def test_failed_frees_a_room_that_was_given_up_before_without_waiting_to_be_asked_again() -> None:
    rank = LanguageSide(ours=True)
    rank.submit(1)
    rank.feed(Abort(1, 0))
    rank.iteration()
    rank.take(b"1", b"0")
    rank.iteration()
    assert (rank.fenced, rank.core.pool.free) == (0, 16)


def test_failed_is_the_last_word_also_about_an_offer_that_crosses_it() -> None:
    """The room has failed there before its request is here; the offer that is made in between is never taken up."""
    rank = LanguageSide(ours=True)
    rank.take(b"1", b"0")
    rank.feed(LanguageRequest(1, 0, 1))
    rank.iteration()
    rank.iteration(CANCEL_RETRY_S)
    rank.iteration(CANCEL_RETRY_S)
    assert [one.status for one in rank.took(Conclude)] == [Status.Failed]
    assert (rank.core.pool.free, rank.core.rooms) == (16, {})


def test_an_encode_rank_that_is_gone_is_waited_for_as_everywhere() -> None:
    rank = LanguageSide()
    rank.submit(1)
    rank.feed(PeerDown(ENCODE0))
    rank.iteration()
    assert rank.fenced == 1
    rank.iteration(QUARANTINE_S)
    assert (rank.fenced, rank.core.pool.free) == (0, 16)


@pytest.mark.parametrize("ours", [True, False])
def test_an_encode_rank_that_moved_says_nothing_more_about_its_rooms(ours: bool) -> None:
    rank = LanguageSide(ours=ours)
    rank.submit(1)
    rank.feed(PeerDown(ENCODE0))
    rank.wire.meet(Route(rank_id=ENCODE0, host="10.0.0.9", control_port=5001, session="new", failed_is_quiet=ours))
    rank.feed(PeerUp(ENCODE0))
    assert rank.said()[-1] == rank.register[0]  # it is registered with, as the first one was
    for _ in range(int(QUARANTINE_S / CANCEL_RETRY_S) - 1):
        rank.iteration(CANCEL_RETRY_S)
    assert rank.fenced == 1
    for _ in range(4):
        rank.iteration(CANCEL_RETRY_S)
    assert (rank.fenced, rank.core.pool.free) == (0, 16)


@pytest.mark.parametrize(
    "frames",
    [(b"",), (b"1", b"9"), (b"1", b"1"), (b"1", b"2"), (b"x", b"3"), register(), init(1, b"0", 16), (b"1",) * 6],
)
def test_what_an_encode_rank_does_not_say_is_dropped_and_counted(
    frames: tuple[bytes, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    rank = LanguageSide()
    rank.submit(1)
    rank.take(*frames)
    assert rank.wire.frames_dropped == 1
    assert re.fullmatch(r"language0\.0: dropped a control frame: [^\n]+\n", capsys.readouterr().err)
    rank.writes_total(0, 20)
    rank.take(b"1", b"4")
    rank.iteration()
    assert [one.status for one in rank.took(Conclude)] == [Status.Success]


def test_what_is_known_of_ended_rooms_does_not_pile_up() -> None:
    rank = LanguageSide(ours=True)
    for room in range(2000):
        rank.submit(room)
        rank.take(str(room).encode(), b"0")
        rank.iteration(EARLY_LIFETIME_S / 50)
        rank.iteration()
        rank.take(str(room + 100_000).encode(), b"0")  # of a room that never comes
    assert rank.core.rooms == {}
    assert sum(rank.wire.awaits_quiet(room) for room in range(200_000)) < 300


# --- the encode side ---


def served(rank: EncodeSide, room: int, tokens: int) -> None:
    rank.take(*init(room, b"3,1,2,0", 64))
    rank.submit(room, tokens)
    rank.encode()


def test_an_encode_rank_serves_a_request_in_two_chunks() -> None:
    rank = EncodeSide()
    rank.take(*register())
    assert rank.contacted == ["10.0.0.7:14567"]
    served(rank, 5, 100)
    [write] = rank.took(StartWrite)
    assert (write.destination, write.target_blocks, write.chunk.tokens) == (LANGUAGE[0], (3, 1, 2, 0), 64)
    route = rank.routes[LANGUAGE[0]]
    assert (route.host, route.control_port, route.session, route.bases) == (
        "10.0.0.7", 31000, "10.0.0.7:14567", (0, 1, 2, 3),
    )  # fmt: skip
    rank.feed(WriteDone(5, 0, 0, LANGUAGE[0], True))
    assert rank.said() == [[b"5", b"3"]]
    rank.take(*resume(5, b"7,4,5", 64, 48))
    rank.write()
    assert rank.said() == [[b"5", b"4"]]
    rank.iteration()
    assert (rank.core.rooms, rank.core.pool.free) == ({}, 64)


def test_doubled_and_late_frames_start_nothing() -> None:
    rank = EncodeSide()
    rank.take(*register())
    rank.take(*init(5, b"3,1,2,0", 64))
    served(rank, 5, 100)
    assert rank.wire.messages_stale == 1
    rank.take(*init(5, b"3,1,2,0", 64))
    assert len(rank.took(StartWrite)) == 1
    rank.take(*resume(5, b"7,4,5", 64, 48))  # before its chunk has landed
    rank.feed(WriteDone(5, 0, 0, LANGUAGE[0], True))
    rank.take(*init(5, b"3,1,2,0", 64))
    assert rank.took(StartWrite) == []
    rank.take(*resume(5, b"7,4,5", 64, 48))
    rank.take(*resume(5, b"7,4,5", 64, 48))
    assert len(rank.took(StartWrite)) == 1
    rank.feed(WriteDone(5, 0, 1, LANGUAGE[0], True))
    rank.iteration()
    rank.take(*resume(5, b"7,4,5", 64, 48))
    rank.take(*init(5, b"3,1,2,0", 64))
    rank.iteration()
    assert rank.core.rooms == {}
    assert rank.said() == [[b"5", b"3"], [b"5", b"4"]]


def test_failed_is_said_only_when_nothing_can_land_any_more() -> None:
    rank = EncodeSide()
    rank.take(*register())
    served(rank, 5, 40)
    [write] = rank.took(StartWrite)
    rank.feed(Abort(5, 0))
    rank.iteration()
    rank.iteration()
    assert rank.said() == []  # the write is in flight
    rank.feed(WriteDone(5, 0, 0, write.destination, False, False, "given up"))
    rank.iteration()
    assert rank.said() == []  # and may still land
    rank.feed(WriterQuiet(5, 0, write.destination))
    rank.iteration()
    assert rank.said() == [[b"5", b"0"]]
    assert rank.core.rooms == {}


def test_whoever_asks_for_a_room_that_has_failed_is_told() -> None:
    rank = EncodeSide(encode_blocks=2)
    rank.take(*register())
    rank.submit(5, 100)  # does not fit the source pool
    rank.iteration()
    assert (rank.said(), rank.core.rooms) == ([], {})
    rank.take(*init(5, b"3,1,2,0", 64))
    assert rank.said() == [[b"5", b"0"]]
    rank.submit(6, 100)  # from now on it is known whom this concerns
    assert rank.said() == [[b"6", b"0"]]


def test_of_two_destinations_each_is_told_once_that_the_room_has_failed() -> None:
    rank = EncodeSide(encode_blocks=4, language_tp=2)
    rank.take(*register(0))
    rank.take(*register(1))
    rank.submit(4, 40)
    rank.take(*init(4, b"0,1,2", 48, number=0))
    rank.submit(5, 100)  # too long; one destination is known by now
    assert rank.said() == [[b"5", b"0"]]
    rank.take(*init(5, b"4,5,6", 48, number=0))  # which had asked before it heard
    assert rank.said() == []
    rank.take(*init(5, b"4,5,6", 48, number=1))
    assert rank.said() == [[b"5", b"0"]]
    assert rank.wire.messages_stale == 1


def test_destinations_are_sessions_and_unequal_memory_fails_the_room() -> None:
    rank = EncodeSide(language_tp=2)
    rank.take(*register(0))
    rank.take(*register(1))
    rank.submit(5, 100)
    rank.take(*init(5, b"0,1,2,3", 64, number=1, required=b"2"))
    rank.take(*init(5, b"0,1,2,3", 64, number=0, required=b"2"))
    rank.encode()
    assert {one.destination for one in rank.actions if isinstance(one, StartWrite)} == set(LANGUAGE[:2])
    assert rank.routes[LANGUAGE[0]].session == "10.0.0.7:14568"
    rank.write()
    assert rank.said() == [[b"5", b"3"]] * 2
    rank.take(*resume(5, b"4,5,6", 64, 48, number=0))
    rank.take(*resume(5, b"4,5", 64, 32, number=1))
    rank.iteration()
    assert rank.said() == [[b"5", b"0"]] * 2
    [concluded] = rank.took(Conclude)
    assert "offer 32 and 48 tokens" in concluded.reason
    assert rank.took(StartWrite) == []


def test_unequal_memory_is_no_matter_where_the_rest_fits_everywhere() -> None:
    rank = EncodeSide(language_tp=2)
    rank.take(*register(0))
    rank.take(*register(1))
    rank.submit(5, 30)
    rank.take(*init(5, b"0,1", 32, number=0))
    rank.take(*init(5, b"0,1,2,3", 64, number=1))
    rank.encode()
    rank.write()
    assert rank.said() == [[b"5", b"4"]] * 2


def test_a_third_session_is_no_destination_unless_it_comes_after_one_is_gone() -> None:
    rank = EncodeSide()
    rank.take(*register(0))
    rank.take(*register(1))
    served(rank, 5, 40)
    rank.take(*init(5, b"0,1,2,3", 64, number=1))
    assert rank.wire.frames_dropped == 1
    rank.write()
    rank.iteration()
    rank.down.add(LANGUAGE[0])
    rank.feed(PeerDown(LANGUAGE[0]))
    rank.submit(6, 40)
    rank.iteration()
    assert [one.reason for one in rank.took(Conclude) if one.room == 6] == ["a destination rank is down"]
    rank.take(*register(2))
    rank.said()
    rank.submit(7, 40)
    rank.take(*init(7, b"0,1,2,3", 64, number=2))
    assert rank.routes[LANGUAGE[0]].session == "10.0.0.7:14569"
    rank.take(*init(7, b"0,1,2,3", 64, number=0))  # the one that was gone, late
    assert rank.wire.frames_dropped == 2
    rank.encode()
    rank.write()
    assert rank.said() == [[b"7", b"4"]]


def test_a_session_beyond_those_expected_is_a_destination_of_the_rooms_it_asks_for() -> None:
    rank = EncodeSide(language_tp=2)
    for number in range(4):  # two processes, and their successors; nobody has missed the first two
        rank.take(*register(number))
    for room, numbers in ((1, (0, 1)), (2, (2, 3)), (3, (3, 2)), (4, (1, 2))):
        rank.submit(room, 40)
        for number in numbers:
            rank.take(*init(room, b"0,1,2", 48, number=number, required=b"2"))
        rank.encode()
        written = {rank.routes[one.destination].session for one in rank.actions if isinstance(one, StartWrite)}
        assert written == {f"10.0.0.7:{14567 + number}" for number in numbers}
        rank.write()
        assert rank.said() == [[b"%d" % room, b"4"]] * 2
    assert rank.wire.frames_dropped == 0
    rank.submit(5, 40)
    for number in range(3):  # one more than the room has destinations
        rank.take(*init(5, b"0,1,2", 48, number=number, required=b"2"))
    assert rank.wire.frames_dropped == 1


def test_a_successor_that_registered_before_its_predecessor_was_missed_is_served() -> None:
    rank = EncodeSide()
    rank.take(*register(0))
    served(rank, 5, 40)
    rank.take(*register(1))
    rank.write(ok=False)  # that is how the end of the first comes out
    rank.down.add(LANGUAGE[0])
    rank.feed(PeerDown(LANGUAGE[0]))
    rank.hear(rank.wire.lost(LANGUAGE[0]))
    rank.said()
    rank.submit(6, 40)
    rank.take(*init(6, b"0,1,2,3", 64, number=1))
    rank.encode()
    rank.write()
    assert rank.said() == [[b"6", b"4"]]
    assert rank.routes[LANGUAGE[0]].session == "10.0.0.7:14568"


def test_without_a_successor_rooms_for_one_that_is_gone_fail_at_once() -> None:
    rank = EncodeSide()
    rank.take(*register(1))  # is there and has never asked: perhaps it is gone as well
    rank.take(*register(0))
    served(rank, 5, 40)
    rank.down.add(LANGUAGE[0])
    rank.feed(PeerDown(LANGUAGE[0]))
    rank.hear(rank.wire.lost(LANGUAGE[0]))
    rank.iteration()
    rank.submit(6, 40)
    rank.iteration()
    assert [one.reason for one in rank.took(Conclude) if one.room == 6] == ["a destination rank is down"]


def test_a_session_beyond_those_expected_is_told_of_a_room_that_has_failed() -> None:
    rank = EncodeSide()
    rank.take(*register(0))
    served(rank, 1, 40)
    rank.write()
    rank.take(*register(1))
    rank.said()
    for room, late in ((2, True), (3, False)):
        rank.feed(EncodeRequest(room, 0, 5000))  # more than the pool has
        if late:
            rank.iteration()
        rank.said()
        for _ in range(2):
            rank.take(*init(room, b"0,1,2,3", 64, number=1))
        assert rank.said() == [[str(room).encode(), b"0"]]
        rank.iteration()
    assert rank.pushed == []


def test_a_session_belongs_to_the_instance_that_it_asked_for_first() -> None:
    rank = EncodeSide(language_instances=2)
    rank.take(*register())
    served(rank, 5, 40)
    rank.write()
    rank.feed(EncodeRequest(6, 0, 40, language_instance=1))
    rank.take(*init(6, b"0,1,2,3", 64))
    assert rank.wire.frames_dropped == 1
    rank.take(*register(1))
    rank.take(*init(6, b"0,1,2,3", 64, number=1))
    rank.encode()
    assert [one.destination for one in rank.took(StartWrite)] == [RankId(Side.LANGUAGE, 1, 0)]


def test_a_session_that_registers_again_after_it_was_taken_for_dead_is_back() -> None:
    rank = EncodeSide()
    rank.take(*register())
    served(rank, 5, 40)
    rank.routes.clear()
    rank.take(*register())
    assert rank.routes[LANGUAGE[0]].session == "10.0.0.7:14567"


@pytest.mark.parametrize(
    "frames",
    [
        (b"",), (b"1", b"3"), (b"1",) * 6, register(pointers=5), init(1, b"0", 16, number=3),
        init(1, b"0,0", 32), init(1, b"", 16), (b"None", *address(0), b"short"), resume(1, b"0", 0, 16),
    ],
)  # fmt: skip
def test_what_a_language_rank_does_not_say_is_dropped_and_counted(
    frames: tuple[bytes, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    rank = EncodeSide()
    rank.take(*register())
    rank.submit(1, 40)
    rank.take(*frames)
    assert rank.wire.frames_dropped == 1
    assert re.fullmatch(r"encode0\.0: dropped a control frame: [^\n]+\n", capsys.readouterr().err)
    rank.take(*init(1, b"3,1,2,0", 64))
    rank.encode()
    rank.write()
    assert rank.said() == [[b"1", b"4"]]


def test_frames_of_rooms_that_never_come_are_kept_for_a_while_and_create_nothing() -> None:
    rank = EncodeSide()
    rank.take(*register())
    for room in range(EARLY_ROOMS + 10):
        rank.take(*init(room, b"0,1,2,3", 64))
    assert rank.core.rooms == {}
    for room in (0, EARLY_ROOMS + 9):
        rank.submit(room, 40)
    rank.encode()
    assert [one.room for one in rank.took(StartWrite)] == [EARLY_ROOMS + 9]  # the oldest were dropped
    rank.now += EARLY_LIFETIME_S + 1.0
    rank.take(*init(99_999, b"0,1,2,3", 64))
    rank.submit(4000, 40)
    rank.encode()
    assert rank.took(StartWrite) == []


# --- finding and watching each other ---


def route_of(rank_id: RankId, port: int) -> Route:
    return Route(rank_id=rank_id, host="127.0.0.1", control_port=port, session=f"127.0.0.1:{port + 1000}")


@contextlib.contextmanager
def registry(encode_tp: int) -> Iterator[str]:
    listener = listen("127.0.0.1")
    served = Registry(listener, "process/0", encode_tp)
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        served.close()


def test_encode_ranks_are_found_by_the_forks_look_ups() -> None:
    spec = scenario()
    with registry(1) as address:
        encode = msgspec.structs.replace(spec_of(ENCODE0, spec), bootstraps=(address,))
        own = route_of(ENCODE0, 4000)
        assert assemble_encode(encode, own) == {ENCODE0: own}
        language = msgspec.structs.replace(spec_of(LANGUAGE[0], spec), bootstraps=(address,))
        found = assemble_language(language, route_of(LANGUAGE[0], 5000), {address: ENCODE0})
        assert set(found) == {ENCODE0, LANGUAGE[0]}
        assert (found[ENCODE0].host, found[ENCODE0].control_port) == ("127.0.0.1", 4000)
        assert found[ENCODE0].failed_is_quiet  # it answers the probe as ours do


class Odd(http.server.BaseHTTPRequestHandler):
    """A registry that answers with something else."""

    status, body = 200, b""

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body)

    def do_PUT(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (200, b'{"encode_tp_size": 1, "encode_dp_size": 1}', r"it answers '\{\"encode_tp.*field `embedding_tp_size`"),
        (200, b'{"embedding_tp_size": null, "embedding_dp_size": null}', "Expected `int`, got `null`"),
        (500, b"500 Internal Server Error", "it answers with status 500, '500 Internal"),
    ],
)
def test_a_look_up_that_fails_says_why(status: int, body: bytes, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bufferlab.real.control.sglang_peers.START_TIMEOUT_S", 0.2)
    handler = type("Answer", (Odd,), {"status": status, "body": body})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        address = f"127.0.0.1:{server.server_address[1]}"
        language = msgspec.structs.replace(spec_of(LANGUAGE[0], scenario()), bootstraps=(address,))
        with pytest.raises(TimeoutError, match=rf"a look-up still lacks encode0\.0 at {address} \(.*{reason}"):
            assemble_language(language, route_of(LANGUAGE[0], 5000), {address: ENCODE0})
        if status == 500:
            encode = msgspec.structs.replace(spec_of(ENCODE0, scenario()), bootstraps=(address,))
            with pytest.raises(TimeoutError, match=f"takes no rank: {reason}"):
                assemble_encode(encode, route_of(ENCODE0, 4000))
        server.shutdown()


def test_an_encode_instance_of_another_size_is_refused() -> None:
    spec = scenario(encode_tp=2)
    with registry(1) as address:
        language = msgspec.structs.replace(spec_of(LANGUAGE[0], spec), bootstraps=(address,))
        with pytest.raises(EngineError, match=r"has tp 1 and dp 1, the configuration has encode\.tp 2"):
            assemble_language(language, route_of(LANGUAGE[0], 5000), {address: ENCODE0})


def test_a_language_rank_notices_an_encode_rank_that_moves_and_one_that_is_gone() -> None:
    news: queue.Queue[News | Exception] = queue.Queue()

    def found_at(port: int) -> Route:
        # On a busy machine a probe may be late, and the rank be lost and found again in between.
        while not isinstance(one := news.get(timeout=10), Found) or one.route.control_port != port:
            assert not isinstance(one, Exception)
        return one.route

    with contextlib.ExitStack() as stack:
        with registry(1) as address:
            encode = msgspec.structs.replace(spec_of(ENCODE0, scenario()), bootstraps=(address,))
            assemble_encode(encode, route_of(ENCODE0, 4000))
            quick = Heartbeats(interval_s=0.2, failures=2)
            watch = SglangHeartbeat(route_of(LANGUAGE[0], 5000), {address: [ENCODE0]}, {}, quick, news.put)
            stack.enter_context(contextlib.closing(watch))
            first = found_at(4000)
            assemble_encode(encode, route_of(ENCODE0, 4001))
            second = found_at(4001)
        while isinstance(lost := news.get(timeout=10), Found):
            continue
    assert lost == Lost(ENCODE0, second.process)
    assert first.process != second.process


def test_an_encode_rank_notices_by_the_port_that_a_language_rank_has_ended() -> None:
    news: queue.Queue[News | Exception] = queue.Queue()
    there = listen("127.0.0.1")
    route = route_of(LANGUAGE[0], int(there.getsockname()[1]))
    watch = SglangHeartbeat(route_of(ENCODE0, 4000), {}, {}, Heartbeats(), news.put)
    with contextlib.closing(watch):
        watch.know(route)
        there.close()
        watch.look_at(LANGUAGE[0])
        assert news.get(timeout=10) == Lost(LANGUAGE[0], route.process)


def test_the_frames_on_the_page_are_frames() -> None:
    page = (Path(__file__).parents[2] / "docs" / "wire-sglang.md").read_text(encoding="utf-8")
    lines = page.partition("```text\n")[2].partition("```")[0].splitlines()
    named = [(line.split()[0], decode_sglang([field.encode() for field in line.split()[1:]])) for line in lines]
    assert [(name, type(frame)) for name, frame in named] == [
        ("init", SglangInit), ("resume", SglangResume), ("status", SglangStatus),
    ]  # fmt: skip


# --- what a run over this wire cannot have ---


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"discipline": "window"}, "discipline is 'window', it must be one of .* may resume several times"),
        ({"discipline": "exact_announce"}, "discipline is 'exact_announce', it must be one of .* announces a length"),
        ({"resume_tokens": 16}, "resume_tokens is 16, it must be absent with the sglang wire"),
        ({"timeout_s": None}, "timeout_s is None, it must be a duration with the sglang wire"),
    ],
)
def test_settings_that_need_more_are_refused_before_anything_starts(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        run_real(scenario(**changes), [Request(1, 0.0, 10)])


def test_a_room_that_comes_again_is_refused_before_anything_starts() -> None:
    for again in (Request(1, 0.1, 10), Request(2, 0.1, 10, incarnation=1)):
        with pytest.raises(ValueError, match="is used again, which the sglang wire cannot tell"):
            run_real(scenario(), [Request(1, 0.0, 10), again])


@pytest.mark.parametrize(
    "fault",
    [
        Restart(side=Side.ENCODE, instance=0, down_s=0.0, time_s=0.0),
        CorruptFrame(sender=ENCODE0, room=1, message="Offer"),
        RefuseRegistration(rank=ENCODE0),
    ],
)
def test_faults_that_need_more_are_refused_before_anything_starts(fault: RealFault) -> None:
    with pytest.raises(
        ValueError, match=f"the plan has a {type(fault).__name__}, which the sglang wire does not allow"
    ):
        run_real(scenario(), [Request(1, 0.0, 10)], plan=[fault])
