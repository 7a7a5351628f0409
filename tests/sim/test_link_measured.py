"""The shipped profiles against the rows they were fitted to. Bounds are the errors found then, rounded up."""

import csv
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bufferlab.sim.clock import Clock
from bufferlab.sim.network.adapters import Network
from bufferlab.sim.network.link import LinkProfile, load_profile

MEASURED = Path(__file__).parents[2].parent / "shared" / "measured"

needs_rows = pytest.mark.skipif(not MEASURED.is_dir(), reason="the measured rows are not beside the repository")


def rows(file: str, **wanted: str) -> Iterator[dict[str, str]]:
    with (MEASURED / file).open(encoding="utf-8", newline="") as source:
        for row in csv.DictReader(source):
            if all(row[column] == value for column, value in wanted.items()):
                yield row


def write_errors(profile: LinkProfile, found: Iterator[dict[str, str]], time: str = "time_us") -> list[float]:
    """Relative errors of ``write_s`` for rows of one write of ``batch`` segments each."""
    errors = []
    for row in found:
        segments = int(row["batch"])
        predicted_s = profile.write_s(segments * int(row["msg_bytes"]), segments)
        errors.append(abs(predicted_s / (1e-6 * float(row[time])) - 1))
    return errors


def check(errors: list[float], number: int, mean: float, largest: float) -> None:
    assert len(errors) == number
    assert sum(errors) / number <= mean
    assert max(errors) <= largest


@needs_rows
def test_connectx7_single_writes() -> None:
    check(write_errors(load_profile("cx7-400g"), rows("mori_io.csv", table="mori_cx7_write")), 17, 0.0047, 0.0226)


THOR2_AS_PUBLISHED = {
    "latency_s": 7.2e-6,
    "per_segment_s": 0.19e-6,
    "message_rate_per_s": 1 / 0.035e-6,
    "bandwidth_Bps": 48.7e9,
}


@needs_rows
@pytest.mark.parametrize(
    ("constants", "sizes", "batches"),
    [({}, (0.0105, 0.025), (0.0454, 0.0995)), (THOR2_AS_PUBLISHED, (0.012, 0.030), (0.0462, 0.1001))],
    ids=["profile", "published"],
)
def test_thor2_batches(constants: dict[str, float], sizes: tuple[float, float], batches: tuple[float, float]) -> None:
    profile = msgspec.structs.replace(load_profile("thor2-400g"), **constants)
    check(write_errors(profile, rows("mori_io.csv", table="mori_thor2_write_size_sweep")), 18, *sizes)
    check(write_errors(profile, rows("mori_pr97_batch.csv")), 8, *batches)


@needs_rows
def test_thor2_with_sixteen_queue_pairs_is_another_link() -> None:
    # The profile says so. If this fails, it has become better than its description.
    found = write_errors(load_profile("thor2-400g"), rows("mori_io.csv", table="mori_thor2_write_batch_sweep"))
    assert sum(found) / len(found) > 0.3


def closed_loop_Bps(profile: LinkProfile, threads: int, batch: int, segment_bytes: int, rounds: int = 3) -> float:  # noqa: N802
    """Throughput of ``threads`` that write one batch after the other from one instance to another."""
    clock = Clock()
    network = Network(clock, profile)
    moved = 0

    def move(left: int) -> None:
        network.start(
            "initiator", "target", batch * segment_bytes, batch, clock.call_after, profile.latency_s, end, left
        )

    def end(left: int) -> None:
        nonlocal moved
        moved += batch * segment_bytes
        if left:
            post(left - 1)

    def post(left: int) -> None:
        clock.call_after(profile.times.post_s(batch), move, left)

    for _ in range(threads):
        post(rounds - 1)
    clock.run_while_busy()
    return moved / clock.now


@needs_rows
def test_efa_threads_and_blocks() -> None:
    profile = load_profile("efa-p5en")
    errors = []
    for row in rows("mooncake_efa.csv", op="write", quantity="throughput"):
        if "p5en" in row["system"] and "GPU-to-GPU" in row["system"]:
            shape = (int(row["threads"]), int(row["batch"]), int(row["msg_bytes"]))
            errors.append(abs(closed_loop_Bps(profile, *shape) / (1e9 * float(row["bw_GBps"])) - 1))
    check(errors, 12, 0.0225, 0.0643)


@needs_rows
def test_efa_first_contact() -> None:
    (row,) = (row for row in rows("mooncake_efa.csv") if "cold first 1 MB submit, shared" in row["system"])
    assert load_profile("efa-p5en").first_contact_s == pytest.approx(1e-6 * float(row["time_us"]))


SYNCHRONOUS = ("transfer_sync_write", "batch_transfer_sync_write", "batch_sync")


@needs_rows
@pytest.mark.parametrize(("run", "number", "mean", "largest"), [("cfg", 7, 0.044, 0.139), ("api", 9, 0.154, 0.331)])
def test_loopback(run: str, number: int, mean: float, largest: float) -> None:
    found = (
        row for row in rows("local_mooncake_tcp_loopback.csv", run=run, config="default") if row["api"] in SYNCHRONOUS
    )
    parsed = ({**row, "msg_bytes": row["msg_bytes"].removesuffix(".0")} for row in found)
    check(write_errors(load_profile("tcp-loopback"), parsed, "median_us"), number, mean, largest)


def with_adapters(name: str, adapters: int) -> LinkProfile:
    profile = load_profile(name)
    rate_per_s = profile.message_rate_per_s / profile.adapters * adapters
    return msgspec.structs.replace(profile, adapters=adapters, message_rate_per_s=rate_per_s)


@pytest.mark.parametrize(("size", "gain", "off"), [(2**18, 1.0, 0.0), (2**20, 1.74, 0.085), (2**24, 2.0, 0.022)])
def test_striping_over_two_adapters_pays_above_the_threshold(size: int, gain: float, off: float) -> None:
    # The gains are from a published sweep on two adapters.
    one, two = (with_adapters("roce-4x400g", adapters) for adapters in (1, 2))
    assert one.write_s(size, 1) / two.write_s(size, 1) == pytest.approx(gain, rel=off)


@needs_rows
@pytest.mark.parametrize(("adapters", "off"), [(1, 0.033), (2, 0.078)])
def test_striping_over_two_adapters_reaches_what_users_reported(adapters: int, off: float) -> None:
    (row,) = (
        row for row in rows("single_points.csv") if f"bench {adapters} NIC" in row["system"] and "#790" in row["source"]
    )
    profile = with_adapters("roce-4x400g", adapters)
    bytes_ = 2**34
    assert bytes_ / profile.write_s(bytes_, 1) == pytest.approx(1e9 * float(row["bw_GBps"]), rel=off)


def test_an_adapter_of_the_four_is_the_single_one() -> None:
    fields: dict[str, Any] = msgspec.structs.asdict(with_adapters("roce-4x400g", 1))
    single = msgspec.structs.asdict(load_profile("thor2-400g"))
    for field in ("name", "description", "source", "shared_by", "stripe_threshold_bytes"):
        del fields[field], single[field]
    assert fields == single
    assert load_profile("thor2-400g").stripe_threshold_bytes == math.inf
