"""bufferlab calibrate: laws are recovered from rows that follow them, bad rows are named, held-out rows stay unseen."""

import csv
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bufferlab.experiments.calibration.input.line_rates import line_rate_Bps
from bufferlab.experiments.calibration.input.rows import read_rows
from bufferlab.experiments.calibration.laws.choosing import choose
from bufferlab.experiments.calibration.laws.fitting import can_tell, certainty, fit
from bufferlab.experiments.calibration.laws.forms import DISCRETE, FORMS, Form, seconds
from bufferlab.experiments.calibration.laws.nonnegative import coefficients
from bufferlab.experiments.calibration.laws.samples import Samples
from bufferlab.experiments.runs.busy import Busy
from bufferlab.experiments.validation.frozen import freeze
from bufferlab.sim.network.link import load_profile
from bufferlab.sim.streams import stream

HEADER = (
    "table",
    "system",
    "link",
    "op",
    "msg_bytes",
    "batch",
    "threads",
    "total_bytes",
    "time_us",
    "bw_GBps",
    "quantity",
)
SIZES = tuple(2**power for power in range(6, 24))


def grid(sizes: Sequence[int] = SIZES[::2], segments: Sequence[int] = (1, 2, 4, 8, 16, 128)) -> Samples:
    """Every size in every batch, without times."""
    shapes = [(size, batch) for size in sizes for batch in segments]
    columns = [np.array(column, dtype=float) for column in zip(*shapes, strict=True)]
    return Samples(*columns, np.ones(len(shapes)), np.ones(len(shapes)))


def form(name: str, count: int | None = None) -> Form:
    (found,) = [one for one in FORMS if one.name == name]
    return found if count is None else next(one for one in found.variants(grid()) if one.count == count)


def write_table(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, HEADER, extrasaction="raise")
        writer.writeheader()
        writer.writerows(rows)
    return path


def affine_row(size: int, *, batch: int = 1, table: str = "mine", **other: Any) -> dict[str, Any]:
    """A write of 6 µs and 50 GB/s."""
    total = size * batch
    time_us = 6 + total / 50e3
    measured = {"time_us": f"{time_us:.6g}", "bw_GBps": f"{total / time_us / 1e3:.6g}"}
    same = {"system": "host", "link": "400G", "op": "write", "threads": 1, "quantity": "time of whole batch (avg)"}
    return {"table": table, "msg_bytes": size, "batch": batch, "total_bytes": total, **measured, **same, **other}


# --- laws ---

LAWS = (
    *((name, None) for name in ("rate", "affine", "roof", "segments", "latency and roof", "batch")),
    ("queues", 8),
    ("queues and segments", 4),
    ("queues and batch", 16),
    ("adapters", 4),
    ("adapters and segments", 8),
)
costs = st.floats(1e-6, 1e-4)


