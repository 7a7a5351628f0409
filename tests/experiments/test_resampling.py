"""Replications of a file: resamples of it, and what their spread is worth."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bufferlab.experiments.errors import UserError
from bufferlab.experiments.figures.curves import curve_of, lines_of
from bufferlab.experiments.figures.text import summary_text
from bufferlab.experiments.runs.equality import compare_runs
from bufferlab.experiments.runs.estimates import FIGURES, caution_of, deadlock_rate
from bufferlab.experiments.runs.paired import compare_paired, paired_text
from bufferlab.experiments.runs.simulate import run_sim
from bufferlab.experiments.stats.intervals import half_width, t_quantile
from bufferlab.experiments.stats.paired import paired
from bufferlab.experiments.stats.replicates import INDEPENDENT, Replicates, caution, replicates_from
from bufferlab.experiments.stats.selection import possibly_lowest
from bufferlab.experiments.sweeps.sweep import read_sweep
from bufferlab.experiments.workloads import requests
from bufferlab.experiments.workloads.loading import load
from bufferlab.experiments.workloads.requests import (
    DEFAULT_REPLICATIONS,
    check_requests,
    count_requests,
    default_replications,
    make_columns,
    replicates_of,
)
from bufferlab.experiments.workloads.resampling import (
    BLOCK_TIMES,
    LEAST_BLOCKS,
    REACH,
    NoResampling,
    Resampling,
    plan_resampling,
    resample,
)
from bufferlab.sim.workload import Columns, joined

RESAMPLED = Replicates("resampled", blocks=20.0, window=7.0)


def traffic(count: int, seed: int = 1) -> Columns:
    """Requests that come one by one, each of another length."""
    draws = np.random.default_rng(seed)
    arrival_s = 3.0 + np.cumsum(draws.exponential(0.5, count))
    return Columns.of(arrival_s, draws.permutation(count) + 1, images=np.arange(count) % 4, client=np.arange(count) % 3)


def planned(columns: Columns, *, closed: bool = False) -> Resampling:
    plan = plan_resampling(columns, closed=closed)
    assert isinstance(plan, Resampling)
    return plan


def write(path: Path, columns: Columns) -> Path:
    rows = zip(columns.arrival_s.tolist(), columns.total_tokens.tolist(), columns.client.tolist(), strict=True)
    path.write_text("arrival_s,total_tokens,client\n" + "".join(f"{a},{t},{c}\n" for a, t, c in rows))
    return path


@settings(max_examples=40, deadline=None)
@given(st.integers(400, 900), st.integers(1, 50), st.integers(1, 50))
def test_a_resample_is_blocks_of_the_file_near_their_own_time(count: int, seed: int, replication: int) -> None:
    columns = traffic(count, seed)
    plan = plan_resampling(columns, closed=False)
    assume(isinstance(plan, Resampling))  # a short file looks by chance as if it remembered
    assert isinstance(plan, Resampling)
    made = resample(columns, plan, seed, replication)
    rows = np.argsort(columns.total_tokens)[made.total_tokens - 1]  # the tokens tell which request of the file it is
    assert np.all(np.diff(made.arrival_s) >= 0)
    assert plan.start <= made.arrival_s[0]
    assert made.arrival_s[-1] <= plan.start + plan.length * (1 + 1e-9)
    # With all that belongs to it, and no further from its own time than the block may be.
    for name in ("images", "client"):
        assert np.array_equal(getattr(made, name), getattr(columns, name)[rows])
    moved = made.arrival_s - columns.arrival_s[rows]
    assert np.max(np.abs(moved)) <= (2 * REACH + 1) * plan.block
    # Neighbours of one block keep their spacing and are neighbours in the file; seams are as many as there are blocks.
    seams = np.flatnonzero(np.diff(rows) != 1)
    assert len(seams) < plan.blocks
    inside = np.setdiff1d(np.arange(len(rows) - 1), seams)
    stretched = np.abs(np.diff(moved))[inside] > 1e-9
    assert stretched.sum() < plan.blocks
    assert np.array_equal(resample(columns, plan, seed, replication).arrival_s, made.arrival_s)


def test_a_file_played_faster_is_resampled_from_the_same_blocks() -> None:
    columns = traffic(600)
    faster = Columns.of((columns.arrival_s - 1) / 3, columns.total_tokens)
    rows = [resample(one, planned(one), 5, 2).total_tokens for one in (columns, faster)]
    assert np.array_equal(*rows)


def test_replications_and_seeds_differ_and_places_vary_about_the_files_own_number() -> None:
    columns = traffic(2000)
    plan = planned(columns)
    counts = [len(resample(columns, plan, 1, number)) for number in range(1, 201)]
    assert len(set(counts)) > 50
    # Counts of Poisson traffic vary by about its own √2000; their mean over 200 by 14 times less.
    assert abs(np.mean(counts) - 2000) < 5 * math.sqrt(2000 / 200) + 20
    assert 25 < np.std(counts) < 65
    other = resample(columns, plan, 2, 1)
    assert not np.array_equal(other.total_tokens, resample(columns, plan, 1, 1).total_tokens)


def test_in_a_closed_loop_blocks_are_of_requests_and_as_many_as_the_file_has() -> None:
    columns = traffic(505)
    plan = planned(columns, closed=True)
    made = resample(columns, plan, 1, 3)
    assert len(made) == 505
    assert not np.array_equal(made.total_tokens, columns.total_tokens)
    assert np.array_equal(made.arrival_s, columns.arrival_s)
    # Even a file whose requests come all at once has an order.
    once = Columns.of(np.zeros(505), columns.total_tokens)
    assert len(resample(once, planned(once, closed=True), 1, 1)) == 505


def in_bursts(each: int, apart_s: float, bursts: int) -> Columns:
    within = np.sort(np.random.default_rng(1).uniform(0, 1, each))
    times = np.concatenate([within + number * apart_s for number in range(bursts)])
    return Columns.of(times, np.full(len(times), 100))


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        (traffic(10), "it has 10 requests, and it takes 100 at least"),
        (traffic(1), "it has 1 request,"),
        (Columns.of(np.zeros(500), np.full(500, 9)), "its requests come all at once"),
        (in_bursts(400, 1000.0, 2), "its requests come in about 2 of 20 stretches of"),
        (Columns.of(np.arange(150.0), np.full(150, 9)), "it takes 100 times as long at least"),
    ],
)
def test_too_little_traffic_is_not_resampled_and_says_why(columns: Columns, why: str) -> None:
    plan = plan_resampling(columns, closed=False)
    assert isinstance(plan, NoResampling)
    assert why in plan.why


def test_blocks_are_long_against_what_the_traffic_remembers_beside_its_course() -> None:
    draws = np.random.default_rng(3)
    # Bursts of one second every 40 s or so, and a course of the day on top.
    starts = np.cumsum(draws.exponential(4.0, 1000))
    times = np.sort((starts[:, None] + draws.uniform(0, 1, (1000, 5))).ravel())
    bursty = planned(Columns.of(times, np.full(5000, 10)))
    assert bursty.blocks >= LEAST_BLOCKS
    assert bursty.block >= BLOCK_TIMES * bursty.memory
    assert 0.5 < bursty.memory < 6
    day = 4000.0
    moved = day * (times / times[-1] - 0.08 * np.sin(2 * np.pi * times / times[-1]))
    courses = planned(Columns.of(np.sort(moved), np.full(5000, 10)))
    assert courses.memory < 3 * bursty.memory  # the course is not taken for memory


def test_two_sessions_with_a_long_pause_have_no_interval_of_their_throughput(tmp_path: Path) -> None:
    """Nearly all of the run is pause: that nothing came in it says nothing of how much comes otherwise."""
    draws = np.random.default_rng(1)
    times = np.cumsum(draws.exponential(0.1, 600))
    for pause_s, said in ((0.0, False), (86_400.0, True)):
        file = write(tmp_path / "rows.csv", Columns.of(times + pause_s * (np.arange(600) >= 300), np.full(600, 500)))
        config = load("quickstart", [f"workload.file={file}", "workload.requests=600", "run.replications=1"])
        summary = run_sim(config, tmp_path / f"run-{pause_s:.0f}")
        assert (summary["throughput_rps"]["low"] is None) is said
        assert summary["latency_s"]["mean"]["low"] is not None
        assert ("requests come in too few spells" in summary_text(summary)) is said


def test_a_pause_is_a_part_of_the_course() -> None:
    draws = np.random.default_rng(5)
    times = np.sort(draws.uniform(0, 600, 3000))
    steady = planned(Columns.of(times, np.full(3000, 10)))
    paused = planned(Columns.of(times + 200.0 * (times > 300), np.full(3000, 10)))
    assert paused.blocks == steady.blocks == 20
    assert paused.memory < 3 * steady.memory
    assert 12 < paused.busy_blocks < 18
    # The pause stays about where it is.
    made = resample(Columns.of(times + 200.0 * (times > 300), np.full(3000, 10)), paused, 1, 1)
    assert np.count_nonzero((made.arrival_s > 360) & (made.arrival_s < 440)) < 400


def test_files_are_resampled_by_default_and_measured_runs_meet_them_as_they_are(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.csv", traffic(500))
    config = load("quickstart", [f"workload.file={file}"])
    assert config.run.replications == DEFAULT_REPLICATIONS
    assert config.replications_by_default
    check_requests(config, "sim")
    assert replicates_of(config).resampled
    whole = joined(make_columns(config, 0))
    assert np.array_equal(whole.total_tokens, traffic(500).total_tokens)
    again = joined(make_columns(config, 3))
    assert count_requests(config, 3) == len(again) != 500
    assert np.array_equal(joined(make_columns(config, 3, repeated=True)).arrival_s, whole.arrival_s)
    assert load("quickstart", [f"workload.file={file}"], measured=True).run.replications == 1
    named = load("quickstart", [f"workload.file={file}", "run.replications=3"], measured=True)
    assert named.run.replications == 3
    # Settings decide nothing about the resamples.
    other = load("quickstart", [f"workload.file={file}", "protocol.sizing.tokens=8192", "encode.instances=2"])
    assert np.array_equal(joined(make_columns(other, 3)).arrival_s, again.arrival_s)


def test_a_file_that_cannot_be_resampled_runs_once_and_more_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "few.csv", traffic(10))
    config = load("quickstart", [f"workload.file={file}"])
    assert config.run.replications == 1 == default_replications(config)
    with pytest.raises(UserError, match=r"run.replications is 4, it must be 1 for few.csv, which cannot be resampled"):
        check_requests(load("quickstart", [f"workload.file={file}", "run.replications=4"]), "sim")


def test_a_fault_of_one_request_needs_the_file_itself(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.csv", traffic(500))
    fault = "faults=[{room=3}]"
    assert load("quickstart", [f"workload.file={file}", fault]).run.replications == 1
    with pytest.raises(UserError, match=r"faults.0.room is one of its requests, and a resample has others"):
        check_requests(load("quickstart", [f"workload.file={file}", fault, "run.replications=2"]), "sim")


def test_a_warm_up_must_leave_requests_in_every_resample(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.csv", traffic(500))
    given = [f"workload.file={file}", "run.replications=20"]
    fewest = min(count_requests(load("quickstart", given), number) for number in range(20))
    assert fewest < 499
    with pytest.raises(UserError, match=f"it must be less than the number of requests, which is {fewest} in one of"):
        check_requests(load("quickstart", [*given, f"run.warmup_requests={fewest}"]), "sim")
    check_requests(load("quickstart", [*given, f"run.warmup_requests={fewest - 1}"]), "sim")


def test_how_a_file_is_resampled_is_found_out_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned: list[int] = []

    def plan(columns: Columns, *, closed: bool) -> Resampling | NoResampling:
        planned.append(len(columns))
        return plan_resampling(columns, closed=closed)

    monkeypatch.setattr(requests, "plan_resampling", plan)
    file = write(tmp_path / "mine.csv", traffic(500))
    config = load("quickstart", [f"workload.file={file}"])
    check_requests(config, "sim")
    counts = [count_requests(config, number) for number in range(20)]
    assert counts == [len(joined(make_columns(config, number))) for number in range(20)]
    assert planned == [500]
    # What is decided otherwise is another plan, and so is that of a file that has changed.
    scaled = load("quickstart", [f"workload.file={file}", "workload.rate_scale=2"])
    count_requests(scaled, 1)
    assert planned == [500, 500]
    write(file, traffic(300))
    count_requests(config, 1)
    assert planned == [500, 500, 300]


def test_the_spread_of_resamples_is_the_standard_error_itself() -> None:
    values = [10.0, 9.0, 11.0, 12.0, 8.0]
    spread = RESAMPLED.spread(values)
    assert spread is not None
    assert spread.value == 10.0  # the file's, not the mean
    assert spread.error == pytest.approx(math.sqrt((1 + 1 + 4 + 4) / 4) * math.sqrt(7 / 6))
    assert spread.freedom == pytest.approx(1 / (1 / 3 + 1 / 30))
    more = RESAMPLED.spread([10.0, *[9.0, 11.0, 12.0, 8.0] * 50])
    assert more is not None
    assert more.error == pytest.approx(spread.error)
    rare = RESAMPLED.spread(values, parts=8.0)
    assert rare is not None
    assert rare.freedom == pytest.approx(1 / (1 / 3 + 1 / 30 + 1 / 4))
    independent = INDEPENDENT.spread(values)
    assert independent is not None
    assert independent.error == pytest.approx(np.std(values, ddof=1) / math.sqrt(5))


def test_intervals_of_times_are_as_wide_by_factors_and_others_by_differences() -> None:
    values = [10.0, 9.0, 11.0, 12.0, 8.0]
    spread = RESAMPLED.spread(values)
    assert spread is not None
    half = t_quantile(spread.freedom) * spread.error
    plain, time = RESAMPLED.estimate(values), RESAMPLED.estimate(values, positive=True)
    assert plain == {"value": 10.0, "low": pytest.approx(10 - half), "high": pytest.approx(10 + half)}
    assert time == {
        "value": 10.0, "low": pytest.approx(10 / math.exp(half / 10)), "high": pytest.approx(10 * math.exp(half / 10)),
    }  # fmt: skip
    assert RESAMPLED.estimate([None, 1.0, 2.0]) == {"value": None, "low": None, "high": None}
    assert RESAMPLED.estimate([3.0, 1.0]) == {"value": 3.0, "low": None, "high": None}
    assert RESAMPLED.estimate([]) == {"value": None, "low": None, "high": None}


def test_differences_and_choices_are_the_files_with_the_resamples_doubt() -> None:
    first, second = [10.0, 9.0, 12.0, 11.0], [11.0, 10.2, 12.9, 11.9]
    found = paired(first, second, RESAMPLED)
    assert (found["first"], found["second"], found["value"], found["pairs"]) == (10.0, 11.0, 1.0, 4)
    error = math.sqrt((0.2**2 + 0.1**2 + 0.1**2) / 3) * math.sqrt(7 / 6)
    freedom = 1 / (1 / 2 + 1 / 30)
    assert found["low"] == pytest.approx(1.0 - t_quantile(freedom) * error)
    assert found["significant"]
    assert found["variance_reduction"] is not None
    assert found["variance_reduction"] > 10
    without = paired([None, 1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0], RESAMPLED)
    assert without["value"] is None
    assert without["low"] is None
    many = [first * 5, second * 5, [value + 9 for value in first * 5]]
    assert possibly_lowest(many, RESAMPLED) == [0]
    assert possibly_lowest([[1.0, 9.0, 2.0, 5.0], [1.1, 3.0, 8.0, 1.0]], RESAMPLED) == [0, 1]


def test_whether_settings_differ_is_told_by_their_ratio() -> None:
    # Twice as long in every resample, while both vary by a factor of eight.
    first = [1.0, 0.5, 2.0, 4.0, 0.7, 1.5]
    second = [2.0, 1.1, 3.9, 8.3, 1.4, 2.9]
    plain, ratio = paired(first, second, RESAMPLED), paired(first, second, RESAMPLED, positive=True)
    assert plain["significant"] is False
    assert ratio["significant"] is True
    assert ratio["low"] is not None
    assert ratio["high"] is not None
    assert 0 < ratio["low"] < 1.0 < ratio["high"]
    assert possibly_lowest([first, second], RESAMPLED) == [0]
    backwards = paired(second, first, RESAMPLED, positive=True)
    assert backwards["high"] == pytest.approx(-ratio["low"])
    # Where the ratio says nothing, the interval has 0 in it.
    same = paired(first, [1.3, 0.4, 2.5, 3.0, 0.9, 1.4], RESAMPLED, positive=True)
    assert same["significant"] is False


def test_the_interval_of_a_file_holds_the_long_run_about_as_often_as_it_says() -> None:
    """Pollaczek and Khinchine know the mean. Were it held in 90 % of all cases, this test would fail once in a thousand
    times; an interval that takes requests for independent holds it in about half of them."""
    from tools.trace_coverage import PROCESSES, holds, latencies_s, look_at, servers

    process, server = PROCESSES[0], servers(1)
    assert process.name == "Poisson"
    true_s = process.load**2 * math.exp(process.log_sd**2) / (2 * (1 - process.load)) + process.load
    draws = np.random.default_rng(11)
    held, naive = [], []
    for number in range(100):
        requests = process.draw(800, draws)
        known = look_at(requests, server, 9, number)
        assert known is not None
        found = known.plan.replicates.estimate(known.of(0, 0), known.parts[0][0], positive=True)
        held.append(holds(found["low"], found["high"], true_s))
        times_s = latencies_s(requests, server[0])
        naive.append(abs(times_s.mean() - true_s) <= half_width(times_s.tolist()))
    assert sum(held) >= 81
    assert sum(naive) < 70


def test_a_caution_says_where_intervals_are_too_narrow() -> None:
    assert caution(40.0, 30.0) is None
    assert "rests on about 4 busy spells" in str(caution(4.2, 30.0))
    assert "short against how long its latencies remember" in str(caution(4.2, 4.0))
    assert caution(None, None) is None


def test_a_caution_and_deadlocks_are_of_what_they_are_called() -> None:
    assert str(caution_of({"latency_s.mean": 3.0, "latency_s.p99": 100.0})).startswith("the file is short against")
    assert str(caution_of({"latency_s.p99": 3.0, "latency_s.mean": 100.0})).startswith("the p99 of the latencies rests")
    assert caution_of({"latency_s.p99": 100.0, "latency_s.mean": 100.0}) is None
    resampled = Replicates("resampled", 20, 7)
    assert deadlock_rate(1, 4, INDEPENDENT)["low"] is not None
    assert deadlock_rate(1, 4, resampled) == {"value": 0.25, "low": None, "high": None}
    assert deadlock_rate(1, 1, INDEPENDENT) == {"value": 1.0, "low": None, "high": None}


def test_a_difference_has_no_interval_that_claims_to_know_too_much() -> None:
    of = {figure.name: figure for figure in FIGURES}
    resampled = Replicates("resampled", 20, 7)
    varied, same = paired([0.1, 0.2, 0.4], [0.2, 0.5, 0.7]), paired([0.0, 0.0, 0.0], [0.0, 0.0, 0.0])
    assert same["low"] == same["high"] == 0.0
    peak, failed, mean = of["language_pool.peak_occupancy"], of["failure_rate"], of["latency_s.mean"]
    assert peak.of_difference(varied, resampled)["low"] is None  # of which resamples know nothing
    assert peak.of_difference(varied, INDEPENDENT) == varied
    assert failed.of_difference(varied, resampled) == varied
    assert failed.of_difference(same)["low"] is None  # shares that never varied are not known without error
    assert failed.of_difference(same)["value"] == 0.0
    assert mean.of_difference(same) == same  # the same requests at the same times


def test_runs_of_which_one_is_resampled_are_compared_by_the_file_itself(bufferlab: Any, folder: Path) -> None:
    write(folder / "mine.csv", traffic(250))
    given = ("--set", "workload.file=mine.csv", "--no-plots")
    assert bufferlab("sim", "quickstart", *given, "--replications", 3, "--out", "resampled").status == 0
    # What a measured run does, which meets the file itself again and again.
    for name, tokens in (("again", 1024), ("other", 8192)):
        settings = (*given, "--replications", 2, "--set", f"protocol.sizing.tokens={tokens}")
        assert bufferlab("sim", "quickstart", *settings, "--out", name).status == 0
        path = folder / name
        summary = json.loads((path / "summary.json").read_text())
        (path / "summary.json").write_text(json.dumps(summary | {"replication_kind": "independent"}))
        for table in ("requests.parquet", "events.parquet"):
            rows = pq.read_table(path / table)
            first = rows.filter(pc.equal(rows["replication"], 0))
            place = rows.schema.get_field_index("replication")
            second = first.set_column(place, "replication", pa.array([1] * len(first), pa.int32()))
            pq.write_table(pa.concat_tables([first, second]), path / table)
    note = "only the file itself is compared: the other replications of resampled are resamples of it"
    equal = compare_runs(folder / "again", Path("resampled"))
    assert (equal["equal"], equal["notes"]) == (True, [note])
    for sides in (("resampled", "other"), ("other", "resampled")):
        result = compare_paired(*map(Path, sides))
        assert (result["replications"], result["notes"], result["requests"]["compared"]) == (1, [note], 250)
        assert note in paired_text(result)
    assert bufferlab("report", "other", "resampled", "--out", "r.html").status == 0
    assert f"O{note[1:]}." in (folder / "r.html").read_text()
    both = compare_paired(Path("again"), Path("other"))
    assert (both["replications"], both["notes"]) == (2, [])


def test_what_is_stored_of_the_kind_is_read_again() -> None:
    assert replicates_from(json.loads(json.dumps(RESAMPLED.content()))) == RESAMPLED
    assert replicates_from(None) == INDEPENDENT == replicates_from({"kind": "independent"})


def test_a_simulated_file_has_intervals_says_of_what_kind_and_reads_back(
    bufferlab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "mine.csv", traffic(250))
    given = ("--set", "workload.file=mine.csv", "--set", "run.replications=4", "--no-plots")
    ended = bufferlab("sim", "quickstart", *given, "--out", "a")
    assert ended.status == 0, ended.err
    assert "4 replications: the file as it is, and 3 resamples of it\n" in ended.out
    assert "of a file and 3 resamples of it" in ended.out
    summary = json.loads((tmp_path / "a/summary.json").read_text())
    assert summary["replication_kind"] == "resampled"
    for name in ("mean", "p99"):
        estimate = summary["latency_s"][name]
        assert 0 < estimate["low"] < estimate["value"] < estimate["high"]
    assert summary["language_pool"]["peak_occupancy"]["low"] is None
    alone = bufferlab("sim", "quickstart", *given, "--set", "run.replications=1", "--out", "one", "--json")
    one = json.loads(alone.out)
    assert one["replication_kind"] is None
    for name in ("latency_s", "throughput_rps", "utilisation"):
        values = [json.dumps(each[name]).split('"value": ')[1] for each in (one, summary)]
        assert values[0].split(",")[0] == values[1].split(",")[0]  # the file's own
    assert one["capacity"] == summary["capacity"]
    from bufferlab.experiments.runs.replay import replications_of
    from bufferlab.experiments.runs.rundir import StoredRun
    from bufferlab.experiments.runs.summary import summarise

    again = summarise(replications_of(StoredRun(tmp_path / "a")), kind="sim", transport="", wall_s=0.0)
    assert again["latency_s"] == summary["latency_s"]
    assert bufferlab("sim", "quickstart", *given, "--set", "protocol.sizing.tokens=8192", "--out", "b").status == 0
    difference = json.loads(bufferlab("paired", "a", "b", "--json").out)["differences"]["latency_s"]["p99"]
    assert difference["pairs"] == 4
    assert difference["low"] is not None
    ended = bufferlab(
        "sweep", "quickstart", *given, "--grid", "protocol.sizing.tokens=1024,8192", "--out", "s", "--json", "--jobs", 1
    )
    report = json.loads(ended.out)
    assert report["plan"]["replication_kind"] == "resampled"
    second = report["configurations"][1]
    assert second["replication_kind"] == "resampled"
    sweep = read_sweep(tmp_path / "s")
    ((_, part),) = lines_of(sweep.table, "protocol.sizing.tokens")
    point = curve_of(part, "protocol.sizing.tokens", "latency_s.p99")[1]
    assert point.estimate == pytest.approx(second["latency_s"]["p99"])
    stored = json.loads((tmp_path / "b/summary.json").read_text())
    assert second["latency_s"]["p99"] == pytest.approx(stored["latency_s"]["p99"])
