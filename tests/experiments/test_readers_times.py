"""Times of every form: what a table was written from is what is read, and what cannot be decided is asked."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bufferlab.experiments.errors import UserError
from bufferlab.experiments.workloads.readers import Reading, read_requests

EPOCH_US = 1_700_000_000_000_000
PER_US = {"s": 1_000_000, "ms": 1000, "us": 1}

counts = st.lists(st.integers(0, 3 * 10**9), min_size=2, max_size=12)
"""Arrivals in microseconds, up to fifty minutes."""


def stamps(us: list[int], unit: str) -> Any:
    return pa.array([EPOCH_US + one for one in us], pa.int64()).cast(pa.timestamp("us")).cast(pa.timestamp(unit))


def iso(one: int, end: str = "Z") -> str:
    return str(np.datetime64(EPOCH_US + one, "us")) + end


def whole(us: list[int], unit: str) -> list[int]:
    return [one * 1000 if unit == "ns" else one // PER_US[unit] for one in us]


# Each form: the name of the column, what is written, the resolution in microseconds, whether the origin is kept.
Form = tuple[str, Callable[[list[int]], Any], int, bool]
FORMS: dict[str, Form] = {
    "arrival_s, floats": ("arrival_s", lambda us: [one / 1e6 for one in us], 1, True),
    "arrival_s, texts": ("arrival_s", lambda us: [str(one / 1e6) for one in us], 1, True),
    "arrival_ms, whole": ("arrival_ms", lambda us: whole(us, "ms"), 1000, True),
    "arrival_us, whole": ("arrival_us", lambda us: us, 1, True),
    "arrival_ns, whole": ("arrival_ns", lambda us: whole(us, "ns"), 1, True),
    "timestamp_ms, floats": ("timestamp_ms", lambda us: [one / 1e3 for one in us], 1, False),
    "timestamp (µs)": ("timestamp (µs)", lambda us: us, 1, False),
    "since 1970, s": ("timestamp", lambda us: [(EPOCH_US + one) / 1e6 for one in us], 1, False),
    "since 1970, ms": ("timestamp", lambda us: whole([EPOCH_US + one for one in us], "ms"), 1000, False),
    "since 1970, us": ("time", lambda us: [EPOCH_US + one for one in us], 1, False),
    "since 1970, ns": ("ts", lambda us: [(EPOCH_US + one) * 1000 for one in us], 1, False),
    "since 1970, ns, texts": ("ts", lambda us: [str((EPOCH_US + one) * 1000) for one in us], 1, False),
    "ISO 8601": ("timestamp", lambda us: [iso(one) for one in us], 1, False),
    "ISO 8601 as logs write it": ("time", lambda us: [iso(one, "").replace("T", " ").replace(".", ",") + " UTC" for one in us], 1, False),
    "ISO 8601 without a zone": ("arrival_time", lambda us: [iso(one, "").replace("T", " ") for one in us], 1, False),
    "ISO 8601 in arrival_s": ("arrival_s", lambda us: [iso(one, "+02:00") for one in us], 1, False),
    "durations as pandas writes them": ("arrival_s", lambda us: [str(pd.Timedelta(one, "us")) for one in us], 1, True),
    "durations with units": ("arrival_s", lambda us: [f"{one}us" for one in us], 1, True),
    "hours, minutes, seconds": (
        "arrival_s", lambda us: [f"{one // 3_600_000_000:02}:{one // 60_000_000 % 60:02}:{one / 1e6 % 60:09.6f}" for one in us], 1, True,
    ),
}  # fmt: skip
TYPED: dict[str, Form] = {
    **{f"timestamp[{unit}]": ("timestamp", lambda us, unit=unit: stamps([one - one % PER_US.get(unit, 1) for one in us], unit), PER_US.get(unit, 1), False) for unit in ("s", "ms", "us", "ns")},
    "timestamp[us, tz]": ("arrival_s", lambda us: pa.array([EPOCH_US + one for one in us], pa.timestamp("us", "Europe/Berlin")), 1, False),
    **{f"duration[{unit}]": ("arrival_s", lambda us, unit=unit: pa.array(whole(us, unit), pa.duration(unit)), PER_US.get(unit, 1), True) for unit in ("s", "ms", "us", "ns")},
    "dictionary of texts": ("timestamp", lambda us: pa.array([iso(one) for one in us]).dictionary_encode(), 1, False),
    "uint64": ("timestamp_us", lambda us: pa.array(us, pa.uint64()), 1, False),
    "float32": ("arrival_s", lambda us: pa.array([one / 1e6 for one in us], pa.float32()), 300, True),
}  # fmt: skip


def write(path: Path, name: str, values: Any) -> None:
    tokens = list(range(1, len(values) + 1))
    if path.suffix == ".parquet":
        pq.write_table(pa.table({name: values, "text_tokens": tokens, "total_tokens": tokens}), path)
    elif path.suffix == ".csv":
        pd.DataFrame({name: values, "text_tokens": tokens, "total_tokens": tokens}).to_csv(path, index=False)
    else:
        rows = zip(values, tokens, strict=True)
        path.write_text("".join(json.dumps({name: one, "text_tokens": n, "total_tokens": n}) + "\n" for one, n in rows))


def check(path: Path, form: Form, us: list[int]) -> None:
    name, make, resolution, kept = form
    write(path, name, make(us))
    columns = read_requests(path).columns
    origin = 0 if kept else min(us)
    expected = np.empty(len(us))
    expected[columns.total_tokens - 1] = columns.arrival_s
    assert expected == pytest.approx([(one - origin) / 1e6 for one in us], abs=1.01e-6 * resolution)
    assert (np.diff(columns.arrival_s) >= 0).all()


@pytest.mark.parametrize("form", FORMS)
@given(us=counts, suffix=st.sampled_from(["csv", "jsonl", "parquet"]))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_table_written_from_known_arrivals_reads_as_these(
    tmp_path: Path, form: str, us: list[int], suffix: str
) -> None:
    us[0] = 0 if len(set(us)) == 1 else us[0]
    if max(us) - min(us) < 10:
        us = [*us, max(us) + 10**6]  # a million a second is refused
    if form == "hours, minutes, seconds":
        us = sorted(us)  # a time of day that goes far back is asked about
    check(tmp_path / f"t{len(list(tmp_path.iterdir()))}.{suffix}", FORMS[form], us)


@pytest.mark.parametrize("form", TYPED)
@given(us=counts)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_typed_columns_of_parquet_are_what_their_type_says(tmp_path: Path, form: str, us: list[int]) -> None:
    if max(us) - min(us) < 10**5:
        us = [*us, max(us) + 10**6]
    check(tmp_path / f"t{len(list(tmp_path.iterdir()))}.parquet", TYPED[form], us)


# --- what a unit is decided by ---


def lines(stamps: list[Any], **more: Any) -> str:
    return "".join(
        json.dumps({"timestamp": one, "input_length": 5, "output_length": 1, **more}) + "\n" for one in stamps
    )


def times(tmp_path: Path, text: str, name: str, **options: Any) -> list[float]:
    (tmp_path / name).write_text(text)
    return read_requests(tmp_path / name, options).columns.arrival_s.tolist()


def test_milliseconds_are_mooncakes_and_seconds_are_bailians(tmp_path: Path) -> None:
    stamps = [float(n) * 500 + 3_600_000 for n in range(4)]
    assert times(tmp_path, lines(stamps), "m.jsonl") == [0, 0.5, 1, 1.5]
    assert times(tmp_path, lines([0.25, 1.0, 1.5], chat_id=4, type="text"), "b.jsonl") == [0, 0.75, 1.25]
    # Fractions are no whole milliseconds, and as seconds the rate is a service's.
    (tmp_path / "f.jsonl").write_text(lines([n / 4 + 0.001 for n in range(40)]))
    read = read_requests(tmp_path / "f.jsonl")
    assert read.columns.arrival_s[-1] == pytest.approx(39 / 4)
    assert any("times read as seconds, because they have fractions" in note for note in read.notes)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        # Mooncake's form in seconds, microseconds and nanoseconds; since 1970 in seconds; fractions of milliseconds.
        (lines(list(range(50))), r"line 1: timestamp is 0, which would be 1e\+03 requests a second, but Mooncake's"),
        (lines([n * 10**6 for n in range(50)]), r"would be 0.001 requests a second"),
        (lines([n * 10**9 for n in range(50)]), r"would be 1e-06 requests a second"),
        (lines([1_700_000_000 + n * 60 for n in range(9)]), "of this century as seconds since 1970, but Mooncake's"),
        (lines([n * 500 + 0.25 for n in range(50)]), "timestamp is 0.25, which has a fraction, but Mooncake's times are"),
        # Bailian's form in milliseconds.
        (lines([n * 500 for n in range(50)], chat_id=1), r"would be 0.002 requests a second, but Bailian's times are seconds"),
        (lines([0, "x", 2]), "line 2: timestamp is x, it must be a number, as in the rows before"),
        (lines([0, None, 2]), "line 2: timestamp is empty, it must be a number, as in the rows before"),
        (lines([0, -3, 2]), "line 2: timestamp is -3, it must be a number of at least 0"),
        (lines([True, False]), "line 1: timestamp is True, it must be a date"),
    ],
)  # fmt: skip
def test_another_unit_than_documented_is_asked_for(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        times(tmp_path, text, "t.jsonl")
    if "which" in sentence or "would" in sentence:
        assert 'workload.options.time_unit = "s", "ms", "us" or "ns"' in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("timestamp,total_tokens\n0,5\n1000,5\n", r"line 2: timestamp is 0, and nothing says in which unit; say workload.options.time_unit = .* \(as s: 0.001 requests a second, as ms: 1 "),
        ("time,total_tokens\n0.5,5\n1.25,5\n", "nothing says in which unit"),
        ("arrival_s,total_tokens\n1700000000000,5\n1700000001000,5\n", "no time in seconds; they are of this century as milliseconds since 1970"),
        ("arrival_s,total_tokens\n0,5\n100000000,5\n", r"the times in arrival_s span 3.16 years, they must span at most a year; say workload.options.time_unit"),
        ("arrival_ns,total_tokens\n0,5\n1,5\n", r"are 1e\+09 requests a second, they must be at most 1e\+06; say workload"),
        ("timestamp,total_tokens\n2024-01-01T00:00:00Z,5\n2026-01-01T00:00:00Z,5\n", "span 2 years, they must span at most a year"),
        ("timestamp,total_tokens\n2024-01-01T00:00:00Z,5\nNaT,5\n", "line 3: timestamp is NaT, it must be a date"),
        ("timestamp,total_tokens\n15/10/2024 12:00,5\n", "line 2: timestamp is 15/10/2024 12:00, it must be a date .*; if it is a day and a month, write the year first"),
        ("timestamp,total_tokens\n2024-01-01 10:00:00,5\n17,5\n", "line 3: timestamp is 17, it must be a date"),
        ("time,total_tokens\n23:59:59,5\n00:00:01,5\n", "line 3: time is 00:00:01, it must be a time with its date, since these pass midnight"),
        ("arrival_s,total_tokens\n-1s,5\n1s,5\n", "line 2: arrival_s is -1s, it must be a time that is not negative"),
        ("arrival_s,total_tokens\nnan,5\n1,5\n", "line 2: arrival_s is nan, it must be a"),
        ("TIMESTAMP,ContextTokens\n1000,5\n1001,5\n", "line 2: TIMESTAMP is 1000, it must be a date and time, as in Azure's traces; if it is a number, say workload.options.time_unit"),
    ],
)  # fmt: skip
def test_what_is_no_time_of_a_service_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        times(tmp_path, text, "t.csv")
    assert "\n" not in str(caught.value)


def test_the_option_says_the_unit_of_any_numbers(tmp_path: Path) -> None:
    plain = "timestamp,total_tokens\n5000,5\n6500,5\n"
    assert times(tmp_path, plain, "a.csv", time_unit="ms") == [0, 1.5]
    assert times(tmp_path, plain, "a.csv", time_unit="s") == [0, 1500]
    assert times(tmp_path, plain, "a.csv", time_unit="us") == [0, 0.0015]
    assert times(tmp_path, "TIMESTAMP,ContextTokens\n1000,5\n1001,5\n", "z.csv", time_unit="s") == [0, 1]
    assert times(tmp_path, lines(list(range(50))), "m.jsonl", time_unit="s")[-1] == 49
    micro = "arrival_s,total_tokens\n1700000000000000,5\n1700000001000000,5\n"
    assert times(tmp_path, micro, "u.csv", time_unit="us") == [0, 1]
    with pytest.raises(
        UserError, match=r"time_unit is 'ms', which is only for times that are numbers; timestamp of d.csv"
    ):
        times(tmp_path, "timestamp,total_tokens\n2024-01-01 10:00:00,5\n", "d.csv", time_unit="ms")


def test_missing_moments_of_parquet_are_refused_by_their_row(tmp_path: Path) -> None:
    values = pa.array([EPOCH_US, None, EPOCH_US + 5], pa.timestamp("us"))
    pq.write_table(pa.table({"timestamp": values, "total_tokens": [1, 2, 3]}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match="row 2: timestamp is empty, it must be a time"):
        read_requests(tmp_path / "t.parquet")


def test_moments_in_the_index_of_a_pandas_table(tmp_path: Path) -> None:
    moments = pd.to_datetime([EPOCH_US, EPOCH_US + 250_000], unit="us")
    pd.DataFrame({"total_tokens": [5, 6]}, index=moments).to_parquet(tmp_path / "t.parquet")
    read = read_requests(tmp_path / "t.parquet")
    assert read.columns.arrival_s.tolist() == [0, 0.25]
    assert any("__index_level_0__ is arrival_s" in note for note in read.notes)


# --- what could be two things ---


def numbers(name: str, first: int, step: int, rows: int = 30) -> str:
    return f"{name},total_tokens\n" + "".join(f"{first + number * step},5\n" for number in range(rows))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        # Seconds since 1970 under a name that says milliseconds would come a thousand times too fast, …
        (numbers("timestamp_ms", 1_700_000_000, 1), "timestamp_ms is 1700000000, which is of this century as seconds since 1970, but its name says milliseconds"),
        (numbers("timestamp_us", 1_700_000_000_000, 1000), "timestamp_us is 1700000000000, which is of this century as milliseconds since 1970, but its name says microseconds"),
        # … and a clock that began with its host, read as one since 1970, a million times too slow.
        (numbers("timestamp", 1_000_000_000, 200_000), "timestamp is 1000000000, and nothing says in which unit"),
        (numbers("timestamp", 1_900_000_000_000, 200_000_000), "timestamp is 1900000000000, and nothing says in which unit"),
        ("timestamp,total_tokens\n2024-10-15T12:00:00+08:00,5\n2024-10-15T12:00:01,5\n", "line 3: timestamp is 2024-10-15T12:00:01, it must be a time with its zone"),
        ("timestamp,total_tokens\n2024-10-15 12:00:00,5\n2024-10-15 12:00:01.5-0500,5\n", "it must be a time without a zone, as in the rows before"),
    ],
)  # fmt: skip
def test_times_that_could_be_two_things_are_asked(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_requests(path)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        numbers("timestamp_us", 1_000_000_000, 1_000_000),  # a part of a trace
        numbers("arrival_ms", 1_700_000_000_000, 1000),
        numbers("timestamp", 1_700_000_000, 1),
        "timestamp,total_tokens\n" + "".join(f"2024-10-15 12:00:{one:02d}{'+00:00' * (one % 2)},5\n" for one in range(30)),
    ],
)  # fmt: skip
def test_times_that_could_be_one_thing_only_are_read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    assert read_requests(path).columns.arrival_s.tolist() == list(range(30))


def read(folder: Path, text: str, **options: Any) -> Reading:
    (folder / "t.csv").write_text(text)
    return read_requests(folder / "t.csv", options)


def clock(*seconds: float) -> str:
    return "time,total_tokens\n" + "".join(
        f"{int(one) // 3600 % 24:02d}:{int(one) // 60 % 60:02d}:{int(one) % 60:02d},5\n" for one in seconds
    )


NIGHT_S = 86_390.0


@pytest.mark.parametrize(
    ("seconds", "why"),
    [
        ([NIGHT_S + one for one in range(26)], "pass midnight"),
        ([NIGHT_S + one for one in range(26, 0, -1)], "pass midnight"),
        ([NIGHT_S + 7 * one % 26 for one in range(26)], "pass midnight"),
        ([32_400 + 1440 * (one % 20) for one in range(40)], "go back by 7.6 h"),
        ([32_400 + 60 * (one % 20) for one in range(40)], "go back by 1140 s"),
        ([32_400 - 60 * (one % 20) for one in range(40)], "go back by 1140 s"),
    ],
)
def test_clock_times_of_more_than_one_day_need_their_date(tmp_path: Path, seconds: list[float], why: str) -> None:
    with pytest.raises(UserError, match=f"it must be a time with its date, since these {why}"):
        read(tmp_path, clock(*seconds))


@pytest.mark.parametrize(
    "seconds",
    [
        [32_400.0 + 10 * one for one in range(40)],
        [32_400.0 + 10 * one for one in range(40, 0, -1)],
        [3_600.0, 7_200.0, 64_800.0, 68_400.0],
        [32_400.0 + 10 * one + 45 * (one % 3 == 0) for one in range(40)],
    ],
)
def test_clock_times_of_one_day_in_any_order_are_read(tmp_path: Path, seconds: list[float]) -> None:
    expected = [one - min(seconds) for one in sorted(seconds)]
    assert read(tmp_path, clock(*seconds)).columns.arrival_s.tolist() == expected


@pytest.mark.parametrize(
    "cells",
    [
        ["2024-05-10", "2024-05-10", "2024-05-11"],
        ["2024-05-10T09:00:00", "2024-05-10"],
        [f"2024-05-{10 + day} 00:00:00" for day in (0, 0, 1, 2)],
    ],
)
def test_days_without_a_time_are_no_times(tmp_path: Path, cells: list[str]) -> None:
    with pytest.raises(UserError, match=r"it must be a date with its time of day, such as 2024-10-15T12:00:00\.25Z"):
        read(tmp_path, "time,total_tokens\n" + "".join(f"{cell},5\n" for cell in cells))


def test_typed_days_are_no_times(tmp_path: Path) -> None:
    days = pa.array([19_800, 19_800, 19_801], pa.int32()).cast(pa.date32())
    pq.write_table(pa.table({"time": days, "total_tokens": [5, 5, 5]}), tmp_path / "days.parquet")
    with pytest.raises(UserError, match=r"row 1: time is 2024-03-18, it must be a date with its time of day"):
        read_requests(tmp_path / "days.parquet")


@pytest.mark.parametrize(("begin_s", "apart"), [(1.7e9, "128 s"), (1e6, "62.5 ms")])
def test_times_that_lost_their_digits_in_32_bits_are_refused(tmp_path: Path, begin_s: float, apart: str) -> None:
    times = pa.array([begin_s + one for one in (0, 200, 400)], pa.float32())
    pq.write_table(pa.table({"timestamp_s": times, "total_tokens": [5, 5, 5]}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=f"it must be a number of 64 bits: those of 32 are {apart} apart at this size"):
        read_requests(tmp_path / "t.parquet")


def test_coarse_times_of_a_table_are_said_and_spread_on_request(tmp_path: Path) -> None:
    text = "arrival_s,total_tokens\n" + "".join(f"{60 * (one // 3)},5\n" for one in range(12))
    kept = read(tmp_path, text)
    assert kept.columns.arrival_s.tolist() == [60.0 * (one // 3) for one in range(12)]
    assert any(note.startswith("12 requests share time stamps, 60 s apart, and come at once;") for note in kept.notes)
    spread = read(tmp_path, text, ticks="spread")
    assert spread.columns.arrival_s.tolist() == [20.0 * one for one in range(12)]
    chosen = read(tmp_path, text, ticks="kept")
    assert not any("share" in note for note in chosen.notes)


def test_times_of_two_parts_say_which_parts_they_are_taken_for(tmp_path: Path) -> None:
    reading = read(tmp_path, "arrival,total_tokens\n0:00,5\n1:01,5\n")
    assert reading.columns.arrival_s.tolist() == [0.0, 3660.0]
    assert any(note.startswith("times such as 0:00 in arrival read as hours and minutes;") for note in reading.notes)
    assert not any("minutes" in note for note in read(tmp_path, clock(0, 60)).notes)