@settings(max_examples=25, deadline=None)
@given(
    latency_s=costs,
    per_segment_s=st.floats(1e-8, 1e-5),
    per_queue_s=st.floats(1e-7, 1e-5),
    bandwidth_Bps=st.floats(1e9, 1e11),
    knee_bytes=st.floats(300, 1e6),
    law=st.sampled_from(LAWS),
)
def test_what_a_law_made_is_recovered(law: tuple[str, int | None], **found: float) -> None:
    one = form(*law)
    wanted = {name: found[name] for name in one.costs if name in found} | {"bandwidth_Bps": found["bandwidth_Bps"]}
    if "knee_bytes" in one.shape:
        wanted["message_rate_per_s"] = found["bandwidth_Bps"] / found["knee_bytes"]
    if "stripe_threshold_bytes" in one.shape:
        wanted["stripe_threshold_bytes"] = 1.5 * 2**20
    if one.counted:
        wanted[one.counted] = float(one.count)
    samples = grid()
    samples = samples.taking(seconds(one, wanted, samples))
    again = fit(one, samples)
    assert again.seconds(samples) == pytest.approx(samples.seconds, rel=1e-3)
    if one.name in ("rate", "affine"):
        assert again.parameters == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("affine", {"latency_s": 6e-6, "bandwidth_Bps": 50e9}),
        ("segments", {"latency_s": 6e-6, "per_segment_s": 2e-7, "bandwidth_Bps": 50e9}),
        ("batch", {"latency_s": 6e-6, "per_segment_s": 2e-7, "bandwidth_Bps": 50e9, "message_rate_per_s": 2e7}),
        ("8 queues", {"latency_s": 6e-6, "per_queue_s": 1e-6, "bandwidth_Bps": 50e9, "queues": 8.0}),
        (
            "4 adapters",
            {"latency_s": 6e-6, "bandwidth_Bps": 50e9, "adapters": 4.0, "stripe_threshold_bytes": 1.5 * 2**20},
        ),
    ],
)
def test_the_law_that_made_the_samples_is_chosen_with_its_numbers(name: str, wanted: dict[str, float]) -> None:
    one = form(name.split(" ", 1)[1], int(name.split(" ")[0])) if name[0].isdigit() else form(name)
    samples = grid()
    noise = 1 + stream(1, 0, "test", name).normal(0, 0.005, len(samples))
    samples = samples.taking(seconds(one, wanted, samples) * noise)
    chosen = choose(samples)
    assert chosen is not None
    assert chosen.name == name
    # A threshold is known to lie between two sizes.
    threshold = chosen.fit.parameters.get("stripe_threshold_bytes", 0.0)
    assert threshold == pytest.approx(wanted.get("stripe_threshold_bytes", 0.0), rel=0.5)
    assert chosen.fit.parameters == pytest.approx(
        wanted | ({"stripe_threshold_bytes": threshold} if threshold else {}), rel=0.05
    )
    sure = certainty(chosen.fit, samples, stream(1, 0, "test", "draws"))
    for parameter, value in wanted.items():
        found = sure.intervals[parameter]
        assert found["value"] is not None
        if parameter not in DISCRETE:
            assert found["low"] is not None
            assert found["high"] is not None
            assert found["low"] < found["value"] < found["high"]
            assert found["high"] - found["low"] < 0.2 * value


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    wanted = {"latency_s": 6e-6, "bandwidth_Bps": 50e9}
    samples = grid(SIZES, (1,))
    hits = dict.fromkeys(wanted, 0)
    repeats = 40
    for number in range(repeats):
        draws = stream(number, 0, "test", "noise")
        noisy = samples.taking(seconds(form("affine"), wanted, samples) * (1 + draws.normal(0, 0.02, len(samples))))
        found = certainty(fit(form("affine"), noisy), noisy, draws).intervals
        for name, value in wanted.items():
            hits[name] += found[name]["low"] <= value <= found[name]["high"]  # type: ignore[operator]
    # 95 % of 40 are 38; fewer than 33 has a probability of about 0.001.
    assert min(hits.values()) >= 33


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), columns=st.integers(1, 4))
def test_no_part_costs_less_than_nothing_and_none_could_leave_less(seed: int, columns: int) -> None:
    from scipy.optimize import nnls

    draws = np.random.default_rng(seed)
    matrices, target = draws.uniform(-1, 1, (2, 3, 9, columns)), np.ones(9)
    found, which = coefficients(matrices, target)
    for costs, best, group in zip(found, which, matrices, strict=True):
        assert (costs >= 0).all()
        left = [nnls(matrix, target)[1] for matrix in group]
        assert np.linalg.norm(group[best] @ costs - target) == pytest.approx(min(left), rel=1e-6)


def test_an_outlier_is_told_and_does_not_move_the_law() -> None:
    samples = grid(SIZES, (1,))
    samples = samples.taking(seconds(form("affine"), {"latency_s": 6e-6, "bandwidth_Bps": 50e9}, samples))
    noise = 1 + stream(3, 0, "test", "noise").normal(0, 0.005, len(samples))
    noise[7] = 3.0
    found = fit(form("affine"), samples.taking(samples.seconds * noise))
    assert found.outliers == (7,)
    assert found.parameters == pytest.approx({"latency_s": 6e-6, "bandwidth_Bps": 50e9}, rel=0.02)


