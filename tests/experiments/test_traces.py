from pathlib import Path

import pandas as pd
import pytest

from experiments.errors import UserError
from experiments.loading import load
from experiments.traces import TraceRow, read_trace
from experiments.workload import check_requests, count_requests, make_requests


def written(folder: Path, text: str, name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_table_with_all_columns(tmp_path: Path) -> None:
    path = written(tmp_path, "arrival_s,total_tokens,text_tokens,images,client\n2.5,700,100,2,b\n1,500,20,1,\n")
    assert read_trace(path) == [TraceRow(1.0, 500, 20, 1, 0, ""), TraceRow(2.5, 700, 100, 2, 0, "b")]


def test_the_other_names_for_time_and_length(tmp_path: Path) -> None:
    path = written(tmp_path, "timestamp_s, text_tokens, image_tokens\n1000, 10, 90\n1003, 5, 0\n")
    assert read_trace(path) == [TraceRow(0.0, 100, 10, 0, 0, ""), TraceRow(3.0, 5, 5, 0, 0, "")]


def test_parquet(tmp_path: Path) -> None:
    pd.DataFrame({"arrival_s": [0.0, 0.5], "total_tokens": [3, 4]}).to_parquet(tmp_path / "t.parquet")
    assert [row.total_tokens for row in read_trace(tmp_path / "t.parquet")] == [3, 4]


def test_public_formats(tmp_path: Path) -> None:
    azure = written(
        tmp_path,
        "TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n"
        "2024-10-15T12:00:00.269Z,1,1408,77\n2024-10-15 12:00:02.769000,0,776,141\n",
    )
    assert read_trace(azure) == [TraceRow(0.0, 1408, 0, 1, 0, ""), TraceRow(2.5, 776, 0, 0, 0, "")]
    mooncake = written(
        tmp_path,
        '{"timestamp": 3000, "input_length": 6955, "output_length": 52, "hash_ids": [1, 2]}\n'
        '{"timestamp": 4500, "input_length": 20, "output_length": 1, "hash_ids": [3]}\n',
        "conversation.jsonl",
    )
    assert read_trace(mooncake) == [TraceRow(0.0, 6955, 0, 0, 0, ""), TraceRow(1.5, 20, 0, 0, 0, "")]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("when,total_tokens\n1,2\n", r"lacks the column arrival_s \(or timestamp_s\); its columns are total_tokens"),
        ("arrival_s,text_tokens\n1,2\n", r"lacks the column total_tokens \(or text_tokens and image_tokens\)"),
        ("arrival_s,total_tokens\n", "must have at least one row"),
        ("", "cannot be read as csv"),
        ("arrival_s,total_tokens\n0,5\n1,nan\n", "row 2: total_tokens is nan, it must be a whole number from 1 to"),
        ("arrival_s,total_tokens\n0,-5\n", "row 1: total_tokens is -5, it must be a whole number from 1"),
        ("arrival_s,total_tokens\n0,0\n", "row 1: total_tokens is 0, it must be a whole number from 1"),
        ("arrival_s,total_tokens\n0,2.5\n", "row 1: total_tokens is 2.5, it must be a whole number"),
        ("arrival_s,total_tokens\n0,1e300\n", "row 1: total_tokens is 1e.300, it must be a whole number"),
        ("arrival_s,total_tokens\n0,lots\n", "row 1: total_tokens is lots, it must be a whole number"),
        ("arrival_s,total_tokens\n-1,5\n", "row 1: arrival_s is -1, it must be a number of at least 0"),
        ("arrival_s,total_tokens\ninf,5\n", "row 1: arrival_s is inf, it must be a number of at least 0"),
        ("timestamp_s,total_tokens\n,5\n", "row 1: timestamp_s is nan, it must be a number"),
        ("arrival_s,text_tokens,image_tokens\n0,4,-3\n", "row 1: image_tokens is -3, it must be a whole number from 0"),
        ("arrival_s,total_tokens,text_tokens\n0,5,6\n", "row 1: text_tokens is 6, it must be at most total_tokens, 5"),
        ("TIMESTAMP,ContextTokens\nyesterday,5\n", "TIMESTAMP must hold dates"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        read_trace(written(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_missing_or_strange_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must be a file that can be read"):
        read_trace(tmp_path / "nothing.csv")
    with pytest.raises(UserError, match=r"must end in one of .csv, .parquet, .jsonl"):
        read_trace(written(tmp_path, "", "trace.xml"))
    with pytest.raises(UserError, match="cannot be read as parquet"):
        read_trace(written(tmp_path, "not parquet", "trace.parquet"))
    with pytest.raises(UserError, match="cannot be read as jsonl"):
        read_trace(written(tmp_path, "{not json}", "trace.jsonl"))


def test_a_file_read_anew_after_it_changed(tmp_path: Path) -> None:
    path = written(tmp_path, "arrival_s,total_tokens\n0,5\n")
    read_trace(path)
    pd.DataFrame({"arrival_s": [0], "total_tokens": [6]}).to_csv(path)
    assert read_trace(path)[0].total_tokens == 6


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
