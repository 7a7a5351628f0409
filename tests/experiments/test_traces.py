"""Workload files: what is read, what is refused, and what becomes of it."""

import gzip
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bufferlab.experiments.errors import UserError
from bufferlab.experiments.workloads.loading import load
from bufferlab.experiments.workloads.readers import find_reader, read_lengths, read_trace
from bufferlab.experiments.workloads.readers.ticks import spread_ticks
from bufferlab.experiments.workloads.readers.writing import write_trace
from bufferlab.experiments.workloads.requests import (
    check_requests,
    count_requests,
    is_random,
    make_columns,
    make_requests,
)
from bufferlab.sim.workload import Columns, generate_blocks, joined, load_mix

DATA = Path(__file__).parents[2].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the public traces are not beside the repository")


def written(folder: Path, text: str, name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def rows(columns: Columns) -> list[tuple[Any, ...]]:
    """Arrival, total, text, images, hint and client of every row."""
    names = [columns.clients[client] for client in columns.client.tolist()]
    return list(
        zip(
            columns.arrival_s.tolist(), columns.total_tokens.tolist(), columns.text_tokens.tolist(),
            columns.images.tolist(), columns.image_tokens_hint.tolist(), names, strict=True,
        )
    )  # fmt: skip


def test_a_table_with_all_columns(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "arrival_s,total_tokens,text_tokens,images,image_squares,encode_factor,prefill_factor,client\n"
        "2.5,700,100,2,180000,1.5,0.5,b\n1,500,20,1,230400,1,1,\n",
    )
    columns = read_trace(path)
    assert rows(columns) == [(1.0, 500, 20, 1, 0, ""), (2.5, 700, 100, 2, 0, "b")]
    assert columns.image_squares.tolist() == [230_400, 180_000]
    assert columns.encode_factor.tolist() == [1.0, 1.5]
    assert columns.prefill_factor.tolist() == [1.0, 0.5]


def test_the_other_names_for_time_and_length(tmp_path: Path) -> None:
    path = written(tmp_path, "timestamp_s, text_tokens, image_tokens\n1000, 10, 90\n1003, 5, 0\n")
    assert rows(read_trace(path)) == [(0.0, 100, 10, 0, 0, ""), (3.0, 5, 5, 0, 0, "")]


def test_parquet_and_compressed_files(tmp_path: Path) -> None:
    pd.DataFrame({"arrival_s": [0.0, 0.5], "total_tokens": [3, 4]}).to_parquet(tmp_path / "t.parquet")
    assert read_trace(tmp_path / "t.parquet").total_tokens.tolist() == [3, 4]
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"arrival_s,total_tokens\n0,5\n"))
    assert read_trace(tmp_path / "t.csv.gz").total_tokens.tolist() == [5]
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress(b'{"timestamp": 3000, "input_length": 7}\n'))
    assert read_trace(tmp_path / "t.jsonl.gz").total_tokens.tolist() == [7]


def test_public_formats(tmp_path: Path) -> None:
    azure = written(
        tmp_path,
        "TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n"
        "2024-10-15T12:00:00.269Z,1,1408,77\n2024-10-15 12:00:02.769000,0,776,141\n",
    )
    # Where there are images nobody says how much is text; where there are none all of it is.
    assert rows(read_trace(azure)) == [(0.0, 1408, 0, 1, 0, ""), (2.5, 776, 776, 0, 0, "")]
    text = written(
        tmp_path, "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n", "two.csv"
    )
    assert rows(read_trace(text)) == [(0.0, 4808, 4808, 0, 0, "")]
    mooncake = written(
        tmp_path,
        '{"timestamp": 3000, "input_length": 6955, "output_length": 52, "hash_ids": [1, 2]}\n'
        '{"timestamp": 4500, "input_length": 20, "output_length": 1, "hash_ids": [3]}\n',
        "conversation.jsonl",
    )
    assert rows(read_trace(mooncake)) == [(0.0, 6955, 6955, 0, 0, ""), (1.5, 20, 20, 0, 0, "")]


# --- coarse clocks ---