def test_samples_that_cannot_tell_a_law_do_not_get_it() -> None:
    one_batch = grid(SIZES, (64,)).taking(np.linspace(1e-5, 1e-3, len(SIZES)))
    assert not can_tell(form("segments"), one_batch)  # the latency and 64 segments are the same
    assert can_tell(form("affine"), one_batch)
    one_size = grid((4096,), (1, 4, 16, 64)).taking(np.linspace(1e-5, 1e-3, 4))
    assert not can_tell(form("roof"), one_size)


def test_a_sweep_that_no_law_describes_is_filled_in_and_says_so() -> None:
    samples = grid(SIZES, (1,))
    waves = 1 + 0.4 * np.sin(np.arange(len(SIZES)) / 2)
    chosen = choose(samples.taking((6e-6 + np.array(SIZES) / 50e9) * waves))
    assert chosen is not None
    assert chosen.name.endswith("filled in by interpolation")


# --- rows ---


@pytest.mark.parametrize(
    ("link", "rate_GBps"),
    [
        ("Broadcom Thor2 400G, 1 NIC, 4 QP", 50),
        ("Broadcom Thor2 400G, 2 QP per transfer", 50),
        ("p5en.48xlarge (H200, 16 EFA × 200 Gbps)", 400),
        ("400G-class, 1 NIC (as in the PR)", 50),
        ("2x400 Gb", 100),
        ("1 bond 2x200", None),  # of what?
        ("100G per rail, 2 rails", 25),
        ("2 rails of 100 Gb/s", 25),
        ("100Gbps per port, dual port", 25),
        ("2x100G per rail, 2 rails", 50),
        ("2x100G", 25),
        ("4 × 100 Gb/s (4 rails)", 50),
        ("100G x2", 25),
        ("dual-port 100GbE", 25),
        ("two 25GbE ports", 6.25),
        ("2 100G NICs", 25),
        ("8 NICs, 400G each", 400),
        ("400G total over 4 NICs", 50),
        ("400 Gbps", 50),
        ("100gbps", 12.5),
        ("1.6 Tbps", 200),
        ("10 Gigabit Ethernet", 1.25),
        ("25 GB/s", 25),
        ("25 GB/s per rail, 2 rails", 50),
        ("50 GBps", 50),
        ("25 gb/s", 25),  # bits or bytes: nobody can say, and no row may go for it
        ("EDR", 12.5),
        ("2x HDR", 50),
        ("InfiniBand NDR, 8 rails", 400),
        ("100G + 25G", 15.625),
        ("100 Gbps full duplex", 25),  # both ways may be counted
        ("A100 80G, 200G RoCE", 25),
        ("H100-80G, NVLink", None),  # memory is no line
        ("a 40 GB embedding over tcp", None),
        ("tcp", None),
        ("", None),
    ],
)  # fmt: skip
def test_line_rates_are_read_from_what_a_link_is_called(link: str, rate_GBps: float | None) -> None:  # noqa: N803 - bytes
    assert line_rate_Bps(link) == (None if rate_GBps is None else 1e9 * rate_GBps)


def test_good_rows_of_several_rails_are_kept(tmp_path: Path) -> None:
    rows = [affine_row(size, batch=128, link="100G per rail, 2 rails") for size in SIZES]
    for row in rows:
        row["time_us"], row["bw_GBps"] = 6 + 128 * int(row["msg_bytes"]) / 24e3, ""
    good, bad = read_rows(write_table(tmp_path / "rows.csv", rows))
    assert (len(good), bad) == (len(SIZES), [])
    # A slip is still one: the same rows, with bits for bytes.
    for row in rows:
        row["time_us"] = float(row["time_us"]) / 8
    good, bad = read_rows(write_table(tmp_path / "slips.csv", rows))
    assert "is more than the link's line rate, 25 GB/s" in bad[-1].reason


