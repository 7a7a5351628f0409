"""A forked rank is the process that a fresh one would be, and none is left, however launcher, server or rank end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("psutil", reason="needs psutil")

import psutil

from bufferlab.real.hosts import processes
from bufferlab.real.hosts.processes import ForkedProcess, ForkServers, Running, can_fork

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 20.0

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(not can_fork(), reason="ranks are forked on Linux with pidfds alone"),
]

PROBE = """
import json, os, signal, sys, time
imported_by = os.getpid()

def main():
    words = sys.stdin.readline().split()
    with open("/proc/self/cmdline") as file:
        shown = file.read().split("\\0")
    told = {
        "environment": dict(os.environ), "folder": os.getcwd(), "path": sys.path[0], "argv": sys.argv,
        "orig_argv": sys.orig_argv, "shown": [word for word in shown if word], "own_session": os.getsid(0) == os.getpid(),
        "descriptors": sorted(map(int, os.listdir("/proc/self/fd"))), "imported_by": imported_by, "pid": os.getpid(),
        "parent": os.getppid(),
    }
    print(json.dumps(told), flush=True)
    sys.stderr.write("said\\n")
    if words[0] == "exit":
        return int(words[1])
    if words[0] == "raise":
        raise ValueError("so it is")
    if words[0] == "signal":
        os.kill(os.getpid(), int(words[1]))
    time.sleep(600)

if __name__ == "__main__":
    sys.exit(main())
"""


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ForkServers]:
    """Servers of a small module in place of the rank's, which no process outlives."""
    (tmp_path / "probe_rank.py").write_text(PROBE)
    own = ForkServers()
    monkeypatch.setattr(processes, "RANK", "probe_rank")
    monkeypatch.setattr(processes, "SERVERS", own)
    before = set(psutil.Process().children(recursive=True))
    yield own
    own.end()
    left = set(psutil.Process().children(recursive=True)) - before
    assert not psutil.wait_procs(left, timeout=PATIENCE_S)[1]


@pytest.fixture
def start(servers: ForkServers, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def begin(words: str, kept: tuple[int, ...] = (), **environment: str) -> Running:
        # One thread a process, as the ranks have it: numpy's library would start others.
        inherited = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
            **environment,
        }
        with (tmp_path / f"output-{len(started)}").open("wb") as sink:
            process = processes.start_rank(inherited, sink, kept)
        started.append(process)
        assert process.stdin is not None
        process.stdin.write(words.encode() + b"\n")
        process.stdin.flush()
        return process

    yield begin
    for process in started:
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE_S)
        assert process.stdin is not None
        process.stdin.close()
        if isinstance(process, ForkedProcess):
            process.close()


def lines(folder: Path, number: int = 0) -> list[str]:
    return (folder / f"output-{number}").read_text().splitlines()


def told(folder: Path, number: int = 0) -> dict:
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        if (said := lines(folder, number)) and said[0].endswith("}"):
            return json.loads(said[0])
        time.sleep(0.01)
    raise AssertionError(f"the process said {lines(folder, number)}")


def test_a_forked_process_is_like_a_fresh_one(
    start: Callable[..., Running], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "kept").open("wb") as kept:
        forked = start("exit 7", (kept.fileno(),), MC_LOG_LEVEL="INFO")
        monkeypatch.setattr(processes, "can_fork", lambda: False)
        fresh = start("exit 7", (kept.fileno(),), MC_LOG_LEVEL="INFO")
        assert isinstance(forked, ForkedProcess)
        assert not isinstance(fresh, ForkedProcess)
        assert forked.wait(PATIENCE_S) == fresh.wait(PATIENCE_S) == 7
    one, other = told(tmp_path), told(tmp_path, 1)
    assert one.pop("imported_by") == one.pop("parent") != (pid := one.pop("pid"))
    assert (other.pop("imported_by"), other.pop("parent")) == (other.pop("pid"), os.getpid())
    assert pid == forked.pid
    assert one == other
    assert (one["own_session"], one["folder"], one["environment"]["MC_LOG_LEVEL"]) == (True, str(tmp_path), "INFO")
    # Standard input, output and error, the one that was passed, and the folder being listed.
    assert len(one["descriptors"]) == 5
    assert lines(tmp_path)[1:] == lines(tmp_path, 1)[1:] == ["said"]


@pytest.mark.parametrize(
    ("words", "status"), [("exit 0", 0), ("exit 3", 3), ("raise", 1), ("signal 9", -9), ("signal 11", -11)]
)
def test_how_it_ended_is_told(start: Callable[..., Running], tmp_path: Path, words: str, status: int) -> None:
    process = start(words)
    assert process.wait(PATIENCE_S) == process.poll() == process.returncode == status
    if words == "raise":
        assert lines(tmp_path)[-1] == "ValueError: so it is"


