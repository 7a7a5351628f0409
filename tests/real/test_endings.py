"""A measured run ends when its work is over, says what went wrong with its processes, and keeps what was delivered."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("mooncake", reason="needs Mooncake's Transfer Engine")
pytest.importorskip("psutil", reason="needs psutil")

import psutil

from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.protocol.topology import RankId, Side
from bufferlab.real.control.spec import Heartbeats
from bufferlab.real.run.launcher import RealOutcome, run_real
from bufferlab.real.run.patience import Patience

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

ENCODE, LANGUAGE = RankId(Side.ENCODE, 0, 0), RankId(Side.LANGUAGE, 0, 0)
SMALL = Scenario(
    block_tokens=16, hidden=64, sizing_options={"tokens": 64}, encode_blocks=64, language_blocks=64, timeout_s=10.0
)
BRISK = Patience(silence_s=3.0, no_progress_s=3.0)
BEATS = Heartbeats(interval_s=0.5)


def rank_process(rank_id: RankId) -> psutil.Process:
    """The process of a rank: it writes its errors to a file with the rank's name."""
    for child in psutil.Process().children(recursive=True):
        for file in child.open_files():
            if f"/{rank_id}-" in file.path:
                return child
    raise LookupError(str(rank_id))


def run(requests: Sequence[Request], strike: Callable[[int], None] = lambda _: None) -> RealOutcome:
    """A run of which ``strike`` is told how many requests are concluded, whenever that grows."""
    done = 0

    def progress(count: int) -> None:
        nonlocal done
        done += count
        strike(done)

    return run_real(SMALL, requests, patience=BRISK, heartbeats=BEATS, progress=progress)


def steady(count: int = 90, gap_s: float = 0.1) -> list[Request]:
    return [Request(room=room, arrival_s=gap_s * room, total_tokens=100) for room in range(1, count + 1)]


def test_a_pause_of_the_traffic_is_no_end() -> None:
    arrivals_s = (0.0, 0.2, 9.0, 9.2)  # three times as long as anything is waited for
    outcome = run([Request(room, arrival_s, 100) for room, arrival_s in enumerate(arrivals_s, 1)])
    assert outcome.succeeded_rooms == {1, 2, 3, 4}
    assert (outcome.faults, outcome.violations, outcome.ended_early) == ((), (), "")


@pytest.mark.parametrize(("rank_id", "number"), [(LANGUAGE, signal.SIGKILL), (ENCODE, signal.SIGSTOP)])
def test_a_rank_that_somebody_else_ends_or_stops_is_named(rank_id: RankId, number: signal.Signals) -> None:
    def strike(done: int) -> None:
        if done == 10:
            rank_process(rank_id).send_signal(number)

    outcome = run(steady(), strike)
    how = "ended with status -9 (SIGKILL)" if number == signal.SIGKILL else "its process was stopped"
    assert len(outcome.faults) == 1, outcome.faults
    assert str(rank_id) in outcome.faults[0]
    assert how in outcome.faults[0]
    assert set(range(1, 11)) <= outcome.succeeded_rooms
    assert outcome.failed_rooms | outcome.succeeded_rooms == {one.room for one in outcome.requests}
    assert f"no {rank_id.side.value} rank was left" in outcome.ended_early
    assert len(outcome.requests) < 90
    assert (outcome.mismatches, outcome.violations, outcome.deadlocks) == ([], (), ())


BREAKS = """
import sys
if "bufferlab.real.run.rank" in sys.orig_argv:
    import {module}

    def broken(*_arguments, **_options):
        raise MemoryError("there is no more")

    {module}.{name} = broken
"""


@pytest.mark.parametrize(
    ("module", "name", "told"),
    [
        (
            "bufferlab.real.engine.verifier",
            "first_difference",
            "language0.0 broke: its 'verifier' thread ended with MemoryError: there is",
        ),
        (
            "bufferlab.real.engine.writer",
            "addresses",
            "encode0.0 broke: its 'writer 0' thread ended with MemoryError: there is no more",
        ),
    ],
)
def test_an_exception_in_a_thread_of_a_rank_is_named(
    module: str, name: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(BREAKS.format(module=module, name=name))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    outcome = run(steady(30))
    assert len(outcome.faults) == 1, outcome.faults
    assert told in outcome.faults[0]
    assert outcome.ended_early
    assert outcome.failed_rooms | outcome.succeeded_rooms == {one.room for one in outcome.requests}
