"""Disks that are full or closed, and two that write at one place: nothing half written, nothing finished lost."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bufferlab.experiments import files
from bufferlab.experiments.errors import RunFailedError, UserError
from bufferlab.experiments.files import (
    BusyError,
    Claim,
    claim_free,
    json_text,
    new_folder,
    put_in_place,
    require_empty_folder,
    write_atomically,
    write_text,
)
from bufferlab.experiments.runs.rundir import RunWriter, StoredRun
from bufferlab.experiments.runs.simulate import run_sim
from bufferlab.experiments.workloads.loading import load

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("--set", "workload.requests=60", "--set", "run.replications=1")
GRID = ("--grid", "protocol.sizing.tokens=512,1024,2048", "--jobs", "1")


def start(*arguments: object, cwd: Path, room_bytes: int | None = None, **streams: Any) -> subprocess.Popen[str]:
    """The command, in which no file may grow beyond ``room_bytes``: as on a full disk, without being root."""

    def limit() -> None:
        if room_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room_bytes, room_bytes))

    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    return subprocess.Popen(
        [sys.executable, "-m", "bufferlab", *map(str, arguments)],
        cwd=cwd, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, preexec_fn=limit, **streams,
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=100)
    return process.returncode, out or "", err or ""


def hidden(folder: Path) -> list[str]:
    """Everything that a finished or refused command must not leave behind."""
    return [str(path) for path in folder.rglob("*") if path.name.startswith(".") or "partial" in path.name]


# --- no room ---


@pytest.mark.parametrize(
    ("arguments", "target", "room_bytes"),
    [
        (("sim", "quickstart", *SMALL, "--out", "run"), "run", 9000),
        (("sim", "quickstart", *SMALL, "--no-plots", "--timeline", "--out", "deep/er/run"), "deep", 60000),
        (("sim", "quickstart", *SMALL, "--out", "run"), "run", 40),
        (("workload", "mixed", "--requests", "2000", "--out", "t.csv"), "t.csv", 9000),
        (("workload", "mixed", "--requests", "2000", "--out", "t.parquet"), "t.parquet", 9000),
    ],
)
def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, arguments: tuple[str, ...], target: str, room_bytes: int
) -> None:
    status, _, err = ended(start(*arguments, cwd=tmp_path, room_bytes=room_bytes))
    assert status == 1, err
    assert err.startswith("bufferlab: '")
    assert err.endswith(f"{arguments[-1]}' cannot be written: File too large.\n")
    assert err.count("\n") == 1
    assert not (tmp_path / target).exists()
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_on_a_full_disk_keeps_its_finished_configurations(tmp_path: Path) -> None:
    sweep = ("sweep", "quickstart", *SMALL, *GRID, "--out", "swept")
    whole = tmp_path / "whole"
    whole.mkdir()
    assert ended(start(*sweep, cwd=whole))[0] == 0
    # Room for the runs and the plan, and not for the table of figures.
    room = (whole / "swept" / "sweep.parquet").stat().st_size
    assert (whole / "swept" / "runs.jsonl.gz").stat().st_size < room
    status, _, err = ended(start(*sweep, cwd=tmp_path, room_bytes=room - 1))
    assert status == 1, err
    assert err.startswith("bufferlab: 'swept' cannot be written: File too large")
    assert err.count("\n") == 1
    left = sorted(path.name for path in (tmp_path / "swept").iterdir())
    assert left == ["quantiles.parquet", "runs.jsonl.gz", "sweep.json"]
    assert hidden(tmp_path) == []
    status, out, err = ended(start(*sweep, cwd=tmp_path))
    assert status == 0, err
    assert "3 of 3 runs are finished already" in out
    table = "swept/sweep.parquet"
    assert (tmp_path / table).read_bytes() == (whole / table).read_bytes()


def test_a_sweep_whose_runs_do_not_fit_keeps_those_that_did(tmp_path: Path) -> None:
    sweep = ("sweep", "quickstart", *SMALL, *GRID, "--out", "swept")
    assert ended(start(*sweep, cwd=tmp_path))[0] == 0
    runs, table = tmp_path / "swept" / "runs.jsonl.gz", tmp_path / "swept" / "sweep.parquet"
    size, whole = runs.stat().st_size, table.read_bytes()
    status, _, err = ended(start(*sweep, "--force", cwd=tmp_path, room_bytes=size - 100))
    assert (status, err) == (1, "bufferlab: 'swept' cannot be written: File too large.\n")
    assert runs.stat().st_size == size - 100
    status, out, err = ended(start(*sweep, cwd=tmp_path))
    assert status == 0, err
    assert "2 of 3 runs are finished already" in out
    assert table.read_bytes() == whole


def test_a_run_that_stands_there_survives_a_full_disk(tmp_path: Path) -> None:
    before = run_sim(load("seed-small"), tmp_path / "run")
    status, _, err = ended(start("sim", "quickstart", *SMALL, "--out", "run", "--force", cwd=tmp_path, room_bytes=9000))
    assert status == 1, err
    assert StoredRun(tmp_path / "run").summary == before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("command", [("examples",), ("doctor", "--json"), ("sim", "seed-small", "--no-plots")])
def test_a_full_standard_output_is_one_sentence(tmp_path: Path, command: tuple[str, ...]) -> None:
    if command[0] == "doctor":
        command = ("--help",)
    with Path("/dev/full").open("w") as full:
        status, _, err = ended(start(*command, cwd=tmp_path, stdout=full))
    assert status == 1
    assert err == "bufferlab: standard output cannot be read or written: No space left on device.\n"


def test_any_refusal_of_the_disk_while_a_run_is_written(tmp_path: Path) -> None:
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS):
        said = rf"run' cannot be written: {os.strerror(number)}$"
        with pytest.raises(RunFailedError, match=said), RunWriter(tmp_path / "run", load("seed-small")):
            raise OSError(number, "wrapped in much text")
    said = r"^'/var/tmp' cannot be read or written: No space left on device$"
    with pytest.raises(RunFailedError, match=said), RunWriter(tmp_path / "run", load("seed-small")):
        raise OSError(errno.ENOSPC, "x", "/var/tmp")
    with pytest.raises(ConnectionRefusedError), RunWriter(tmp_path / "run", load("seed-small")):
        raise ConnectionRefusedError(errno.ECONNREFUSED, "not the disk's fault")
    assert list(tmp_path.iterdir()) == []


# --- places that cannot be written ---

WRITERS = [
    ("sim", "seed-small", "--out", "{}/run"),
    ("sweep", "quickstart", *GRID, "--out", "{}/swept"),
    ("real", "seed-small", "--out", "{}/run"),
    ("workload", "mixed", "--out", "{}/t.csv"),
    ("calibrate", "{}.csv", "--out", "{}/p.toml"),
    ("bench-link", "--out", "{}/link"),
    ("demo", "--out", "{}/demo"),
]


@pytest.mark.parametrize("arguments", WRITERS, ids=lambda arguments: arguments[0])
@pytest.mark.parametrize("kind", ["below a file", "read-only"])
def test_a_place_that_cannot_be_written_is_refused_before_anything_runs(
    bufferlab: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], kind: str
) -> None:
    (folder / "there.csv").write_text("table,msg_bytes,batch,threads,total_bytes,time_us,bw_GBps\n")
    if kind == "below a file":
        (folder / "there").write_text("mine")
    else:
        (folder / "there").mkdir()
        # Root may write everywhere; a file system that is mounted read-only refuses even root, like this.
        closed = str(folder / "there")

        def refuse(original: Callable[..., Any]) -> Callable[..., Any]:
            def call(path: Any, *rest: Any, **options: Any) -> Any:
                if os.path.abspath(os.fspath(path)).startswith(closed + os.sep):  # noqa: PTH100
                    raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
                return original(path, *rest, **options)

            return call

        monkeypatch.setattr(os, "open", refuse(os.open))
        monkeypatch.setattr(os, "mkdir", refuse(os.mkdir))
    before = sorted(folder.rglob("*"))
    result = bufferlab(*(one.format("there") for one in arguments))
    assert (result.status, result.out) == (2, ""), result
    assert result.err.startswith("bufferlab: --out is ")
    assert result.err.count("\n") == 1
    assert sorted(folder.rglob("*")) == before


def test_a_default_place_that_cannot_be_made_is_one_sentence(bufferlab: Any, folder: Path) -> None:
    (folder / "runs").write_text("a file of mine")
    result = bufferlab("sim", "seed-small")
    assert (result.status, result.err.count("\n")) == (2, 1)
    assert "which cannot be written: Not a directory" in result.err


def test_a_folder_must_be_new_or_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_empty_folder(tmp_path / "new" / "deep")
    require_empty_folder(tmp_path)
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(UserError, match="must be a new or empty folder"):
            require_empty_folder(path)
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda _: True)
    with pytest.raises(UserError, match="where a file system is mounted; give a folder in it"):
        require_empty_folder(tmp_path / "empty")


# --- two at once ---


def test_the_second_at_a_place_is_refused(tmp_path: Path) -> None:
    with Claim(tmp_path / "a" / "run"):
        with pytest.raises(BusyError, match=rf"run', which process {os.getpid()} on .* is writing; wait for it"):
            Claim(tmp_path / "a" / "run")
        with Claim(tmp_path / "a" / "run2"), claim_free(tmp_path / "a" / "run") as other:
            assert other.target == tmp_path / "a" / "run-2"
    assert list(tmp_path.iterdir()) == []
    with Claim(tmp_path / "a" / "run"):
        pass
    claim = Claim(tmp_path / "forgotten")
    del claim
    Claim(tmp_path / "forgotten").release()


def waiting(*arguments: object, cwd: Path, seen: Callable[[], bool]) -> subprocess.Popen[str]:
    process = start(*arguments, cwd=cwd)
    for _ in range(600):
        if seen() or process.poll() is not None:
            break
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()
    return process


LONG = ("--set", "workload.requests=200000", "--set", "run.replications=1", "--no-plots")


def test_two_runs_into_one_place_and_one_that_was_killed(tmp_path: Path, bufferlab: Any) -> None:
    lock = tmp_path / ".run.lock"

    def writes() -> bool:
        return lock.exists() and any("partial" in name for name in hidden(tmp_path))

    first = waiting("sim", "quickstart", *LONG, "--out", "run", cwd=tmp_path, seen=writes)
    try:
        second = bufferlab("sim", "quickstart", *SMALL, "--out", "run")
        assert (second.status, second.out) == (2, "")
        assert f"'{tmp_path / 'run'}', which process {first.pid} on " in second.err
        assert second.err.count("\n") == 1
        assert bufferlab("sim", "seed-small", "--no-plots", "--out", "other").status == 0
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert lock.exists()
    assert any("partial" in name for name in hidden(tmp_path))
    third = bufferlab("sim", "seed-small", "--no-plots", "--out", "run")
    assert third.status == 0, third
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "run"]


def test_two_sweeps_in_one_folder(tmp_path: Path, bufferlab: Any) -> None:
    sweep = ("sweep", "quickstart", *LONG, *GRID, "--out", "swept")
    plan = tmp_path / "swept" / "sweep.json"
    first = waiting(*sweep, cwd=tmp_path, seen=plan.exists)
    try:
        before = plan.read_bytes()
        for force in ((), ("--force",)):
            second = bufferlab(*sweep, *force)
            assert second.status == 2
            assert f"which process {first.pid} on " in second.err
        assert plan.read_bytes() == before
        first.send_signal(signal.SIGINT)
        assert first.wait(timeout=60) == 130
    finally:
        first.kill()
        first.communicate()
    assert hidden(tmp_path) == []


# --- the helpers ---


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    write_text(path, "first")
    with pytest.raises(OSError, match="No space"), write_atomically(path) as partial:
        partial.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_text() == "first"
    write_text(path, "secönd")
    assert path.read_bytes() == "secönd".encode()
    assert [one.name for one in tmp_path.iterdir()] == ["x.txt"]


def test_a_folder_comes_whole_and_what_gave_way_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out"
    with new_folder(target) as folder:
        (folder / "a").touch()
        assert not target.exists()
    with pytest.raises(RunFailedError, match="No space left"), new_folder(target):
        raise OSError(errno.ENOSPC, "x")
    assert [path.name for path in target.iterdir()] == ["a"]
    rename = Path.rename

    def fails(self: Path, to: Any) -> Any:
        if self == folder:
            raise OSError(errno.EIO, "x")
        return rename(self, to)

    folder = files.start_folder(target)
    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="x"):
        put_in_place(folder, target)
    assert [path.name for path in target.iterdir()] == ["a"]
    folder.rmdir()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_printed_json_is_what_every_reader_takes() -> None:
    content = {"a": float("nan"), "b": [1.5, float("inf")], "c": np.float64("nan"), "d": np.int64(3), "e": Path("x")}
    read = json.loads(json_text(content), parse_constant=lambda name: pytest.fail(name))
    assert read == {"a": None, "b": [1.5, None], "c": None, "d": 3, "e": "x"}
    with pytest.raises(TypeError):
        json_text({"a": object()})
