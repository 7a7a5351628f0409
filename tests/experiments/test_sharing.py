"""Requests that are drawn once for all configurations that see the same."""

import sys
from pathlib import Path
from typing import Any

import pytest

from bufferlab.experiments.runs.simulate import simulate_one
from bufferlab.experiments.sweeps import configuration as running
from bufferlab.experiments.sweeps.configuration import figures
from bufferlab.experiments.sweeps.plan import make_plan
from bufferlab.experiments.sweeps.sweep import run_sweep
from bufferlab.experiments.workloads import sharing
from bufferlab.experiments.workloads.loading import load
from bufferlab.experiments.workloads.requests import make_columns, make_requests
from bufferlab.experiments.workloads.sharing import SharedRequests
from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.sizing import find_policy
from bufferlab.sim.workload import joined

SHORT = "workload.requests=40"
LEARNING = """
from bufferlab.protocol.sizing import SizingPolicy

SEEN = []


class Learning(SizingPolicy):
    def __init__(self, tokens: int):
        self.tokens = tokens

    def first_tokens(self, view):
        return self.tokens

    def completed(self, view):
        one = view.request
        SEEN.append((one.room, view.total_tokens, one.text_tokens, one.image_tokens_hint, one.client))
        self.tokens = max(self.tokens, view.total_tokens)
"""


