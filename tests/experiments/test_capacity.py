"""The verdict on capacity: queues of known load at every stage, short runs, bursts, closed loops, lost requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bufferlab.experiments.config.schema import Config, parse
from bufferlab.experiments.runs.capacity import POOLS, STAGES, Evidence, combined, judge
from bufferlab.experiments.runs.simulate import simulate_one
from bufferlab.experiments.runs.summary import summarise

TOKENS = 1000
SERVICE_S = 0.1

BOTTLENECKS: dict[str, dict[str, Any]] = {
    "encoder": {"encode": {"base_s": SERVICE_S, "batch_requests": 1}},
    "prefill": {"language": {"base_s": SERVICE_S, "batch_tokens": TOKENS}},
    "preprocessing": {"encode": {"preprocess_per_token_s": SERVICE_S / TOKENS, "preprocess_workers": 1}},
    # A request keeps all 8 blocks of the pool from one iteration of the language side to the next but one.
    "language_pool": {
        "language": {"pool_blocks": 8, "poll_interval_s": SERVICE_S / 2},
        "encode": {"base_s": 0.6 * SERVICE_S},
    },
}


def config(load: float, requests: int, stage: str, seed: int = 1, **changes: Any) -> Config:
    tree: dict[str, Any] = {
        "run": {"seed": seed},
        "workload": {"lengths": [TOKENS], "requests": requests, "rate_rps": load / SERVICE_S},
        "protocol": {"block_tokens": 128, "timeout_s": "never", "sizing": {"tokens": 1024}},
        "encode": {"pool_blocks": 4096},
        "language": {"pool_blocks": 4096},
        "model": {"hidden": 64},
    }
    for part in (BOTTLENECKS.get(stage, {}), changes):
        for name, table in part.items():
            tree[name] = {**tree.get(name, {}), **table}
    return parse(tree)


def verdict(made: Config, replications: int = 1) -> dict[str, Any]:
    runs = [simulate_one(made, number)[0] for number in range(replications)]
    summary = summarise(runs, kind="sim", transport="", wall_s=1.0)
    found: dict[str, Any] = summary["capacity"]
    assert set(found["busy"]) == set(STAGES) == set(summary["utilisation"])
    return found


@pytest.mark.parametrize("stage", sorted(BOTTLENECKS))
def test_twelve_tenths_of_what_a_stage_can_do_is_over_its_capacity(stage: str) -> None:
    found = verdict(config(1.2, 1000, stage))
    assert (found["verdict"], found["bottleneck"]) == ("over", stage), found
    if stage != "language_pool":  # what that can do depends on how arrivals meet the iterations
        assert found["served_rps"] == pytest.approx(1 / SERVICE_S, rel=0.03)
        assert found["growth"] == pytest.approx(found["offered_rps"] * SERVICE_S - 1, abs=0.05)
    assert f"over capacity: {'requests wait for' if 'pool' in stage else stage}" in found["sentence"]
    assert "while requests come" in found["sentence"]
    assert "latencies grow with the run's length and are not a steady state" in found["sentence"]


@pytest.mark.parametrize("stage", sorted(BOTTLENECKS))
def test_well_below_it_is_within(stage: str) -> None:
    for seed in (1, 2, 3):
        found = verdict(config(0.4 if stage == "language_pool" else 0.7, 400, stage, seed))
        assert (found["verdict"], found["bottleneck"]) == ("within", None), found


@pytest.mark.parametrize("stage", ["encoder", "prefill"])
def test_nearly_all_of_it_is_near_and_never_over(stage: str) -> None:
    verdicts = [verdict(config(0.95, 400, stage, seed))["verdict"] for seed in range(1, 9)]
    assert "over" not in verdicts
    assert verdicts.count("near") >= 5


@pytest.mark.parametrize(
    ("latency_s", "bandwidth_Bps", "stage"), [(SERVICE_S, 1e9, "writers"), (1e-6, 128_000 / SERVICE_S, "adapters")]
)
def test_a_link_that_is_too_slow_is_named(
    tmp_path: Path,
    latency_s: float,
    bandwidth_Bps: float,  # noqa: N803
    stage: str,
) -> None:
    """1000 tokens of 64 bf16 numbers are 128 kB. A thread that waits is a writer's, bytes that move are the adapters'."""
    profile = tmp_path / "slow.toml"
    profile.write_text(
        f"latency_s = {latency_s}\nbandwidth_Bps = {bandwidth_Bps}\nper_segment_s = 0\ncontrol_latency_s = 1e-5\n"
        f'copy_bandwidth_Bps = 1e10\nshared_by = "rank"\n',
        encoding="utf-8",
    )
    for load, expected in ((1.25, "over"), (0.7, "within")):
        found = verdict(config(load, 800, "", link={"profile": str(profile)}))
        assert (found["verdict"], found["bottleneck"]) == (expected, stage if expected == "over" else None), found


@pytest.mark.parametrize("requests", [1, 2, 5, 15, 30])
def test_a_short_run_never_cries_wolf(requests: int) -> None:
    for seed in range(1, 6):
        assert verdict(config(1.3, requests, "encoder", seed))["verdict"] != "over"


def test_a_burst_is_no_rate() -> None:
    made = config(1.0, 60, "encoder").tree()
    del made["workload"]["rate_rps"]
    assert verdict(parse(made))["verdict"] == "unknown"
    bursts = config(0.5, 400, "encoder", workload={"cv": 8.0})
    assert verdict(bursts)["verdict"] != "over"


def test_a_closed_loop_is_never_over() -> None:
    made = config(1.0, 200, "encoder").tree()
    del made["workload"]["rate_rps"]
    made["workload"] |= {"loop": "closed", "concurrency": 16}
    found = verdict(parse(made))
    assert (found["verdict"], found["bottleneck"]) == ("closed", "encoder")


def test_requests_that_time_out_are_demand_as_well() -> None:
    """Waiting stops growing at the time-out; a fifth of what comes is never served."""
    found = verdict(config(1.5, 1500, "encoder", protocol={"timeout_s": "5s"}))
    assert (found["verdict"], found["bottleneck"]) == ("over", "encoder"), found


def test_a_death_is_no_overload() -> None:
    made = config(0.5, 300, "encoder", protocol={"timeout_s": "5s"}).tree()
    made["incidents"] = [{"kind": "death", "rank": "language0.0", "time_s": "20s"}]
    assert verdict(parse(made))["verdict"] != "over"


def test_more_replications_see_less() -> None:
    """What one run of 200 cannot tell from chance, ten can."""
    made = config(1.15, 200, "encoder")
    alone, together = verdict(made), verdict(made, 10)
    assert together["noise"] < 0.5 * alone["noise"]
    assert (together["verdict"], together["bottleneck"]) == ("over", "encoder")


def test_utilisation_is_work_over_time() -> None:
    """400 requests of 0.1 s each at the encoder, and what the other stages take."""
    one, _ = simulate_one(config(0.7, 400, "encoder"), 0)
    summary = summarise([one], kind="sim", transport="", wall_s=1.0)
    start_s, end_s = one.window_s
    found = {name: estimate["value"] for name, estimate in summary["utilisation"].items()}
    assert found["encoder"] == pytest.approx(400 * SERVICE_S / (end_s - start_s))
    assert found["prefill"] is found["preprocessing"] is None
    assert 0 < found["adapters"] < found["writers"] < 0.05
    assert found["language_pool"] == summary["language_pool"]["mean_occupancy"]["value"]


def test_nothing_served_is_not_within_capacity() -> None:
    found = verdict(config(0.5, 100, "encoder", encode={"pool_blocks": 1, "base_s": SERVICE_S, "batch_requests": 1}))
    assert (found["verdict"], found["sentence"]) == ("unknown", "capacity unknown: none of the requests was served")


def losing(requests: int, not_served: int, **more: Any) -> dict[str, Any]:
    busy = dict.fromkeys(STAGES, 0.0) | {"writers": 0.00445} | more.pop("busy", {})
    given: dict[str, Any] = {"filled": dict.fromkeys(POOLS, 0.0), "closed": False, "disturbed": False} | more
    one = Evidence(4.0, 3.0, None, None, busy, requests=requests, not_served=not_served, **given)
    found = judge([one])
    assert combined([found, found])["not_served"] == 2 * not_served
    return found


def test_where_much_is_not_served_the_verdict_is_not_that_all_is_well() -> None:
    assert losing(480, 462)["sentence"] == (
        "no stage is over capacity, but 462 of 480 requests were not served (see the reasons above)"
    )
    assert "closed loop, which offers what is served, but 9 of 10" in losing(10, 9, closed=True)["sentence"]
    near = losing(10, 9, busy={"prefill": 0.93})["sentence"]
    assert near.startswith("near capacity: prefill is busy 93 % while requests come, and 9 of 10 requests were not")
    assert (
        losing(480, 5)["sentence"] == "within capacity: the busiest stage, writers are busy 0.445 % while requests come"
    )


def test_bursts_without_a_full_stage_are_no_overload() -> None:
    """With this seed latencies grow by a bit more than twice their noise, though the encoder has time left."""
    found = verdict(config(0.8, 200, "encoder", seed=4, workload={"cv": 3.0}))
    assert found["growth"] > 2 * found["noise"]
    assert found["verdict"] == "within", found


@pytest.mark.parametrize("warmup", [0, 200, 400])
def test_what_is_served_while_requests_come_has_those_of_the_warm_up_in_it(warmup: int) -> None:
    """At twice what the prefill can do, it ends ten requests a second at any time, whoever waits."""
    found = verdict(config(2.0, 600, "prefill", run={"warmup_requests": warmup, "seed": 1}))
    assert found["verdict"] == "over"
    assert found["served_rps"] == pytest.approx(1 / SERVICE_S, rel=0.03)
    assert found["offered_rps"] == pytest.approx(2 / SERVICE_S, rel=0.15)


def of_file(tmp_path: Path, times_s: NDArray[np.float64], **changes: Any) -> dict[str, Any]:
    """The verdict on requests at these times, of which a full prefill ends ten a second."""
    path = tmp_path / "arrivals.csv"
    path.write_text("arrival_s,text_tokens,image_tokens\n" + "".join(f"{time_s},0,{TOKENS}\n" for time_s in times_s))
    made = config(1.0, 1, "prefill", **changes).tree()
    for name in ("lengths", "requests", "rate_rps", "image_share"):
        made["workload"].pop(name, None)
    made["workload"] |= {"file": str(path)}
    return verdict(parse(made))


def spaced(requests: int, rate_rps: float, begin_s: float = 0.0, seed: int = 1) -> NDArray[np.float64]:
    return begin_s + np.cumsum(np.random.default_rng(seed).exponential(1 / rate_rps, requests))


def test_idle_time_after_an_overload_does_not_make_it_one_less(tmp_path: Path) -> None:
    found = of_file(tmp_path, np.append(spaced(600, 30), 2000.0))
    assert (found["verdict"], found["bottleneck"]) == ("over", "prefill"), found
    assert found["stretch"]["share"] == pytest.approx(1, abs=0.01)
    assert found["stretch"]["end_s"] == pytest.approx(20, abs=2)
    assert found["stretch"]["served_rps"] == pytest.approx(10, rel=0.1)
    assert found["sentence"].startswith("over capacity from ")
    assert " s (100 % of the requests): prefill is busy " in found["sentence"]


def test_bursts_whose_requests_time_out_are_over_capacity(tmp_path: Path) -> None:
    times_s = np.concatenate([spaced(400, 150), spaced(400, 150, 1000.0, seed=2)])
    found = of_file(tmp_path, times_s, protocol={"timeout_s": "2s"})
    assert (found["verdict"], found["bottleneck"]) == ("over", "prefill"), found
    assert found["stretch"]["share"] > 0.9


def test_a_busy_hour_between_quiet_ones_is_named(tmp_path: Path) -> None:
    quiet, busy = spaced(600, 3), spaced(600, 20, 200.0, seed=2)
    late = spaced(300, 3, float(busy[-1]) + 60, seed=3)
    found = of_file(tmp_path, np.concatenate([quiet[quiet < 200], busy, late]))
    assert found["verdict"] == "over", found
    assert 195 < found["stretch"]["begin_s"] < 215
    assert 220 < found["stretch"]["end_s"] < 240
    assert 0.25 < found["stretch"]["share"] < 0.5


def test_everything_at_once_twice_is_not_within(tmp_path: Path) -> None:
    found = of_file(tmp_path, np.concatenate([np.zeros(400), np.full(400, 1000.0)]))
    assert (found["verdict"], found["bottleneck"]) == ("near", "prefill"), found
    assert found["sentence"] == "near capacity: prefill is busy 100 % while requests come"


def test_one_late_row_leaves_the_others_what_they_are(tmp_path: Path) -> None:
    """The hour before it is no time in which requests come."""
    times_s = spaced(600, 5)
    alone, late = of_file(tmp_path, times_s), of_file(tmp_path, np.append(times_s, 4000.0))
    assert alone["verdict"] == late["verdict"] == "within"
    assert late["busy"]["prefill"] == pytest.approx(alone["busy"]["prefill"], abs=0.03)


@pytest.mark.parametrize("load", [0.8, 0.9])
def test_stretches_of_a_steady_load_are_not_over_by_chance(load: float) -> None:
    assert [verdict(config(load, 1000, "prefill", seed))["verdict"] for seed in range(1, 7)].count("over") == 0
