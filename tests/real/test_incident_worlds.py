"""The same incidents in both worlds: who fails and who is served is the same where it does not hang on a moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("mooncake", reason="needs Mooncake's Transfer Engine")

from bufferlab.experiments.config.schema import Config
from bufferlab.experiments.runs.equality import compare_runs
from bufferlab.experiments.runs.measure import run_measured
from bufferlab.experiments.runs.rundir import StoredRun
from bufferlab.experiments.runs.simulate import run_sim
from bufferlab.experiments.workloads.loading import load
from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario, ServiceTimes
from bufferlab.protocol.faults import ClientAbort, Slow
from bufferlab.protocol.recording import Event
from bufferlab.protocol.topology import RankId, Side
from bufferlab.real.run.launcher import run_real

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

# Odd rooms are on encode0 and language0, even ones on encode1 and language1. A token takes a millisecond to encode, so
# rooms 4 and 5 are in the encoder for two seconds, in the middle of which something ends.
WORLD = """
[protocol]
block_tokens = 128
timeout_s = "15s"
sizing.tokens = 512

[encode]
instances = 2
pool_blocks = 64
per_token_s = 0.001

[language]
instances = 2
pool_blocks = 64

[model]
hidden = 64

[random_faults]
heartbeat_s = "500ms"

[[incidents]]
kind = "death"
rank = "encode1.0"
time_s = 1.5

[[incidents]]
kind = "restart"
instance = "language0"
time_s = 3.5
lasts_s = "500ms"
"""
REQUESTS = ((0.0, 300), (0.0, 200), (0.6, 300), (0.7, 2000), (2.5, 2000), (2.6, 100))
"""Arrival (s) and tokens of rooms 1 to 6."""
SERVED, FAILED = {1, 2, 3}, {4, 5, 6}
LATE = (25.0, 300)
"""A seventh one, for the instance that has restarted: a new process is there within seconds, in the worst case ten."""


def config_of(folder: Path, *requests: tuple[float, int]) -> Config:
    listed = "".join(f"\n[[workload.request]]\narrival_s = {at}\ntotal_tokens = {n}\n" for at, n in requests)
    path = folder / "world.toml"
    path.write_text(WORLD + listed)
    return load(str(path))


def ended(run: Path) -> dict[str, set[int]]:
    table = StoredRun(run).requests()
    return {status: set(rows["room"]) for status, rows in table.groupby("status")}


def both(folder: Path, config: Config) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    notes: list[str] = []
    simulated = run_sim(config, folder / "sim")
    measured = run_measured(config, folder / "real", notice=notes.append)
    return simulated, measured, notes


def test_a_death_and_a_restart_fail_the_same_rooms_in_both_worlds(tmp_path: Path) -> None:
    simulated, measured, notes = both(tmp_path, config_of(tmp_path, *REQUESTS))
    assert ended(tmp_path / "sim") == {"Success": SERVED, "Failed": FAILED}
    assert ended(tmp_path / "real") == ended(tmp_path / "sim")
    assert measured["requests"] == simulated["requests"]
    assert (simulated["invariant_violations"], measured["invariant_violations"]) == (0, 0)
    for what in ("kill encode1.0", "encode1.0 ended with status -9", "restart language0", "language0 is up again"):
        assert any(what in note for note in notes), what
    # What the killed processes recorded is there, and how it ended.
    killed = StoredRun(tmp_path / "real").events().query("side == 'encode' and instance == 1")
    assert list(killed[killed["room"] == 2]["event"])[-1] == "released"
    last = killed[killed["room"] == 4].iloc[-2:]
    assert list(last["event"]) == ["failed", "released"]
    assert set(last["detail"]) == {"its process ended"}


@pytest.mark.slow
def test_a_restarted_instance_serves_again_in_both_worlds(tmp_path: Path) -> None:
    _, measured, _ = both(tmp_path, config_of(tmp_path, *REQUESTS, LATE))
    assert ended(tmp_path / "sim") == {"Success": SERVED | {7}, "Failed": FAILED}
    assert ended(tmp_path / "real") == ended(tmp_path / "sim")
    assert measured["invariant_violations"] == 0


FAILED_WRITES = """
[workload]
lengths = [700]
requests = 24
rate_rps = 6.0
cv = 0  # one after the other, so that the n-th write is the same in both worlds

[protocol]
sizing.tokens = 512

[encode]
pool_blocks = 256

[language]
instances = 2
pool_blocks = 256

[model]
hidden = 64

[random_faults]
failed_writes = 0.2
"""


def test_the_same_writes_fail_in_both_worlds(tmp_path: Path) -> None:
    path = tmp_path / "world.toml"
    path.write_text(FAILED_WRITES)
    simulated, measured, _ = both(tmp_path, load(str(path)))
    assert compare_runs(tmp_path / "sim", tmp_path / "real")["differences"] == []
    assert measured["requests"] == simulated["requests"]
    assert 0 < measured["requests"]["failed"] < 24
    assert (simulated["invariant_violations"], measured["invariant_violations"]) == (0, 0)


SMALL = Scenario(
    block_tokens=16, hidden=64, sizing_options={"tokens": 64}, encode_blocks=64, language_blocks=64, timeout_s=20.0,
    encode_instances=2, language_instances=2, services=ServiceTimes(encode_per_token_s=0.005),
)  # fmt: skip


def test_a_client_goes_away_and_a_slow_rank_takes_longer() -> None:
    """Rooms 1 and 3 are alike but for the ranks; room 2 is aborted in the middle of its pass of a second."""
    requests = [
        Request(1, 0.0, 100),
        Request(2, 0.6, 200),
        Request(3, 0.0, 100, encode_instance=1, language_instance=1),
    ]
    requests.sort(key=lambda one: one.arrival_s)
    slow = Slow(rank=RankId(Side.ENCODE, 1, 0), factor=3.0)
    outcome = run_real(SMALL, requests, plan=[ClientAbort(room=2, time_s=1.0), slow])
    assert (outcome.succeeded_rooms, outcome.failed_rooms) == ({1, 3}, {2})
    assert {one.reason for one in outcome.conclusions if one.room == 2} == {"aborted by the client"}
    assert [incident.what for incident in outcome.incidents] == ["abort room 2"]
    assert (outcome.mismatches, outcome.rooms_left, outcome.blocks_lost) == ([], 0, 0)
    began, over = (
        {one.room: one.time_s for one in outcome.records if one.event is event}
        for event in (Event.ENCODE_STARTED, Event.ENCODED)
    )
    assert over[1] - began[1] >= 0.5
    assert over[3] - began[3] >= 1.5


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (ClientAbort(room=9, time_s=1.0), "ClientAbort: room 9 is not a request of this run"),
        (ClientAbort(room=1, time_s=-1.0), "ClientAbort: time_s is -1.0, it must not be negative"),
        (Slow(rank=RankId(Side.ENCODE, 5, 0), factor=2.0), "Slow: encode5.0 is not a rank of this run"),
        (Slow(rank=RankId(Side.ENCODE, 0, 0), factor=0.5), "Slow: factor is 0.5, it must be at least 1 and finite"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(fault: ClientAbort | Slow, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        run_real(SMALL, [Request(1, 0.0, 10)], plan=[fault])
