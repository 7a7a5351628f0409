"""A dask cluster of several processes, some of which are killed: no run is lost or doubled, and the bytes are the same."""

import dataclasses
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bufferlab.experiments.config.build import digest_of
from bufferlab.experiments.errors import RunFailedError, UserError
from bufferlab.experiments.sweeps import plan as planning
from bufferlab.experiments.sweeps.cluster import ClusterWorkers, Worker
from bufferlab.experiments.sweeps.executor import open_workers
from bufferlab.experiments.sweeps.packs import Work
from bufferlab.experiments.sweeps.plan import make_plan
from bufferlab.experiments.sweeps.remote import what_it_has
from bufferlab.experiments.sweeps.sweep import run_sweep
from bufferlab.experiments.tuning.asking import Question, make_question
from bufferlab.experiments.tuning.base import Asked
from bufferlab.experiments.tuning.question import parse_objective
from bufferlab.experiments.tuning.tune import run_tune
from tools import scale_out

distributed = pytest.importorskip("distributed", reason="needs dask.distributed (the cluster extra)")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two processes, each replaced when it dies."""
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as made:
        yield made


@pytest.fixture
def workers(cluster: Any) -> Iterator[Any]:
    with open_workers(jobs=1, executor="dask", address=cluster.scheduler_address) as made:
        yield made


def logged(number: int, folder: str, seconds: float) -> int:
    """Leaves a line when it has ended."""
    time.sleep(seconds)
    descriptor = os.open(Path(folder) / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{number} {os.getpid()}\n".encode())
    os.close(descriptor)
    return number * number


def until(mark: str) -> None:
    """Keeps its worker busy until there is such a file."""
    deadline = time.monotonic() + 30
    while not Path(mark).exists() and time.monotonic() < deadline:
        time.sleep(0.02)


def breaks(number: int) -> int:
    if number == 30:
        raise RunFailedError(f"run {number} broke")
    return number


def dies(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def pids(cluster: Any) -> list[int]:
    return [nanny.pid for nanny in cluster.workers.values() if nanny.pid]


def test_a_worker_that_is_busy_while_the_first_runs_take_place_gets_some_of_the_next(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bufferlab.experiments.sweeps.cluster.CHECK_TIMEOUT_S", 0.3)
    with distributed.Client(cluster.scheduler_address, set_as_default=False) as other:
        busy = next(iter(other.scheduler_info()["workers"]))
        mark = tmp_path / "free"
        waits = other.submit(until, str(mark), workers=[busy], pure=False)
        with open_workers(jobs=1, executor="dask", address=cluster.scheduler_address) as workers:
            first = dict(workers.run(logged, [(number, str(tmp_path), 0.0) for number in range(5)]))
            assert first == {number: number * number for number in range(5)}
            assert len({line.split()[1] for line in (tmp_path / "log").read_text().splitlines()}) == 1
            mark.touch()
            waits.result(timeout=30)
            dict(workers.run(logged, [(number, str(tmp_path), 0.05) for number in range(40)]))
        assert len({line.split()[1] for line in (tmp_path / "log").read_text().splitlines()}) == 2


class Recorder:
    """A client that runs nothing, and knows what it was asked for."""

    def __init__(self) -> None:
        self.id, self.status = "client", "running"
        self.cancelled: list[Any] = []
        self.submitted: list[Any] = []
        self.closed: list[str] = []

    def cancel(self, futures: list[Any]) -> None:
        self.cancelled += futures

    def submit(self, function: Any, *_: Any, **__: Any) -> Any:
        self.submitted.append(function)
        return distributed_future("pending")

    def unsubscribe_topic(self, _topic: str) -> None:
        self.closed.append("topic")
        raise OSError("the scheduler is gone")

    def close(self, timeout: float) -> None:
        self.closed.append(f"client {timeout}")
        raise ZeroDivisionError("oh")


def distributed_future(status: str, error: Exception | None = None) -> Any:
    return SimpleNamespace(
        status=status, exception=lambda timeout: error, add_done_callback=lambda _: None, cancelled=lambda: False
    )


def test_a_pack_that_dask_gives_up_is_handed_out_again_and_the_address_is_asked_anew() -> None:
    workers, client = ClusterWorkers(1, "tcp://127.0.0.1:9", {}, None), Recorder()
    workers._client = client
    one = Worker("tcp://127.0.0.1:10", 1, process="first")
    workers._workers = {one.address: one}
    work = Work([(0,), (1,)], 6.0, count=2)
    number = work.pack_for(one.address, 1)
    assert number is not None
    failed = distributed_future("error", distributed.scheduler.KilledWorker("pack", None, 3))
    workers._futures[number], one.packs[number] = failed, False
    workers._check_broken(work, number, failed)
    assert (workers.lost, work.handed_again, one.packs, one.process) == (1, 1, {}, "")
    assert client.submitted == [what_it_has]
    again = work.pack_for(one.address, 1)
    assert again is not None
    assert list(work.packs[again].tasks) == [0]


def test_a_cluster_of_our_own_is_ended_whatever_else_cannot_be() -> None:
    workers, client = ClusterWorkers(1, None, {}, None), Recorder()
    workers._client = client
    workers._cluster = SimpleNamespace(close=lambda timeout: client.closed.append(f"cluster {timeout}"))
    with pytest.raises(ZeroDivisionError):
        workers.close()
    assert client.closed == ["topic", "client 5", "cluster 5"]
    assert workers._cluster is None


def test_what_a_killed_worker_had_told_is_not_run_again(cluster: Any, workers: Any, tmp_path: Path) -> None:
    count = 120
    arrived: Counter[int] = Counter()
    for index, result in workers.run(logged, [(number, str(tmp_path), 0.03) for number in range(count)]):
        assert result == index * index
        arrived[index] += 1
        if sum(arrived.values()) == 60:
            os.kill(pids(cluster)[0], signal.SIGKILL)
            before = (tmp_path / "log").read_text().splitlines()
            told = set(arrived)
    assert arrived == dict.fromkeys(range(count), 1)
    after = (tmp_path / "log").read_text().splitlines()[len(before) :]
    run_again = [int(line.split()[0]) for line in after if int(line.split()[0]) in told]
    assert run_again == []
    assert workers.lost == 1
    assert workers.handed_again >= 1


def test_the_same_bytes_while_workers_are_killed(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    same_bytes_while_workers_are_killed(cluster, tmp_path, monkeypatch, replications=3, kills=2)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_same_bytes_while_many_workers_are_killed(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same_bytes_while_workers_are_killed(cluster, tmp_path, monkeypatch, replications=30, kills=12)


def same_bytes_while_workers_are_killed(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, replications: int, kills: int
) -> None:
    monkeypatch.setattr(planning, "code_digest", lambda: "code")
    # Eight configurations of two workloads, so that there are groups that workers begin and lose.
    grid = {"protocol.sizing.tokens": [512, 1024, 2048, 4096], "workload.rate_rps": [4.0, 8.0]}
    plan = make_plan("quickstart", grid=grid, settings=["workload.requests=300"], replications=replications)
    run_sweep(plan, tmp_path / "serial", jobs=1)
    draws = random.Random(kills)
    moments = set(draws.sample(range(2, len(plan.tasks) - 2), kills))
    told: list[str] = []
    runs = 0

    def count(number: int) -> None:
        """After some of the runs, one of the cluster's processes is killed; its nanny starts another."""
        nonlocal runs
        runs += number
        if runs in moments and (found := pids(cluster)):
            os.kill(draws.choice(found), signal.SIGKILL)

    run_sweep(
        plan, tmp_path / "killed", executor="dask", address=cluster.scheduler_address, notice=told.append,
        progress=count,
    )  # fmt: skip
    assert runs == len(plan.tasks)
    for name in ("sweep.parquet", "quantiles.parquet"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "serial" / name).read_bytes()
    assert any(re.search(r"[1-9]\d* workers? w.* lost; [1-9]\d* runs? w.* handed out again", line) for line in told)