def test_it_is_stopped_and_killed_like_any_other(start: Callable[..., Running], tmp_path: Path) -> None:
    process = start("stay")
    told(tmp_path)
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.05)
    process.send_signal(signal.SIGSTOP)
    one = psutil.Process(process.pid)
    deadline_s = time.monotonic() + PATIENCE_S
    while one.status() != psutil.STATUS_STOPPED and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert one.status() == psutil.STATUS_STOPPED
    process.send_signal(signal.SIGKILL)
    assert process.wait(PATIENCE_S) == -signal.SIGKILL
    process.send_signal(signal.SIGKILL)  # to nobody


def test_several_wait_for_one(start: Callable[..., Running], tmp_path: Path) -> None:
    process = start("stay")
    statuses: list[int] = []
    waiting = [threading.Thread(target=lambda: statuses.append(process.wait(PATIENCE_S))) for _ in range(4)]
    for thread in waiting:
        thread.start()
    process.send_signal(signal.SIGKILL)
    for thread in waiting:
        thread.join()
    assert statuses == [-9] * 4


def test_one_server_serves_until_something_changes_that_is_read_at_a_start(
    start: Callable[..., Running], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = {"PYTHONHASHSEED": "5"}
    cases = [
        {}, {"MC_LOG_LEVEL": "INFO"}, {"BUFFERLAB_TOKEN": "1"}, {"TMPDIR": str(tmp_path)}, odd, {}, odd,
        {"MALLOC_ARENA_MAX": "1"}, {"MALLOC_ARENA_MAX": "1", "LD_LIBRARY_PATH": str(tmp_path)}, {},
    ]  # fmt: skip
    asked = [start("stay", **environment) for environment in cases]
    said = [told(tmp_path, number) for number in range(len(cases))]
    assert all(one["environment"].items() >= case.items() for one, case in zip(said, cases, strict=True))
    order = list(dict.fromkeys(one["imported_by"] for one in said))
    # Two are kept, so that the last one is new again.
    assert [order.index(one["imported_by"]) for one in said] == [0, 0, 0, 0, 1, 0, 1, 2, 3, 4]
    # Those of the earlier servers go on, and how they end is still told.
    assert [process.poll() for process in asked] == [None] * len(cases)
    for process in asked[:7]:
        process.send_signal(signal.SIGTERM)
    assert [process.wait(PATIENCE_S) for process in asked[:7]] == [-signal.SIGTERM] * 7
    first = said[0]["imported_by"]
    deadline_s = time.monotonic() + PATIENCE_S
    while psutil.pid_exists(first) and time.monotonic() < deadline_s:  # nor does it stay as a zombie
        time.sleep(0.01)
    assert not psutil.pid_exists(first)


def test_a_server_that_is_killed_takes_its_ranks_along_and_another_one_serves(
    start: Callable[..., Running], tmp_path: Path
) -> None:
    running = start("stay")
    server = told(tmp_path)["imported_by"]
    os.kill(server, signal.SIGKILL)
    assert running.wait(PATIENCE_S) == -signal.SIGKILL
    next_one = start("exit 4")
    assert isinstance(next_one, ForkedProcess)
    assert next_one.wait(PATIENCE_S) == 4
    assert told(tmp_path, 1)["imported_by"] != server


@pytest.mark.parametrize(
    "unfit",
    [
        "import threading, time; threading.Thread(target=time.sleep, args=(600,), daemon=True).start()",
        "import os, sys\nif 'bufferlab.real.hosts.fork_server' in sys.modules['__main__'].__spec__.name: os._exit(3)",
    ],
)
def test_what_must_not_be_forked_is_started_anew(start: Callable[..., Running], tmp_path: Path, unfit: str) -> None:
    (tmp_path / "probe_rank.py").write_text(f"{unfit}\n{PROBE}")
    for number in range(2):
        process = start("exit 5")
        assert not isinstance(process, ForkedProcess)
        assert process.wait(PATIENCE_S) == 5
        assert told(tmp_path, number)["parent"] == os.getpid()


def test_a_folder_that_is_gone_is_no_obstacle(
    start: Callable[..., Running], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    process = start("exit 0")
    assert process.wait(PATIENCE_S) in (0, 1)  # Python itself may mind
    monkeypatch.chdir(tmp_path)


LAUNCHER = """
import os, sys, time
from pathlib import Path
from bufferlab.real.hosts import processes
processes.RANK = "probe_rank"
with open("launched", "wb") as sink:
    rank = processes.start_rank({**os.environ, "OMP_NUM_THREADS": "1"}, sink)
    rank.stdin.write(b"stay\\n")
    rank.stdin.flush()
while not Path("launched").read_text().endswith("said\\n"):
    time.sleep(0.01)
if sys.argv[1] == "a copy stays":
    if (copy := os.fork()) == 0:
        time.sleep(600)
print(rank.pid, *([copy] if sys.argv[1] == "a copy stays" else []), flush=True)
if sys.argv[1] == "exit":
    sys.exit(0)
time.sleep(600)
"""


@pytest.mark.parametrize("how", ["exit", "killed", "killed while a rank is stopped", "a copy stays"])
def test_nothing_outlives_the_launcher(tmp_path: Path, how: str) -> None:
    (tmp_path / "probe_rank.py").write_text(PROBE)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    launcher = psutil.Popen(
        [sys.executable, "-c", LAUNCHER, how], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    )
    copy = None
    try:
        pid, *copies = map(int, launcher.stdout.readline().split())
        copy = psutil.Process(copies[0]) if copies else None
        started: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended already, and shall
            started.append(psutil.Process(pid))
        if how != "exit":
            started.append(started[0].parent())
            if "stopped" in how:
                started[0].suspend()
            launcher.kill()
        launcher.wait(PATIENCE_S)
        # A copy of the launcher holds the other ends of all pipes, and is not asked whether anybody lives.
        assert not psutil.wait_procs(started, timeout=PATIENCE_S)[1]
    finally:
        for one in (launcher, copy):
            if one is not None and one.is_running():
                one.kill()
        launcher.wait()
        launcher.stdout.close()


IN_A_COPY = """
import os, sys
from pathlib import Path
from bufferlab.real.hosts import processes
processes.RANK = "probe_rank"

def once(name):
    with open(name, "wb") as sink:
        rank = processes.start_rank({**os.environ, "OMP_NUM_THREADS": "1"}, sink)
        rank.stdin.write(b"exit 6\\n")
        rank.stdin.flush()
    return rank.wait(20)

statuses = [once("first")]
if (pid := os.fork()) == 0:
    sys.exit(once("copy"))
statuses.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
statuses.append(once("last"))
print(statuses)
"""


def test_a_copy_of_the_launcher_has_a_server_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "probe_rank.py").write_text(PROBE)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, "-c", IN_A_COPY], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[6, 6, 6]\n", "")
    first, copy, last = (
        json.loads((tmp_path / name).read_text().splitlines()[0]) for name in ("first", "copy", "last")
    )
    assert first["imported_by"] == last["imported_by"] != copy["imported_by"]


