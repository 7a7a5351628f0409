"""The invariant monitor looks at one replication of a simulated configuration, and whether it does changes no figure."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from bufferlab.experiments.runs import recorder, simulate
from bufferlab.experiments.runs.replication import Replication
from bufferlab.experiments.runs.summary import summarise
from bufferlab.experiments.sweeps.configuration import run_configuration
from bufferlab.experiments.workloads.loading import load
from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.protocol.observe.monitor import InvariantMonitor
from bufferlab.protocol.recording import Event, Record

SETTINGS = {
    "a window that grows": ("quickstart", ["workload.requests=60", "run.warmup_requests=5"]),
    "rooms that wait for each other": (
        "seed-resume",
        ["protocol.discipline=alloc_then_free", "protocol.timeout_s=0.5", "language.pool_blocks=16"],
    ),
    "two ranks that write to three": (
        "quickstart",
        ["workload.requests=40", "encode.tp=2", "language.tp=3", "language.release=prefill"],
    ),
    "a closed loop": ("quickstart", ["workload.requests=40", "workload.loop=closed", "workload.concurrency=4"]),
}


class StandIn:
    """In the place of the monitor that a replication would have: ``change`` makes another record of each."""

    made: ClassVar[list[StandIn]] = []

    def __init__(self, scenario: Scenario, change: Callable[[Record], Record] = lambda record: record) -> None:
        self.monitor = InvariantMonitor(scenario)
        self.change = change
        self.made.append(self)

    def __call__(self, *fields: Any) -> None:
        self.monitor(*self.change(Record(*fields)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.monitor, name)


def figures(one: Replication) -> dict[str, Any]:
    summary = summarise([one], kind="sim", transport="", wall_s=0.0)
    assert summary.pop("monitored_replications") == one.monitored
    return summary


@pytest.mark.parametrize("name", SETTINGS)
def test_a_replication_without_the_monitor_has_the_same_figures(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base, settings = SETTINGS[name]
    config = load(base, settings)
    monitored, _ = simulate.simulate_one(config, 0)
    monkeypatch.setattr(simulate, "MONITORED_REPLICATION", None)
    monkeypatch.setattr(recorder, "InvariantMonitor", lambda _: pytest.fail("there was a monitor"))
    alone, _ = simulate.simulate_one(config, 0)
    assert (monitored.monitored, alone.monitored) == (True, False)
    assert figures(alone) == figures(monitored)
    assert alone.latencies_s().tolist() == monitored.latencies_s().tolist()
    assert [use.marks for use in alone.pools.values()] == [use.marks for use in monitored.pools.values()]


def test_the_first_replication_is_the_one_and_the_summary_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load("quickstart", ["workload.requests=10", "run.replications=3"])
    monkeypatch.setattr(StandIn, "made", [])
    monkeypatch.setattr(recorder, "InvariantMonitor", StandIn)
    summary = simulate.run_sim(config, tmp_path / "run")
    assert len(StandIn.made) == 1
    assert [one["monitored"] for one in summary["replications"]] == [True, False, False]
    assert summary["monitored_replications"] == 1
    environment = json.loads((tmp_path / "run" / "environment.json").read_text(encoding="utf-8"))
    assert environment["monitored_replications"] == [0]


def test_the_cells_of_a_sweep_say_which_of_their_replications_were_monitored() -> None:
    config = load("seed-small", [])
    assert [run_configuration(config, number)["summary"]["monitored_replications"] for number in (0, 1)] == [1, 0]


@pytest.mark.interpreted
def test_what_the_run_owes_at_its_end_is_looked_at_in_every_replication(monkeypatch: pytest.MonkeyPatch) -> None:
    from bufferlab.protocol.allocator import BlockPool

    release = BlockPool.release
    monkeypatch.setattr(BlockPool, "release", lambda self, blocks, owner: release(self, list(blocks)[1:], owner))
    one, broken = simulate.simulate_one(load("seed-small", []), 1)
    assert one.violations == len(broken) == 2
    assert all("blocks free" in line for line in broken)


def test_a_record_that_breaks_a_rule_is_found_where_the_monitor_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(record: Record) -> Record:
        return record._replace(time_s=-1.0) if record.event is Event.DELIVERED else record

    monkeypatch.setattr(recorder, "InvariantMonitor", lambda scenario: StandIn(scenario, late))
    found = [simulate.simulate_one(load("seed-small", []), number)[0].violations for number in (0, 1)]
    assert found[0] > 0 == found[1]
