"""Common random numbers end to end, and ``bufferlab paired`` on runs that the simulator made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bufferlab.experiments.errors import UserError
from bufferlab.experiments.runs.paired import compare_paired, paired_text
from bufferlab.experiments.runs.rundir import StoredRun
from bufferlab.experiments.runs.simulate import run_sim
from bufferlab.experiments.workloads.loading import load
from bufferlab.experiments.workloads.requests import make_requests
from bufferlab.protocol.emulation.requests import Request

GIVEN = ["replication", "room", "arrival_s", "text_tokens", "images", "total_tokens"]
"""Columns of requests.parquet that come from the workload."""
VARIANTS: dict[str, list[str]] = {
    "policy": ["protocol.sizing.policy=quantile"],
    "size": ["protocol.sizing.tokens=8192"],
    "discipline": ["protocol.discipline=alloc_then_free"],
    "announcing": ["protocol.discipline=exact_announce"],
    "instances": ["language.instances=3", "encode.instances=2"],
    "ranks": ["encode.tp=2", "language.tp=2"],
    "pool": ["language.pool_blocks=80", "encode.pool_blocks=300"],
    "fails": ["protocol.discipline=slot"],
}


def simulated(folder: Path, *settings: str) -> Path:
    base = ["workload.requests=150", "run.replications=3", "run.seed=5"]
    run_sim(load("quickstart", [*base, *settings]), folder)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("paired")
    made = {name: simulated(folder / name, *settings) for name, settings in VARIANTS.items()}
    return {"plain": simulated(folder / "plain"), **made}


def asked(path: Path) -> pd.DataFrame:
    """The requests as the run stored them."""
    return StoredRun(path).requests()[GIVEN].sort_values(["replication", "room"], ignore_index=True)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_setting_meets_the_same_requests(runs: dict[str, Path], variant: str) -> None:
    plain, other = asked(runs["plain"]), asked(runs[variant])
    pd.testing.assert_frame_equal(plain, other, check_exact=True)
    assert len(plain) == 450
    assert plain.groupby("replication")["arrival_s"].first().nunique() == 3  # replications differ from each other
    # They are also submitted at the same times: no rank may be late with that.
    times = []
    for name in ("plain", variant):
        events = StoredRun(runs[name]).events()
        first = events[events["event"] == "submitted"].groupby(["replication", "room"])["time_s"].min()
        times.append(first)
    pd.testing.assert_series_equal(*times, check_exact=True)


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_not_stored_is_the_same_too(variant: str) -> None:
    """The client, the router's guess and how long a request's passes take; only where it is sent may change."""
    draws = ["run.seed=5", "workload.requests=2000", "workload.service_log_sd=0.2"]

    def requests(settings: list[str], replication: int) -> list[dict[str, Any]]:
        made = make_requests(load("quickstart", [*draws, *settings]), replication)
        fields = Request.__match_args__
        told = [{name: getattr(one, name) for name in fields} for one in made]
        return [{**one, "encode_instance": 0, "language_instance": 0} for one in told]

    for replication in (0, 1):
        plain = requests([], replication)
        assert plain == requests(VARIANTS[variant], replication)
        assert set(plain[0]) == set(Request.__match_args__)
        assert len({one["encode_factor"] for one in plain}) > 1000
    assert requests([], 0) != requests([], 1)


def test_pairing_is_narrower_than_not_pairing(runs: dict[str, Path]) -> None:
    """Two buffer sizes, three replications: what a replication's luck does to both cancels."""
    result = compare_paired(runs["plain"], runs["size"])
    mean = result["differences"]["latency_s"]["mean"]
    assert mean["variance_reduction"] > 3
    assert mean["high"] - mean["low"] < mean["unpaired_high"] - mean["unpaired_low"]
    throughput = result["differences"]["throughput_rps"]
    assert throughput["variance_reduction"] > 50  # the arrivals decide it, and they are the same
    resumed = result["differences"]["resume"]["rate"]
    assert resumed["significant"]
    assert resumed["value"] < 0
    assert result["settings"] == [{"name": "protocol.sizing.tokens", "first": 1024, "second": 8192}]


