"""Open and closed loops and recorded runs, from the configuration to the run directory, in both worlds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bufferlab.experiments.config.schema import Config, parse
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.runs.measure import run_measured
from bufferlab.experiments.runs.paired import compare_paired
from bufferlab.experiments.runs.rundir import StoredRun
from bufferlab.experiments.runs.simulate import run_sim
from bufferlab.experiments.workloads.loading import load
from bufferlab.experiments.workloads.readers import find_reader
from bufferlab.experiments.workloads.readers.recorded import RecordedRun
from bufferlab.experiments.workloads.requests import check_requests, count_requests, is_random, make_columns
from bufferlab.sim.workload import Columns, joined

CLOSED = ("workload.loop=closed", "workload.concurrency=4")


def simulated(folder: Path, name: str, *settings: str, example: str = "quickstart") -> StoredRun:
    config = load(example, ["workload.requests=60", "run.replications=1", *settings])
    run_sim(config, folder / name)
    return StoredRun(folder / name)


def replay(run: StoredRun, *settings: str) -> Config:
    """The configuration of a run, whose requests are those that were recorded."""
    tree = run.config.tree()
    tree["workload"] = {"file": str(run.path / "requests.parquet")}
    tree["run"] |= {"replications": 1}
    path = run.path.parent / "replay.toml"
    import tomli_w

    path.write_text(tomli_w.dumps(tree))
    return load(str(path), settings)


def events(run: StoredRun, replication: int = 0) -> pd.DataFrame:
    table = run.events()
    return table[table["replication"] == replication].drop(columns="replication").reset_index(drop=True)


def columns_of(config: Config, replication: int = 0) -> Columns:
    return joined(make_columns(config, replication))


# --- what a configuration may say ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workload", "sentence"),
    [
        ({"lengths": [5], "loop": "closed"}, "workload has a closed loop but no concurrency, it must say how many"),
        ({"lengths": [5], "concurrency": 3}, "workload.concurrency is 3, it is only allowed with loop = 'closed'"),
        ({"lengths": [5], "loop": "closed", "concurrency": 0}, "workload.concurrency is 0, it must be at least 1"),
        ({"lengths": [5], "loop": "round"}, "workload.loop is 'round', it must be 'open' or 'closed'"),
        ({"preset": "mixed", "loop": "open"}, "has a preset but no rate_rps"),
    ],
)
def test_a_loop_that_is_no_loop_is_refused(workload: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        parse({"workload": workload})
    assert sentence in str(refused.value)


def test_a_closed_loop_needs_no_rate_and_an_open_one_has_no_concurrency() -> None:
    config = parse({"workload": {"preset": "mixed", "loop": "closed", "concurrency": 2}}).resolved()
    check_requests(config, "sim")
    assert load("closed-loop", ["workload.loop=open", "workload.rate_rps=8"]).workload.concurrency is None


def test_lengths_in_a_closed_loop_are_the_same_every_time() -> None:
    workload = {"lengths": [5, 700], "rate_rps": 3.0, "requests": 20}
    assert is_random(parse({"workload": workload}))
    assert not is_random(parse({"workload": workload | {"loop": "closed", "concurrency": 2}}))


# --- what comes of it ----------------------------------------------------------------------------------------------


def test_the_arrival_column_says_when_a_request_was_submitted(tmp_path: Path) -> None:
    run = simulated(tmp_path, "closed", *CLOSED)
    table = run.requests().sort_values("room")
    assert (table["arrival_s"].iloc[:4] == 0).all()
    assert table["arrival_s"].is_monotonic_increasing
    assert table["arrival_s"].iloc[-1] > 0
    assert run.summary["invariant_violations"] == 0
    counts = {"offered": 60, "succeeded": 60, "failed": 0, "unfinished": 0, "not_served": 0}
    assert run.summary["requests"] == counts
    again = simulated(tmp_path, "again", *CLOSED)
    for name in ("events.parquet", "requests.parquet"):
        assert (again.path / name).read_bytes() == (run.path / name).read_bytes()


def test_two_closed_loops_of_the_same_requests_are_a_pair_though_their_times_differ(tmp_path: Path) -> None:
    first = simulated(tmp_path, "first", *CLOSED)
    second = simulated(tmp_path, "second", *CLOSED, "protocol.sizing.tokens=4096")
    assert not np.array_equal(first.requests()["arrival_s"], second.requests()["arrival_s"])
    assert compare_paired(first.path, second.path)["requests"]["compared"] == 60
    with pytest.raises(UserError, match="has arrival_s"):
        compare_paired(first.path, simulated(tmp_path, "open").path)


# --- runs that are played back -------------------------------------------------------------------------------------


def test_a_run_played_back_is_the_same_run(tmp_path: Path) -> None:
    run = simulated(tmp_path, "run", "run.replications=2", "workload.service_log_sd=0.3", "run.seed=5")
    for replication in (0, 1):
        config = replay(run, f"workload.options.replication={replication}")
        assert isinstance(find_reader(Path(str(config.workload.file))), RecordedRun)
        run_sim(config, tmp_path / f"again-{replication}")
        pd.testing.assert_frame_equal(events(StoredRun(tmp_path / f"again-{replication}")), events(run, replication))
    made, read = columns_of(run.config, 1), columns_of(replay(run, "workload.options.replication=1"))
    for name in ("image_tokens_hint", "image_squares", "encode_factor", "prefill_factor", "client"):
        assert np.array_equal(getattr(made, name), getattr(read, name)), name


def test_a_closed_loop_played_back_in_an_open_one_has_the_same_times(tmp_path: Path) -> None:
    run = simulated(tmp_path, "run", *CLOSED)
    config = replay(run)
    assert config.workload.loop == "open"
    run_sim(config, tmp_path / "again")
    again = StoredRun(tmp_path / "again").requests().sort_values("room", ignore_index=True)
    first = run.requests().sort_values("room", ignore_index=True)
    pd.testing.assert_series_equal(again["arrival_s"], first["arrival_s"])
    pd.testing.assert_series_equal(again["delivered_s"], first["delivered_s"])


def test_requests_that_came_at_once_keep_their_order(tmp_path: Path) -> None:
    """A table has them as they ended."""
    run = simulated(tmp_path, "run", "workload.lengths=[9000, 10, 5000, 700]")
    assert not run.requests()["room"].is_monotonic_increasing
    assert columns_of(replay(run)).total_tokens.tolist() == [9000, 10, 5000, 700] * 15


def test_a_run_directory_may_be_named_and_a_table_alone_says_what_its_columns_say(tmp_path: Path) -> None:
    run = simulated(tmp_path, "run")
    config = load("quickstart", [f"workload.file={run.path}", "run.replications=1"])
    assert config.workload.file == str(run.path / "requests.parquet")
    assert set(config.input_files()) == {run.path / "requests.parquet", run.path / "config.toml"}
    copy = tmp_path / "alone.parquet"
    copy.write_bytes((run.path / "requests.parquet").read_bytes())
    alone = columns_of(load("quickstart", [f"workload.file={copy}", "workload.requests=60"]))
    assert np.array_equal(alone.total_tokens, columns_of(replay(run)).total_tokens)
    assert not alone.image_tokens_hint.any()
    assert count_requests(replay(run)) == 60


def test_what_cannot_be_played_back_is_refused(tmp_path: Path) -> None:
    run = simulated(tmp_path, "run")
    with pytest.raises(UserError, match=r"workload\.options\.replication is 3, it must be one of those of the run, 0"):
        check_requests(replay(run, "workload.options.replication=3"), "sim")
    with pytest.raises(UserError, match=r"workload\.service_log_sd is 0\.2, it must be 0 beside a run"):
        check_requests(replay(run, "workload.service_log_sd=0.2"), "sim")
    config = replay(run)
    text = (run.path / "config.toml").read_text()
    (run.path / "config.toml").write_text(text.replace("seed = 1", "seed = 2"))
    with pytest.raises(UserError, match=r"config\.toml beside it must make the same requests, but their total_tokens"):
        check_requests(config, "sim")


@pytest.mark.real
def test_runs_are_played_back_from_either_world_in_the_other(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs torch")
    pytest.importorskip("mooncake", reason="needs Mooncake's Transfer Engine")
    settings = ("workload.requests=8", "encode.base_s=0.01", "language.pool_blocks=64", "encode.pool_blocks=64")
    config = load("seed-resume", [*settings, *CLOSED])
    run_measured(config, tmp_path / "real")
    measured = StoredRun(tmp_path / "real")
    arrivals = measured.requests().sort_values("room")["arrival_s"].to_numpy()
    assert arrivals[-1] > arrivals[0] >= 0
    # Measured, then simulated at the times at which the requests really came.
    run_sim(replay(measured), tmp_path / "sim")
    simulated_again = StoredRun(tmp_path / "sim").requests().sort_values("room")
    assert np.array_equal(simulated_again["arrival_s"], arrivals)
    # And what was simulated, measured.
    summary = run_measured(replay(StoredRun(tmp_path / "sim")), tmp_path / "real-again")
    again = StoredRun(tmp_path / "real-again").requests().sort_values("room")
    assert np.array_equal(again["arrival_s"], arrivals)
    assert summary["requests"]["succeeded"] == 8
    assert (measured.summary["invariant_violations"], summary["invariant_violations"]) == (0, 0)
