"""What goes wrong in a run, from the configuration to the figures of a simulated one."""

from pathlib import Path
from typing import Any

import pytest

from bufferlab.experiments.config.build import fault_plan
from bufferlab.experiments.config.schema import Config
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.runs.faults import real_plan
from bufferlab.experiments.runs.simulate import simulate_one
from bufferlab.experiments.workloads.loading import load
from bufferlab.experiments.workloads.requests import make_requests
from bufferlab.protocol.faults import ClientAbort, Death, FalseAlarm, Hang, Restart, Slow
from bufferlab.protocol.recording import Event, Record
from bufferlab.protocol.topology import RankId, Side
from bufferlab.sim.faults import FaultPlan, PlannedFaults
from bufferlab.sim.network.link import load_profile
from bufferlab.sim.run import simulate

INCIDENTS = """
[workload]
lengths = [2000]
requests = 40
rate_rps = 20.0

[protocol]
timeout_s = "20s"

[language]
instances = 2
tp = 2

[[incidents]]
kind = "death"
time_s = "1s"
rank = "language1.1"

[[incidents]]
kind = "restart"
time_s = 1.5
instance = "language0"
lasts_s = "200ms"

[[incidents]]
kind = "hang"
time_s = 0.5
rank = "encode0.0"
lasts_s = 0.1

[[incidents]]
kind = "slow"
rank = "language0.0"
factor = 2.0

[[incidents]]
kind = "abort"
time_s = 0.2
room = 3

[[incidents]]
kind = "false-alarm"
time_s = 0.3
observer = "encode0.0"
rank = "language0.1"
lasts_s = 0.05

[random_faults]
lost_messages = 0.01
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "c.toml"
    path.write_text(text)
    return path


def config_of(folder: Path, text: str = INCIDENTS, *overrides: str) -> Config:
    return load(str(written(folder, text)), list(overrides))


def test_every_kind_becomes_what_the_simulator_takes(tmp_path: Path) -> None:
    plan = fault_plan(config_of(tmp_path), 0)
    assert plan is not None
    assert plan.lost_messages == 0.01
    assert plan.incidents == (
        Death(1.0, RankId(Side.LANGUAGE, 1, 1)),
        Restart(1.5, (Side.LANGUAGE, 0), 0.2),
        Hang(0.5, RankId(Side.ENCODE, 0, 0), 0.1),
        Slow(RankId(Side.LANGUAGE, 0, 0), 2.0),
        ClientAbort(0.2, 3, (RankId(Side.ENCODE, 0, 0), RankId(Side.LANGUAGE, 0, 0), RankId(Side.LANGUAGE, 0, 1))),
        FalseAlarm(0.3, RankId(Side.ENCODE, 0, 0), RankId(Side.LANGUAGE, 0, 1), 0.05),
    )


def test_nothing_goes_wrong_unless_it_is_said(tmp_path: Path) -> None:
    assert fault_plan(config_of(tmp_path, "[workload]\nlengths = [5]\n"), 0) is None


def test_the_run_shows_what_went_wrong_and_keeps_its_invariants(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    one, broken = simulate_one(config, 0)
    assert broken == []
    again, _ = simulate_one(config, 0)
    assert (one.statuses, one.requests.column("delivered_s").tobytes()) == (
        again.statuses,
        again.requests.column("delivered_s").tobytes(),
    )
    # Rooms of the dead rank's instance stay open for ever, the others end.
    assert 0 < one.statuses["Failed"] < 40
    assert one.statuses["Success"] > 5


def test_the_resolved_configuration_says_it_again(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    from bufferlab.experiments.config.schema import parse

    assert parse(config.resolved().tree()).incidents == config.incidents
    assert "random_faults" in config.tree()


@pytest.mark.parametrize(
    ("incident", "sentence"),
    [
        ('kind = "storm"', "kind is 'storm', it must be one of death, restart"),
        ('kind = "death"\ntime_s = 1.0', "rank is missing: a death has time_s, rank"),
        ('kind = "slow"\ntime_s = 1.0\nrank = "encode0.0"\nfactor = 2.0', "time_s is not allowed: a slow has"),
        ('kind = "death"\ntime_s = 1.0\nrank = "encode0"', "rank is 'encode0', it must be a rank such as"),
        ('kind = "death"\ntime_s = 1.0\nrank = "encode0.1"', "rank is 'encode0.1', it must be one of the 1 instances"),
        ('kind = "restart"\ntime_s = 1.0\ninstance = "language1"\nlasts_s = 1.0', "instance is 'language1', it must"),
        ('kind = "hang"\ntime_s = 1.0\nrank = "encode0.0"\nlasts_s = 100.0', "lasts_s of a hang is 100.0"),
        ('kind = "abort"\ntime_s = 1.0\nroom = 9', "room is 9, it must be one of the requests 1 to 1"),
        (
            'kind = "false-alarm"\ntime_s = 1.0\nrank = "encode0.0"\nobserver = "encode0.0"\nlasts_s = 1.0',
            "observer is 'encode0.0', it must be of the other side",
        ),
    ],
)
def test_what_cannot_go_wrong_is_refused_in_one_sentence(tmp_path: Path, incident: str, sentence: str) -> None:
    from bufferlab.experiments.workloads.requests import check_requests

    with pytest.raises(UserError) as refused:
        check_requests(config_of(tmp_path, f"[workload]\nlengths = [5]\n[[incidents]]\n{incident}\n"), "sim")
    assert sentence in str(refused.value)


def test_rates_are_checked_by_the_plan(tmp_path: Path) -> None:
    text = "[workload]\nlengths = [5]\n[random_faults]\nlost_messages = 0.7\nlate_messages = 0.7\n"
    with pytest.raises(UserError, match="their sum at most 1"):
        config_of(tmp_path, text)


REAL_INCIDENTS = INCIDENTS[: INCIDENTS.index('[[incidents]]\nkind = "false-alarm"')]


def test_what_a_measured_run_can_do_becomes_its_plan(tmp_path: Path) -> None:
    pytest.importorskip("zmq", reason="the real backend is not installed")
    from bufferlab.real import faults

    config = config_of(tmp_path, REAL_INCIDENTS)
    config.check_real(2**40)
    assert real_plan(config, 0, []) == [
        faults.Kill(rank=RankId(Side.LANGUAGE, 1, 1), time_s=1.0),
        faults.Restart(side=Side.LANGUAGE, instance=0, down_s=0.2, time_s=1.5),
        faults.Pause(rank=RankId(Side.ENCODE, 0, 0), lasts_s=0.1, time_s=0.5),
        Slow(rank=RankId(Side.LANGUAGE, 0, 0), factor=2.0),
        ClientAbort(room=3, time_s=0.2),
    ]
    assert real_plan(config_of(tmp_path, "[workload]\nlengths = [5]\n"), 0, []) == []


def test_the_writes_that_fail_are_those_of_the_simulator(tmp_path: Path) -> None:
    pytest.importorskip("zmq", reason="the real backend is not installed")
    text = (
        "[workload]\nlengths = [3000]\nrequests = 40\nrate_rps = 20.0\n[language]\ninstances = 2\n"
        "[random_faults]\nfailed_writes = 0.2\nuntil_s = 60.0\n"
    )
    config = config_of(tmp_path, text)
    config.check_real(2**40)
    plan: list[Any] = real_plan(config, 0, list(make_requests(config, 0)))
    assert [(str(one.writer), str(one.destination), one.until_s) for one in plan] == [
        ("encode0.0", "language0.0", 60.0),
        ("encode0.0", "language1.0", 60.0),
    ]
    records: list[Record] = []
    simulate(
        config.scenario(),
        make_requests(config, 0),
        load_profile(config.link.profile),
        recorder=lambda *fields: records.append(Record(*fields)),
        faults=PlannedFaults(fault_plan(config, 0) or FaultPlan()),
    )
    for one in plan:
        ends = [
            record.bytes
            for record in records
            if record.event is Event.WRITE_DONE and record.detail.startswith(str(one.destination))
        ]
        failed = [number for number, landed in enumerate(ends) if not landed]
        assert failed
        assert failed == [number for number in one.numbers if number < len(ends)]
    assert real_plan(config, 1, list(make_requests(config, 1))) != plan


def test_a_measured_run_takes_several_writers(tmp_path: Path) -> None:
    config_of(tmp_path, "[workload]\nlengths = [5]\n[encode]\ntransfer_workers = 2\n").check_real(2**40)


@pytest.mark.parametrize(
    ("text", "memory_bytes", "sentence"),
    [
        (INCIDENTS, 2**40, r"incidents\.5\.kind is 'false-alarm', which a measured run cannot do"),
        (REAL_INCIDENTS, None, r"incidents\.0\.kind is 'death', which needs all ranks on this host"),
        (
            "[random_faults]\nlost_messages = 0.1",
            2**40,
            r"random_faults\.lost_messages is 0\.1, it must be 0 for a mea",
        ),
        ("[random_faults]\ndoubled_messages = 0.1", 2**40, r"doubled_messages is 0\.1, .* loses, doubles and delays"),
        ("[random_faults]\nlate_messages = 0.1", 2**40, r"late_messages is 0\.1, .* loses, doubles and delays nothing"),
        ("[random_faults]\nlate_writes = 0.1", 2**40, r"late_writes is 0\.1, .* whose transport alone decides"),
        ("[random_faults]\nlate_requests = 0.1", 2**40, r"late_requests is 0\.1, .* travel as fast as they do"),
    ],
)
def test_a_real_run_refuses_what_it_cannot_do(
    tmp_path: Path, text: str, memory_bytes: int | None, sentence: str
) -> None:
    config = config_of(tmp_path, text if "workload" in text else f"[workload]\nlengths = [5]\n{text}\n")
    with pytest.raises(UserError, match=sentence):
        config.check_real(memory_bytes)
