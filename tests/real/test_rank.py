"""What a rank's process does with the actions of its core, without an engine or other processes."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("zmq", reason="needs pyzmq")

from bufferlab.protocol.chunks import Chunk
from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.protocol.messages import Action, CopyOut, Note, Quiet, Send, StartWrite
from bufferlab.protocol.recording import Event
from bufferlab.protocol.sizing import SizingError
from bufferlab.protocol.topology import RankId, Side
from bufferlab.real.errors import EngineMissing
from bufferlab.real.run import rank as real_rank
from bufferlab.real.run.clock import RunClock
from bufferlab.real.run.commands import MISSING_STATUS, Broken, Records, parse_command
from bufferlab.real.run.driver import Driver
from bufferlab.real.run.journal import Journal
from bufferlab.real.run.rank import RankProcess
from bufferlab.real.run.writes import Writes
from bufferlab.real.threads import FAILURES

ENCODE, LANGUAGE = RankId(Side.ENCODE, 0, 0), RankId(Side.LANGUAGE, 0, 0)


class Decoded:
    """Everything that leaves a rank, in order: numbers of rooms that the router hears of, and what others hear."""

    def __init__(self) -> None:
        self.order: list[Any] = []

    def to_router(self, frames: list[bytes]) -> None:
        command = parse_command(frames)
        self.order.append([room for _, room, *_ in command.records] if isinstance(command, Records) else command)

    def to_peer(self, to: RankId, message: Any) -> None:
        self.order.append(message)

    def of_itself(self, what: str) -> Callable[..., None]:
        return lambda *_arguments, **_options: self.order.append(what)


def rank_that_tells(heard: Decoded, *, mortal: bool) -> tuple[RankProcess, Driver]:
    """A rank and its driver, of which everybody but what is told is played."""
    spec: Any = SimpleNamespace(
        rank_id=ENCODE,
        mortal=mortal,
        generation=0,
        announced_writes=(),
        faults=(),
        scenario=Scenario(block_tokens=16, hidden=64),
    )
    router: Any = SimpleNamespace(send=heard.to_router)
    writer: Any = SimpleNamespace(start=heard.of_itself("write"))
    driver, rank = Driver.__new__(Driver), RankProcess.__new__(RankProcess)
    journal = Journal(spec, router)
    clock = RunClock(1.0)
    parts: dict[str, Any] = {
        "rank_id": ENCODE,
        "clock": clock,
        "journal": journal,
        "wire": SimpleNamespace(send=heard.to_peer),
        "writes": Writes(spec, clock, lambda: writer, lambda _room: None),
        "forward": SimpleNamespace(copy_out=heard.of_itself("copy")),
    }
    vars(driver).update(parts)
    vars(rank).update(rank_id=ENCODE, journal=journal, driver=driver)
    return rank, driver


def note(room: int) -> Note:
    return Note(room, Event.CHUNK_STARTED, None, 0, 0, "")


COPY = CopyOut(1, 0, start_token=0, tokens=16, blocks=(0,))
WRITE = StartWrite(4, 0, 0, LANGUAGE, Chunk(0, 16, is_last=True), (0,), (0,))


@pytest.mark.parametrize("mortal", [True, False])
def test_where_a_death_is_planned_records_are_sent_on_before_anybody_hears_of_what_was_done(*, mortal: bool) -> None:
    """Also what is recorded while a copy is taken, of a room that waits behind it."""
    heard = Decoded()
    rank, driver = rank_that_tells(heard, mortal=mortal)
    first, second, third = (Quiet(room, 0) for room in range(3))
    actions: list[Action] = [
        note(1), Send(LANGUAGE, first), COPY, note(2), note(3), Send(LANGUAGE, second), Send(LANGUAGE, third),
        note(4), WRITE, note(5),
    ]  # fmt: skip
    driver._carry_out(actions)
    at_once = [[1], first, "copy", [2, 3], second, third, [4], "write", [5]]
    assert heard.order == (at_once if mortal else [one for one in at_once if not isinstance(one, list)])
    heard.order.clear()
    rank.journal.send_on(least=1)
    assert heard.order == ([] if mortal else [[1, 2, 3, 4, 5]])


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (SizingError("the sizing policy mine raised KeyError"), "the sizing policy mine raised KeyError"),
        (MemoryError("no more"), "MemoryError: no more"),
        (SystemExit(0), "SystemExit: 0"),
    ],
)
def test_a_rank_that_breaks_tells_what_it_recorded_and_then_why(error: BaseException, reason: str) -> None:
    heard = Decoded()
    rank, driver = rank_that_tells(heard, mortal=False)
    driver._carry_out([note(1), note(2)])
    rank.tell_broken(error)
    assert heard.order == [[1, 2], Broken(ENCODE, reason)]


@pytest.mark.parametrize(("error", "status"), [(SystemExit(0), 1), (EngineMissing("pip install it"), MISSING_STATUS)])
def test_a_rank_that_is_to_exit_in_the_middle_of_a_run_has_broken(
    error: BaseException, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[BaseException] = []

    def run() -> None:
        raise error

    played = SimpleNamespace(run=run, tell_broken=told.append)
    monkeypatch.setattr(real_rank, "RankProcess", lambda spec: played)
    monkeypatch.setattr(real_rank, "read_spec", lambda: SimpleNamespace(rank_id=ENCODE))
    monkeypatch.setattr(real_rank, "_end_with_parent", lambda: None)
    monkeypatch.setattr(FAILURES, "catch_all", lambda: None)
    assert real_rank.main() == status
    assert told == ([error] if isinstance(error, SystemExit) else [])
