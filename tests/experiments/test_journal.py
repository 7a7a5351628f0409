"""What a sweep keeps of its runs: whole lines are never lost, one that was cut off is seen, and nothing stays in memory."""

import gzip
import json
import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bufferlab.experiments.sweeps.journal import Journal, line_of
from bufferlab.experiments.sweeps.tables import Figures

RESULT: dict[str, Any] = {"summary": {"latency_s": {"p99": 0.25}, "requests": 3}, "latency_s": [0.125] * 202}
KEYS = [("a" * 64, 0), ("a" * 64, 1), ("b" * 64, 0)]
LINES = [line_of(*key, {**RESULT, "number": number}) for number, key in enumerate(KEYS)]


def filled(path: Path) -> Journal:
    journal = Journal(path)
    for key, line in zip(KEYS, LINES, strict=True):
        journal.add(key, line)
    return journal


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("journal") / "runs.jsonl.gz"


@given(st.integers(0, sum(map(len, LINES))), st.binary(max_size=40))
def test_a_line_that_was_cut_off_is_made_again_and_no_other(place: Path, cut: int, rubbish: bytes) -> None:
    whole = b"".join(LINES)
    place.write_bytes(whole[:cut])
    kept = sum(sum(map(len, LINES[: number + 1])) <= cut for number in range(len(LINES)))
    journal = Journal(place)
    assert [key in journal for key in KEYS] == [number < kept for number in range(len(KEYS))]
    for key, line in zip(KEYS[kept:], LINES[kept:], strict=True):
        journal.add(key, line)
    journal.close()
    assert place.read_bytes() == whole
    # Whatever stands behind, such as what a disk gave back after a power cut.
    place.write_bytes(whole + rubbish)
    again = Journal(place)
    assert [again.load(key)["number"] for key in KEYS] == [0, 1, 2]
    again.close()


@given(st.integers(0, sum(map(len, LINES)) - 1))
def test_a_line_that_is_damaged_is_not_taken_for_another(place: Path, where: int) -> None:
    damaged = bytearray(b"".join(LINES))
    damaged[where] ^= 0xFF
    place.write_bytes(damaged)
    journal = Journal(place)
    for number, key in enumerate(KEYS):
        if key in journal:
            assert journal.load(key) == {**RESULT, "number": number}
    before = [number for number in range(len(KEYS)) if sum(map(len, LINES[: number + 1])) <= where]
    assert all(KEYS[number] in journal for number in before)
    journal.close()


def test_any_program_reads_it(tmp_path: Path) -> None:
    filled(tmp_path / "runs.jsonl.gz").close()
    rows = [json.loads(line) for line in gzip.decompress((tmp_path / "runs.jsonl.gz").read_bytes()).splitlines()]
    assert [(row["fingerprint"], row["replication"]) for row in rows] == KEYS
    assert [row["number"] for row in rows] == [0, 1, 2]


def test_what_is_kept_is_what_the_run_came_to() -> None:
    journal = Journal()
    result = {
        "share": 1e-9,
        "count": 3,
        "whole": 2.0,
        "none": None,
        "nan": math.nan,
        "numpy": np.float64(0.1),
        "yes": np.True_,
    }
    journal.add(("c", 0), line_of("c", 0, result))
    loaded = journal.load(("c", 0))
    assert loaded == {"share": 1e-9, "count": 3, "whole": 2.0, "none": None, "nan": None, "numpy": 0.1, "yes": True}
    assert [type(value) for value in loaded.values()][:3] == [float, int, float]
    assert ("c", 1) not in journal


def test_a_run_that_is_kept_is_not_in_memory(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "runs.jsonl.gz")
    draws, runs = np.random.default_rng(1), 2000
    tracemalloc.start()
    for number in range(runs):
        journal.add(
            ("d" * 64, number), line_of("d" * 64, number, {"number": number, "values": draws.random(200).tolist()})
        )
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 600 * runs < (tmp_path / "runs.jsonl.gz").stat().st_size / 2
    assert journal.load(("d" * 64, 1234))["number"] == 1234


@pytest.mark.parametrize(
    ("values", "kind", "read"),
    [
        ([1, 2], "int64", [1, 2]),
        ([True, False], "bool", [True, False]),
        ([1, 2.5], "double", [1.0, 2.5]),
        ([True, 1], "double", [1.0, 1.0]),
        ([None, 3], "double", [None, 3.0]),
        ([None, None], "bool", [None, None]),
    ],
)
def test_a_column_has_one_type(values: list[Any], kind: str, read: list[Any]) -> None:
    figures = Figures()
    for value in values:
        figures.add({"figure": value})
    column = figures.columns()["figure"]
    assert (str(column.type), column.to_pylist()) == (kind, read)
    assert figures.of("figure", slice(0, 2)) == read
    assert [type(one) for one in figures.of("figure", slice(0, 2))] == [type(one) for one in read]
