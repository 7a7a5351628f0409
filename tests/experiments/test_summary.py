"""The figures, against numbers computed by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.intervals import (
    BATCHES,
    NOTHING,
    across_replications,
    batch_means,
    half_width,
    mean,
    quantile,
    quantile_batch,
    rate_of,
)
from experiments.summary import Replication, summarise
from protocol.runlog import PoolUse, RequestRow
from protocol.topology import Side


def row(
    room: int, arrival_s: float, encoded_s: float | None, delivered_s: float | None, chunks: int, status: str
) -> RequestRow:
    return RequestRow(
        room=room, arrival_s=arrival_s, text_tokens=0, images=1, total_tokens=10, first_allocation_tokens=8,
        chunks=chunks, encoded_s=encoded_s, first_chunk_s=None, delivered_s=delivered_s, released_s=None,
        status=status, failure="",
    )  # fmt: skip


def replication(shift: float = 0.0) -> Replication:
    """Four requests: latencies 1, 2 and 6 s (plus shift), transfers 0.5, 1 and 3 s; one failed, one never ended."""
    one = Replication()
    one.add(row(1, 0.0, 0.5 + shift, 1.0 + shift, 1, "Success"))
    one.add(row(2, 1.0, 2.0 + shift, 3.0 + shift, 2, "Success"))
    one.add(row(3, 2.0, 5.0 + shift, 8.0 + shift, 4, "Success"))
    one.add(row(4, 3.0, None, None, 0, "Failed"))
    one.add(row(5, 3.0, 4.0, None, 1, "Transferring"))
    one.end_s = 10.0
    one.records = 60
    one.pools = {
        # 200 block-seconds of 10 s · 40 blocks; 640 of 1600 token-seconds had a token.
        Side.LANGUAGE: PoolUse(
            40, held_block_s=200.0, peak_blocks=30, held_token_s=1600.0, used_token_s=640.0, blocked_s=7.0
        ),
        Side.ENCODE: PoolUse(20),
    }
    return one


def test_one_replication_by_hand() -> None:
    summary = summarise([replication()], kind="sim", transport="tcp-loopback", wall_s=0.5)
    assert list(summary) == [
        "schema", "kind", "transport", "requests", "latency_s", "transfer_s", "throughput_rps", "resume",
        "language_pool", "encode_pool", "deadlock", "invariant_violations", "wall_s", "requests_per_wall_s",
        "events_per_request",
    ]  # fmt: skip
    assert summary["requests"] == {"offered": 5, "succeeded": 3, "failed": 1, "unfinished": 1}

    def only(value: float | None) -> dict[str, float | None]:
        return {"value": value, "low": None, "high": None}

    assert summary["latency_s"] == {"mean": only(3.0), "p50": only(2.0), "p90": only(6.0), "p99": only(6.0)}
    assert summary["transfer_s"] == {"mean": only(1.5), "p50": only(1.0), "p90": only(3.0), "p99": only(3.0)}
    assert summary["throughput_rps"] == only(3 / 8)
    assert summary["resume"] == {"rate": only(2 / 3), "mean_chunks": only(7 / 3)}
    assert summary["language_pool"] == {
        "mean_occupancy": only(0.5), "peak_occupancy": only(0.75), "wasted_fraction": only(0.6), "blocked_s": only(7.0),
    }  # fmt: skip
    assert summary["encode_pool"]["mean_occupancy"] == only(0.0)
    assert summary["encode_pool"]["wasted_fraction"] == only(None)
    assert (summary["deadlock"], summary["invariant_violations"]) == (False, 0)
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


def test_no_success_is_no_number() -> None:
    one = Replication(pools={side: PoolUse(4) for side in Side}, end_s=1.0)
    one.add(row(1, 0.0, None, None, 0, "Failed"))
    for runs in ([one], [one, one]):
        summary = summarise(runs, kind="real", transport="tcp", wall_s=0.1)
        for name in ("latency_s", "transfer_s", "resume"):
            assert all(estimate == NOTHING for estimate in summary[name].values())
        assert summary["throughput_rps"] == NOTHING


def test_rows_in_any_order_of_completion_are_batched_by_arrival() -> None:
    one = Replication()
    one.add(row(2, 5.0, 5.0, 6.0, 1, "Success"))
    one.add(row(1, 0.0, 0.0, 9.0, 3, "Success"))
    assert one.latencies_s().tolist() == [9.0, 1.0]
    assert one.chunk_counts().tolist() == [3.0, 1.0]


def test_batch_means_by_hand() -> None:
    # Batch b holds the value b twenty times: means 0..9, standard deviation 3.0277, t(9, 0.975) = 2.2622.
    samples = np.repeat(np.arange(10.0), 20)
    half = 2.2621571628540993 * 3.0276503540974917 / math.sqrt(10)
    found = batch_means(samples, mean)
    assert found["value"] == 4.5
    assert found["low"] == pytest.approx(4.5 - half)
    assert found["high"] == pytest.approx(4.5 + half)


def test_too_little_for_a_batch_gives_no_interval() -> None:
    assert batch_means(np.arange(199.0), mean)["low"] is None
    assert batch_means(np.arange(200.0), mean)["low"] is not None
    assert [quantile_batch(level) for level in (0.5, 0.9, 0.99)] == [20, 100, 1000]


def test_batches_are_wider_than_a_naive_interval_when_requests_depend_on_each_other() -> None:
    # A queue's waiting times move slowly; the naive interval takes every request for news.
    rng = np.random.default_rng(1)
    waits = np.zeros(20_000)
    for number in range(1, len(waits)):
        waits[number] = max(0.0, waits[number - 1] + rng.exponential(0.8) - rng.exponential(1.0))
    naive = 1.96 * waits.std() / math.sqrt(len(waits))
    found = batch_means(waits, mean)
    assert found["high"] is not None
    assert found["value"] is not None
    assert found["high"] - found["value"] > 3 * naive


def test_the_rate_of_a_regular_process_is_certain() -> None:
    found = rate_of(np.arange(1, 401) / 4, 100.0)
    assert found == {"value": 4.0, "low": pytest.approx(4.0), "high": pytest.approx(4.0)}
    assert rate_of(np.array([]), 1.0) == NOTHING
    assert rate_of(np.array([2.0]), 2.0) == {"value": 0.5, "low": None, "high": None}


def test_replications_without_a_number_are_left_out() -> None:
    assert across_replications([None, None]) == NOTHING
    assert across_replications([None, 2.0]) == {"value": 2.0, "low": None, "high": None}
    assert across_replications([1.0, None, 3.0])["value"] == 2.0


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50), st.floats(0.01, 0.99))
def test_a_quantile_is_a_value_that_occurred_and_enough_lie_below(values: list[float], level: float) -> None:
    samples = np.array(values)
    found = quantile(level)(samples)
    assert found in values
    assert np.count_nonzero(samples <= found) >= level * len(values) - 1e-9
    assert np.count_nonzero(samples < found) < math.ceil(level * len(values))


def test_t_intervals_cover() -> None:
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(1000):
        samples = rng.normal(3.0, 2.0, 6).tolist()
        hits += abs(mean(np.array(samples)) - 3.0) <= half_width(samples)
    assert 0.93 <= hits / 1000 <= 0.97


def test_ten_batches() -> None:
    # The documentation of summary.json states the numbers of requests that follow from it.
    assert BATCHES * quantile_batch(0.99) == 10_000