def test_requests_within_a_tick_are_spread(tmp_path: Path) -> None:
    lines = [f'{{"timestamp": {stamp}, "input_length": 5}}' for stamp in (0, 0, 0, 3000, 3000, 6000, 60000, 60000)]
    path = written(tmp_path, "\n".join(lines), "coarse.jsonl")
    # The last tick before a pause lasts as long as the others.
    assert read_trace(path).arrival_s.tolist() == [0.0, 1.0, 2.0, 3.0, 4.5, 6.0, 60.0, 61.5]
    assert read_trace(path, {"ticks": "kept"}).arrival_s.tolist() == [0, 0, 0, 3, 3, 6, 60, 60]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60))
def test_spreading_keeps_every_request_in_its_tick(ticks: list[int]) -> None:
    times = np.asarray(ticks, dtype=float)
    spread = spread_ticks(times)
    assert (spread >= times).all()
    assert (np.floor(spread + 1e-9) == times)[np.isin(times + 1, times)].all()
    # Nobody overtakes anybody of an earlier tick, and equal times stay in the order of the file.
    order = np.argsort(times, kind="stable")
    assert (np.diff(spread[order]) >= 0).all()
    shared = sum(ticks.count(tick) > 1 for tick in ticks)
    if shared <= len(ticks) / 2:
        assert (spread == times).all()


# --- distributions ---


