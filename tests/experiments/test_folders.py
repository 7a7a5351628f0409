"""What may be done with finished results: list, compare, remove, draw again, write as CSV."""

import gzip
import io
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bufferlab.experiments.cli import main
from bufferlab.experiments.commands.folders.exporting import _write
from bufferlab.experiments.files import Claim
from bufferlab.experiments.runs.rundir import StoredRun
from bufferlab.experiments.sweeps.sweep import read_sweep
from bufferlab.experiments.units import format_duration

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("--set", "workload.requests=30")
SPACE = (
    "protocol.sizing.policy=fixed", "protocol.sizing.tokens=512,4096", "protocol.discipline=window",
    "protocol.block_tokens=128", "language.pool_blocks=64,256",
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one of each kind."""
    where = tmp_path_factory.mktemp("results") / "runs"
    one, other, sweep, tune = (str(where / name) for name in ("one", "deep/other", "sweep", "tune"))
    assert main(["sim", "quickstart", *SMALL, "--replications", "2", "--out", one]) == 0
    assert (
        main(
            [
                "sim",
                "quickstart",
                *SMALL,
                "--set",
                "protocol.sizing.tokens=4096",
                "--no-plots",
                "--replications",
                "1",
                "--out",
                other,
            ]
        )
        == 0
    )
    grid = ["--grid", "protocol.sizing.tokens=512,4096", "--replications", "2", "--jobs", "1"]
    assert main(["sweep", "quickstart", *SMALL, *grid, "--out", sweep]) == 0
    space = [word for text in SPACE for word in ("--space", text)]
    assert main(["tune", "quickstart", *SMALL, *space, "--replications", "2", "--jobs", "1", "--out", tune]) == 0
    return where


# --- runs ---


def test_runs_lists_what_lies_below_a_folder(made: Path, bufferlab: Any) -> None:
    listed = json.loads(bufferlab("runs", made, "--sort", "name", "--json").out)["runs"]
    assert [(Path(one["path"]).name, one["kind"]) for one in listed] == [
        ("other", "sim"), ("one", "sim"), ("sweep", "sweep"), ("tune", "tune"),
    ]  # fmt: skip
    by_name = {Path(one["path"]).name: one for one in listed}
    summary = StoredRun(made / "one").summary
    assert by_name["one"]["p99_s"] == summary["latency_s"]["p99"]["value"]
    assert by_name["one"]["requests"] == {"succeeded": 60, "offered": 60}
    report = read_sweep(made / "sweep").report
    assert by_name["sweep"]["p99_s"] == min(one["latency_s"]["p99"]["value"] for one in report["configurations"])
    for name, one in by_name.items():
        files = [path for path in (made / ("deep/other" if name == "other" else name)).rglob("*") if path.is_file()]
        assert one["size_bytes"] == sum(path.stat().st_size for path in files)
    text = bufferlab("runs", made, "--kind", "sim").out
    assert "deep/other" in text
    assert "30 requests drawn from the preset mixed" in text
    assert "sweep" not in text
    order = json.loads(bufferlab("runs", made, "--sort", "size", "--json").out)["runs"]
    sizes = [one["size_bytes"] for one in order]
    assert sizes == sorted(sizes, reverse=True)


def test_where_there_is_nothing_runs_says_so(bufferlab: Any) -> None:
    assert bufferlab("runs").out == "nothing of ours below runs\n"
    assert bufferlab("runs", "clean").out == "0 removed, 0 B freed\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("runs", "nowhere"), "FOLDER is 'nowhere', it must be a folder"),
        (("runs", "--kind", "sims"), "--kind is 'sims', it must be one of sim, real"),
        (("runs", "--sort", "p50"), "--sort is 'p50', it must be one of when, name, p99, size"),
        (("runs", "--yes"), "--yes has no effect in runs; it is for runs clean"),
        (("runs", "compare", "one"), "RUN is given 1 times, runs compare needs two or more"),
        (("runs", "clean", "nowhere"), "FOLDER is 'nowhere', it must be a folder"),
    ],
)
def test_what_runs_cannot_do_is_one_sentence(arguments: tuple[str, ...], told: str, bufferlab: Any) -> None:
    ended = bufferlab(*arguments)
    assert (ended.status, ended.out) == (2, "")
    assert told in ended.err


def test_runs_stand_side_by_side(made: Path, bufferlab: Any) -> None:
    text = bufferlab("runs", "compare", made / "one", made / "deep" / "other").out.splitlines()
    assert text[0].split() == ["one", "other"]
    single = bufferlab("sim", made / "one" / "config.toml", "--no-plots").out
    mean = next(line for line in single.splitlines() if line.startswith("latency mean")).split()
    assert next(line for line in text if line.startswith("latency mean")).split()[2:4] == mean[2:4]
    told = json.loads(bufferlab("runs", "compare", made / "one", made / "deep" / "other", "--json").out)["runs"]
    assert [one["kind"] for one in told] == ["sim", "sim"]
    for name, what in (("sweep", "a sweep"), ("tune", "a tuning beside what is none")):
        refused = bufferlab("runs", "compare", made / "one", made / name)
        assert refused.status == 2
        assert f"{name}', {what}, it must be a finished run directory, or all of them tunings" in refused.err


def test_tunings_stand_side_by_side_with_what_they_were_asked_and_recommend(
    made: Path, folder: Path, bufferlab: Any
) -> None:
    other = folder / "other-tune"
    space = [word for text in SPACE for word in ("--space", text)]
    options = ("--replications", "2", "--jobs", "1", "--objective", "ttft_mean", "--language-instances", "2")
    assert bufferlab("tune", "quickstart", *SMALL, *space, *options, "--out", other).status == 0
    told = json.loads(bufferlab("runs", "compare", made / "tune", other, "--json").out)["runs"]
    assert [one["instances"]["language"] for one in told] == [1, 2]
    stored = json.loads((other / "tune.json").read_text())
    assert told[1]["recommendation"] == stored["recommendation"]
    assert told[1]["objective"] == stored["objective"]
    text = bufferlab("runs", "compare", made / "tune", other).out
    rows = {line[:20].strip(): line for line in text.splitlines()}
    assert rows["objective"].split()[1:] == ["p99", "latency", "mean", "first", "token"]
    assert rows["instances"].split()[1:] == ["1", "encode,", "1", "language", "1", "encode,", "2", "language"]
    assert "they were not asked the same: instances, objective differ" in text
    same = bufferlab("runs", "compare", made / "tune", made / "tune").out
    assert "they were asked the same; they recommend the same" in same


def test_a_tuning_is_listed_with_its_own_objective(made: Path, bufferlab: Any) -> None:
    stored = json.loads((made / "tune" / "tune.json").read_text())["objective"]
    listed = json.loads(bufferlab("runs", made, "--json").out)["runs"]
    assert {one["kind"]: one["objective"] for one in listed} == {
        "sim": None, "sweep": None, "tune": {"name": "latency_s.p99", "value": stored["value"]},
    }  # fmt: skip
    row = next(line for line in bufferlab("runs", made).out.splitlines() if line.startswith("tune "))
    assert f"p99 latency {format_duration(stored['value'])}" in row


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copied"))


def test_clean_removes_what_is_ours_and_says_how_much_that_was(copied: Path, bufferlab: Any) -> None:
    (copied / ".one.abcd1234.partial").mkdir()
    (copied / ".one.abcd1234.partial" / "events.parquet").write_bytes(b"x" * 1000)
    (copied / "tune" / "notes.txt").touch()
    (copied / "sweep" / "plots" / "mine.xcf").touch()
    (copied / "mine.csv").touch()
    size = sum(path.stat().st_size for name in ("one", "deep") for path in (copied / name).rglob("*") if path.is_file())
    asked = bufferlab("runs", "clean", copied)
    assert (asked.status, "give --yes" in asked.err) == (2, True), "nobody is there to be asked"
    ended = bufferlab("runs", "clean", copied, "--yes", "--json")
    told = json.loads(ended.out)
    assert (ended.status, told["freed_bytes"]) == (0, size + 1000)
    assert "notes.txt is not of bufferlab" in ended.err
    assert "plots/mine.xcf is not of bufferlab" in ended.err
    assert {path.name for path in copied.iterdir()} == {"deep", "sweep", "tune", "mine.csv"}
    assert not any((copied / "deep").iterdir())
    assert read_sweep(copied / "sweep").report["finished"]


def test_clean_may_take_only_what_is_unfinished(copied: Path, bufferlab: Any) -> None:
    (copied / ".gone.abcd1234.old").mkdir()
    begun = json.loads((copied / "sweep" / "sweep.json").read_text(encoding="utf-8"))
    (copied / "sweep" / "sweep.json").write_text(json.dumps({**begun, "finished": False}), encoding="utf-8")
    told = json.loads(bufferlab("runs", "clean", copied, "--unfinished", "--yes", "--json").out)
    assert {Path(one).name for one in told["removed"]} == {"sweep", ".gone.abcd1234.old"}
    assert {path.name for path in copied.iterdir()} == {"one", "deep", "tune"}


def test_clean_leaves_what_is_being_written(copied: Path) -> None:
    code = "import sys; from bufferlab.experiments.cli import main; sys.exit(main(sys.argv[1:]))"
    with Claim(copied / "one"), Claim(copied / "sweep", inside=True):
        done = subprocess.run(
            [sys.executable, "-c", code, "runs", "clean", str(copied), "--yes"], env={"PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("it is being written") == 2
    assert (copied / "one" / "summary.json").is_file()
    assert (copied / "sweep" / "sweep.parquet").is_file()
    assert not (copied / "tune").exists()


def test_clean_follows_no_link(copied: Path, tmp_path: Path, bufferlab: Any) -> None:
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "one").symlink_to(copied / "one")
    assert json.loads(bufferlab("runs", "clean", tmp_path / "linked", "--yes", "--json").out)["removed"] == []
    assert bufferlab("runs", "clean", tmp_path / "linked" / "one", "--yes").status == 2
    assert (copied / "one" / "summary.json").is_file()


def test_somebody_at_a_terminal_is_asked(copied: Path, bufferlab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for answer, left in (("n\n", True), ("y\n", False)):
        keys = io.StringIO(answer)
        monkeypatch.setattr(keys, "isatty", lambda: True)
        monkeypatch.setattr("sys.stdin", keys)
        assert bufferlab("runs", "clean", copied / "one").status == 0
        assert (copied / "one").exists() is left


# --- plot ---


@pytest.mark.parametrize("name", ["one", "sweep", "tune"])
def test_without_a_title_the_pictures_are_those_of_the_run(name: str, made: Path, folder: Path, bufferlab: Any) -> None:
    ended = bufferlab("plot", made / name, "--out", "again", "--title", "")
    assert ended.status == 0, ended.err
    drawn = {path.name: path.read_bytes() for path in (made / name / "plots").iterdir()}
    assert drawn
    assert {path.name: path.read_bytes() for path in (folder / "again").iterdir()} == {
        f"{name}-{picture}": content for picture, content in drawn.items()
    }


def test_pictures_say_what_was_run_and_repeat(made: Path, folder: Path, bufferlab: Any) -> None:
    for again in ("first", "second"):
        ended = bufferlab("plot", made / "one", made / "deep" / "other", "--format", "svg", "--out", again, "--json")
        names = [Path(one).name for one in json.loads(ended.out)["pictures"]]
    assert names == ["one-latency.svg", "one-pools.svg", "other-latency.svg", "other-pools.svg", "compared.svg"]
    for name in names:
        text = (folder / "first" / name).read_bytes()
        assert text == (folder / "second" / name).read_bytes()
        assert text.startswith(b"<?xml")
        said = b"2 runs beside each other" if name == "compared.svg" else b"quickstart, simulated over tcp-loopback"
        assert b"<!-- " + said in text  # how matplotlib notes what it draws as paths
    assert bufferlab("plot", made / "tune", "--format", "pdf", "--out", "boss", "--title", "For you").status == 0
    assert {path.name for path in (folder / "boss").iterdir()} == {"tune-pareto.pdf", "tune-u_shape.pdf"}


def test_a_picture_goes_to_the_plots_of_its_run(copied: Path, bufferlab: Any) -> None:
    before = (copied / "one" / "plots" / "latency.png").read_bytes()
    assert bufferlab("plot", copied / "one").status == 0
    assert (copied / "one" / "plots" / "latency.png").read_bytes() != before, "it has a title now"
    assert sorted(path.name for path in (copied / "one").iterdir()) == sorted(
        path.name for path in (copied / "deep" / "other").iterdir()
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--format", "jpg"), "--format is 'jpg', it must be one of png, svg, pdf"),
        (("nowhere",), "RUN is 'nowhere', it must be the directory of a finished run"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(
    arguments: tuple[str, ...], told: str, made: Path, bufferlab: Any
) -> None:
    ended = bufferlab("plot", made / "one", *arguments)
    assert (ended.status, ended.out) == (2, "")
    assert told in ended.err


# --- export ---


def same(found: pd.DataFrame, wanted: pd.DataFrame) -> None:
    assert list(found) == list(wanted)
    for name in wanted:
        pairs = zip(found[name], wanted[name], strict=True)
        assert all(a == b or (pd.isna(a) and (pd.isna(b) or b == "")) for a, b in pairs), name


def test_every_number_of_a_table_reads_back_the_same(made: Path, folder: Path, bufferlab: Any) -> None:
    run, sweep = StoredRun(made / "one"), read_sweep(made / "sweep")
    stored = {"requests": run.requests(), "events": run.events()}
    for table, wanted in stored.items():
        ended = bufferlab("export", made / "one", "--table", table, "--out", f"{table}.csv", "--json")
        assert json.loads(ended.out)["rows"] == len(wanted)
        same(pd.read_csv(folder / f"{table}.csv"), wanted)
    assert bufferlab("export", made / "sweep", "--out", "sweep.csv.gz").status == 0
    with gzip.open(folder / "sweep.csv.gz", "rt") as file:
        same(pd.read_csv(file), sweep.table)


def test_the_settings_of_a_tuning_are_rows(made: Path, folder: Path, bufferlab: Any) -> None:
    assert bufferlab("export", made / "tune", "--out", "settings.csv").status == 0
    content = json.loads((made / "tune" / "tune.json").read_text(encoding="utf-8"))
    found = pd.read_csv(folder / "settings.csv")
    assert list(found["setting"]) == [one["number"] for one in content["settings"]]
    for row, one in zip(found.to_dict("records"), content["settings"], strict=True):
        for name, estimate in one["figures"].items():
            ends = (row[name], row[f"{name}.low"], row[f"{name}.high"])
            assert ends == tuple(estimate.values()) or all(map(math.isnan, ends)) or math.isnan(ends[1])
        assert row["protocol.sizing.tokens"] == one["fields"]["protocol.sizing.tokens"]
        assert row["memory_bytes"] == one["memory_bytes"]


@given(st.lists(st.floats(allow_nan=False), min_size=1))
def test_floats_survive_csv(values: list[float]) -> None:
    file = io.BytesIO()
    written = _write(file, iter([pa.RecordBatch.from_pydict({"x_s": values})]), "x")
    header, *lines = file.getvalue().decode().splitlines()
    assert (header, written.rows) == ('"x_s"', len(values))
    assert [float(line) for line in lines] == values


def test_requests_can_be_played_back_from_csv(made: Path, folder: Path, bufferlab: Any) -> None:
    assert bufferlab("export", made / "deep" / "other", "--out", "requests.csv").status == 0
    settings = ("--set", "workload.file=requests.csv", "--set", "run.replications=1")
    ended = bufferlab("sim", "quickstart", *settings, "--no-plots", "--json")
    assert ended.status == 0, ended.err
    assert json.loads(ended.out)["requests"]["offered"] == 30


def test_without_a_file_the_rows_are_printed(made: Path) -> None:
    code = "import sys; from bufferlab.experiments.cli import main; sys.exit(main(sys.argv[1:]))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = ["export", str(made / "one")]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, check=True
    )
    assert len(done.stdout.splitlines()) == 61
    assert done.stdout.startswith('"replication","room","arrival_s"')


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--json",), "--json needs --out"),
        (("--table", "event", "--out", "x.csv"), "--table is 'event', it must be one of requests, events of a run"),
        (("--out", "x.xlsx"), "--out is 'x.xlsx', it must be the name of a .csv or .csv.gz file"),
        (("--out", "there.csv"), "--out is 'there.csv', which exists; give another name, or --force"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence(
    arguments: tuple[str, ...], told: str, made: Path, folder: Path, bufferlab: Any
) -> None:
    (folder / "there.csv").write_text("mine", encoding="utf-8")
    ended = bufferlab("export", made / "one", *arguments)
    assert (ended.status, ended.out) == (2, "")
    assert told in ended.err
    assert [path.name for path in folder.iterdir()] == ["there.csv"]


def test_runs_without_events_have_none_to_export(made: Path, folder: Path, bufferlab: Any) -> None:
    assert bufferlab("sim", "seed-small", "--no-events", "--no-plots", "--out", "bare").status == 0
    ended = bufferlab("export", "bare", "--table", "events", "--out", "x.csv")
    assert (ended.status, "which kept no events" in ended.err) == (2, True)
    assert not (folder / "x.csv").exists()