LEAVES = """
import atexit, sys, threading, time
from bufferlab.real.leaving import leave_after

class Part:
    def __del__(self):
        print("taken apart")

part = Part()
atexit.register(print, "at exit")

def later():
    time.sleep(0.2)
    print("thread")

def main():
    threading.Thread(target=later).start()
    print("main")
    if sys.argv[1] == "raises":
        raise ValueError("so it is")
    return 3

leave_after(main)
"""


@pytest.mark.parametrize(("how", "status", "last"), [("returns", 3, []), ("raises", 1, ["taken apart"])])
def test_who_leaves_at_once_has_finished_all_the_same(how: str, status: int, last: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEAVES, how], cwd=ROOT, capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.returncode, done.stdout.splitlines()) == (status, ["main", "thread", "at exit", *last])
    assert ("ValueError: so it is" in done.stderr) == (how == "raises")


@pytest.mark.real
def test_the_ranks_of_all_runs_are_forked_from_one_import(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="needs torch")
    from bufferlab.protocol.emulation.requests import Request
    from bufferlab.protocol.emulation.scenario import Scenario
    from bufferlab.real.run.launcher import run_real

    parents: list[int] = []
    forked: list[bool] = []

    def progress(_count: int) -> None:
        for one in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it ends at this moment
                if "bufferlab.real.run.rank" in one.cmdline():
                    parents.append(one.ppid())
                    forked.append("bufferlab.real.hosts.fork_server" in one.parent().cmdline())

    for _ in range(2):
        outcome = run_real(
            Scenario(block_tokens=16, hidden=64), [Request(room=1, arrival_s=0.0, total_tokens=40)],
            transport="socket", progress=progress,
        )  # fmt: skip
        assert outcome.succeeded_rooms == {1}
    assert len(parents) == 4
    assert len(set(parents)) == 1
    assert all(forked)
