"""The figures, against numbers computed by hand."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bufferlab.experiments.errors import UserError
from bufferlab.experiments.runs.estimates import FIGURES
from bufferlab.experiments.runs.replay import replications_of
from bufferlab.experiments.runs.replication import Replication
from bufferlab.experiments.runs.rundir import StoredRun
from bufferlab.experiments.runs.simulate import run_sim
from bufferlab.experiments.runs.summary import each, summarise
from bufferlab.experiments.stats.intervals import NOTHING, unbounded
from bufferlab.experiments.workloads.loading import load
from bufferlab.protocol.observe.pooluse import PoolUse
from bufferlab.protocol.observe.progress import NEVER_S
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import Side


def add(
    one: Replication,
    room: int,
    arrival_s: float,
    encoded_s: float,
    delivered_s: float,
    chunks: int,
    status: Status,
) -> None:
    failure = f"it has no room for {room} tokens" if status is Status.Failed else ""
    one.requests.add(room, arrival_s, encoded_s, delivered_s, delivered_s, chunks, 10, status, failure)


def pool(blocks: int, now_s: float) -> PoolUse:
    """A pool of which nothing was used."""
    use = PoolUse(blocks)
    use.now_s = now_s
    return use


def replication(shift: float = 0.0) -> Replication:
    """Four requests: latencies 1, 2 and 6 s (plus shift), transfers 0.5, 1 and 3 s; one failed, one never ended."""
    one = Replication()
    add(one, 1, 0.0, 0.5 + shift, 1.0 + shift, 1, Status.Success)
    add(one, 2, 1.0, 2.0 + shift, 3.0 + shift, 2, Status.Success)
    add(one, 3, 2.0, 5.0 + shift, 8.0 + shift, 4, Status.Success)
    add(one, 4, 3.0, NEVER_S, NEVER_S, 0, Status.Failed)
    add(one, 5, 3.0, 4.0, NEVER_S, 1, Status.Transferring)
    one.end_s = 10.0
    one.records = 60
    one.pools = {
        # 200 block-seconds of 10 s · 40 blocks; 640 of 1600 token-seconds had a token.
        Side.LANGUAGE: pool(40, 10.0),
        Side.ENCODE: pool(20, 10.0),
    }
    use = one.pools[Side.LANGUAGE]
    use.held_block_s, use.peak_blocks = 200.0, 30
    use.held_token_s, use.used_token_s, use.blocked_s = 1600.0, 640.0, 7.0
    return one


def test_one_replication_by_hand() -> None:
    summary = summarise([replication()], kind="sim", transport="tcp-loopback", wall_s=0.5)
    assert list(summary) == [
        "schema", "kind", "transport", "replication_kind", "replicates", "requests", "failures", "latency_s", "ttft_s", "transfer_s", "throughput_rps",
        "failure_rate", "slo", "resume", "language_pool", "encode_pool", "utilisation", "capacity", "deadlock",
        "deadlock_rate", "warmup", "invariant_violations", "monitored_replications", "faults", "ended_early", "wall_s", "requests_per_wall_s", "events_per_request",
    ]  # fmt: skip
    assert summary["requests"] == {"offered": 5, "succeeded": 3, "failed": 1, "unfinished": 1, "not_served": 2}
    assert summary["failures"] == {"it has no room for 4 tokens": 1}

    def only(value: float | None) -> dict[str, float | None]:
        return {"value": value, "low": None, "high": None}

    assert summary["latency_s"] == {"mean": only(3.0), "p50": only(2.0), "p90": only(6.0), "p99": only(6.0)}
    assert summary["transfer_s"] == {"mean": only(1.5), "p50": only(1.0), "p90": only(3.0), "p99": only(3.0)}
    # One never ended, so it was unfinished until the run ended at 10 s.
    assert summary["throughput_rps"] == only(3 / 10)
    assert summary["failure_rate"] == only(2 / 5)
    assert summary["resume"] == {"rate": only(2 / 3), "mean_chunks": only(7 / 3)}
    assert summary["language_pool"] == {
        "mean_occupancy": only(0.5), "peak_occupancy": only(0.75), "wasted_fraction": only(0.6), "blocked_s": only(7.0),
        "blocked_per_request_s": only(7.0 / 5),
    }  # fmt: skip
    assert summary["encode_pool"]["mean_occupancy"] == only(0.0)
    assert summary["encode_pool"]["wasted_fraction"] == only(None)
    assert (summary["deadlock"], summary["invariant_violations"]) == (False, 0)
    assert summary["deadlock_rate"] == only(0.0)
    assert summary["warmup"] == {"discarded_requests": 0, "mser5_requests": NOTHING, "mser5_unknown": 1}
    assert (summary["requests_per_wall_s"], summary["events_per_request"]) == (10.0, 12.0)


def test_three_replications_have_t_intervals() -> None:
    runs = [replication(0.0), replication(0.3), replication(0.6)]
    runs[1].deadlock = True
    runs[2].violations = 4
    summary = summarise(runs, kind="sim", transport="x", wall_s=1.0)
    # Means 3.0, 3.3, 3.6: standard deviation 0.3, t(2, 0.975) = 4.3027.
    half = 4.302652729749464 * 0.3 / math.sqrt(3)
    assert summary["latency_s"]["mean"]["value"] == pytest.approx(3.3)
    assert summary["latency_s"]["mean"]["low"] == pytest.approx(3.3 - half)
    assert summary["latency_s"]["mean"]["high"] == pytest.approx(3.3 + half)
    assert summary["language_pool"]["mean_occupancy"] == {"value": 0.5, "low": 0.5, "high": 0.5}
    assert summary["requests"]["offered"] == 15
    assert (summary["deadlock"], summary["invariant_violations"]) == (True, 4)
    # Wilson's interval of one in three.
    square = 3.841458820694124
    assert summary["deadlock_rate"]["value"] == pytest.approx(1 / 3)
    half = math.sqrt(square * (2 / 9 / 3 + square / 36)) / (1 + square / 3)
    middle = (1 / 3 + square / 6) / (1 + square / 3)
    assert summary["deadlock_rate"]["low"] == pytest.approx(middle - half)
    # Shares of all requests: 2 in 5 in every one, so nothing varied; but it is neither 0 nor 1.
    assert summary["failure_rate"] == pytest.approx({"value": 0.4, "low": 0.4, "high": 0.4})


def test_no_success_is_no_number() -> None:
    one = Replication(pools={side: pool(4, 1.0) for side in Side}, end_s=1.0, window_end_s=1.0)
    add(one, 1, 0.0, NEVER_S, NEVER_S, 0, Status.Failed)
    for runs in ([one], [one, one]):
        summary = summarise(runs, kind="real", transport="tcp", wall_s=0.1)
        for name in ("latency_s", "transfer_s", "resume"):
            assert all(estimate == NOTHING for estimate in summary[name].values())
        assert summary["throughput_rps"]["value"] == 0.0
        # All failed, in everything that was seen: no number of replications makes that certain.
        assert summary["failure_rate"] == unbounded(1.0)


def test_rows_in_any_order_of_completion_are_batched_by_arrival() -> None:
    one = Replication()
    add(one, 2, 5.0, 5.0, 6.0, 1, Status.Success)
    add(one, 1, 0.0, 0.0, 9.0, 3, Status.Success)
    assert one.latencies_s().tolist() == [9.0, 1.0]
    assert one.chunk_counts().tolist() == [3.0, 1.0]


def test_no_bound_leaves_what_is_possible() -> None:
    runs = [replication(0.0), replication(0.0)]
    runs[1].pools[Side.LANGUAGE].held_block_s = 4.0
    found = summarise(runs, kind="sim", transport="x", wall_s=1.0)["language_pool"]["mean_occupancy"]
    assert (found["low"], found["high"]) == (0.0, 1.0)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> StoredRun:
    folder = tmp_path_factory.mktemp("long") / "run"
    settings = ["workload.requests=5000", "workload.rate_rps=3", "run.replications=1", "protocol.sizing.tokens=2048"]
    run_sim(load("demo", settings), folder)
    return StoredRun(folder)


@pytest.fixture(scope="module")
def warmed(stored: StoredRun) -> dict[str, Any]:
    """What the summary of the same run is with a warm-up of 1000 requests."""
    return summarise(replications_of(stored, warmup_requests=1000), kind="sim", transport="x", wall_s=1.0)


def figure(summary: dict[str, Any], path: tuple[str, ...]) -> Any:
    for name in path:
        summary = summary[name]
    return summary


def test_every_figure_of_one_long_run_has_an_interval_but_what_it_cannot_tell(stored: StoredRun) -> None:
    """A p99 takes 10,000 requests, a peak and what never happened more than one run."""
    unknown = {one.name for one in FIGURES if one.path[-1] in ("p99", "peak_occupancy", "failure_rate", "adapters")}
    for one in FIGURES:
        found = figure(stored.summary, one.path)
        if one.path[0] == "slo" or one.path[-1] in ("preprocessing", "prefill"):
            assert found == NOTHING  # nothing was promised; there is no such stage
            continue
        assert (found["low"] is None) is (one.name in unknown), one.name
        if one.name not in unknown:
            assert 0 <= found["low"] < found["value"] < found["high"] <= one.highest


def test_a_replication_says_when_it_ended_and_how_long_it_remembers(stored: StoredRun) -> None:
    (told,) = stored.summary["replications"]
    assert told["end_s"] >= stored.requests()["released_s"].max()
    assert told["mser5_requests"] % 5 == 0
    assert 1 <= told["latency_autocorrelation_requests"] <= 50  # since the mean latency has an interval


def test_pool_figures_are_those_of_the_events(stored: StoredRun, warmed: dict[str, Any]) -> None:
    """The integrals again, from the events as a table; with a warm-up from the first counted arrival on."""
    events = stored.events()
    changes = events[(events["side"] == "language") & events["event"].isin(["allocated", "released"])].copy()
    changes["blocks"] = np.where(changes["event"] == "allocated", -(-changes["tokens"] // 128), 0)
    changes["until_s"] = changes.groupby("room")["time_s"].shift(-1)
    pool, end_s = stored.config.language.pool_blocks, stored.summary["replications"][0]["window_end_s"]
    assert isinstance(pool, int)
    arrivals = stored.requests()["arrival_s"].sort_values().to_numpy()
    assert stored.summary["replications"][0]["window_start_s"] == arrivals[0]
    for summary, start_s in ((stored.summary, float(arrivals[0])), (warmed, float(arrivals[1000]))):
        lasted_s = (changes["until_s"].clip(start_s, end_s) - changes["time_s"].clip(start_s, end_s)).fillna(0.0)
        expected = float((lasted_s * changes["blocks"]).sum()) / (pool * (end_s - start_s))
        assert summary["language_pool"]["mean_occupancy"]["value"] == pytest.approx(expected, rel=1e-9)


def test_a_warmup_is_left_out_of_every_figure_but_the_counts(stored: StoredRun, warmed: dict[str, Any]) -> None:
    assert warmed["requests"] == stored.summary["requests"]
    assert warmed["warmup"]["discarded_requests"] == 1000
    assert warmed["warmup"]["mser5_requests"] == stored.summary["warmup"]["mser5_requests"]
    rows = stored.requests().sort_values(["arrival_s", "room"])
    counted = rows[1000:]
    latencies = counted["delivered_s"] - counted["arrival_s"]
    assert warmed["latency_s"]["mean"]["value"] == pytest.approx(latencies.mean())
    assert warmed["resume"]["mean_chunks"]["value"] == pytest.approx(counted["chunks"].mean())
    start_s = counted["arrival_s"].iloc[0]
    later = rows["delivered_s"][rows["delivered_s"] > start_s]
    end_s = stored.summary["replications"][0]["window_end_s"]
    assert end_s >= later.max()
    assert warmed["throughput_rps"]["value"] == pytest.approx(len(later) / (end_s - start_s), rel=1e-12)


@pytest.mark.parametrize(("replications", "warmup"), [(1, 0), (1, 30), (3, 10)])
def test_a_stored_run_gives_its_summary_again(tmp_path: Path, replications: int, warmup: int) -> None:
    settings = ["workload.requests=60", f"run.replications={replications}", f"run.warmup_requests={warmup}"]
    summary = run_sim(load("quickstart", settings), tmp_path / "run")
    run = StoredRun(tmp_path / "run")
    replayed = replications_of(run)
    again = summarise(replayed, kind="sim", transport=summary["transport"], wall_s=summary["wall_s"])
    told = {"replications": each(replayed), "workload": summary["workload"], "events_kept": True}
    assert {**again, **told} == summary == run.summary


def test_a_warmup_of_all_requests_is_refused(tmp_path: Path, stored: StoredRun) -> None:
    with pytest.raises(UserError, match="warmup_requests is 60, it must be less than the number of requests, 60"):
        run_sim(load("quickstart", ["workload.requests=60", "run.warmup_requests=60"]), tmp_path / "run")
    assert not any(tmp_path.iterdir())
    with pytest.raises(UserError, match="warmup_requests is 5000, it must be from 0 to 4999"):
        replications_of(stored, warmup_requests=5000)


def test_a_run_of_an_earlier_version_is_refused(stored: StoredRun) -> None:
    old = StoredRun(stored.path)
    del old.summary["replications"]
    with pytest.raises(UserError, match="must say when each replication ended; run it again"):
        replications_of(old)


def test_mser_counts_requests_that_were_not_delivered_too() -> None:
    """It can be put into run.warmup_requests as it is."""
    one = Replication()
    noise = np.random.default_rng(1).normal(1.0, 0.01, 1000)
    for room in range(1000):
        slow = 100.0 if room < 200 else 0.0
        lost = room % 2 == 1
        delivered_s = NEVER_S if lost else room + slow + noise[room]
        add(
            one,
            room,
            float(room),
            NEVER_S if lost else room + 0.1,
            delivered_s,
            1,
            Status.Failed if lost else Status.Success,
        )
    assert one.mser5_requests() == 200
    (told,) = each([one])
    assert told["mser5_requests"] == 200
