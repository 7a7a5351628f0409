"""What the socket engine promises beyond the contract of every engine: strangers, bounds, restarts, withdrawn memory."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bufferlab.real.control.guard import Guard, new_token
from bufferlab.real.engine import socket_server
from bufferlab.real.engine.socket_engine import SocketEngine
from bufferlab.real.engine.socket_wire import (
    CLAIM,
    HEAD,
    HELLO_BYTES,
    MOST_BYTES,
    MOST_SEGMENTS,
    PLACE,
    SEGMENTS,
    TAG_BYTES,
    MalformedError,
    Seal,
    Session,
    hello,
    messages,
    parse_session,
)

pytestmark = pytest.mark.timeout(60)

ROOT = Path(__file__).resolve().parents[2]
SIZE = 1 << 20
TOKEN = new_token()


class End:
    """An engine with registered memory."""

    def __init__(self, token: str = "", fill: int = 0) -> None:
        self.engine = SocketEngine(guard=Guard(token) if token else None)
        self.memory = np.full(SIZE, fill, dtype=np.uint8)
        self.base = int(self.memory.ctypes.data)
        self.engine.register_region(self.base, SIZE, "memory")


@pytest.fixture
def target() -> Iterator[End]:
    end = End(TOKEN)
    yield end
    end.engine.close()
    assert not any(thread.name == "engine acceptor" and thread.is_alive() for thread in threading.enumerate())


@pytest.fixture
def source() -> Iterator[End]:
    end = End(TOKEN, fill=7)
    yield end
    end.engine.close()


@pytest.fixture(autouse=True)
def in_order(target: End, source: End) -> None:
    """The target is made first and closed last, so that its thread is the last one to be gone."""


def open_line(target: End) -> tuple[socket.socket, bytes, bytes]:
    """A connection to an engine, with its number and its nonce."""
    session = parse_session(target.engine.session)
    line = socket.create_connection((session.host, session.port), 10)
    said = receive(line, HELLO_BYTES)
    return line, said[8:16], said[16:]


def receive(line: socket.socket, length: int) -> bytes:
    said = b""
    while len(said) < length:
        part = line.recv(length - len(said))
        if not part:
            break
        said += part
    return said


def member(target: End, token: str = TOKEN) -> tuple[socket.socket, Seal]:
    """A connection on which somebody with this token has made his claim."""
    line, number, theirs = open_line(target)
    mine = b"n" * 16
    seal = Seal(Guard(token), number, (theirs, mine))
    claim = hello(number, mine)
    line.sendall(claim + seal.tag(CLAIM, claim))
    return line, seal


def is_closed(line: socket.socket) -> bool:
    """Whether the other end closes the connection, after whatever it still says."""
    line.settimeout(10)
    try:
        while line.recv(4096):
            pass
    except ConnectionError:
        pass
    return True  # else the time-out raises


def untouched(target: End) -> bool:
    return not target.memory.any()


# --- strangers ---


@pytest.mark.parametrize("token", ["", new_token()], ids=["none", "another"])
def test_an_engine_without_the_runs_token_writes_nothing_and_is_counted(target: End, token: str) -> None:
    stranger = End(token, fill=9)
    result = stranger.engine.write(target.engine.session, [(stranger.base, target.base, 64)])
    stranger.engine.close()
    assert not result.ok
    assert result.quiet
    assert untouched(target)
    assert target.engine.strangers() == {"127.0.0.1": 1}


def test_an_engine_writes_to_nobody_who_does_not_hold_the_token(source: End) -> None:
    impostor = End(new_token())
    assert not source.engine.connect(impostor.engine.session)
    assert not source.engine.write(impostor.engine.session, [(source.base, impostor.base, 64)]).ok
    assert untouched(impostor)
    impostor.engine.close()


def test_a_claim_is_good_for_one_connection_only(target: End) -> None:
    line, number, theirs = open_line(target)
    claim = hello(number, b"n" * 16)
    said = claim + Seal(Guard(TOKEN), number, (theirs, b"n" * 16)).tag(CLAIM, claim)
    line.sendall(said)
    assert len(receive(line, TAG_BYTES)) == TAG_BYTES
    again, _, _ = open_line(target)
    again.sendall(said)
    assert receive(again, 1) == b""
    assert target.engine.strangers() == {"127.0.0.1": 1}


def test_whoever_says_nothing_makes_room_and_is_not_counted(target: End, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_server, "MOST_UNPROVEN", 3)
    lines = [open_line(target)[0] for _ in range(5)]
    assert all(is_closed(line) for line in lines[:2])
    monkeypatch.setattr(socket_server, "PROOF_S", 0.05)
    monkeypatch.setattr(socket_server, "LOOK_S", 0.05)
    time.sleep(0.1)
    open_line(target)[0].close()  # wakes the thread
    assert all(is_closed(line) for line in lines)
    assert target.engine.strangers() == {}


# --- what is malformed ---


def head(segments: list[tuple[int, int]], sequence: int = 0) -> bytes:
    return HEAD.pack(sequence, len(segments)) + b"".join(PLACE.pack(*segment) for segment in segments)


@pytest.mark.parametrize(
    "said",
    [
        lambda base: HEAD.pack(0, 0),
        lambda base: HEAD.pack(0, MOST_SEGMENTS + 1),
        lambda base: HEAD.pack(0, 2**32 - 1),
        lambda base: head([(base, 64)], sequence=1),
    ],
)
def test_a_head_that_is_none_ends_the_connection(target: End, said: object) -> None:
    line, _ = member(target)
    line.sendall(said(target.base))  # type: ignore[operator]
    assert is_closed(line)


@pytest.mark.parametrize("lengths", [[MOST_BYTES + 1], [MOST_BYTES, 1], [2**64 - 1, 2], [2**63] * 4])
def test_a_message_beyond_the_bounds_ends_the_connection_before_its_bytes(target: End, lengths: list[int]) -> None:
    line, seal = member(target)
    said = head([(target.base, length) for length in lengths])
    line.sendall(said + seal.tag(SEGMENTS, said))
    assert is_closed(line)
    assert untouched(target)


def test_no_byte_is_placed_under_a_wrong_tag(target: End) -> None:
    line, seal = member(target)
    said = head([(target.base, 64)])
    other = head([(target.base + 64, 64)])
    line.sendall(said + seal.tag(SEGMENTS, other) + b"x" * 64)
    assert is_closed(line)
    assert untouched(target)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.binary(max_size=200), proven=st.booleans())
def test_noise_ends_a_connection_and_nothing_else(target: End, source: End, noise: bytes, proven: bool) -> None:
    line = member(target)[0] if proven else open_line(target)[0]
    with contextlib.suppress(OSError):  # it may have been closed before all of it was said
        line.sendall(noise)
        line.shutdown(socket.SHUT_WR)
    assert is_closed(line)
    line.close()
    assert untouched(target)
    assert source.engine.connect(target.engine.session)


# --- messages ---


@given(st.lists(st.integers(0, 3 * MOST_BYTES), max_size=20))
def test_messages_carry_every_byte_once_within_their_bounds(lengths: list[int]) -> None:
    segments, at = [], 4096
    for length in lengths:
        segments.append((at, at + 10**12, length))
        at += length + 1
    made = list(messages(segments))
    assert all(0 < len(one.segments) <= MOST_SEGMENTS for one in made)
    assert all(one.size_bytes == sum(segment[2] for segment in one.segments) <= MOST_BYTES for one in made)
    parts = [part for one in made for part in one.segments]
    assert all(target - source == 10**12 for source, target, _ in parts)
    joined: list[tuple[int, int, int]] = []
    for source, target, length in parts:
        if joined and joined[-1][0] + joined[-1][2] == source:
            source, target, length = joined[-1][0], joined[-1][1], joined.pop()[2] + length
        joined.append((source, target, length))
    assert joined == [segment for segment in segments if segment[2]]


def test_many_small_segments_are_several_messages() -> None:
    assert [len(one.segments) for one in messages([(1, 1, 1)] * (2 * MOST_SEGMENTS + 5))] == [
        MOST_SEGMENTS,
        MOST_SEGMENTS,
        5,
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "127.0.0.1:15000",
        "h:1/00",
        "h:0/0011223344556677",
        "h:1/001122334455667G",
        ":1/0011223344556677",
    ],
)
def test_what_is_no_session_is_a_failed_write_and_no_exception(source: End, text: str) -> None:
    with pytest.raises(MalformedError):
        parse_session(text)
    result = source.engine.write(text, [(source.base, 1, 1)])
    assert (result.ok, result.quiet) == (False, True)
    assert not source.engine.connect(text)


def test_a_session_is_read_as_it_is_written() -> None:
    one = Session("10.0.0.1", 65535, b"\x00\xff" * 4)
    assert parse_session(str(one)) == one


# --- restart, and memory that goes ---


def test_a_write_to_a_dead_engine_never_lands_in_its_successor_at_the_same_port(source: End, target: End) -> None:
    dead = parse_session(target.engine.session)
    living = End(TOKEN)
    port = parse_session(living.engine.session).port
    stale = str(Session("127.0.0.1", port, dead.number))
    result = source.engine.write(stale, [(source.base, living.base, 64)])
    assert (result.ok, result.quiet) == (False, True)
    assert result.failure.endswith("another process listens there now")
    assert untouched(living)
    assert living.engine.strangers() == {}
    living.engine.close()


def test_a_peer_that_comes_back_between_two_writes_costs_no_write(source: End, target: End) -> None:
    assert source.engine.write(target.engine.session, [(source.base, target.base, 64)]).ok
    target.engine.close()
    result = source.engine.write(target.engine.session, [(source.base, target.base, 64)])
    assert (result.ok, result.quiet) == (False, True), "the kept connection is known to be closed"


def test_withdrawn_memory_is_written_no_more_not_even_in_the_middle_of_a_segment(target: End) -> None:
    line, seal = member(target)
    said = head([(target.base, SIZE), (target.base, 10)])
    line.sendall(said + seal.tag(SEGMENTS, said) + b"x" * 1000)
    while target.memory[999] != ord("x"):  # bounded by the test's time
        time.sleep(0.001)
    target.engine.unregister_region(target.base)
    target.memory[:] = 0
    line.sendall(b"x" * (SIZE - 1000 + 10))
    assert len(receive(line, TAG_BYTES)) == TAG_BYTES  # the welcome
    answer = receive(line, 20)
    assert int.from_bytes(answer[8:16], "little") == 0
    assert int.from_bytes(answer[16:20], "little") == 2
    assert untouched(target)


def test_a_writer_that_ends_in_the_middle_leaves_the_engine_as_it_was(source: End, target: End) -> None:
    line, seal = member(target)
    said = head([(target.base, SIZE)])
    line.sendall(said + seal.tag(SEGMENTS, said) + b"x" * 1000)
    line.close()
    result = source.engine.write(target.engine.session, [(source.base, target.base, SIZE)])
    assert result.ok, result.failure
    assert hashlib.sha256(target.memory).digest() == hashlib.sha256(source.memory).digest()


def test_a_start_loads_neither_mooncake_nor_torch() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from bufferlab.real.engine.registry import start_engine; e = start_engine('socket'); e.close();"
            "print(e.proof.evidence[-1]); print({'mooncake', 'torch', 'zmq', 'numpy'} & set(sys.modules))",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout.splitlines() == ["Mooncake is not loaded in this process", "set()"]
