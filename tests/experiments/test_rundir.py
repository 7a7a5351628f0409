import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bufferlab.experiments.errors import UserError
from bufferlab.experiments.files import write_json
from bufferlab.experiments.runs import tables
from bufferlab.experiments.runs.rundir import (
    SUMMARY_SCHEMA,
    RunWriter,
    StoredRun,
    choose_target,
)
from bufferlab.experiments.runs.tables import EVENT_COLUMNS, REQUEST_COLUMNS, number_column, row_groups, text_column
from bufferlab.experiments.workloads.loading import load
from bufferlab.protocol.observe.progress import RequestRow
from bufferlab.protocol.recording import Event, Record
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side

CONTRACT = {
    "requests": "replication, room, arrival_s, text_tokens, images, total_tokens, first_allocation_tokens, chunks, "
    "encoded_s, first_chunk_s, delivered_s, released_s, status, failure, prefilled_s",
    "events": "replication, time_s, side, instance, rank, room, event, status, tokens, bytes, detail",
}
RECORDS = [
    Record(0.0, RankId(Side.ENCODE, 0, 1), 7, Event.SUBMITTED, Status.Bootstrapping, 0, 0, ""),
    Record(1.5, RankId(Side.LANGUAGE, 2, 0), 7, Event.WRITE_DONE, None, 16, 128, "language2.0"),
]


def finished(target: Path, name: str = "seed-small") -> StoredRun:
    with RunWriter(target, load(name)) as writer:
        writer.begin(3)
        for record in RECORDS:
            writer.event(*record)
        writer.requests.add(7, 0.0, 1, 1, 16, -1, 1, 1.0, math.nan, 2.0, 2.5, "Success", "", 2.25)
        writer.finish({"schema": SUMMARY_SCHEMA, "kind": "sim"}, {"python": "3"})
        writer.publish()
    return StoredRun(target)


def test_the_columns_are_the_contract() -> None:
    assert ", ".join(REQUEST_COLUMNS) == CONTRACT["requests"]
    assert ", ".join(EVENT_COLUMNS) == CONTRACT["events"]
    assert tuple(REQUEST_COLUMNS)[1:] == RequestRow.__struct_fields__