def test_differences_are_those_of_the_summaries(runs: dict[str, Path]) -> None:
    """Where both delivered everything, a difference is that of the figures in summary.json, to the last bit of each."""
    result = compare_paired(runs["plain"], runs["pool"])
    assert result["requests"] == {"compared": 450, "delivered_only_by_first": 0, "delivered_only_by_second": 0}
    summaries = [StoredRun(runs[name]).summary for name in ("plain", "pool")]
    for section in ("latency_s", "transfer_s", "resume", "language_pool", "encode_pool"):
        for name, found in result["differences"][section].items():
            figures = [summary[section][name]["value"] for summary in summaries]
            assert [found["first"], found["second"]] == figures
            assert found["value"] == pytest.approx(figures[1] - figures[0], abs=1e-9)
            assert found["pairs"] == 3


def test_latencies_are_compared_over_the_requests_that_both_delivered(runs: dict[str, Path]) -> None:
    """A slot of 1024 tokens fails the long requests; what is left is fast, which is no merit."""
    result = compare_paired(runs["plain"], runs["fails"])
    alone = result["requests"]["delivered_only_by_first"]
    tables = [StoredRun(runs[name]).requests().sort_values(["replication", "room"]) for name in ("plain", "fails")]
    delivered = tables[1]["delivered_s"].notna().to_numpy()
    assert alone == (~delivered).sum() > 0
    latencies = (tables[0]["delivered_s"] - tables[0]["arrival_s"])[delivered]
    expected = latencies.groupby(tables[0]["replication"]).mean().mean()
    assert result["differences"]["latency_s"]["mean"]["first"] == pytest.approx(expected)
    assert result["differences"]["failure_rate"]["value"] == pytest.approx(alone / 450)
    assert f"left out of latencies, transfers and resumes: {alone} requests" in paired_text(result)


def test_shares_that_never_varied_are_not_told_apart(runs: dict[str, Path]) -> None:
    found = compare_paired(runs["plain"], runs["size"])["differences"]["failure_rate"]
    assert (found["value"], found["low"], found["significant"]) == (0.0, None, None)


def test_one_long_replication_of_each(tmp_path: Path) -> None:
    long = ["run.replications=1", "workload.requests=2500", "workload.rate_rps=4"]
    small = simulated(tmp_path / "small", *long, "protocol.sizing.tokens=512")
    large = simulated(tmp_path / "large", *long, "protocol.sizing.tokens=4096")
    result = compare_paired(small, large)
    differences = result["differences"]
    assert result["replications"] == 1
    for found in (
        differences["latency_s"]["mean"],
        differences["latency_s"]["p50"],
        differences["resume"]["rate"],
        differences["throughput_rps"],
        differences["language_pool"]["mean_occupancy"],
        differences["language_pool"]["wasted_fraction"],
    ):
        assert found["low"] < found["value"] < found["high"]
        assert found["pairs"] == 10
    assert differences["latency_s"]["mean"]["variance_reduction"] > 1
    assert differences["language_pool"]["mean_occupancy"]["significant"]
    assert differences["language_pool"]["peak_occupancy"]["low"] is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["run.seed=6"], "but request 1 of replication 0 has arrival_s"),
        (["workload.rate_rps=9"], "but request 1 of replication 0 has arrival_s"),
        (["workload.requests=140"], "but replication 0 has 140 of them instead of 150"),
        (["run.warmup_requests=5"], "with run.warmup_requests 5, it must be 0 as in"),
    ],
)
def test_other_requests_are_refused(tmp_path: Path, runs: dict[str, Path], settings: list[str], words: str) -> None:
    other = simulated(tmp_path / "other", *settings)
    with pytest.raises(UserError) as refused:
        compare_paired(runs["plain"], other)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_fewer_replications_are_compared_as_far_as_they_go(tmp_path: Path, runs: dict[str, Path]) -> None:
    result = compare_paired(runs["plain"], simulated(tmp_path / "two", "run.replications=2"))
    assert (result["replications"], result["requests"]["compared"], result["settings"]) == (2, 300, [])
    assert result["differences"]["latency_s"]["mean"]["value"] == 0.0


def test_the_command(bufferlab: Any, runs: dict[str, Path], tmp_path: Path) -> None:
    ended = bufferlab("paired", runs["plain"], runs["size"])
    assert ended.status == 0, ended.err
    assert "450 requests in 3 replications, the same in both runs" in ended.out
    assert "protocol.sizing.tokens: 1024 -> 8192" in ended.out
    (row,) = [line for line in ended.out.splitlines() if line.startswith("resume.rate")]
    assert " * " in row
    asked_json = bufferlab("paired", runs["plain"], runs["size"], "--json")
    assert json.loads(asked_json.out) == compare_paired(runs["plain"], runs["size"])
    refused = bufferlab("paired", runs["plain"], tmp_path)
    assert refused.status == 2
    assert "it must be a finished run directory" in refused.err
