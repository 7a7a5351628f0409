"""Sweeps: what is a configuration, what is refused, the same bytes on any number of cores, and going on after an interruption."""

import errno
import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bufferlab.experiments.config.build import digest_of
from bufferlab.experiments.errors import RunFailedError, UserError
from bufferlab.experiments.runs.simulate import run_sim, simulate_one
from bufferlab.experiments.stats.intervals import across_replications
from bufferlab.experiments.stats.quantiles import LEVELS
from bufferlab.experiments.stats.selection import possibly_lowest
from bufferlab.experiments.sweeps import configuration as running
from bufferlab.experiments.sweeps import executor as executing
from bufferlab.experiments.sweeps import plan as planning
from bufferlab.experiments.sweeps.configuration import figures
from bufferlab.experiments.sweeps.folder import SweepFolder
from bufferlab.experiments.sweeps.grid import as_override, cross, fingerprint, parse_grid, read_configurations
from bufferlab.experiments.sweeps.journal import line_of
from bufferlab.experiments.sweeps.plan import make_plan
from bufferlab.experiments.sweeps.sweep import read_sweep, run_sweep, workers_for
from bufferlab.experiments.workloads.loading import load

ROOT = Path(__file__).resolve().parents[2]
GRID = ("--grid", "protocol.sizing.tokens=512,4096")
QUICK = ("--set", "workload.requests=40", "--replications", "2", "--jobs", "1")
SIZES = {"protocol.sizing.tokens": [512, 4096]}
SHORT = ["workload.requests=40"]


@pytest.fixture(autouse=True)
def same_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """The code does not change while a test runs, even if somebody edits it."""
    monkeypatch.setattr(planning, "code_digest", lambda: "code")


def kept_in(folder: Path) -> set[tuple[str, int]]:
    """The fingerprint and replication of every run that a sweep has kept, as any program for gzip reads them."""
    lines = subprocess.run(["gzip", "-dcf", folder / "runs.jsonl.gz"], capture_output=True, check=False).stdout
    rows = [json.loads(line) for line in lines.splitlines(keepends=True) if line.endswith(b"\n")]
    return {(row["fingerprint"], row["replication"]) for row in rows}


# --- grids and lists ---


def test_a_grid_has_typed_values() -> None:
    grid = parse_grid(["a.b=1, 2.5,true,never,'x,y',[1, 2]", "c.d=5ms"])
    assert grid == {"a.b": [1, 2.5, True, "never", "x,y", [1, 2]], "c.d": ["5ms"]}


SCALARS = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text()


@given(SCALARS | st.lists(SCALARS | st.lists(SCALARS, max_size=3), max_size=4))
def test_a_value_of_a_configuration_stays_what_it_is_as_an_option(value: Any) -> None:
    option = as_override("some.field", value)
    field, _, text = option.partition("=")
    assert field == "some.field"
    assert "\n" not in text
    assert tomllib.loads(f"value={text}") == {"value": value}


@pytest.mark.parametrize("value", [None, {"a": 1}, [1, None], [{"a": 1}]])
def test_what_is_no_value_of_a_field_is_refused(value: Any) -> None:
    with pytest.raises(
        UserError, match=r"^some.field is .*, it must be a number, text, true, false or a list of them$"
    ):
        as_override("some.field", value)


@given(st.dictionaries(st.sampled_from("abcd"), st.lists(st.integers(), unique=True, min_size=1, max_size=4)))
def test_a_grid_makes_every_combination_once(grid: dict[str, list[int]]) -> None:
    configurations = cross([], grid)
    assert len(configurations) == np.prod([len(values) for values in grid.values()])
    assert len({json.dumps(configuration) for configuration in configurations}) == len(configurations)
    assert all(configuration[field] in values for configuration in configurations for field, values in grid.items())
    # The last field runs fastest.
    assert configurations == sorted(
        configurations, key=lambda configuration: [values.index(configuration[field]) for field, values in grid.items()]
    )


def test_lists_are_crossed_with_grids() -> None:
    configurations = cross([{"w": 1, "r": 2}, {"w": 3, "r": 4}], {"t": [5, 6]})
    assert configurations == [
        {"w": 1, "r": 2, "t": 5},
        {"w": 1, "r": 2, "t": 6},
        {"w": 3, "r": 4, "t": 5},
        {"w": 3, "r": 4, "t": 6},
    ]
    with pytest.raises(UserError, match="t is in the grid and in a listed configuration"):
        cross([{"t": 1}], {"t": [1]})