def test_what_was_written_reads_back(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    assert list(run.records()) == [(3, record) for record in RECORDS]
    assert list(run.requests().columns) == list(REQUEST_COLUMNS)
    assert list(run.requests("status", "room").columns) == ["status", "room"]
    assert run.requests().iloc[0][["replication", "room", "total_tokens"]].tolist() == [3, 7, 16]
    assert run.requests()["first_chunk_s"].isna().all()
    assert run.config == load("seed-small").model_copy(update={})
    assert run.kind == "sim"
    assert sorted(path.name for path in run.path.iterdir()) == [
        "config.toml", "environment.json", "events.parquet", "plots", "requests.parquet", "summary.json",
    ]  # fmt: skip


def test_nothing_half_written_remains(tmp_path: Path) -> None:
    def broken() -> None:
        with RunWriter(tmp_path / "run", load("seed-small")) as writer:
            writer.event(*RECORDS[0])
            assert not (tmp_path / "run").exists()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken()
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_events_has_its_columns(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "run", load("seed-small")) as writer:
        writer.finish({"schema": SUMMARY_SCHEMA}, {})
        writer.publish()
    schema = pq.read_schema(tmp_path / "run" / "events.parquet")
    assert {field.name: field.type for field in schema} == {
        name: pa.type_for_alias(kind) for name, kind in EVENT_COLUMNS.items()
    }


def test_row_groups_bound_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ROW_GROUP_ROWS", 100)
    with RunWriter(tmp_path / "run", load("seed-small")) as writer:
        for number in range(1050):
            writer.event(*RECORDS[0]._replace(tokens=number))
            assert len(writer._events.rows.rows) <= 100
        writer.finish({"schema": SUMMARY_SCHEMA, "kind": "sim"}, {})
        writer.publish()
    file = pq.ParquetFile(tmp_path / "run" / "events.parquet")
    assert [file.metadata.row_group(group).num_rows for group in range(11)] == [100] * 10 + [50]
    assert [record.tokens for _, record in StoredRun(tmp_path / "run").records()] == list(range(1050))


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        finished(tmp_path / name)
    for file in ("events.parquet", "requests.parquet"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@given(
    st.lists(st.none() | st.floats(allow_nan=False)),
    st.lists(st.sampled_from(["", "a", "größer", "abc"]) | st.none()),
    st.lists(st.integers(-(2**63) + 1, 2**63 - 1)),
)
def test_columns_are_those_that_arrow_makes_itself(
    times: list[float | None], texts: list[str | None], counts: list[int]
) -> None:
    filled = np.array([math.nan if one is None else one for one in times])
    assert number_column(filled, "float64").equals(pa.array(times, pa.float64()))
    assert number_column(np.array(counts, dtype=np.int64), "int64").equals(pa.array(counts, pa.int64()))
    distinct = list(dict.fromkeys(texts))
    numbers = np.array([distinct.index(text) for text in texts], dtype=np.int32)
    assert text_column(distinct, numbers).to_pylist() == texts


def test_columns_are_read_without_the_rest(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    (columns,) = row_groups(run.requests_path, ["arrival_s", "first_chunk_s", "total_tokens"], ["status"])
    assert {name: values.tolist()[:1] for name, values in columns.numbers.items() if name != "first_chunk_s"} == {
        "arrival_s": [0.0],
        "total_tokens": [16],
    }
    assert np.isnan(columns.numbers["first_chunk_s"]).all()
    assert columns.texts["status"].among({"Success"}).tolist() == [True]
    assert list(row_groups(run.requests_path, ["room"], replication=2)) == []
    assert len(list(row_groups(run.requests_path, ["room"], replication=3))) == 1


def test_events_of_replications_are_told_apart_within_a_row_group(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "run", load("seed-small")) as writer:
        for replication in (0, 1, 0):
            writer.begin(replication)
            for record in RECORDS:
                writer.event(*record)
        writer.finish({"schema": SUMMARY_SCHEMA, "kind": "sim"}, {})
        writer.publish()
    expected = [(replication, record) for replication in (0, 1, 0) for record in RECORDS]
    assert list(StoredRun(tmp_path / "run").records()) == expected


def test_a_finished_run_is_replaced_in_one_step(tmp_path: Path) -> None:
    finished(tmp_path / "run", "seed-small")
    assert finished(tmp_path / "run", "seed-resume").config.run.name == "seed-resume"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_where_a_run_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load("seed-small")
    target = choose_target(config, "sim", None, force=False)
    assert target == Path("runs") / f"seed-small-sim-{config.digest()}"
    finished(target)
    # The same simulated run again is the same run; a measurement is never lost.
    assert choose_target(config, "sim", None, force=False) == target
    measured = choose_target(config, "real", None, force=False)
    finished(measured)
    assert choose_target(config, "real", None, force=False).name == f"{measured.name}-2"
    # Nor is a simulated run of another configuration whose name is the same by chance.
    assert len(config.digest()) == 16
    other = load("seed-resume").model_copy(update={"run": config.run})
    monkeypatch.setattr("bufferlab.experiments.config.build.NAME_DIGITS", 0)
    target.rename(choose_target(config, "sim", None, force=False))
    assert choose_target(config, "sim", None, force=False).name == "seed-small-sim-"
    assert choose_target(other, "sim", None, force=False).name == "seed-small-sim--2"


def test_a_taken_place_is_refused(tmp_path: Path) -> None:
    config = load("seed-small")
    (tmp_path / "empty").mkdir()
    assert choose_target(config, "sim", tmp_path / "empty", force=False) == tmp_path / "empty"
    finished(tmp_path / "run")
    with pytest.raises(UserError, match="holds a finished run"):
        choose_target(config, "sim", tmp_path / "run", force=False)
    assert choose_target(config, "sim", tmp_path / "run", force=True) == tmp_path / "run"
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    (tmp_path / "file").touch()
    for name in ("photos", "file", "file/below"):
        with pytest.raises(UserError, match=r"^--out is "):
            choose_target(config, "sim", tmp_path / name, force=True)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": "other"}'])
def test_other_folders_are_no_runs(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.toml").touch()
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(UserError, match="must be a finished run directory"):
        StoredRun(tmp_path)


def test_nan_never_reaches_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "x.json", {"value": float("nan")})
    write_json(tmp_path / "x.json", {"value": None})
    assert json.loads((tmp_path / "x.json").read_text()) == {"value": None}
