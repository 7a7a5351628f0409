"""Bars: what they count, and that nobody but a terminal gets one."""

import io
import os
import pty
import re
import subprocess
import sys
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import pytest

from bufferlab.experiments import progress
from bufferlab.experiments.progress import bar, counted, on_a_terminal
from bufferlab.experiments.runs.simulate import run_sim
from bufferlab.experiments.workloads.loading import load

ROOT = Path(__file__).resolve().parents[2]
QUICK = ("--set", "workload.requests=40", "--set", "run.replications=3", "--no-plots")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setattr(progress, "QUIET_S", 0.0)
    for name in ("CI", "TERM"):
        monkeypatch.delenv(name, raising=False)
    return Terminal()


def in_a_terminal(*arguments: str, cwd: Path) -> str:
    """What the command writes when its stderr is a terminal."""
    ours, theirs = pty.openpty()
    code = f"from bufferlab.experiments import cli, progress; progress.QUIET_S = 0; cli.main({list(arguments)!r})"
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    environment |= {"PYTHONPATH": str(ROOT), "TERM": "xterm", "TQDM_MININTERVAL": "0"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=cwd, env=environment, stdout=subprocess.DEVNULL, stderr=theirs
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # how Linux says that the other end of a terminal is closed
            break
        if not part:
            break
        seen += part
    os.close(ours)
    assert process.wait() == 0
    return seen.decode()


def test_a_bar_has_share_count_and_time_left(terminal: Terminal) -> None:
    with redirect_stderr(terminal), bar("sim", 200, "requests") as shown:
        shown.add(50)
        shown._tqdm.refresh()
    assert re.search(r"sim:  25%\|.*\| 50/200 \[00:00<00:00, .*requests/s\]", terminal.getvalue())


def test_what_was_done_before_is_in_the_share_and_not_in_the_speed(terminal: Terminal) -> None:
    with redirect_stderr(terminal), bar("sweep", 100, "runs") as shown:
        shown.begin_with(98)
        shown.step("the next one")
        shown._tqdm.refresh()
    assert "99%" in terminal.getvalue()
    assert "99/100" in terminal.getvalue()
    assert shown._tqdm.format_dict["initial"] == 98


@pytest.mark.parametrize("name", ["CI", "TERM"])
def test_a_ci_job_and_a_dumb_terminal_get_no_bar(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, {"CI": "true", "TERM": "dumb"}[name])
    assert not on_a_terminal(terminal)
    with redirect_stderr(terminal), bar("sim", 2) as shown:
        shown.add(1)
        shown.say("a line")
    assert terminal.getvalue() == "a line\n"


def test_no_bar_in_a_file(tmp_path: Path, terminal: Terminal) -> None:
    with (tmp_path / "log").open("w") as log, redirect_stderr(log), bar("sim", 2, "requests") as shown:
        shown.add(1)
        shown.step("x")
        shown.begin_with(1)
        shown.more(7)
    assert (tmp_path / "log").read_text() == ""


class Clock:
    now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def test_a_pipe_has_a_line_at_most_every_half_minute_with_share_and_time_left(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with bar("sweep", 100, "runs") as shown:
        shown.begin_with(20)  # which says nothing about the speed
        for _ in range(40):
            clock.now_s += 2
            shown.step("one more")
    ended = capsys.readouterr()
    assert ended.out == ""
    assert ended.err.splitlines() == [
        "sweep: 35 of 100 runs, 35 %, about 2 min left",
        "sweep: 50 of 100 runs, 50 %, about 100 s left",
    ]


def test_a_stage_of_a_tune_has_its_own_share_in_a_pipe(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with bar("tune", None, "runs") as shown:
        shown.stage(10)
        shown.add(10)
        clock.now_s += 20
        shown.stage(4000)
        clock.now_s += 11
        shown.add(1000)
    assert capsys.readouterr().err == "tune, stage 2: 1,000 of 4,000 runs, 25 %, about 33 s left\n"


def test_nothing_is_written_where_silence_was_asked_for_or_all_ends_soon(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with bar("sim", 10, shown=False) as silent, bar("sim", 10) as short:
        for one in (silent, short):
            clock.now_s += 14
            one.add(5)
        clock.now_s += 100
        silent.add(5)
    assert capsys.readouterr().err == ""


def test_items_are_counted_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "COUNTED_AT_ONCE", 4)
    told: list[int] = []
    assert list(counted(range(10), told.append)) == list(range(10))
    assert told == [4, 4, 2]
    assert list(counted(range(3), None)) == [0, 1, 2]


def test_a_simulated_run_tells_every_request_once(tmp_path: Path) -> None:
    told: list[int] = []
    config = load("quickstart", ["workload.requests=40", "run.replications=3"])
    run_sim(config, tmp_path / "run", progress=told.append)
    assert sum(told) == 120


def test_every_stage_of_a_tuning_has_a_share_and_a_time_left(tmp_path: Path) -> None:
    space = [word for one in ("policy=fixed", "tokens=512,4096") for word in ("--space", f"protocol.sizing.{one}")]
    seen = in_a_terminal(
        "tune", "quickstart", "--set", "workload.requests=20", *space, "--replications", "3", "--jobs", "1",
        "--no-plots", cwd=tmp_path,
    )  # fmt: skip
    bars = re.findall(r"tune, stage (\d+): +(\d+)%\|[^|]*\| (\d+)/(\d+) \[\S+<\S+", seen)
    assert {int(stage) for stage, *_ in bars} >= {1, 2}
    for _, share, done, total in bars:
        assert abs(int(share) - 100 * int(done) / int(total)) <= 0.5
    totals = {(stage, total) for stage, _, _, total in bars}
    assert len(totals) == len({stage for stage, _ in totals}), "what a stage has to do does not grow"


def test_the_bar_of_a_run_reaches_its_requests_and_no_more(tmp_path: Path) -> None:
    seen = in_a_terminal("sim", "quickstart", *QUICK, "--out", "run", cwd=tmp_path)
    counts = [int(count) for count in re.findall(r"(\d+)/120", seen)]
    assert counts, seen
    assert counts == sorted(counts)
    assert counts[-1] <= 120
    assert "<" in seen  # the time left


@pytest.mark.parametrize(
    "arguments",
    [
        ("compare", "one", "two"),
        ("paired", "one", "two"),
        ("workload", "azure-like", "--requests", "100"),
        ("sweep", "quickstart", *QUICK, "--grid", "protocol.sizing.tokens=512,1024", "--out", "swept", "--jobs", "1"),
        ("check", "--discipline", "slot", "--bound", "quick", "--jobs", "1"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_what_lasts_has_a_bar_at_a_terminal_alone(
    bufferlab: Any, folder: Path, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    if arguments[0] in ("compare", "paired"):
        for name in ("one", "two"):
            run_sim(load("quickstart", ["workload.requests=40", "run.replications=2"]), folder / name)
    made: list[str] = []
    own = progress._Lines.__init__

    def begin(self: Any, title: str, *more: Any) -> None:
        made.append(title)
        own(self, title, *more)

    monkeypatch.setattr(progress._Lines, "__init__", begin)
    monkeypatch.setattr(progress, "LINE_S", 3600.0)  # the machine may be slow
    ended = bufferlab(*arguments)
    assert ended.status == 0, ended
    assert made == [arguments[0]], "lines, and not a bar that is shown"
    assert " left" not in ended.err, "nothing is said of what ends soon"
    assert "\r" not in ended.err
    assert "%|" not in ended.err + ended.out


def test_every_bar_is_made_here() -> None:
    folders = ("bufferlab", "tools")
    users = [
        path.relative_to(ROOT).as_posix()
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"^\s*(import|from) tqdm", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert users == ["bufferlab/experiments/progress.py"]