def test_files_of_configurations(tmp_path: Path) -> None:
    (tmp_path / "configurations.toml").write_text(
        "[[sweep.configurations]]\nworkload.file = 'rows.csv'\n[[sweep.configurations]]\n'protocol.discipline' = 'slot'\n"
        "[sweep.grid]\nprotocol.sizing.tokens = [1, 2]\n"
    )
    configurations, grid = read_configurations(tmp_path / "configurations.toml")
    # A file's name is relative to the file it stands in.
    assert configurations == [{"workload.file": str(tmp_path / "rows.csv")}, {"protocol.discipline": "slot"}]
    assert grid == {"protocol.sizing.tokens": [1, 2]}
    (tmp_path / "configurations.json").write_text('[{"language": {"tp": 2}}, {"language.tp": 1}]')
    assert read_configurations(tmp_path / "configurations.json") == ([{"language.tp": 2}, {"language.tp": 1}], {})


def test_a_configuration_is_a_whole_configuration() -> None:
    plan = make_plan("quickstart", grid={"protocol.timeout_s": ["5s", "never"], **SIZES}, settings=SHORT, seed=9)
    assert [configuration.number for configuration in plan.configurations] == [1, 2, 3, 4]
    assert [configuration.config.protocol.timeout_s for configuration in plan.configurations] == [5.0, 5.0, None, None]
    assert {configuration.config.run.seed for configuration in plan.configurations} == {9}
    assert len({configuration.digest for configuration in plan.configurations}) == 4
    assert plan.requests == 4 * 5 * 40


def test_configurations_have_long_names_and_none_is_taken_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan("quickstart", grid=SIZES, settings=SHORT, replications=1)
    configurations = 100_000
    assert configurations**2 / 2 / 16 ** len(plan.configurations[0].digest) < 1e-9, (
        "two configurations of the largest sweep may have one name"
    )
    run_sweep(plan, tmp_path / "out", jobs=1)
    # What is kept of a run is that of its whole fingerprint, and of no other one that begins alike.
    first = plan.configurations[0].fingerprint
    assert (first, 0) in kept_in(tmp_path / "out")
    assert (first[:-1] + "x", 0) not in kept_in(tmp_path / "out")
    # Were names so short that two configurations met, that would be said before anything runs.
    monkeypatch.setattr("bufferlab.experiments.sweeps.grid.NAME_DIGITS", 0)
    with pytest.raises(
        UserError, match=r"configuration 2 \(.*\) and configuration 1 \(.*\) are different configurations that chance"
    ):
        make_plan("quickstart", grid=SIZES, settings=SHORT)


def test_a_sweep_with_the_short_names_of_before_is_not_gone_on_with(tmp_path: Path) -> None:
    plan = make_plan("quickstart", grid=SIZES, settings=SHORT, replications=1)
    run_sweep(plan, tmp_path / "out", jobs=1)
    stored = json.loads((tmp_path / "out" / "sweep.json").read_text())
    stored["plan"]["identity"] = stored["plan"]["identity"][:8]
    (tmp_path / "out" / "sweep.json").write_text(json.dumps(stored))
    with pytest.raises(
        UserError, match="holds a sweep of an older version, which names configurations otherwise; give a"
    ):
        run_sweep(plan, tmp_path / "out", jobs=1)
    run_sweep(plan, tmp_path / "out", jobs=1, force=True)


def test_what_names_a_sweep() -> None:
    plan = make_plan("quickstart", grid=SIZES, settings=SHORT)
    # Another number of replications is more of the same sweep; anything else is another one.
    assert make_plan("quickstart", grid=SIZES, settings=SHORT, replications=9).identity == plan.identity
    assert make_plan("quickstart", grid=SIZES, settings=SHORT, seed=2).identity != plan.identity
    assert make_plan("quickstart", grid=SIZES).identity != plan.identity


