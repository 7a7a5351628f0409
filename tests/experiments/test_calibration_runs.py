"""Run directories: what calibrate finds in a simulated run is the profile that made it."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from bufferlab.experiments.calibration.host.software import asleep, software
from bufferlab.experiments.calibration.input.runs import Observed, observe
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.runs.rundir import StoredRun
from bufferlab.sim.network.link import LinkProfile, load_profile

Command = Callable[..., Any]

PLAIN = {
    "latency_s": 3e-5,
    "per_segment_s": 2e-5,
    "bandwidth_Bps": 2e9,
    "first_contact_s": 4e-3,
    "control_latency_s": 9e-5,
    "copy_bandwidth_Bps": 8e9,
    "shared_by": "rank",
}
SLEEPY = PLAIN | {"copy_latency_s": 2e-4, "submit_latency_s": 6e-4, "wakeup_s": 1.5e-4}
QUEUES = PLAIN | {"per_queue_s": 5e-5, "queues": 4}
BENDING = PLAIN | {"message_rate_per_s": 2e9 / 1.5e6}

ALONE = {
    "workload": {"lengths": [300, 700, 1500, 3000, 5000], "requests": 40, "loop": "closed", "concurrency": 1},
    "protocol": {"block_tokens": 128, "sizing": {"tokens": 1024}},
    "encode": {"pool_blocks": 64, "poll_interval_s": 0.0, "batch_requests": 1},
    "language": {"pool_blocks": 64, "poll_interval_s": 0.0},
}
LENGTHS = [200, 900, 1400, 400, 3100, 2300, 700, 5000, 1100]
CROWDED = {
    "workload": {"lengths": LENGTHS, "requests": 300, "rate_rps": 60.0},
    "protocol": {"block_tokens": 128, "sizing": {"tokens": 1024}},
    "encode": {"pool_blocks": 120},
    "language": {"pool_blocks": 90, "tp": 2},
}


def simulate(bufferlab: Command, name: str, link: Mapping[str, Any], config: Mapping[str, Any], *settings: str) -> Path:
    """A simulated run of ``config`` over ``link``."""
    Path(f"{name}-link.toml").write_text(tomli_w.dumps(link), encoding="utf-8")
    Path(f"{name}.toml").write_text(
        tomli_w.dumps({**config, "link": {"profile": f"{name}-link.toml"}}), encoding="utf-8"
    )
    chosen = [part for setting in settings for part in ("--set", setting)]
    ended = bufferlab("sim", f"{name}.toml", *chosen, "--out", f"{name}-run", "--no-plots")
    assert ended.status == 0, ended.err
    return Path(f"{name}-run")


def calibrated(bufferlab: Command, *runs: Path) -> tuple[LinkProfile, dict[str, Any]]:
    """The profile that is written for some runs, and the report."""
    ended = bufferlab("calibrate", *runs, "--out", "found.toml", "--base", "cx7-400g", "--json")
    assert ended.status == 0, ended.err
    return load_profile("found.toml"), json.loads(ended.out)


def check_recovered(found: LinkProfile, report: dict[str, Any], wanted: Mapping[str, Any], rel: float) -> None:
    """Every number of ``wanted`` is found, and within its interval but for the rounding of the events' times."""
    for name, value in wanted.items():
        assert getattr(found, name) == (value if isinstance(value, str) else pytest.approx(value, rel=rel)), name
    estimates = report["runs"]["link"]["parameters"] | report["runs"]["software"]
    for name in set(wanted) & set(estimates) - {"queues"}:
        low, high = estimates[name]["low"], estimates[name]["high"]
        if low is not None:
            assert low * (1 - rel) <= wanted[name] <= high * (1 + rel), name


def test_what_waking_up_costs_is_found(folder: Path, bufferlab: Command) -> None:
    config = {
        **ALONE,
        "encode": {"pool_blocks": 64, "batch_requests": 1, "per_token_s": 1e-6},
        "language": {"pool_blocks": 64},
    }
    found, report = calibrated(bufferlab, simulate(bufferlab, "sleepy", SLEEPY, config))
    check_recovered(found, report, SLEEPY, rel=1e-6)
    assert report["profile"]["assumed"] == ["shared_by"]


def test_what_a_sound_sleep_and_a_nap_cost_is_found(folder: Path, bufferlab: Command) -> None:
    # One loop iterates every millisecond, the other like a decode step; passes are long enough to fall asleep in.
    host = {"asleep_after_s": 3e-3, "nap_wakeup_s": 2e-4, "cold_copy_s": 3e-4}
    link = SLEEPY | {"wakeup_s": 5e-4, "host": host}
    config = {
        **ALONE,
        "workload": {"lengths": [300, 700, 1500, 3000], "requests": 60, "rate_rps": 9.7, "cv": 0},
        "encode": {"pool_blocks": 64, "batch_requests": 1, "base_s": 0.01},
        "language": {"pool_blocks": 64},
    }
    runs = [
        simulate(bufferlab, name, link, config, f"language.poll_interval_s={iteration}")
        for name, iteration in (("quick", "1ms"), ("slow", "15ms"))
    ]
    seen = Observed()
    for run in runs:
        observe(StoredRun(run), seen)
    assert len(seen.cold_copies) > 25
    assert len(seen.copies) > 40
    found = software(seen, 0)
    told = asleep(seen, found)
    assert found["wakeup_s"]["value"] == pytest.approx(5e-4, rel=1e-6)
    assert told["asleep_after_s"] == 3e-3
    assert told["cold_copy_s"] == pytest.approx(3e-4, rel=1e-6)
    # Requests come at any time of a period, half of which is taken off: known as well as 60 times tell it.
    assert told["nap_wakeup_s"] == pytest.approx(2e-4, abs=3 * 1e-3 / math.sqrt(12 * 120))