def test_a_serving_table_is_fitted_on_its_totals(folder: Path, bufferlab: Any) -> None:
    totals = [1 << power for power in range(20, 30)]
    lines = [f"serving,{total},{200 + total / 20e3}" for total in totals]
    Path("serving.csv").write_text("\n".join(["table,total_bytes,time_us", *lines]), encoding="utf-8")
    (table,) = report(bufferlab, "serving.csv")["tables"]
    assert (table["on_totals"], table["fitted_rows"]) == (True, len(totals))
    assert table["parameters"]["latency_s"]["value"] == pytest.approx(200e-6, rel=1e-3)
    assert table["parameters"]["bandwidth_Bps"]["value"] == pytest.approx(20e9, rel=1e-3)
    assert "fitted on total_bytes, as transfers of one segment" in bufferlab("calibrate", "serving.csv").out
    report(bufferlab, "serving.csv", "--out", "link.toml")
    assert load_profile("link.toml").bandwidth_Bps == pytest.approx(20e9, rel=1e-3)
    # An empty column says no more than a missing one; where threads are known they share the total.
    lines = [f"serving,,,4,{total},{200 + total / 20e3}" for total in totals]
    Path("empty.csv").write_text("\n".join(["table,msg_bytes,batch,threads,total_bytes,time_us", *lines]))
    rows, left_out = read_rows(Path("empty.csv"))
    assert [(row.msg_bytes, row.batch, row.threads) for row in rows] == [(total // 4, 1, 4) for total in totals]
    assert not left_out
    # In a table of segments a row without a size lacks a number.
    Path("mixed.csv").write_text(
        "table,msg_bytes,batch,threads,total_bytes,time_us\nmine,,1,1,4096,3\nmine,8192,1,1,8192,5\n"
    )
    assert read_rows(Path("mixed.csv"))[1][0].reason == "msg_bytes is empty"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"msg_bytes": "4 KiB"}, "msg_bytes is '4 KiB', it must be a number without a unit"),
        ({"msg_bytes": ""}, "msg_bytes is empty"),
        ({"batch": "1.5"}, "batch is 1.5, it must be a whole number"),
        ({"threads": "-1"}, "threads is -1, it must be finite and more than 0"),
        ({"time_us": "nan"}, "time_us is nan, it must be finite"),
        ({"time_us": "0"}, "time_us is 0, it must be finite and more than 0"),
        ({"bw_GBps": "0"}, "bw_GBps is 0, it must be finite and more than 0"),
        ({"time_us": "", "bw_GBps": ""}, "neither time_us nor bw_GBps is given"),
        (
            {"total_bytes": 4096 / 1.024},
            "total_bytes is 0.97656 times msg_bytes × batch × threads: KB and KiB are mixed",
        ),
        ({"total_bytes": 4096 * 1.024**2}, "MB and MiB are mixed"),
        ({"bw_GBps": 8 * 4096 / 6.08192 / 1e3}, "bw_GBps is 8 times bytes over time_us: bits and bytes are mixed"),
        ({"time_us": 6.08192e-3}, "a unit is off by 1000"),
        ({"time_us": 0.05, "bw_GBps": 81.92}, "81.92 GB/s is more than the link's line rate, 50 GB/s"),
        ({"table": ""}, "table is empty"),
    ],
)
def test_a_bad_row_is_named_and_left_out(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    rows = [affine_row(size) for size in (1024, 2048, 4096, 8192)]
    path = write_table(tmp_path / "rows.csv", [*rows[:2], {**rows[2], **change}, rows[3]])
    good, (bad,) = read_rows(path)
    assert [row.msg_bytes for row in good] == [1024, 2048, 8192]
    assert (bad.file, bad.row) == ("rows.csv", 4)  # the heading is line 1
    assert reason in bad.reason


def test_published_digits_are_good_enough(tmp_path: Path) -> None:
    # 2048 bytes in 120.65 us, published as 0.02 GB/s.
    path = write_table(tmp_path / "rows.csv", [affine_row(8, batch=256, time_us="120.65", bw_GBps="0.02")])
    (row,), bad = read_rows(path)
    assert not bad
    assert row.rounding == pytest.approx(0.005 / 120.65)


# --- the command ---

Command = Callable[..., Any]


def report(bufferlab: Command, *arguments: object) -> dict[str, Any]:
    ended = bufferlab("calibrate", *arguments, "--json")
    assert ended.status == 0, ended.err
    found: dict[str, Any] = json.loads(ended.out)
    return found


def test_held_out_rows_are_predicted_and_not_looked_at(folder: Path, bufferlab: Command) -> None:
    rows = [affine_row(size) for size in SIZES]
    first = report(bufferlab, write_table(folder / "rows.csv", rows), "--holdout", "odd")
    (table,) = first["tables"]
    assert table["name"] == "mine"
    assert table["form"] == "affine"
    assert (table["fitted_rows"], table["judged_rows"]) == (9, 9)
    assert table["mean_error"] < 1e-4
    slow = [
        {**row, "time_us": float(row["time_us"]) * 2, "bw_GBps": float(row["bw_GBps"]) / 2} if number % 2 else row
        for number, row in enumerate(rows)
    ]
    (other,) = report(bufferlab, write_table(folder / "slow.csv", slow), "--holdout", "odd")["tables"]
    assert other["mean_error"] == pytest.approx(0.5, abs=1e-3)
    for same in ("form", "parameters", "covariance", "cross_validated_error", "tried"):
        assert other[same] == table[same]
    (even,) = report(bufferlab, folder / "slow.csv", "--holdout", "even")["tables"]
    assert even["parameters"]["bandwidth_Bps"]["value"] == pytest.approx(25e9, rel=1e-3)


def test_a_table_that_mixes_systems_and_operations_is_taken_apart(folder: Path, bufferlab: Command) -> None:
    rows = [
        affine_row(size, system=f"bench on {system}", op=op)
        for size in SIZES
        for system in ("one host", "another host")
        for op in ("write", "read")
    ]
    found = report(bufferlab, write_table(folder / "rows.csv", rows))
    names = [table["name"] for table in found["tables"]]
    assert names == [
        "mine [one host, write]", "mine [one host, read]", "mine [another host, write]", "mine [another host, read]",
    ]  # fmt: skip
    assert all(table["fitted_rows"] == len(SIZES) for table in found["tables"])


def test_the_same_seed_gives_the_same_bytes(folder: Path, bufferlab: Command) -> None:
    rows = [affine_row(size) for size in SIZES]
    for number, row in enumerate(rows):
        row["time_us"] = float(row["time_us"]) * (1.01 if number % 3 else 0.99)
        row["bw_GBps"] = ""
    path = write_table(folder / "rows.csv", rows)
    outputs = [bufferlab("calibrate", path, "--json", "--seed", seed).out for seed in (1, 1, 2)]
    assert outputs[0] == outputs[1]
    tables = [json.loads(output)["tables"][0] for output in outputs]
    assert tables[0]["mean_error"] == tables[2]["mean_error"]


def test_left_out_rows_are_in_the_report_and_in_the_text(folder: Path, bufferlab: Command) -> None:
    rows = [affine_row(size) for size in SIZES]
    rows[4]["time_us"] = "fast"
    path = write_table(folder / "rows.csv", rows)
    found = report(bufferlab, path)
    assert found["left_out"] == [
        {
            "file": "rows.csv",
            "row": 6,
            "table": "mine",
            "reason": "time_us is 'fast', it must be a number without a unit",
            "done": "left out",
        }
    ]
    assert found["tables"][0]["left_out"][0]["row"] == 6
    assert "left out: rows.csv row 6 (mine): time_us is 'fast'" in bufferlab("calibrate", path).out


def test_a_table_too_small_for_any_law_is_named(folder: Path, bufferlab: Command) -> None:
    rows = [*(affine_row(size) for size in SIZES), affine_row(1024, table="lonely")]
    found = report(bufferlab, write_table(folder / "rows.csv", rows), "--holdout", "odd")
    assert [one["name"] for one in found["not_fitted"]] == ["lonely"]


def test_a_sample_measured_twice_shows_how_well_anything_could_be_predicted(folder: Path, bufferlab: Command) -> None:
    rows = [affine_row(size) for size in SIZES]
    again = affine_row(SIZES[3], table="later")
    again["time_us"] = float(again["time_us"]) * 1.1
    again["bw_GBps"] = ""
    found = report(bufferlab, write_table(folder / "rows.csv", [*rows, again]))
    (repeat,) = found["repeats"]
    assert repeat["spread"] == pytest.approx(0.1, rel=1e-3)


# --- profiles ---


def test_a_profile_says_what_the_rows_say_and_the_simulator_takes_it(folder: Path, bufferlab: Command) -> None:
    rows = [affine_row(size, batch=batch) for size in SIZES for batch in (1, 4)]
    path = write_table(folder / "rows.csv", rows)
    found = report(bufferlab, path, "--out", "link.toml", "--base", "cx7-400g")
    profile = load_profile("link.toml")
    for row in rows:
        predicted_s = profile.write_s(row["total_bytes"], row["batch"])
        assert predicted_s == pytest.approx(1e-6 * float(row["time_us"]), rel=1e-4)
    assert profile.shared_by == "rank"
    assert found["profile"]["assumed"] == [
        *("control_latency_s", "copy_bandwidth_Bps", "copy_latency_s", "first_contact_s", "submit_latency_s"),
        *("wakeup_s", "shared_by"),
    ]
    text = Path("link.toml").read_text(encoding="utf-8")
    for part in ("[calibration]", "[calibration.parameters.latency_s]", "[calibration.covariance]", "date = "):
        assert part in text
    assert bufferlab("sim", "seed-small", "--set", "link.profile=link.toml", "--no-plots").status == 0


def test_one_law_for_a_sweep_of_sizes_and_one_of_batches(folder: Path, bufferlab: Command) -> None:
    link = {"latency_s": 6e-6, "per_segment_s": 1.75e-7, "per_queue_s": 4e-7, "queues": 8.0, "bandwidth_Bps": 49e9}
    shapes = [("sizes", size, 128) for size in SIZES] + [("batches", 32768, 2**power) for power in range(8)]
    rows = []
    for table, size, batch in shapes:
        samples = grid((size,), (batch,))
        time_us = 1e6 * float(seconds(form("queues and segments", 8), link, samples)[0])
        rows.append(affine_row(size, batch=batch, table=table, time_us=f"{time_us:.4f}", bw_GBps=""))
    path = write_table(folder / "rows.csv", rows)
    joint = report(bufferlab, path, "--holdout", "odd", "--out", "link.toml")["joint"]
    assert joint["form"] == "8 queues and segments"
    assert joint["held_out"]["max_error"] < 0.001
    profile = load_profile("link.toml")
    assert profile.queues == 8
    assert profile.per_queue_s == pytest.approx(4e-7, rel=0.01)
    alone = report(bufferlab, path, "--table", "sizes", "--predict", "batches")
    (prediction,) = alone["predictions"]
    assert prediction["untold"] == ["batch"]  # 128 segments in every row: what one costs is in the latency
    assert prediction["max_error"] > 1


def test_bench_link_output_gives_the_first_contact(folder: Path, bufferlab: Command) -> None:
    rows = [{**affine_row(size), "quantity": "time of whole batch (median)", "link": "tcp"} for size in SIZES]
    Path("bench").mkdir()
    busy = {"processors": 2, "lasts_s": 8.0, "others": 0.43, "stolen": 0.0, "too_busy": True}
    content = {"rows": rows, "first_contact_us": 2500.0, "busy": busy}
    Path("bench/link.json").write_text(json.dumps(content), encoding="utf-8")
    assert "THIS HOST IS TOO BUSY TO BE MEASURED: other programs took 43%" in bufferlab("calibrate", "bench").out
    found = report(bufferlab, "bench", "--out", "link.toml")
    assert found["busy"] == busy
    assert freeze(Path("link.toml")).busy == Busy(2, 8.0, 0.43, 0.0)
    assert load_profile("link.toml").first_contact_s == pytest.approx(2.5e-3)
    assert "first_contact_s" not in found["profile"]["assumed"]


def test_rows_that_no_profile_can_say_get_none(folder: Path, bufferlab: Command) -> None:
    times = stream(5, 0, "test", "noise").uniform(1, 1000, len(SIZES))
    rows = [affine_row(size, time_us=time, bw_GBps="", link="") for size, time in zip(SIZES, times, strict=True)]
    path = write_table(folder / "rows.csv", rows)
    ended = bufferlab("calibrate", path, "--out", "link.toml")
    assert ended.status == 1
    assert "no single law that the simulator knows describes all that is fitted" in ended.err
    assert "measure the link with bufferlab bench-link --out runs/bench-link, and give the folder" in ended.err
    # What was found is told all the same.
    assert "cross-validated" in ended.out
    assert "one law for mine" in ended.out
    assert not Path("link.toml").exists()
    ended = bufferlab("calibrate", path, "--out", "link.toml", "--json")
    told = json.loads(ended.out)
    assert (ended.status, told["tables"][0]["name"]) == (1, "mine")
    assert told["no_profile"] in ended.err


def test_measurements_of_a_busy_host_that_follow_no_law_are_told_to_be_of_a_busy_host(
    folder: Path, bufferlab: Command
) -> None:
    times = stream(5, 0, "test", "noise").uniform(1, 1000, len(SIZES))
    rows = [
        {**affine_row(size), "time_us": time, "quantity": "time of whole batch (median)", "link": "tcp"}
        for size, time in zip(SIZES, times, strict=True)
    ]
    busy = {"processors": 2, "lasts_s": 8.0, "others": 0.7, "stolen": 0.1}
    Path("link.json").write_text(json.dumps({"rows": rows, "busy": busy}), encoding="utf-8")
    ended = bufferlab("calibrate", "link.json", "--out", "link.toml")
    assert ended.status == 1
    assert "other programs took 70% and the host of this virtual machine took 10% of the time of" in ended.err
    assert "measure again when it is idle" in ended.err
    assert "bench-link" not in ended.err


def test_two_links_that_no_law_joins_are_named(folder: Path, bufferlab: Command) -> None:
    def timed(table: str, latency_us: float, bandwidth: float) -> list[dict[str, Any]]:
        times = {size: latency_us + size / bandwidth * 1e6 for size in SIZES}
        return [
            affine_row(size, table=table, link="", bw_GBps="", time_us=time) for size, time in times.items()
        ]  # fmt: skip

    path = write_table(folder / "rows.csv", [*timed("near", 5, 50e9), *timed("far", 5000, 1e9)])
    ended = bufferlab("calibrate", path, "--out", "link.toml")
    assert ended.status == 1
    assert "fit only tables of one link with --table (alone it goes for near, far), or measure the link" in ended.err
    assert all(f"{name}: " in ended.out for name in ("near", "far"))
    assert bufferlab("calibrate", path, "--table", "near", "--out", "link.toml").status == 0


GOOD = [affine_row(size) for size in SIZES]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["none.csv"], "'none.csv' cannot be read as CSV"),
        (["empty.csv"], "'empty.csv' has no rows"),
        (["unitless.csv"], "has no column time_us or bw_GBps (time has no unit in its name)"),
        (["short.csv"], "has no column threads"),
        (["bad.csv"], "no row can be used: bad.csv row 2, time_us is 'x'"),
        (["one.csv"], "no table has enough rows to fit and to hold out: mine"),
        (["."], "MEASUREMENTS has '.', it must be a CSV file, bench-link output or a run directory"),
        (["broken.json"], "'broken.json' cannot be read as JSON"),
        (["good.csv", "--holdout", "third"], "--holdout is 'third', it must be one of odd, even, none"),
        (["good.csv", "--seed", "-1"], "--seed is -1, it must be at least 0"),
        (["good.csv", "--table", "mien"], "--table is 'mien', it must be one of mine (did you mean mine?)"),
        (["good.csv", "--out", "link.csv"], "--out is 'link.csv', it must be a .toml file that does not exist yet"),
        (["good.csv", "--out", "there.toml"], "--out is 'there.toml', it must be a .toml file that does not exist yet"),
        (["good.csv", "--out", "no/link.toml"], "--out is 'no/link.toml', it must be in a folder that can be written"),
        (["good.csv", "--base", "cx8", "--out", "link.toml"], "--base is 'cx8': unknown link profile 'cx8'"),
    ],
)
def test_bad_input_gets_one_sentence(
    folder: Path, bufferlab: Command, arguments: list[str], sentence: str
) -> None:  # fmt: skip
    write_table(folder / "good.csv", GOOD)
    write_table(folder / "bad.csv", [{**GOOD[0], "time_us": "x"}])
    write_table(folder / "one.csv", GOOD[:1])
    write_table(folder / "empty.csv", [])
    Path("unitless.csv").write_text("table,msg_bytes,batch,threads,time\nmine,1,1,1,1\n", encoding="utf-8")
    Path("short.csv").write_text("table,msg_bytes,batch,time_us\nmine,1,1,1\n", encoding="utf-8")
    Path("broken.json").write_text("{", encoding="utf-8")
    Path("there.toml").write_text("", encoding="utf-8")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    ended = bufferlab("calibrate", *arguments)
    assert ended.status == 2
    assert sentence in ended.err
    assert ended.err.count("\n") == 1
    assert not ended.out
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_infinite_is_not_in_the_json(folder: Path, bufferlab: Command) -> None:
    # Every batch takes the same time: bytes cost nothing.
    rows = [affine_row(size, time_us=10, bw_GBps="", link="") for size in SIZES]
    (table,) = report(bufferlab, write_table(folder / "rows.csv", rows))["tables"]
    assert table["max_error"] < 1e-6
    assert table["parameters"]["bandwidth_Bps"]["value"] is None
    assert math.isfinite(table["parameters"]["latency_s"]["value"])