def test_a_configuration_has_the_fingerprint_of_its_run_with_one_replication(tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("arrival_s,total_tokens\n0,500\n")
    for settings in ((), ("protocol.timeout_s=5ms", "encode.pool_blocks=2GiB"), (f"workload.file={rows}",)):
        one = make_plan("quickstart", grid=SIZES, settings=settings, replications=1).configurations[0]
        alone = load("quickstart", [*settings, "protocol.sizing.tokens=512", "run.replications=1"])
        assert one.fingerprint == fingerprint(one.config) == alone.fingerprint()


def test_an_input_file_is_read_once_for_the_fingerprints_of_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, read = tmp_path / "rows.csv", []
    rows.write_text("arrival_s,total_tokens\n0,500\n")
    monkeypatch.setattr(
        "bufferlab.experiments.sweeps.grid.digest_of", lambda path: (read.append(path), digest_of(path))[1]
    )
    make_plan("seed-small", grid=SIZES, settings=[f"workload.file={rows}"])
    assert read == [rows]


# --- baselines ---


def test_the_default_baseline_is_the_first_configuration_with_the_same_requests() -> None:
    plan = make_plan("quickstart", grid={"workload.rate_rps": [4.0, 8.0], **SIZES}, settings=SHORT)
    assert plan.baselines == {2: 1, 4: 3}


def test_a_chosen_baseline_is_like_the_configuration_in_all_else() -> None:
    grid = {"protocol.discipline": ["window", "slot"], **SIZES}
    chosen = [("protocol.sizing.tokens", 4096)]
    assert make_plan("quickstart", grid=grid, settings=SHORT, baseline=chosen).baselines == {1: 2, 3: 4}
    with pytest.raises(UserError, match=r"tokens=1024, no configuration has that; there are 512, 4096"):
        make_plan("quickstart", grid=grid, baseline=[("protocol.sizing.tokens", 1024)])
    with pytest.raises(UserError, match=r"names run\.seed, which is not swept"):
        make_plan("quickstart", grid=grid, baseline=[("run.seed", 1)])


# --- what a sweep leaves ---


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep of two sizes and two disciplines."""
    folder = tmp_path_factory.mktemp("sweep") / "done"
    grid = {**SIZES, "protocol.discipline": ["window", "exact_announce"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "code_digest", lambda: "code")
        run_sweep(make_plan("quickstart", grid=grid, settings=SHORT, replications=3), folder, jobs=1)
    return folder


def test_a_row_is_what_the_run_came_to(done: Path) -> None:
    table = read_sweep(done).table
    assert list(table.columns[:6]) == [
        "configuration", "digest", "seed", "replication", "protocol.sizing.tokens", "protocol.discipline",
    ]  # fmt: skip
    assert table["configuration"].tolist() == [configuration for configuration in (1, 2, 3, 4) for _ in range(3)]
    assert table["replication"].tolist() == [0, 1, 2] * 4
    row = table.iloc[7]
    assert (row["protocol.sizing.tokens"], row["protocol.discipline"]) == (4096, "window")
    config = load("quickstart", [*SHORT, "protocol.sizing.tokens=4096"])
    expected = figures(simulate_one(config, 1)[0])
    assert {"requests.offered", "deadlock", "latency_s.p99", "resume.rate", "language_pool.blocked_s"} <= set(expected)
    for name, value in expected.items():
        assert (value is None and pd.isna(row[name])) or row[name] == value, name
    assert not any("wall" in name for name in table.columns)


def test_a_sweep_of_the_last_release_is_read_and_not_gone_on_with(done: Path, tmp_path: Path) -> None:
    """Its configurations are called cells, in its tables, in sweep.json and in the name of their folder."""
    old = tmp_path / "old"
    old.mkdir()
    for name in ("sweep.parquet", "quantiles.parquet"):
        pd.read_parquet(done / name).rename(columns={"configuration": "cell"}).to_parquet(old / name, index=False)
    text = (done / "sweep.json").read_text()
    (old / "sweep.json").write_text(
        text.replace('"configurations":', '"cells":').replace('"configuration":', '"cell":')
    )
    (old / "cells").mkdir()

    read, new = read_sweep(old), read_sweep(done)
    assert (read.table.equals(new.table), read.quantiles.equals(new.quantiles)) == (True, True)
    assert read.report == new.report
    with pytest.raises(UserError, match="holds a sweep of an older version"):
        run_sweep(make_plan("quickstart", grid=SIZES, settings=SHORT), old, jobs=1)
    assert (old / "sweep.json").read_text() != text


def test_a_configuration_has_the_figures_of_a_run(done: Path, tmp_path: Path) -> None:
    settings = [*SHORT, "protocol.sizing.tokens=4096", "run.replications=3"]
    summary = run_sim(load("quickstart", settings), tmp_path / "run")
    configuration = read_sweep(done).report["configurations"][2]
    assert configuration["settings"] == {"protocol.sizing.tokens": 4096, "protocol.discipline": "window"}
    for name in running.NOT_FIGURES | {"replications"}:
        summary.pop(name, None)
    expected = pd.json_normalize(summary).iloc[0].to_dict()
    assert expected == pytest.approx(
        pd.json_normalize({name: configuration[name] for name in summary}).iloc[0].to_dict()
    )


def test_differences_are_paired(done: Path) -> None:
    sweep = read_sweep(done)
    p99 = sweep.table.pivot_table(index="configuration", columns="replication", values="latency_s.p99")
    entry = sweep.report["configurations"][3]
    assert entry["baseline"] == 1
    difference = across_replications((p99.loc[4] - p99.loc[1]).tolist())
    for name, value in difference.items():
        assert entry["differences"]["latency_s.p99"][name] == pytest.approx(value)
    assert "differences" not in sweep.report["configurations"][0]
    # Nothing failed on either side, which is not known to be so for ever.
    failed = entry["differences"]["failure_rate"]
    assert (failed["value"], failed["low"], failed["significant"]) == (0.0, None, None)


def test_quantiles_are_those_of_the_rows(done: Path) -> None:
    sweep = read_sweep(done)
    assert len(sweep.quantiles) == len(sweep.table) * len(LEVELS)
    for share, name in ((0.5, "p50"), (0.9, "p90"), (0.99, "p99")):
        part = sweep.quantiles[np.isclose(sweep.quantiles["share"], share)]
        for quantity in ("latency_s", "transfer_s"):
            assert part[quantity].tolist() == sweep.table[f"{quantity}.{name}"].tolist()
    curve = sweep.quantiles[sweep.quantiles["configuration"] == 1].groupby("replication")["latency_s"]
    assert all(values.is_monotonic_increasing for _, values in curve)


def test_nothing_half_written_remains(done: Path) -> None:
    assert not list(done.rglob("*.partial"))
    assert len(kept_in(done)) == 12


def test_the_same_bytes_on_one_core_and_on_two(bufferlab: Any, folder: Path) -> None:
    for jobs in (1, 2):
        ended = bufferlab("sweep", "quickstart", *GRID, *QUICK, "--jobs", jobs, "--out", f"jobs-{jobs}")
        assert ended.status == 0, ended.err
    first, second = folder / "jobs-1", folder / "jobs-2"
    names = sorted(path.relative_to(first) for path in first.rglob("*") if path.suffix in {".parquet", ".png"})
    assert [str(name) for name in names] == [
        "plots/ecdf.png", "plots/tradeoff.png", "plots/u_shape.png", "quantiles.parquet", "sweep.parquet",
    ]  # fmt: skip
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    assert without_wall(read_sweep(first).report) == without_wall(read_sweep(second).report)


def without_wall(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: without_wall(value) for name, value in content.items() if name != "wall_s"}
    return [without_wall(one) for one in content] if isinstance(content, list) else content


def test_the_plan_comes_first_and_json_stands_alone(bufferlab: Any, folder: Path) -> None:
    ended = bufferlab("sweep", "quickstart", *GRID, *QUICK, "--no-plots", "--json")
    assert ended.status == 0
    assert "sweep of quickstart: 2 configurations × 2 replications = 4 runs, about 160 requests" in ended.err
    assert "protocol.sizing.tokens  512, 4096" in ended.err
    report = json.loads(ended.out)
    assert report["finished"] is True
    (target,) = (folder / "runs").iterdir()
    assert json.loads((target / "sweep.json").read_text()) == report
    told = bufferlab("sweep", "quickstart", *GRID, *QUICK, "--no-plots")
    assert told.out.startswith("sweep of quickstart: 2 configurations")
    assert "4 of 4 runs are finished already" in told.out
    assert re.search(r"lowest p99 latency: configuration [12] \(protocol.sizing.tokens=", told.out)
    assert len(list((folder / "runs").iterdir())) == 1


def test_requests_that_are_lost_are_told() -> None:
    # Two requests hold half the pool each and wait for the other half.
    stuck = ["workload.lengths=[2000, 2000]", "language.pool_blocks=16", "protocol.timeout_s=never"]
    grid = {"protocol.discipline": ["alloc_then_free", "window"]}
    sweep = run_sweep(make_plan("seed-resume", grid=grid, settings=stuck), jobs=1)
    assert sweep.table["deadlock"].tolist() == [True, False]
    assert sweep.table["requests.unfinished"].tolist() == [2, 0]
    assert np.isnan(sweep.table["latency_s.p99"][0])
    assert sweep.quantiles[sweep.quantiles["configuration"] == 1]["latency_s"].isna().all()
    assert sweep.report["configurations"][1]["differences"]["latency_s.mean"]["value"] is None
    assert sweep.report["configurations"][1]["differences"]["language_pool.peak_occupancy"]["value"] == 0
    # Its latencies leave out the slowest requests, so it cannot be the lowest.
    assert all(found["of"] == [2] for found in sweep.report["lowest"])
    from bufferlab.experiments.sweeps.text import sweep_text

    assert re.search(r"DEADLOCK, 2 not delivered", sweep_text(sweep.report))


def test_a_configuration_over_capacity_names_its_stage_in_a_column_of_its_own() -> None:
    from bufferlab.experiments.sweeps.text import sweep_text

    slow = ["workload={lengths=[1000], requests=200, rate_rps=10}", "language.profile=instant", "encode.profile=instant",
            "language.batch_tokens=1", "language.pool_blocks=2048", "encode.pool_blocks=2048"]  # fmt: skip
    sweep = run_sweep(make_plan("quickstart", grid={"language.per_token_s": ["1us", "200us"]}, settings=slow), jobs=1)
    lines = sweep_text(sweep.report).splitlines()
    assert lines[0].rstrip().endswith("wasted")
    within, over = lines[2:4]
    assert over.endswith(" %  OVER CAPACITY: prefill")
    assert within.rstrip().endswith(" %")
    assert over.index("OVER") == len(within.rstrip()) + 2


# --- interruption ---


def test_only_what_is_missing_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan("quickstart", grid=SIZES, settings=SHORT, replications=3)
    whole = run_sweep(plan, tmp_path / "whole", jobs=1)
    calls: list[int] = []

    def counted(config: Any, replication: int, stop_at: int | None) -> Any:
        calls.append(replication)
        if stop_at is not None and len(calls) > stop_at:
            raise KeyboardInterrupt
        return original(config, replication)

    original = running.run_configuration
    monkeypatch.setattr(running, "run_configuration", lambda config, replication: counted(config, replication, 2))
    with pytest.raises(KeyboardInterrupt):
        run_sweep(plan, tmp_path / "part", jobs=1)
    with pytest.raises(UserError, match="must be the directory of a finished sweep"):
        read_sweep(tmp_path / "part")
    assert len(kept_in(tmp_path / "part")) == 2
    # As a crash would leave it: one more run, cut off in the middle.
    with (tmp_path / "part" / "runs.jsonl.gz").open("ab") as file:
        file.write(line_of(plan.configurations[0].fingerprint, 2, {"summary": list(range(1000))})[:100])
    calls.clear()
    monkeypatch.setattr(running, "run_configuration", lambda config, replication: counted(config, replication, None))
    begun: list[int] = []
    again = run_sweep(plan, tmp_path / "part", jobs=1, begin=begun.append)
    # Configurations that see the same requests come one after the other.
    assert (begun, calls) == ([2], [1, 1, 2, 2])
    assert again.table.equals(whole.table)
    for name in ("sweep.parquet", "quantiles.parquet"):
        assert (tmp_path / "part" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    # More replications go on from there, too.
    calls.clear()
    more = run_sweep(make_plan("quickstart", grid=SIZES, settings=SHORT, replications=4), tmp_path / "part", jobs=1)
    assert calls == [3, 3]
    assert more.table[more.table["replication"] < 3].reset_index(drop=True).equals(whole.table)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_what_is_finished_survives_ctrl_c_and_a_kill(
    tmp_path: Path, bufferlab: Any, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    command = ["sweep", "quickstart", *GRID, "--set", "workload.requests=800", "--replications", "4", "--no-plots"]
    process = subprocess.Popen(
        [sys.executable, "-m", "bufferlab", *command, "--jobs", "2", "--out", str(tmp_path / "out")],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size for path in tmp_path.glob("out/runs.jsonl.gz")) and time.monotonic() < deadline:
        time.sleep(0.02)
    # As a terminal does it: to the command and to its workers.
    os.killpg(process.pid, how)
    _, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    if how == signal.SIGINT:
        assert process.returncode == 130, err
        lines = err.splitlines()
        assert lines[-1] == "bufferlab: interrupted"
        assert f"what is finished is kept in {tmp_path / 'out'}" in lines[-2]
    kept = len(kept_in(tmp_path / "out"))
    assert kept >= 1
    begun = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert begun["finished"] is False
    monkeypatch.setattr(planning, "code_digest", lambda: begun["code"])
    ended = bufferlab(*command, "--jobs", "1", "--out", tmp_path / "out")
    assert ended.status == 0, ended.err
    assert f"{kept} of 8 runs are finished already" in ended.out
    whole = bufferlab(*command, "--jobs", "1", "--out", tmp_path / "whole")
    assert whole.status == 0, whole.err
    for name in ("sweep.parquet", "quantiles.parquet"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_sweep_that_kept_a_file_for_every_run_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = make_plan("quickstart", grid=SIZES, settings=SHORT, replications=1)
    for out in (Path("out"), plan.target()):
        done = run_sweep(plan, out, jobs=1)
        (out / "runs.jsonl.gz").unlink()
        (out / "configurations").mkdir()
        (out / "configurations" / f"{plan.configurations[0].digest}-0.json").write_text("{}")
        assert read_sweep(out).table.equals(done.table)
    with pytest.raises(UserError, match="holds this sweep, but begun with another version of the code; give a new"):
        run_sweep(plan, Path("out"), jobs=1)
    assert (Path("out") / "configurations").exists()
    # The folder that a sweep chooses by itself holds nothing but what the same command makes again.
    run_sweep(plan, plan.target(), jobs=1)
    assert not (plan.target() / "configurations").exists()
    assert len(kept_in(plan.target())) == 2


def test_row_groups_are_of_whole_runs_and_hold_them_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan("quickstart", grid=SIZES, settings=SHORT, replications=3)
    whole = run_sweep(plan, jobs=1)
    monkeypatch.setattr("bufferlab.experiments.sweeps.tables.GROUP_RUNS", 4)
    parts = run_sweep(plan, tmp_path / "out", jobs=1)
    assert parts.curves.equals(whole.curves)
    file = pq.ParquetFile(tmp_path / "out" / "quantiles.parquet")
    assert [file.metadata.row_group(number).num_rows for number in range(2)] == [4 * len(LEVELS), 2 * len(LEVELS)]


def test_a_run_that_breaks_names_its_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    original = running.run_configuration

    def breaks(config: Any, replication: int) -> Any:
        if config.protocol.sizing.tokens == 4096 and replication == 1:
            raise ZeroDivisionError("oh")
        return original(config, replication)

    monkeypatch.setattr(running, "run_configuration", breaks)
    plan = make_plan("quickstart", grid=SIZES, settings=SHORT, replications=2)
    with pytest.raises(RunFailedError, match=r"configuration 2 \(.*=4096\), replication 1: ZeroDivisionError: oh"):
        run_sweep(plan, tmp_path / "out", jobs=1)
    assert len(kept_in(tmp_path / "out")) == 3


# --- what is refused ---


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "the sweep has no configurations"),
        (["--grid", "protocol.sizing.tokens"], "--grid is 'protocol.sizing.tokens', it must look like"),
        (["--grid", "protocol.sizing.tokens=1,,2"], "it must look like"),
        (["--grid", "language.tp=1,1"], "has language.tp=1 twice"),
        ([*GRID, *GRID], "--grid names protocol.sizing.tokens twice"),
        ([*GRID, "--grid", "language.pool_blocks=64,8"],
         "configuration 4 (protocol.sizing.tokens=4096, language.pool_blocks=8): language.pool_blocks is 8"),
        ([*GRID, "--grid", "language.tpp=1"], "configuration 1 (protocol.sizing.tokens=512, language.tpp=1): language.tpp is not"),
        ([*GRID, "--set", "language.tpp=1"], "bufferlab: language.tpp is not a setting"),
        (["--grid", "run.replications=1,2"], "run.replications is swept, which is not allowed: --replications"),
        (["--grid", "workload.file=none.csv"], "none.csv', it must be a file that can be read"),
        (["--grid", "protocol.timeout_s=5s,5000ms"], "configuration 2 (protocol.timeout_s=5000ms) is the same configuration as configuration 1"),
        ([*GRID, "--baseline", "protocol.sizing.tokens=700"], "no configuration has that; there are 512, 4096"),
        ([*GRID, "--baseline", "x"], "--baseline is 'x', it must look like"),
        ([*GRID, "--replications", "0"], "run.replications is 0, it must be at least 1"),
        ([*GRID, "--jobs", "0"], "--jobs is 0, it must be at least 1"),
        ([*GRID, "--executor", "slurm"], "--executor is 'slurm', it must be one of local, dask."),
        ([*GRID, "--address", "host:1"], "which is only allowed with --executor dask"),
        ([*GRID, "--out", "full"], "which holds other files"),
        ([*GRID, "--out", "full", "--force"], "which holds other files"),
        ([*GRID, "--out", "file"], "which is a file"),
        ([*GRID, "--out", "file/x"], "it must be in a folder that can be written"),
        (["--configurations", "none.toml"], "--configurations is 'none.toml', which cannot be read: No such file or directory"),
        (["--configurations", "file"], "which is not TOML"),
        (["--configurations", "bad.json"], "which is not JSON"),
        (["--configurations", "other.toml"], "it must hold [sweep.grid] or [[sweep.configurations]] and nothing else"),
        (["--configurations", "list.toml"], "in which grid.language.tp is 2, it must be a list of values"),
        (["--configurations", "empty.json"], "in which configuration 1 is empty"),
        (["--configurations", "grid.toml", "--grid", "language.tp=1"], "is in the grid of --configurations and of --grid"),
    ],
    ids=lambda value: " ".join(value)[:70] if isinstance(value, list) else "",
)  # fmt: skip
def test_bad_input_is_one_sentence(bufferlab: Any, folder: Path, arguments: list[str], words: str) -> None:
    (folder / "full").mkdir()
    (folder / "full" / "photo.jpg").touch()
    (folder / "file").write_text("[x\n")
    (folder / "bad.json").write_text("[")
    (folder / "other.toml").write_text("[sweep.grid]\nlanguage.tp = [1]\n[run]\nseed = 1\n")
    (folder / "list.toml").write_text("[sweep.grid]\nlanguage.tp = 2\n")
    (folder / "empty.json").write_text("[{}]")
    (folder / "grid.toml").write_text("[sweep.grid]\nlanguage.tp = [1, 2]\n")
    before = sorted(folder.rglob("*"))
    ended = bufferlab("sweep", "quickstart", *arguments)
    assert (ended.status, ended.out) == (2, ""), ended
    assert words in ended.err
    assert ended.err.startswith("bufferlab: ")
    assert ended.err.count("\n") == 1
    assert sorted(folder.rglob("*")) == before


def test_another_sweep_in_the_folder_is_refused(bufferlab: Any, folder: Path) -> None:
    assert bufferlab("sweep", "quickstart", *GRID, *QUICK, "--no-plots", "--out", "out").status == 0
    before = {path: path.read_bytes() for path in (folder / "out").rglob("*") if path.is_file()}
    other = ("sweep", "quickstart", "--grid", "protocol.sizing.tokens=512", *QUICK, "--no-plots", "--out", "out")
    ended = bufferlab(*other)
    assert ended.status == 2
    assert "which holds another sweep; give a new folder, or --force" in ended.err
    assert {path: path.read_bytes() for path in (folder / "out").rglob("*") if path.is_file()} == before
    assert bufferlab(*other, "--force").status == 0
    assert len(kept_in(folder / "out")) == 2


def test_changed_input_and_changed_code_are_refused(
    bufferlab: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = folder / "rows.csv"
    rows.write_text("arrival_s,total_tokens\n0,500\n0.1,3000\n")
    (folder / "mine.toml").write_text("[workload]\nfile = 'rows.csv'\n")
    command = ("sweep", "mine.toml", *GRID, "--no-plots")
    assert bufferlab(*command, "--out", "out").status == 0
    assert bufferlab(*command).status == 0
    rows.write_text("arrival_s,total_tokens\n0,500\n0.1,4000\n")
    ended = bufferlab(*command, "--out", "out")
    assert ended.status == 2
    assert f"which holds a sweep begun before the input file {rows} changed" in ended.err
    rows.write_text("arrival_s,total_tokens\n0,500\n0.1,3000\n")
    assert bufferlab(*command, "--out", "out").status == 0
    monkeypatch.setattr(planning, "code_digest", lambda: "newer")
    ended = bufferlab(*command, "--out", "out")
    assert ended.status == 2
    assert "begun with another version of the code" in ended.err
    # The folder that the sweep chose by itself holds nothing but what this command makes.
    ended = bufferlab(*command)
    assert ended.status == 0
    assert "finished already" not in ended.out


def test_a_folder_whose_sweep_has_only_begun_is_ours(tmp_path: Path) -> None:
    plan = make_plan("quickstart", grid=SIZES, settings=SHORT)
    out = tmp_path / "deep" / "out"
    for goes_on in (False, True):
        with SweepFolder(out) as store:
            assert store.open(plan.record()) is goes_on
    (out / "sweep.json").rename(out / "sweep.json.partial")
    (out / "runs.jsonl.gz").unlink()
    with SweepFolder(out) as store:
        assert store.open(plan.record()) is False


# --- executors ---


def test_no_more_processes_than_are_worth_their_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bufferlab.experiments.sweeps.sweep.usable_cpus", lambda: 4)
    assert [workers_for(requests) for requests in (0, 9_999, 10_000, 19_999, 10**9)] == [1, 1, 2, 3, 4]
    asked: list[int] = []
    original = executing.open_workers

    def asks(*, jobs: int, **more: Any) -> Any:
        asked.append(jobs)
        return original(jobs=1, **more)

    monkeypatch.setattr("bufferlab.experiments.sweeps.sweep.open_workers", asks)
    monkeypatch.setattr("bufferlab.experiments.sweeps.sweep.REQUESTS_OF_A_WORKER", 80)
    plan = make_plan("quickstart", grid=SIZES, settings=SHORT, replications=2)
    run_sweep(plan, tmp_path / "out")
    run_sweep(plan, jobs=3)
    # Only what is left to do counts.
    path = tmp_path / "out" / "runs.jsonl.gz"
    lines = [line for line in gzip.decompress(path.read_bytes()).splitlines() if json.loads(line)["replication"] != 1]
    path.write_bytes(b"".join(gzip.compress(line + b"\n") for line in lines))
    run_sweep(plan, tmp_path / "out")
    assert asked == [2, 3, 1]


def test_no_more_processes_than_tasks_are_started(monkeypatch: pytest.MonkeyPatch) -> None:
    # A single task needs no other process, however many may be had.
    monkeypatch.setitem(sys.modules, "joblib", None)
    with executing.open_workers(jobs=64) as workers:
        assert list(workers.run(abs, [(-3,)])) == [(0, 3)]


def test_an_executor_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, bufferlab: Any, folder: Path) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    ended = bufferlab("sweep", "quickstart", *GRID, *QUICK, "--executor", "dask")
    assert (ended.status, ended.out) == (2, "")
    assert "--executor is 'dask', which needs dask.distributed" in ended.err
    assert f"run: {sys.executable} -m pip install 'dask[distributed]>=2026.1'" in ended.err
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_a_dask_cluster_gives_the_same(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="needs dask.distributed (the cluster extra)")
    plan = make_plan("quickstart", grid=SIZES, settings=SHORT, replications=3)
    here = run_sweep(plan, jobs=1)
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        there = run_sweep(plan, tmp_path / "out", executor="dask", address=cluster.scheduler_address)
    assert there.table.equals(here.table)
    with pytest.raises(UserError, match="it must be where a dask scheduler answers"):
        run_sweep(plan, executor="dask", address="tcp://127.0.0.1:9")


# --- which may be the lowest ---


@pytest.fixture
def draws() -> np.random.Generator:
    return np.random.default_rng(20261125)


def test_common_noise_does_not_hide_a_difference(draws: np.random.Generator) -> None:
    noise = draws.normal(0, 100, 10)
    near, far = noise + 1 + draws.normal(0, 0.1, 10), noise + 2 + draws.normal(0, 0.1, 10)
    assert possibly_lowest([far.tolist(), near.tolist()]) == [1]
    # Without common noise, the same difference is lost in it.
    assert possibly_lowest([(draws.normal(0, 100, 10) + 2).tolist(), near.tolist()]) == [0, 1]


def test_the_set_holds_the_best_as_often_as_it_says(draws: np.random.Generator) -> None:
    # Five settings, the first one best by half a standard error: it may be missing from 5 % of the sets at most.
    missed = 0
    trials = 2000
    for _ in range(trials):
        samples = draws.normal(0, 1, (5, 6)) + draws.normal(0, 3, 6)
        samples[0] -= 0.2
        missed += 0 not in possibly_lowest(samples.tolist())
    assert missed / trials < 0.05


@given(st.lists(st.lists(st.integers(-1000, 1000), min_size=4, max_size=4), min_size=1, max_size=6))
def test_the_lowest_mean_is_always_in_the_set(samples: list[list[int]]) -> None:
    means = [np.mean(one) for one in samples]
    assert int(np.argmin(means)) in possibly_lowest(samples)


def test_one_replication_rules_nothing_out() -> None:
    assert possibly_lowest([[1.0], [2.0], [3.0]]) == [0, 1, 2]
    with pytest.raises(ValueError, match="the same number of replications"):
        possibly_lowest([[1.0, 2.0], [2.0]])


# --- which code a sweep was begun with ---


def test_the_code_digest_sees_what_matters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bufferlab import experiments
    from bufferlab.experiments.sweeps.folder import code_digest

    copy = tmp_path / "experiments"
    shown, deciding = (
        ("figures/runs.py", "commands/demo.py", "config/examples/a.toml", "tuning/contest.py"),
        ("runs/summary.py", "config/a.toml"),
    )
    for name in (*shown, *deciding):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text("")
    monkeypatch.setattr(experiments, "__file__", str(copy / "__init__.py"))
    before = code_digest()
    for name in shown:
        (copy / name).write_text("# shown otherwise")
    assert code_digest() == before
    for name in deciding:
        (copy / name).write_text("# computed otherwise")
        assert code_digest() != before
        before = code_digest()
    # A ledger of tune has rows that its own folder makes.
    ledger = code_digest("tuning")
    (copy / "tuning/contest.py").write_text("# another column")
    assert code_digest("tuning") != ledger
    assert code_digest() == before


def test_the_table_is_printed_before_anything_is_drawn(bufferlab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full when figures are drawn takes no result away."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "sweep.png")

    monkeypatch.setattr("bufferlab.experiments.figures.sweeps.plot_sweep", full)
    arguments = (
        "sweep",
        "seed-small",
        "--grid",
        "protocol.sizing.tokens=512,1024",
        "--jobs",
        "1",
        "--out",
        "s",
        "--plots",
    )
    made = bufferlab(*arguments)
    assert made.status == 1
    assert "protocol.sizing.tokens" in made.out.partition("workload:")[2]
    assert "sweep.png cannot be read or written" in made.err
