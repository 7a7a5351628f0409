"""The contract of the command line: exit status, one sentence on stderr, one JSON object, nothing written."""

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

from bufferlab.experiments.commands.common.registry import Command, all_commands
from bufferlab.experiments.config.shipped import example_names
from bufferlab.experiments.runs.rundir import StoredRun

ROOT = Path(__file__).resolve().parents[2]
WALL = ("wall_s", "requests_per_wall_s")
SMALL = ("--set", "workload.requests=60", "--set", "run.replications=2", "--no-plots")


def without_wall(summary: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in summary.items() if name not in WALL}


def shell(*arguments: object, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    return subprocess.run(
        [sys.executable, "-m", "bufferlab", *map(str, arguments)],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=100, check=False, **options,
    )  # fmt: skip


# --- help ---


def test_help_shows_every_command_with_an_example(bufferlab: Any) -> None:
    ended = bufferlab("--help")
    assert (ended.status, ended.err) == (0, "")
    text = " ".join(ended.out.split())
    for one in all_commands():
        assert f"Example: {one.example}" in text
        assert one.example.split()[1] == one.name


@pytest.mark.parametrize("one", all_commands(), ids=lambda one: one.name)
def test_every_command_has_help(bufferlab: Any, one: Command) -> None:
    ended = bufferlab(one.name, "--help")
    assert ended.status == 0
    assert f"Example: {one.example}" in " ".join(ended.out.split())
    assert "--json" in ended.out


def test_no_command_shows_help(bufferlab: Any) -> None:
    assert bufferlab().out == bufferlab("--help").out


def test_help_is_quick(tmp_path: Path) -> None:
    def once() -> float:
        started_s = time.perf_counter()
        assert shell("--help", cwd=tmp_path).returncode == 0
        return time.perf_counter() - started_s

    assert min(once() for _ in range(3)) < 1.0  # 0.15 s on an idle machine


def test_help_loads_nothing_heavy() -> None:
    heavy = "{'pandas', 'matplotlib', 'scipy', 'pyarrow', 'numpy'}"
    code = (
        f"import sys, bufferlab.experiments.cli as cli; cli.main(['--help']); print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


HEAVY = {
    "tqdm",
    "multiprocessing",
    "scipy",
    "scipy.stats",
    "pandas",
    "pyarrow.compute",
    "matplotlib",
    "asyncio",
    "torch",
    "dask",
    "distributed",
    "joblib",
}


@pytest.mark.parametrize(
    "arguments",
    [
        ("--version",),
        ("examples",),
        ("sim", "--help"),
        ("sim", "seed-small", "--no-plots"),
        ("sim", "seed-small", "--no-plots", "--set", "run.replications=5"),
        ("sim", "seed-small", "--set", "run.replications=none"),
        ("sim", "seed-small", "--plots"),
        ("sweep", "quickstart", "--grid", "protocol.sizing.tokens=512,4096", *SMALL, "--no-plots", "--jobs", "1"),
    ],
    ids=" ".join,
)
def test_a_command_loads_nothing_heavy_that_it_does_not_need(arguments: tuple[str, ...], tmp_path: Path) -> None:
    code = (
        "import sys; from bufferlab.experiments.cli import main; main(sys.argv[1:]);"
        f"print('loaded:', *sorted({HEAVY} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    needed = {"sweep": " scipy"}.get(arguments[0], " matplotlib" if "--plots" in arguments else "")
    assert done.stdout.splitlines()[-1] == f"loaded:{needed}"


# --- what a run keeps ---


def test_a_run_without_events_has_the_same_figures(bufferlab: Any) -> None:
    whole = json.loads(bufferlab("sim", "quickstart", *SMALL, "--out", "whole", "--json").out)
    bare = json.loads(bufferlab("sim", "quickstart", *SMALL, "--out", "bare", "--json", "--no-events").out)
    for summary in (whole, bare):
        del summary["wall_s"], summary["requests_per_wall_s"]
    assert (whole.pop("events_kept"), bare.pop("events_kept")) == (True, False)
    assert whole == bare
    assert Path("whole/requests.parquet").read_bytes() == Path("bare/requests.parquet").read_bytes()
    assert sorted(path.name for path in Path("bare").iterdir()) == [
        "config.toml", "environment.json", "plots", "requests.parquet", "summary.json",
    ]  # fmt: skip


def test_what_needs_events_says_that_a_run_has_none(bufferlab: Any) -> None:
    told = bufferlab("sim", "seed-small", "--out", "bare", "--no-events")
    assert "events were not kept" in told.out
    assert [path.name for path in Path("bare/plots").iterdir()] == ["latency.png"]
    assert bufferlab("sim", "seed-small", "--out", "whole", "--no-plots").status == 0
    for arguments in (
        ("compare", "bare", "whole"),
        ("compare", "whole", "bare"),
        ("paired", "whole", "bare"),
        ("calibrate", "bare", "--out", "x.toml"),
    ):
        ended = bufferlab(*arguments)
        assert (ended.status, ended.err) == (
            2, "bufferlab: RUN is 'bare', which kept no events; repeat that run without --no-events.\n",
        )  # fmt: skip
    assert bufferlab("sim", "seed-small", "--set", "workload.file=bare", "--no-plots").status == 0


@pytest.mark.parametrize("command", ["sim", "real"])
def test_a_timeline_needs_events(command: str, bufferlab: Any) -> None:
    ended = bufferlab(command, "seed-small", "--timeline", "--no-events", "--out", "run")
    assert ended.status == 2
    assert "--timeline is drawn of the events, which --no-events does not keep" in ended.err
    assert not Path("run").exists()


# --- bad input ---


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["simm"], "No such command 'simm' (did you mean sim?); the commands are demo, sim, real, "),
        (["simulate"], "No such command 'simulate' (did you mean sim?)"),
        (["sweeps"], "No such command 'sweeps' (did you mean sweep?)"),
        (["validat"], "No such command 'validat' (did you mean validate?)"),
        (["benchmark"], "No such command 'benchmark' (did you mean bench-link?)"),
        (["qqq"], "No such command 'qqq'; the commands are demo"),
        (["sim", "misspelt.toml"], "worklod is not a setting (did you mean workload?)"),
        (["sim", "misspelt-request.toml"], "arival_s is not a setting (did you mean arrival_s?)"),
        (["sim", "nothing.toml"], "workload is missing, it must be given"),
        (["sim"], "Missing argument 'CONFIG'"),
        (["sim", "seed-small", "--bogus"], "No such option: --bogus"),
        (["sim", "seed-small", "extra"], "unexpected extra argument"),
        (["sim", "seed-smal"], "CONFIG is 'seed-smal' (did you mean seed-small?), it must be a file or one of"),
        (["sim", "none.toml"], "CONFIG is 'none.toml', it must be a file that can be read"),
        (["sim", "broken.toml"], "broken.toml is not TOML"),
        (["sim", "quickstart", "--set", "encode.poll_interval_s=5"], "encode.poll_interval_s is 5, it must be at most 1"),
        (["sim", "requests.parquet"], "which holds requests and no configuration; give one that they are put into"),
        (["sim", "binary.toml"], "cannot be read: it is not UTF-8 text"),
        (["sim", "seed-small", "--set", "protocol.discipline=x"], "protocol.discipline is 'x', it must be one of"),
        (["sim", "seed-small", "--set", "language.pool_blocks=7"], "language.pool_blocks is 7, it must be at least 8"),
        (["sim", "seed-small", "--set", "nonsense"], "--set is 'nonsense', it must look like"),
        (["sim", "seed-small", "--set", "workload.file=none.csv"], "it must be a file that can be read"),
        (["sim", "seed-small", "--set", "workload.file=bad.csv"], "bad.csv lacks the column total_tokens"),
        (["sim", "seed-small", "--set", "workload.file=nan.csv"], "line 2: total_tokens is nan"),
        (["sim", "seed-small", "--set", "run.replications=3"], "run.replications is 3, it must be 1"),
        (["sim", "seed-small", "--seed", "x"], "run.seed is 'x', it must be a whole number"),
        (["sim", "seed-small", "--seed", "-1"], "run.seed is -1, it must be at least 0"),
        (["sim", "seed-small", "--out", "full"], "it must be a new or empty folder"),
        (["sim", "seed-small", "--out", "full", "--force"], "it must be a new or empty folder"),
        (["sim", "seed-failure", "--set", "faults.0.room=9"], "faults.0.room is 9, it must be one of the requests 1"),
        (["real", "seed-small", "--transport", "udp"], "real.transport is 'udp', it must be one of tcp, rdma, "),
        (["real", "seed-small", "--set", "encode.instances=40"], "41 ranks together"),
        (["real", "seed-small", "--set", "language.pool_blocks=10000000"], "the pools of all ranks take"),
        (["examples", "--show", "nothing"], "there is no example 'nothing', the shipped ones are "),
        (["examples", "--show", "seed-small", "--write", "seed-small", "x"], "only one of them is allowed"),
        (["examples", "--write", "seed-small", "broken.toml"], "it must be a file that does not exist yet"),
        (["examples", "--write", "seed-small", "no/such/folder"], "which cannot be written: No such file or directory"),
        (["compare", "full", "full"], "RUN is 'full', it must be a finished run directory"),
        (["demo", "--out", "full"], "--out is 'full', it must be a new or empty folder"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)  # fmt: skip
def test_bad_input_is_one_sentence_and_exit_2(bufferlab: Any, folder: Path, arguments: list[str], words: str) -> None:
    (folder / "broken.toml").write_text("[run\n")
    (folder / "misspelt.toml").write_text('[worklod]\npreset = "mixed"\n')
    (folder / "misspelt-request.toml").write_text("[[workload.request]]\narival_s = 1\ntotal_tokens = 3\n")
    (folder / "nothing.toml").write_text("[run]\nseed = 1\n")
    (folder / "binary.toml").write_bytes(b"\xff\xfe")
    (folder / "requests.parquet").write_bytes(b"PAR1\xff\xfe")
    (folder / "bad.csv").write_text("arrival_s\n1\n")
    (folder / "nan.csv").write_text("arrival_s,total_tokens\n1,nan\n")
    (folder / "full").mkdir()
    (folder / "full" / "photo.jpg").touch()
    before = sorted(folder.rglob("*"))
    ended = bufferlab(*arguments)
    assert ended.status == 2, ended
    assert ended.out == ""
    assert words in ended.err
    assert ended.err.startswith("bufferlab: ")
    assert ended.err.endswith(".\n")
    assert ended.err.count("\n") == 1
    assert sorted(folder.rglob("*")) == before


def test_bad_input_from_the_shell(tmp_path: Path) -> None:
    done = shell("sim", "seed-small", "--set", "run.seed=no", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "bufferlab: run.seed is 'no', it must be a whole number.\n"


# --- sim ---


@pytest.mark.parametrize(
    ("name", "status", "chunks"),
    [("seed-small", "Success", 1), ("seed-resume", "Success", 2), ("seed-failure", "Failed", 1)],
)
def test_the_seeds(bufferlab: Any, folder: Path, name: str, status: str, chunks: int) -> None:
    ended = bufferlab("sim", name, "--out", "run", "--json")
    assert ended.status == 0, ended.err
    summary = json.loads(ended.out)
    assert summary == json.loads((folder / "run" / "summary.json").read_text())
    assert (summary["kind"], summary["deadlock"], summary["invariant_violations"]) == ("sim", False, 0)
    rows = StoredRun(folder / "run").requests()
    assert rows[["status", "chunks"]].to_numpy().tolist() == [[status, chunks]]
    assert bool(rows["failure"][0]) == (status == "Failed")
    assert (folder / "run" / "plots" / "pools.png").stat().st_size > 5000


def test_a_run_says_what_it_did(bufferlab: Any) -> None:
    ended = bufferlab("sim", "seed-small")
    assert ended.status == 0
    assert "1 requests simulated over tcp-loopback: 1 succeeded, 0 failed, 0 unfinished" in ended.out
    path = Path(ended.out.splitlines()[-1].removeprefix("run directory: "))
    assert path.parent == Path("runs")
    assert StoredRun(path).summary["requests"]["succeeded"] == 1


def test_the_same_seed_gives_the_same_bytes(bufferlab: Any, folder: Path) -> None:
    summaries = [json.loads(bufferlab("sim", "quickstart", *SMALL, "--out", name, "--json").out) for name in "ab"]
    assert without_wall(summaries[0]) == without_wall(summaries[1])
    for name in ("config.toml", "environment.json", "events.parquet", "requests.parquet"):
        assert (folder / "a" / name).read_bytes() == (folder / "b" / name).read_bytes(), name
    other = bufferlab("sim", "quickstart", *SMALL, "--out", "c", "--seed", 2, "--json")
    assert without_wall(json.loads(other.out)) != without_wall(summaries[0])


def test_a_resolved_configuration_runs_the_same_again(bufferlab: Any, folder: Path) -> None:
    (folder / "rows.csv").write_text("arrival_s,total_tokens\n0,500\n0.1,3000\n")
    (folder / "mine.toml").write_text(
        "[workload]\nfile = 'rows.csv'\n[language]\npool_blocks = '64MiB'\n[protocol]\ntimeout_s = 'never'\n"
    )
    assert bufferlab("sim", "mine.toml", "--out", "a").status == 0
    # From its run directory, and from another place.
    assert bufferlab("sim", "a/config.toml", "--out", "b").status == 0
    assert bufferlab("sim", "a", "--out", "c").status == 0
    for name in ("config.toml", "events.parquet", "requests.parquet"):
        assert (
            (folder / "a" / name).read_bytes()
            == (folder / "b" / name).read_bytes()
            == (folder / "c" / name).read_bytes()
        )
    assert tomllib.loads((folder / "a" / "config.toml").read_text())["run"]["name"] == "mine"


def test_a_finished_run_is_replaced_only_by_force(bufferlab: Any, folder: Path) -> None:
    assert bufferlab("sim", "seed-small", "--out", "run", "--no-plots").status == 0
    before = (folder / "run" / "config.toml").read_text()
    ended = bufferlab("sim", "seed-resume", "--out", "run", "--no-plots")
    assert (ended.status, (folder / "run" / "config.toml").read_text()) == (2, before)
    assert bufferlab("sim", "seed-resume", "--out", "run", "--no-plots", "--force").status == 0
    assert StoredRun(folder / "run").config.run.name == "seed-resume"


def test_without_out_the_same_run_replaces_itself(bufferlab: Any, folder: Path) -> None:
    for _ in range(2):
        assert bufferlab("sim", "seed-small", "--no-plots").status == 0
    assert len(list((folder / "runs").iterdir())) == 1


def test_a_folder_with_the_name_of_an_example_does_not_hide_it(bufferlab: Any, folder: Path) -> None:
    (folder / "seed-small").mkdir()
    assert bufferlab("sim", "seed-small", "--no-plots").status == 0


def test_a_deadlock_is_reported(bufferlab: Any) -> None:
    # Two requests fill the pool with their first halves, and both wait for the other's blocks while holding theirs.
    ended = bufferlab(
        "sim", "seed-resume", "--no-plots", "--json",
        "--set", "protocol.discipline=alloc_then_free", "--set", "protocol.timeout_s=never",
        "--set", "workload.lengths=[2000, 2000]", "--set", "language.pool_blocks=16",
    )  # fmt: skip
    summary = json.loads(ended.out)
    assert ended.status == 0
    assert summary["deadlock"] is True
    counts = {"offered": 2, "succeeded": 0, "failed": 0, "unfinished": 2, "not_served": 2}
    assert summary["requests"] == counts
    assert summary["latency_s"]["p50"] == {"value": None, "low": None, "high": None}


def test_violations_end_with_status_1(bufferlab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from bufferlab.protocol.observe.monitor import InvariantMonitor

    monkeypatch.setattr(InvariantMonitor, "finish", lambda self: self._break("made up", None, 1, None))
    monkeypatch.setattr(InvariantMonitor, "_break", lambda self, *_: setattr(self, "violations", 1))
    ended = bufferlab("sim", "seed-small", "--no-plots")
    assert ended.status == 1
    assert "INVARIANTS VIOLATED: 1," in ended.out


@pytest.mark.interpreted
def test_blocks_that_never_come_back_are_told_at_the_end(bufferlab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from bufferlab.protocol.allocator import BlockPool

    release = BlockPool.release
    monkeypatch.setattr(BlockPool, "release", lambda self, blocks, owner: release(self, list(blocks)[1:], owner))
    ended = bufferlab("sim", "seed-small", "--no-plots")
    assert ended.status == 1
    assert "INVARIANTS VIOLATED: 2," in ended.out
    assert "language0.0 remembers 0 rooms and has 63 of 64 blocks free, 0 fenced" in ended.err


@pytest.mark.parametrize("name", example_names())
def test_every_example_runs(bufferlab: Any, name: str) -> None:
    ended = bufferlab("sim", name, "--no-plots", "--json")
    assert ended.status == 0, ended.err
    summary = json.loads(ended.out)
    assert summary["requests"]["unfinished"] == 0
    assert not summary["deadlock"]


def test_an_interrupt_leaves_nothing_half_written(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "bufferlab", "sim", "quickstart", "--set", "workload.requests=999999", "--out", "run"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".run.*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert (out.count(b"\n"), err) == (1, b"bufferlab: interrupted\n")  # the line of the plan
    assert list(tmp_path.iterdir()) == []


# --- examples ---


def test_examples_are_listed_shown_and_written(bufferlab: Any, folder: Path) -> None:
    listed = bufferlab("examples")
    assert [line.split()[0] for line in listed.out.splitlines()] == example_names()
    assert {"seed-small", "seed-resume", "seed-failure", "quickstart"} <= set(example_names())
    assert json.loads(bufferlab("examples", "--json").out)["examples"][0].keys() == {"name", "title"}
    text = bufferlab("examples", "--show", "quickstart").out
    tomllib.loads(text)
    assert json.loads(bufferlab("examples", "--show", "quickstart", "--json").out) == {
        "name": "quickstart",
        "text": text,
    }
    assert bufferlab("examples", "--write", "quickstart", "mine.toml").status == 0
    assert (folder / "mine.toml").read_text() == text


@pytest.mark.parametrize("name", example_names())
def test_examples_teach(name: str, bufferlab: Any) -> None:
    lines = bufferlab("examples", "--show", name).out.splitlines()
    assert lines[0].startswith("# ")
    assert sum("#" in line for line in lines) >= 4


def test_a_reader_that_has_enough_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m bufferlab examples --show quickstart | head -1; exit ${{PIPESTATUS[0]}}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


# --- compare ---


def test_compare(bufferlab: Any) -> None:
    for name, source in (("a", "seed-resume"), ("b", "seed-resume"), ("c", "seed-small")):
        assert bufferlab("sim", source, "--out", name, "--no-plots").status == 0
    same = bufferlab("compare", "a", "b")
    assert same.status == 0
    assert same.out.endswith("histories compared, 0 different\n")
    assert bufferlab("compare", "a", "c").status == 1
    told = json.loads(bufferlab("compare", "a", "c", "--json").out)
    assert told["equal"] is False
    assert told["differences"][0].startswith("room 1 on ")


# --- real ---


def test_real_without_mooncake_says_what_to_do(tmp_path: Path) -> None:
    # A folder that hides the package, as on a machine that does not have it.
    (tmp_path / "hide" / "mooncake").mkdir(parents=True)
    (tmp_path / "hide" / "mooncake" / "__init__.py").write_text(
        "raise ModuleNotFoundError('no mooncake', name='mooncake')\n"
    )
    (tmp_path / "work").mkdir()
    path = os.pathsep.join([str(tmp_path / "hide"), str(ROOT)])
    done = shell("real", "seed-small", cwd=tmp_path / "work", env={"PYTHONPATH": path})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("bufferlab: ")
    assert done.stderr.count("\n") == 1
    assert "pip install" in done.stderr
    assert not list((tmp_path / "work").rglob("*.parquet"))


@pytest.mark.real
def test_a_transport_that_is_not_there_is_refused(bufferlab: Any, folder: Path) -> None:
    pytest.importorskip("torch", reason="needs torch")
    pytest.importorskip("mooncake", reason="needs Mooncake's Transfer Engine")
    if list(Path("/sys/class/infiniband").glob("*")):
        pytest.skip("this host has an RDMA device")
    ended = bufferlab("real", "seed-small", "--transport", "rdma", "--out", "run")
    assert ended.status == 2
    assert "rdma" in ended.err
    assert ended.err.count("\n") == 1
    assert list(folder.iterdir()) == []


@pytest.mark.real
def test_real_and_sim_have_the_same_files_columns_and_histories(bufferlab: Any, folder: Path) -> None:
    pytest.importorskip("torch", reason="needs torch")
    pytest.importorskip("mooncake", reason="needs Mooncake's Transfer Engine")
    for name in ("seed-resume", "seed-failure"):
        assert bufferlab("sim", name, "--out", f"{name}-sim").status == 0
        ended = bufferlab("real", name, "--out", f"{name}-real", "--json")
        assert ended.status == 0, ended.err
        assert json.loads(ended.out).keys() == json.loads((folder / f"{name}-sim" / "summary.json").read_text()).keys()
        assert json.loads(ended.out)["transport"] == "tcp"
        runs = [StoredRun(folder / f"{name}-{kind}") for kind in ("sim", "real")]
        assert runs[0].requests().dtypes.equals(runs[1].requests().dtypes)
        assert runs[0].events().dtypes.equals(runs[1].events().dtypes)
        names = [sorted(path.relative_to(run.path) for path in run.path.rglob("*")) for run in runs]
        assert names[0] == names[1]
        compared = bufferlab("compare", runs[0].path, runs[1].path)
        assert compared.status == 0, compared.out