SERVED = "table,msg_bytes,batch,threads,time_us{}\n" + "".join(
    f"t,{4096 * 4**place},1,1,{20 + 4**place}{{}}\n" for place in range(7)
)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (SERVED.format("", ",4", *[""] * 6), "line 2 has 6 fields, its header has 5: table, msg_bytes"),
        (SERVED.format("", "", "", ",9", *[""] * 4), "line 4 has 6 fields, its header has 5"),
        (SERVED.format(",time_us", *[",1"] * 7), "has the column time_us 2 times, it must have it once"),
    ],
)
def test_fields_that_belong_to_no_column_are_refused(bufferlab: Command, text: str, sentence: str) -> None:
    Path("rows.csv").write_text(text, encoding="utf-8")
    made = bufferlab("calibrate", "rows.csv", "--out", "link.toml")
    assert (made.status, Path("link.toml").exists()) == (2, False)
    assert sentence in made.err


def test_columns_that_nothing_is_read_from_are_named(bufferlab: Command) -> None:
    Path("rows.csv").write_text(SERVED.format(",nic", *[",mlx5"] * 7), encoding="utf-8")
    assert "columns of rows.csv not used: nic" in bufferlab("calibrate", "rows.csv").out
    assert report(bufferlab, "rows.csv")["columns_not_used"] == {"rows.csv": ["nic"]}
    Path("empty.csv").write_text(SERVED.format(",", *[","] * 7), encoding="utf-8")
    assert report(bufferlab, "empty.csv")["columns_not_used"] == {}