def test_a_distribution_is_drawn_with_the_configurations_arrivals(tmp_path: Path) -> None:
    path = written(tmp_path, "value,cdf_low,cdf_high\n100,0.0,0.5\n1000,0.5,0.5\n10000,1.0,1.0\n", "lengths.csv")
    assert find_reader(path).gives == "lengths"
    config = load(
        "seed-small", [f"workload.file={path}", "workload.rate_rps=4", "workload.cv=0", "workload.requests=4000"]
    )
    check_requests(config, "sim")
    columns = joined(make_columns(config, 0))
    assert columns.arrival_s.tolist() == [(number + 1) / 4 for number in range(4000)]
    # A step of a half at 100, nothing up to 1000, then evenly in the logarithm.
    assert (columns.total_tokens == 100).mean() == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(4000))
    assert not ((columns.total_tokens > 101) & (columns.total_tokens < 999)).any()
    assert (columns.total_tokens > 3162).mean() == pytest.approx(0.25, abs=4 * 0.433 / math.sqrt(4000))
    assert (columns.images == 1).all()
    text = load("seed-small", [f"workload.file={path}", "workload.rate_rps=4", "workload.options.content=text"])
    assert all(
        request.images == 0 and request.text_tokens == request.total_tokens for request in make_requests(text, 0)
    )
    assert count_requests(text) == 1000
    assert is_random(text)
    percent = written(tmp_path, "tokens,cdf_percent_low,cdf_percent_high\n5,0,100\n", "percent.csv")
    assert set(read_lengths(percent).kinds[0].total.values) == {5.0}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("value,cdf_low,cdf_high\n", "must have at least one row"),
        ("value,cdf_low,cdf_high\n5,0,1.5\n", "line 2: cdf_high is 1.5, it must be a number from 0 to 1"),
        ("value,cdf_low,cdf_high\n5,-1,1\n", "line 2: cdf_low is -1, it must be a number from 0 to 1"),
        ("value,cdf_low,cdf_high\n-5,0,1\n", "line 2: value is -5, it must be a number from 0 to 1e.08"),
        (
            "tokens,cdf_percent_low,cdf_percent_high\n5,0,x\n",
            "line 2: cdf_percent_high is x, it must be a number from 0",
        ),
    ],
)
def test_what_is_wrong_with_a_distribution(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        read_lengths(written(tmp_path, text))


def test_a_distribution_needs_a_rate_and_a_trace_needs_no_arrivals(tmp_path: Path) -> None:
    lengths = written(tmp_path, "value,cdf_low,cdf_high\n5,0,1\n", "lengths.csv")
    with pytest.raises(UserError, match=r"^workload.rate_rps is missing, it must be given for a file of lengths"):
        check_requests(load("seed-small", [f"workload.file={lengths}"]), "sim")
    trace = written(tmp_path, "arrival_s,total_tokens\n0,5\n")
    for setting, told in (
        ("cv=2", "cv is 2.0"), ("order=alternating", "order is 'alternating'"), ("hint=none", "hint is 'none'"),
        ("repeat_probability=0.5", "repeat_probability is 0.5"), ("rate_log_sd=0.1", "rate_log_sd is 0.1"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=f"^workload.{told}, it is not allowed beside a file that has requests"):
            check_requests(load("seed-small", [f"workload.file={trace}", f"workload.{setting}"]), "sim")
    with pytest.raises(
        UserError,
        match=r"^workload.options.draw is not an option of this file \(a table\), which has time_unit, columns, content",
    ):
        check_requests(load("seed-small", [f"workload.file={trace}", "workload.options.draw=independent"]), "sim")


# --- writing ---


@given(seed=st.integers(0, 1000), name=st.sampled_from(["mixed", "servegen-like"]))
@settings(max_examples=8, deadline=None)
def test_what_is_written_is_read_again(tmp_path_factory: pytest.TempPathFactory, seed: int, name: str) -> None:
    folder = tmp_path_factory.mktemp("written")
    columns = joined(generate_blocks(load_mix(name), rate_rps=3.0, requests=40, seed=seed))
    for suffix in ("csv", "csv.gz", "parquet"):
        path = folder / f"t.{suffix}"
        write_trace(columns, path)
        again = read_trace(path)
        assert rows(again) == rows(columns)
        for column in ("image_squares", "encode_factor", "prefill_factor"):
            assert np.array_equal(getattr(again, column), getattr(columns, column))
        before = path.read_bytes()
        write_trace(columns, path)
        assert path.read_bytes() == before
    assert len(list(folder.iterdir())) == 3


def test_a_table_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    columns = joined(generate_blocks(load_mix("mixed"), rate_rps=3.0, requests=4, seed=1))
    with pytest.raises(UserError, match=r"--out is '.*t.xlsx', its name must end in .csv, .csv.gz or .parquet"):
        write_trace(columns, tmp_path / "t.xlsx")
    with pytest.raises(UserError, match=r"--out is '.*t.csv', which cannot be written: No such file or directory"):
        write_trace(columns, tmp_path / "no" / "t.csv")
    assert list(tmp_path.iterdir()) == []


# --- what is wrong ---


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("when,total_tokens\n1,2\n", r"lacks the column arrival_s \(or timestamp_s, timestamp, …\); its columns are when"),
        ("arrival_s,text_tokens\n1,2\n", r"lacks the column image_tokens \(beside text_tokens; or total_tokens in place of both\)"),
        ("arrival_s,total_tokens\n", "must have at least one row"),
        ("", "cannot be read as csv"),
        ("arrival_s,total_tokens\n0,5\n1,nan\n", "line 3: total_tokens is nan, it must be a whole number from 1 to"),
        ("arrival_s,total_tokens\n0,-5\n", "line 2: total_tokens is -5, it must be a whole number from 1"),
        ("arrival_s,total_tokens\n0,0\n", "line 2: total_tokens is 0, it must be a whole number from 1"),
        ("arrival_s,total_tokens\n0,2.5\n", "line 2: total_tokens is 2.5, it must be a whole number"),
        ("arrival_s,total_tokens\n0,1e300\n", "line 2: total_tokens is 1e300, it must be a whole number"),
        ("arrival_s,total_tokens\n0,lots\n", "line 2: total_tokens is lots, it must be a whole number"),
        ("arrival_s,total_tokens\n-1,5\n", "line 2: arrival_s is -1, it must be a number of at least 0"),
        ("arrival_s,total_tokens\ninf,5\n", "line 2: arrival_s is inf, it must be a number of at least 0"),
        ("timestamp_s,total_tokens\n,5\n", "line 2: timestamp_s is empty, it must be a time"),
        ("arrival_s,text_tokens,image_tokens\n0,4,-3\n", "line 2: image_tokens is -3, it must be a whole number from 0"),
        ("arrival_s,total_tokens,text_tokens\n0,5,6\n", "line 2: text_tokens is 6, it must be at most total_tokens, 5"),
        ("TIMESTAMP,ContextTokens\nyesterday,5\n", "line 2: TIMESTAMP is yesterday, it must be a date and time as ISO 8601"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        read_trace(written(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_missing_or_strange_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must be a file that can be read"):
        read_trace(tmp_path / "nothing.csv")
    with pytest.raises(UserError, match=r"must end in one of .csv, .csv.gz, .tsv, .tsv.gz, .parquet, .jsonl"):
        read_trace(written(tmp_path, "", "trace.xml"))
    with pytest.raises(UserError, match="cannot be read as parquet"):
        read_trace(written(tmp_path, "not parquet", "trace.parquet"))
    with pytest.raises(UserError, match="cannot be read as jsonl"):
        read_trace(written(tmp_path, "{not json}", "trace.jsonl"))
    with pytest.raises(UserError, match="cannot be read as csv"):
        (tmp_path / "broken.csv.gz").write_bytes(gzip.compress(b"arrival_s,total_tokens\n0,5\n" * 1000)[:-20])
        read_trace(tmp_path / "broken.csv.gz")


def test_a_file_read_anew_after_it_changed(tmp_path: Path) -> None:
    path = written(tmp_path, "arrival_s,total_tokens\n0,5\n")
    read_trace(path)
    pd.DataFrame({"arrival_s": [0], "total_tokens": [6]}).to_csv(path)
    assert read_trace(path).total_tokens.tolist() == [6]


# --- from rows to requests ---


def test_requests_of_a_file(tmp_path: Path) -> None:
    path = written(tmp_path, "arrival_s,total_tokens\n10,5\n11,6\n12,7\n")
    config = load("seed-small", [f"workload.file={path}", "language.instances=2"])
    check_requests(config, "sim")
    made = list(make_requests(config, 0))
    assert count_requests(config) == 3
    assert [(one.room, one.arrival_s, one.total_tokens) for one in made] == [(1, 10.0, 5), (2, 11.0, 6), (3, 12.0, 7)]
    assert [one.language_instance for one in made] == [0, 1, 0]


def test_a_rate_stretches_the_times_of_a_file(tmp_path: Path) -> None:
    path = written(tmp_path, "arrival_s,total_tokens\n10,5\n11,6\n12,7\n")
    config = load("seed-small", [f"workload.file={path}", "workload.rate_rps=4", "workload.requests=2"])
    assert [one.arrival_s for one in make_requests(config, 0)] == [0.0, 0.25]
    path.write_text("arrival_s,total_tokens\n1,5\n1,6\n")
    with pytest.raises(UserError, match="arrive all at once"):
        check_requests(config, "sim")


def test_more_requests_than_rows_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "arrival_s,total_tokens\n10,5\n")
    with pytest.raises(UserError, match=r"workload.requests is 2, it must be at most the 1 rows"):
        check_requests(load("seed-small", [f"workload.file={path}", "workload.requests=2"]), "sim")


def test_lengths_are_used_in_turn() -> None:
    config = load("seed-small", ["workload.lengths=[500, 600]", "workload.requests=3"])
    made = list(make_requests(config, 0))
    assert [(one.arrival_s, one.total_tokens, one.text_tokens) for one in made] == [
        (0, 500, 20),
        (0, 600, 20),
        (0, 500, 20),
    ]


def test_poisson_arrivals_differ_by_replication_and_seed_and_by_nothing_else() -> None:
    def arrivals(*settings: str, replication: int = 0) -> list[float]:
        config = load("seed-small", ["workload.rate_rps=10", "workload.requests=400", *settings])
        return [one.arrival_s for one in make_requests(config, replication)]

    assert arrivals() == arrivals("protocol.discipline=slot", "encode.instances=3", "protocol.sizing.tokens=128")
    assert arrivals() != arrivals(replication=1)
    assert arrivals() != arrivals("run.seed=2")
    assert arrivals() == sorted(arrivals())
    # 400 exponential gaps of mean 0.1 s: the standard error of the end is 2 s.
    assert arrivals()[-1] == pytest.approx(40, abs=8)


def test_requests_given_one_by_one_are_sorted(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "[[workload.request]]\ntotal_tokens = 7\narrival_s = '5ms'\nclient = 'a'\n"
        "[[workload.request]]\ntotal_tokens = 9\nimages = 1\n",
        "c.toml",
    )
    made = list(make_requests(load(str(path)), 0))
    assert [(one.room, one.arrival_s, one.total_tokens, one.client) for one in made] == [
        (1, 0.0, 9, ""),
        (2, 0.005, 7, "a"),
    ]


def test_a_fault_must_hit_a_request() -> None:
    with pytest.raises(UserError, match=r"faults.0.room is 2, it must be one of the requests 1 to 1"):
        check_requests(load("seed-failure", ["faults.0.room=2"]), "sim")


def test_equal_replications_are_refused_in_the_simulator_only() -> None:
    config = load("seed-small", ["run.replications=2"])
    with pytest.raises(UserError, match=r"run.replications is 2, it must be 1 for a workload without random draws"):
        check_requests(config, "sim")
    check_requests(config, "real")


# --- the public traces themselves ---


@needs_data
def test_azures_text_traces_as_published() -> None:
    # AzureLLMInferenceTrace 2023 (CC-BY 4.0): conversations 19,366 requests, mean 1,155, p99 4,142; code 8,819, 2,048.
    conversations = read_trace(DATA / "azure-llm-2023" / "AzureLLMInferenceTrace_conv.csv")
    assert len(conversations) == 19_366
    assert conversations.total_tokens.mean() == pytest.approx(1155, abs=1)
    assert np.quantile(conversations.total_tokens, 0.99) == pytest.approx(4142, abs=1)
    gaps = np.diff(conversations.arrival_s)
    assert gaps.std() / gaps.mean() == pytest.approx(1.09, abs=0.005)
    code = read_trace(DATA / "azure-llm-2023" / "AzureLLMInferenceTrace_code.csv")
    assert len(code) == 8819
    assert code.total_tokens.mean() == pytest.approx(2048, abs=1)
    gaps = np.diff(code.arrival_s)
    assert gaps.std() / gaps.mean() == pytest.approx(13.2, abs=0.05)
    assert (code.text_tokens == code.total_tokens).all()


@needs_data
def test_mooncakes_traces() -> None:
    coarse = DATA / "mooncake" / "conversation_trace.first3000.jsonl"
    # Nine in ten requests share their time stamp of 3 s with another; spread, next to nobody does.
    kept, spread = read_trace(coarse, {"ticks": "kept"}), read_trace(coarse)
    assert (np.diff(kept.arrival_s) == 0).mean() == pytest.approx(0.89, abs=0.01)
    assert (np.diff(spread.arrival_s) > 0).all()
    assert (np.abs(spread.arrival_s - kept.arrival_s) < 3.001).all()
    synthetic = read_trace(DATA / "mooncake" / "synthetic_trace.first2000.jsonl")
    gaps = np.diff(synthetic.arrival_s)
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=0.05)  # Poisson


@needs_data
@pytest.mark.parametrize(
    ("content", "quantiles", "above_8192"),
    [
        # Azure LMM 2025 (CC-BY 4.0), read from the published plots to half a point of probability.
        (
            "image",
            {0.1: 400, 0.25: 847, 0.5: 1408, 0.66: 2732, 0.75: 3977, 0.9: 9411, 0.95: 19_500, 0.97: 31_000},
            0.115,
        ),
        ("text", {0.1: 169, 0.25: 358, 0.5: 776, 0.75: 1440, 0.9: 3051, 0.95: 4065, 0.98: 6757}, 0.014),
    ],
)
def test_azures_digitised_distributions(content: str, quantiles: dict[float, float], above_8192: float) -> None:
    path = DATA / "azure-lmm" / f"azure_lmm_2024_context_tokens_cdf_{content}_requests.digitised.csv"
    mix = read_lengths(path)
    lengths = joined(generate_blocks(mix, rate_rps=1.0, requests=100_000, seed=1)).total_tokens
    for level, value in quantiles.items():
        # The line is half a point wide to either side, and quantiles of steps move within the step.
        low, high = np.quantile(lengths, [level - 0.008, level + 0.008])
        assert low * 0.98 <= value <= high * 1.02, (level, low, high, value)
    assert (lengths > 8192).mean() == pytest.approx(above_8192, abs=0.006)
    if content == "image":
        # Implied by the trace's mean of 2912 and the text requests' own.
        assert 4200 <= lengths.mean() <= 4600