def test_a_run_that_breaks_is_told_as_it_is_here(workers: Any) -> None:
    with pytest.raises(RunFailedError, match=r"^run 30 broke$"):
        list(workers.run(breaks, [(number,) for number in range(50)]))
    # The workers can be used again.
    assert dict(workers.run(breaks, [(number,) for number in range(5)])) == {n: n for n in range(5)}


@pytest.mark.slow
def test_a_run_that_kills_worker_after_worker_is_named(workers: Any) -> None:
    with pytest.raises(RunFailedError, match=r"^number 3: the worker was lost 4 times while it was at it"):
        list(workers.run(dies, [(number,) for number in range(6)], name=lambda task: f"number {task[0]}"))


def test_no_answer_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bufferlab.experiments.sweeps.cluster.CONNECT_TIMEOUT_S", 1)
    plan = make_plan("seed-small", grid={"protocol.sizing.tokens": [512, 1024]}, replications=1)
    with pytest.raises(
        UserError, match=r"^--address is 'tcp://127.0.0.1:9', it must be where a dask scheduler answers$"
    ):
        run_sweep(plan, tmp_path / "out", executor="dask", address="tcp://127.0.0.1:9")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"code": "0" * 64}, "has another version of bufferlab's code"),
        ({"build": "other"}, "but this process runs the build other; compile the same there"),
    ],
)
def test_workers_that_run_something_else_are_refused(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: dict[str, str], words: str
) -> None:
    own = dataclasses.replace(what_it_has(()), **other)
    monkeypatch.setattr(ClusterWorkers, "_own", own)
    plan = make_plan("seed-small", grid={"protocol.sizing.tokens": [512, 1024]}, replications=1)
    with pytest.raises(UserError, match=rf"^the dask worker tcp://127\.0\.0\.1:\d+ .*{words}"):
        run_sweep(plan, tmp_path / "out", executor="dask", address=cluster.scheduler_address)
    assert not (tmp_path / "out").exists()


