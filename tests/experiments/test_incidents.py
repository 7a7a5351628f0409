"""What goes wrong in a simulated run, from the configuration to the figures."""

from pathlib import Path

import pytest

from experiments.config import Config
from experiments.errors import UserError
from experiments.incidents import fault_plan
from experiments.loading import load
from experiments.runner import simulate_one
from protocol.topology import RankId, Side
from sim.faults import ClientAbort, Death, FalseAlarm, Hang, Restart, Slow

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
        Restart(1.5, Side.LANGUAGE, 0, 0.2),
        Hang(0.5, RankId(Side.ENCODE, 0, 0), 0.1),
        Slow(RankId(Side.LANGUAGE, 0, 0), 2.0),
        ClientAbort(0.2, 3, (RankId(Side.ENCODE, 0, 0), RankId(Side.LANGUAGE, 0, 0), RankId(Side.LANGUAGE, 0, 1))),
        FalseAlarm(0.3, RankId(Side.ENCODE, 0, 0), RankId(Side.LANGUAGE, 0, 1), 0.05),
    )


def test_nothing_goes_wrong_unless_it_is_said(tmp_path: Path) -> None:
    assert fault_plan(config_of(tmp_path, "[workload]\nlengths = [5]\n"), 0) is None


def test_the_run_shows_what_went_wrong_and_keeps_its_laws(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    one, broken = simulate_one(config, 0)
    assert broken == []
    again, _ = simulate_one(config, 0)
    assert (one.statuses, one.delivered_s.tobytes()) == (again.statuses, again.delivered_s.tobytes())
    # Rooms of the dead rank's instance stay open for ever, the others end.
    assert 0 < one.statuses["Failed"] < 40
    assert one.statuses["Success"] > 5


def test_the_resolved_configuration_says_it_again(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    from experiments.config import parse

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
    from experiments.workload import check_requests

    with pytest.raises(UserError) as refused:
        check_requests(config_of(tmp_path, f"[workload]\nlengths = [5]\n[[incidents]]\n{incident}\n"), "sim")
    assert sentence in str(refused.value)


def test_rates_are_checked_by_the_plan(tmp_path: Path) -> None:
    text = "[workload]\nlengths = [5]\n[random_faults]\nlost_messages = 0.7\nlate_messages = 0.7\n"
    with pytest.raises(UserError, match="their sum at most 1"):
        config_of(tmp_path, text)


def test_a_real_run_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="only a simulated run"):
        config_of(tmp_path).check_real(2**40)
    with pytest.raises(UserError, match=r"encode\.transfer_workers is 2, it must be 1"):
        config_of(tmp_path, "[workload]\nlengths = [5]\n[encode]\ntransfer_workers = 2\n").check_real(2**40)