def told(requests: Any) -> list[tuple[Any, ...]]:
    return [tuple(getattr(one, name) for name in Request.__match_args__) for one in requests]


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The replications of which columns were made, in order."""
    made: list[int] = []
    original = sharing.make_columns

    def counted(config: Any, replication: int) -> Any:
        made.append(replication)
        return original(config, replication)

    monkeypatch.setattr(sharing, "make_columns", counted)
    return made


@pytest.mark.parametrize(
    "settings",
    [
        (SHORT,),
        (SHORT, "workload.repeat_probability=0.5", "workload.service_log_sd=0.2", "workload.hint=0.2"),
        ("workload.lengths=[500, 3000]", "workload.rate_rps=5", "workload.requests=30"),
        ("workload.lengths=[500, 3000]", "workload.service_log_sd=0.2", "encode.instances=3", "language.instances=2"),
        (SHORT, "workload.loop=closed", "workload.concurrency=3"),
        ("workload.preset=servegen-like", "workload.rate_rps=9", "workload.requests=1500"),
        ("workload.file={rows}",),
    ],
    ids=" ".join,
)
def test_shared_requests_are_those_of_the_configuration(settings: tuple[str, ...], tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("arrival_s,total_tokens,client\n0,500,a\n0.5,900,b\n1.5,700,a\n")
    config = load("quickstart", [one.format(rows=rows) for one in settings])
    shared = SharedRequests()
    for replication in (0, 1, 0):
        found = list(shared.of(config, replication))
        assert told(found) == told(make_requests(config, replication))
        assert isinstance(found[0], Request)


def test_settings_that_see_the_same_share_one_draw(draws: list[int]) -> None:
    shared = SharedRequests()
    same = ("protocol.sizing.tokens=4096", "language.tp=2", "protocol.sizing.policy=ewma_margin", "run.name=other")
    first = shared.of(load("quickstart", [SHORT]), 0)
    assert all(shared.of(load("quickstart", [SHORT, setting]), 0) is first for setting in same)
    assert draws == [0]
    # Over other instances they are other requests of the same draw.
    spread = list(shared.of(load("quickstart", [SHORT, "encode.instances=4"]), 0))
    assert {one.encode_instance for one in spread} == {0, 1, 2, 3}
    assert [one.total_tokens for one in spread] == [one.total_tokens for one in first]
    assert draws == [0]
    other = ("run.seed=2", "workload.rate_rps=9", "workload.hint=none", "workload.requests=41")
    for number, setting in enumerate(other, 2):
        assert told(shared.of(load("quickstart", [SHORT, setting]), 0)) != told(first)
        assert len(draws) == number
    shared.of(load("quickstart", [SHORT]), 1)
    assert draws[-1] == 1


def test_how_many_are_under_way_at_a_time_changes_no_draw(draws: list[int]) -> None:
    shared = SharedRequests()
    for concurrency in (1, 2, 8):
        shared.of(load("quickstart", [SHORT, "workload.loop=closed", f"workload.concurrency={concurrency}"]), 0)
    assert draws == [0]


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    rows, shared = tmp_path / "rows.csv", SharedRequests()
    rows.write_text("arrival_s,total_tokens\n0,500\n")
    config = load("seed-small", [f"workload.file={rows}"])
    assert [one.total_tokens for one in shared.of(config, 0)] == [500]
    rows.write_text("arrival_s,total_tokens\n0,5000\n")
    assert [one.total_tokens for one in shared.of(config, 0)] == [5000]


def test_only_so_many_are_kept(draws: list[int]) -> None:
    config, shared = load("quickstart", [SHORT]), SharedRequests(most=100)
    for replication in (0, 1, 0, 1, 2, 1, 0):
        assert len(list(shared.of(config, replication))) == 40
    # Two replications fit: the third takes the place of the one that was not asked for the longest.
    assert draws == [0, 1, 2, 0]
    with shared:
        pass
    shared.of(config, 0)
    assert draws == [0, 1, 2, 0, 0]
    # More than are kept at all are drawn as they are needed.
    long = shared.of(load("quickstart", ["workload.requests=101"]), 0)
    assert not isinstance(long, list)
    assert draws == [0, 1, 2, 0, 0]


def test_a_sweep_draws_once_a_replication(draws: list[int]) -> None:
    grid = {"protocol.sizing.tokens": [512, 2048, 4096], "encode.instances": [1, 2]}
    plan = make_plan("quickstart", grid=grid, settings=[SHORT], replications=3)
    run_sweep(plan, jobs=1)
    assert draws == [0, 1, 2]
    # Nothing of it stays in this process.
    with running.SHARED:
        running.run_configuration(plan.configurations[0].config, 0)
    assert draws == [0, 1, 2, 0]


def test_every_workload_of_a_sweep_is_drawn_once_a_replication(draws: list[int]) -> None:
    grid = {"protocol.sizing.tokens": [512, 2048], "workload.rate_rps": [4.0, 8.0]}
    plan = make_plan("quickstart", grid=grid, settings=[SHORT], replications=2)
    seen = [(one.config.workload.rate_rps, replication) for one, replication in plan.tasks]
    assert [seen[index] for index in plan.order()] == [
        (rate, replication) for rate in (4.0, 8.0) for replication in (0, 1) for _ in range(2)
    ]
    run_sweep(plan, jobs=1)
    assert draws == [0, 1, 0, 1]


def test_a_sweep_has_the_same_bytes_with_and_without_sharing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = {
        "protocol.sizing.tokens": [512, 4096],
        "encode.instances": [1, 2],
        "protocol.sizing.policy": ["ewma_margin"],
    }
    plan = make_plan("quickstart", grid=grid, settings=[SHORT], replications=2)
    run_sweep(plan, tmp_path / "shared", jobs=1)
    monkeypatch.setattr(running, "SHARED", SharedRequests(most=0))
    run_sweep(plan, tmp_path / "alone", jobs=1)
    for name in ("sweep.parquet", "quantiles.parquet"):
        assert (tmp_path / "shared" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


@pytest.mark.parametrize(
    "settings",
    [
        ("protocol.sizing.policy=per_client_quantile",),
        ("protocol.discipline=alloc_then_free", "language.pool_blocks=64", "protocol.timeout_s=2s"),
        ("random_faults.late_requests=0.3", "random_faults.failed_writes=0.1", "random_faults.lost_messages=0.02"),
        ("encode.tp=2", "language.tp=2", "language.release=prefill"),
        ("workload.loop=closed", "workload.concurrency=2"),
    ],
    ids=" ".join,
)
def test_no_run_changes_the_requests_that_others_see(settings: tuple[str, ...]) -> None:
    config, shared = load("quickstart", [SHORT, *settings]), SharedRequests()
    requests = shared.of(config, 0)
    before = told(requests)
    first = figures(simulate_one(config, 0, requests=requests)[0])
    assert told(requests) == before
    assert figures(simulate_one(config, 0, requests=requests)[0]) == first == figures(simulate_one(config, 0)[0])


def learnt_by(policy: Any) -> list[Any]:
    return sys.modules[policy.__module__].SEEN  # type: ignore[no-any-return]


def test_a_policy_that_learns_sees_the_same_requests_under_every_setting(tmp_path: Path) -> None:
    (tmp_path / "learning.py").write_text(LEARNING)
    policy = f"protocol.sizing.policy={tmp_path / 'learning.py'}:Learning"
    grid = {"protocol.sizing.tokens": [512, 2048, 8192], "language.pool_blocks": [128, 512]}
    plan = make_plan("quickstart", grid=grid, settings=[SHORT, policy], replications=2)
    seen = learnt_by(find_policy(plan.configurations[0].config.protocol.sizing.policy))
    by_replication: dict[int, set[tuple[Any, ...]]] = {}
    with running.SHARED:
        for index in plan.order():
            one, replication = plan.tasks[index]
            seen.clear()
            running.run_configuration(one.config, replication)
            learnt = tuple(sorted(seen))
            # A lone rank has a second copy of a user's policy, which is told the same.
            assert len(learnt) == 80
            assert learnt[::2] == learnt[1::2]
            by_replication.setdefault(replication, set()).add(learnt)
    assert [len(one) for one in by_replication.values()] == [1, 1]
    assert by_replication[0] != by_replication[1]


def test_shared_columns_cannot_be_written_to() -> None:
    config = load("quickstart", [SHORT])
    columns = joined(make_columns(config, 0)).locked()
    with pytest.raises(ValueError, match="read-only"):
        columns.total_tokens[0] = 1