def test_workers_must_see_the_input_files(cluster: Any, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("arrival_s,total_tokens\n0,500\n")
    for inputs, words in (
        ({str(rows): "0" * 64}, "as it is here, but it has another content there"),
        ({str(tmp_path / "none.csv"): "0" * 64}, "none.csv as it is here, but it cannot be read: No such file"),
    ):
        with (
            pytest.raises(UserError, match=words),
            open_workers(jobs=1, executor="dask", address=cluster.scheduler_address, inputs=inputs) as workers,
        ):
            workers.check()
    inputs = {str(rows): digest_of(rows)}
    with open_workers(jobs=1, executor="dask", address=cluster.scheduler_address, inputs=inputs) as workers:
        assert dict(workers.run(breaks, [(1,), (2,)])) == {0: 1, 1: 2}


def quick_question(source: str, *settings: str, replications: int | None = None) -> Question:
    space: dict[str, list[Any]] = {
        "protocol.sizing.policy": ["fixed"], "protocol.sizing.tokens": [512, 8192], "protocol.discipline": ["window"],
        "protocol.block_tokens": [128], "language.pool_blocks": [128, 256],
    }  # fmt: skip
    objective = parse_objective("latency_p99")
    return make_question(Asked(source, settings=settings), objective=objective, replications=replications, space=space)


def test_a_tune_on_an_adaptive_cluster_has_the_answer_of_this_machine(tmp_path: Path) -> None:
    question, told = quick_question("quickstart", "workload.requests=40", replications=6), list[str]()
    here = run_tune(question, tmp_path / "here", jobs=1, plots=False)
    with distributed.LocalCluster(n_workers=0, threads_per_worker=1, dashboard_address=None) as cluster:
        cluster.adapt(minimum=1, maximum=2, interval="100ms", target_duration="100ms")
        there = run_tune(
            question, tmp_path / "there", executor="dask", address=cluster.scheduler_address, plots=False,
            notice=told.append,
        )  # fmt: skip
    assert told[0] == "the dask cluster has no worker yet; waiting for the first"
    assert {**there.content, "wall_s": 0.0} == {**here.content, "wall_s": 0.0}
    ledger = "ledger.parquet"
    assert (tmp_path / "there" / ledger).read_bytes() == (tmp_path / "here" / ledger).read_bytes()


def test_workers_must_see_the_traffic_of_a_tune(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("arrival_s,total_tokens\n" + "".join(f"{second},{500 + second % 7}\n" for second in range(60)))
    question = quick_question(str(rows))
    monkeypatch.setattr("bufferlab.experiments.config.schema.digests_of", lambda _: {str(rows): "0" * 64})
    with pytest.raises(
        UserError, match=r"must see the input file .*rows\.csv as it is here, but it has another content"
    ):
        run_tune(question, tmp_path / "out", executor="dask", address=cluster.scheduler_address)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def apart() -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler that is a process of its own, and what is started besides; the file that says where it is."""
    with scale_out.cluster(0) as made:
        yield made


def address_in(file: str) -> str:
    return str(json.loads(Path(file).read_text())["address"])


def test_a_scheduler_that_dies_before_it_says_where_it_is_is_not_waited_for(tmp_path: Path) -> None:
    scheduler = scale_out.start("scheduler", "--port", "no number")
    with pytest.raises(RuntimeError, match=r"^the scheduler ended with status [1-9]\d* before it said where it is$"):
        scale_out.wait_for(tmp_path / "never.json", scheduler)


@pytest.mark.slow
def test_a_scheduler_that_goes_away_is_one_sentence_and_what_is_finished_is_kept(
    apart: tuple[str, list[subprocess.Popen[bytes]]], tmp_path: Path
) -> None:
    file, running = apart
    address = address_in(file)
    running.append(scale_out.new_worker(file))
    done = []
    with (
        open_workers(jobs=1, executor="dask", address=address) as workers,
        pytest.raises(RunFailedError, match=rf"^the dask scheduler at {address} does not answer any more$"),
    ):
        for index, _ in workers.run(logged, [(number, str(tmp_path), 0.05) for number in range(1000)]):
            done.append(index)
            if len(done) == 20:
                running[0].kill()
    assert len(done) >= 20


@pytest.mark.slow
def test_a_worker_that_comes_later_with_other_code_gets_nothing(
    apart: tuple[str, list[subprocess.Popen[bytes]]], tmp_path: Path
) -> None:
    file, running = apart
    other = tmp_path / "other"
    shutil.copytree(ROOT / "bufferlab", other / "bufferlab", ignore=shutil.ignore_patterns("__pycache__"))
    with (other / "bufferlab" / "sim" / "run.py").open("a") as code:
        code.write("\n# another version\n")
    told: list[str] = []
    with open_workers(jobs=1, executor="dask", address=address_in(file), notice=told.append) as workers:
        running.append(scale_out.new_worker(file))
        done: list[int] = []
        for index, _ in workers.run(logged, [(number, str(tmp_path), 0.05) for number in range(200)]):
            done.append(index)
            if len(done) == 20:
                running.append(scale_out.new_worker(file, other))
    assert sorted(done) == list(range(200))
    assert told[0] == "the dask cluster has no worker yet; waiting for the first"
    assert "has another version of bufferlab's code" in told[1]
    assert told[1].endswith("; it gets nothing to do")
    assert len({line.split()[1] for line in (tmp_path / "log").read_text().splitlines()}) == 1