def test_a_run_of_one_request_after_another_gives_everything(folder: Path, bufferlab: Command) -> None:
    found, report = calibrated(bufferlab, simulate(bufferlab, "alone", PLAIN, ALONE))
    check_recovered(found, report, PLAIN, rel=1e-7)
    assert report["runs"]["kinds"] == ["sim"]
    assert report["profile"]["assumed"] == ["shared_by"]
    software = report["runs"]["software"]
    # The simulator's loops iterate at once and its requests arrive for nothing.
    for name in ("encode_iteration_cost_s", "language_iteration_cost_s", "request_constant_s"):
        assert software[name]["value"] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("discipline", ["window", "alloc_then_free", "free_then_alloc", "exact_announce"])
def test_segments_are_counted_under_load(folder: Path, bufferlab: Command, discipline: str) -> None:
    # Pools are crowded, so blocks of a room are in several runs and a write is in many segments.
    run = simulate(bufferlab, "crowded", PLAIN, CROWDED, f"protocol.discipline={discipline}")
    found, report = calibrated(bufferlab, run)
    seen = Observed()
    observe(StoredRun(run), seen)
    law = load_profile("crowded-link.toml")
    for write in seen.writes:
        contact_s = law.first_contact_s if write.first else 0.0
        assert write.seconds == pytest.approx(law.write_s(write.bytes, write.segments) + contact_s, rel=1e-6)
    assert len(seen.writes) > 300
    if len({write.segments for write in seen.writes}) > 1:
        check_recovered(found, report, PLAIN, rel=1e-6)


def test_queues_are_found(folder: Path, bufferlab: Command) -> None:
    found, report = calibrated(bufferlab, simulate(bufferlab, "queues", QUEUES, CROWDED))
    assert report["joint"]["form"] == "4 queues and segments"
    check_recovered(found, report, QUEUES, rel=1e-6)


def test_a_message_rate_is_found(folder: Path, bufferlab: Command) -> None:
    found, report = calibrated(bufferlab, simulate(bufferlab, "bending", BENDING, CROWDED))
    assert report["joint"]["form"] == "batch"
    check_recovered(found, report, BENDING, rel=2e-3)


def test_adapters_and_their_threshold_are_found(folder: Path, bufferlab: Command) -> None:
    striped = PLAIN | {"adapters": 4, "stripe_threshold_bytes": 3e6}
    found, report = calibrated(bufferlab, simulate(bufferlab, "striped", striped, CROWDED))
    assert report["joint"]["form"] == "4 adapters and segments"
    threshold = found.stripe_threshold_bytes
    assert threshold == pytest.approx(3e6, rel=0.5)  # between two sizes of writes
    check_recovered(found, report, striped | {"stripe_threshold_bytes": threshold}, rel=1e-6)


def test_several_runs_and_replications_are_one_measurement(folder: Path, bufferlab: Command) -> None:
    first = simulate(bufferlab, "first", PLAIN, CROWDED, "run.replications=3", "workload.requests=50")
    second = simulate(bufferlab, "second", PLAIN, ALONE, "language.tp=2")
    found, report = calibrated(bufferlab, first, second)
    check_recovered(found, report, PLAIN, rel=1e-6)
    assert report["runs"]["directories"] == ["first-run", "second-run"]
    assert report["runs"]["counts"]["copies"] == 2 * (3 * 50 + 40)
    assert report["runs"]["counts"]["requests"] == 40  # those of the run whose loops do not wait


def test_iterations_and_requests_are_measured_only_where_the_loop_does_not_wait(
    folder: Path, bufferlab: Command
) -> None:
    run = simulate(bufferlab, "waiting", PLAIN, ALONE, "language.poll_interval_s=1ms")
    _, report = calibrated(bufferlab, run)
    assert "language_iteration_cost_s" not in report["runs"]["software"]
    assert any("poll_interval_s" in reason for reason in report["runs"]["unused"])


def test_writes_side_by_side_are_left_out(folder: Path, bufferlab: Command) -> None:
    shared = PLAIN | {"shared_by": "instance"}
    run = simulate(bufferlab, "shared", shared, CROWDED, "encode.tp=2", "protocol.discipline=exact_announce")
    seen = Observed()
    observe(StoredRun(run), seen)
    assert seen.unused["writes that another thread's overlapped"] > 100


def test_a_disturbed_run_is_refused(folder: Path, bufferlab: Command) -> None:
    bufferlab("sim", "seed-failure", "--out", "failed", "--no-plots")
    with pytest.raises(UserError, match="has faults or incidents"):
        observe(StoredRun("failed"), Observed())
    ended = bufferlab("calibrate", "failed")
    assert ended.status == 2
    assert ended.err.count("\n") == 1


def test_tables_decide_about_the_link_and_runs_about_the_rest(folder: Path, bufferlab: Command) -> None:
    run = simulate(bufferlab, "alone", PLAIN, ALONE)
    lines = ["table,msg_bytes,batch,threads,time_us"]
    lines += [f"bench,{size},1,1,{6 + size / 50e3}" for size in (2**power for power in range(10, 24))]
    Path("bench.csv").write_text("\n".join(lines), encoding="utf-8")
    found, _ = calibrated(bufferlab, run, Path("bench.csv"))
    assert found.bandwidth_Bps == pytest.approx(50e9, rel=1e-6)
    assert found.latency_s == pytest.approx(6e-6, rel=1e-6)
    assert found.control_latency_s == pytest.approx(9e-5, rel=1e-6)
    assert found.copy_bandwidth_Bps == pytest.approx(8e9, rel=1e-6)
