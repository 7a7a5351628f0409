"""The published rows: how well calibrate predicts those it did not see, and what docs/calibration.md says of it."""

import re
from pathlib import Path
from typing import Any

import pytest

from bufferlab.experiments.calibration.command import calibrate
from bufferlab.experiments.calibration.input.line_rates import line_rate_Bps
from bufferlab.experiments.calibration.input.rows import read_rows
from bufferlab.experiments.calibration.report import errors_table
from bufferlab.sim.network.link import load_profile

ROOT = Path(__file__).parents[2]
MEASURED = ROOT.parent / "shared" / "measured"
PAGE = (ROOT / "docs" / "calibration.md").read_text(encoding="utf-8")
FILES = ("mori_io.csv", "mori_pr97_batch.csv", "mooncake_efa.csv")
THOR2 = ("mori_thor2_write_size_sweep", "mori_pr97_32K_batch")

needs_rows = pytest.mark.skipif(not MEASURED.is_dir(), reason="the measured rows are not beside the repository")


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    return calibrate([MEASURED / name for name in FILES], holdout="odd")


@needs_rows
def test_tables_of_rdma_writes_and_reads_are_predicted(published: dict[str, Any]) -> None:
    tables = {one["name"]: one for one in published["tables"]}
    swept = [name for name in tables if name.startswith("mori_")]
    assert len(swept) == 6
    for name in swept:
        assert tables[name]["mean_error"] <= 0.03, name
        assert tables[name]["max_error"] <= 0.10, name
    assert max(one["max_error"] for one in tables.values()) <= 0.10


@needs_rows
def test_the_table_in_the_docs_is_what_comes_out(published: dict[str, Any]) -> None:
    marked = PAGE.partition("<!-- held-out errors: begin -->\n")[2].partition("<!-- held-out errors: end -->")[0]
    lines = [tuple(cell.strip() for cell in line.strip("| ").split("|")) for line in marked.splitlines()]
    heading, _, *rows = lines
    wanted = errors_table(published["tables"])
    assert heading == wanted[0]
    assert [row[:4] for row in rows] == [row[:4] for row in wanted[1:]]
    for row, other in zip(rows, wanted[1:], strict=True):
        # Libraries differ in the last digits, and percent are rounded to two.
        percents, others = ([float(cell.rstrip("% ")) for cell in line[4:] if cell] for line in (row, other))
        assert percents == pytest.approx(others, abs=0.011), row[0]


@needs_rows
@pytest.mark.parametrize("name", FILES)
def test_no_published_row_is_too_fast_for_its_link(name: str) -> None:
    rows, left_out = read_rows(MEASURED / name)
    assert len(rows) > 7
    assert not [one for one in left_out if "line rate" in one.reason]
    for row in rows:
        rate = line_rate_Bps(row.link)
        assert rate is not None or not re.search(r"\d+ ?G", row.link)
        assert rate is None or row.bytes_moved / row.batch_s <= 1.01 * rate


def test_the_example_of_a_profile_loads(tmp_path: Path) -> None:
    path = tmp_path / "example.toml"
    path.write_text(PAGE.partition("```toml\n")[2].partition("```")[0], encoding="utf-8")
    assert load_profile(path).queues == 8


@needs_rows
def test_one_law_says_sizes_and_batches_of_thor2() -> None:
    result = calibrate([MEASURED / name for name in FILES], holdout="odd", tables=THOR2, predicted=["mori_cx7_read"])
    joint = result["joint"]
    held = joint["held_out"]
    assert (held["rows"], joint["form"]) == (13, "8 queues and batch")
    said = re.search(r"mean (\d+\.\d+) %, largest (\d+\.\d+) % of 13 rows held out", PAGE)
    assert said is not None
    assert float(said[1]) == pytest.approx(100 * held["mean_error"], abs=0.011)
    assert float(said[2]) == pytest.approx(100 * held["max_error"], abs=0.011)


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines()) - 1


@needs_rows
def test_every_row_is_used_or_named() -> None:
    paths = [MEASURED / "mooncake_efa.csv", MEASURED / "single_points.csv"]
    result = calibrate(paths)
    used = sum(len(one["residuals"]) for one in result["tables"])
    too_small = sum(one["rows"] for one in result["not_fitted"])
    assert used + too_small == lines_of(paths[0])
    assert len(result["left_out"]) == lines_of(paths[1])  # single numbers, without sizes or threads


@needs_rows
def test_tables_without_a_name_are_named_by_what_was_run() -> None:
    path = MEASURED / "local_mooncake_tcp_loopback.csv"
    rows, left_out = read_rows(path)
    assert len(rows) + len(left_out) == lines_of(path)
    assert {one.reason for one in left_out} == {"msg_bytes is empty"}
    assert "cfg/default/transfer_sync_write" in {row.table for row in rows}
