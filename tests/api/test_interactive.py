"""What somebody at a keyboard meets: completion, help, reprs, folders that go, and sentences in the words of Python."""

from __future__ import annotations

import io
import os
import pydoc
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest

import bufferlab as bl
from bufferlab.api import temporary
from bufferlab.api.speech import in_python

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"workload.requests": 30, "run.replications": 1}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    mpl.use("agg")
    return tmp_path


@pytest.fixture(scope="module")
def run() -> bl.Run:
    return bl.simulate("quickstart", SMALL)


@pytest.fixture(scope="module")
def silent() -> bl.Run:
    return bl.simulate("quickstart", SMALL, events=False)


@pytest.fixture(scope="module")
def sweep() -> bl.Sweep:
    return bl.sweep("quickstart", {"protocol": {"sizing": {"policy": ["fixed", "quantile"]}}}, overrides=SMALL, jobs=1)


# --- completion, help, reprs ---------------------------------------------------------------------------------------


def test_whatever_is_public_of_a_result_is_completed(run: bl.Run, sweep: bl.Sweep) -> None:
    jedi = pytest.importorskip("jedi", reason="jedi is not installed (it comes with ipykernel)")
    results: dict[str, Any] = {
        "run": run, "sweep": sweep, "paired": bl.paired(run, run), "validation": bl.validate(run, "tcp-loopback"),
        "what_if": bl.what_if("quickstart", requests=10), "config": run.config, "plot": run.plot,
        "curves": sweep.plot,
    }  # fmt: skip
    results["tuning"] = object.__new__(bl.Tuning)  # its names need no tuning
    for name, value in results.items():
        public = {one for one in dir(type(value)) if not one.startswith("_")}
        found = {one.name for one in jedi.Interpreter(f"{name}.", [results]).complete()}
        assert public <= found, (name, public - found)


def test_a_configuration_lists_its_settings_and_what_is_ours() -> None:
    config = bl.load("quickstart", {"protocol.sizing.policy": "quantile", "protocol.sizing.q": 0.5})
    listed = {one for one in dir(config) if not one.startswith("_")}
    assert {"protocol", "workload", "with_", "measured", "source", "tree"} <= listed
    assert not {one for one in listed if one.startswith("model_")} | ({"copy", "json", "schema", "parse_obj"} & listed)
    assert {"policy", "tokens", "q", "options", "explained"} == {
        one for one in dir(config.protocol.sizing) if not one.startswith("_")
    }
    told = io.StringIO()
    pydoc.Helper(output=told).help(bl.Config)
    assert "with_" in told.getvalue()
    assert "model_dump" not in told.getvalue()
    assert "parse_obj" not in told.getvalue()


def test_everything_that_a_cell_may_end_with_shows_itself(run: bl.Run, sweep: bl.Sweep) -> None:
    assert repr(run.plot) == "RunPlots: .ecdf(), .pools(), .tail(), .timeline()"
    assert repr(sweep.plot) == "SweepPlots: .ecdf(), .tail(), .tradeoff(), .u_shape()"
    page = bl.load("quickstart", {"workload.requests": 7, "encode": {"base_s": "5ms"}})._repr_html_()
    assert "<td>workload.requests</td><td>7</td>" in page
    assert "<td>protocol.sizing.tokens</td>" in page
    assert "<td>encode.base_s</td><td>&#x27;5ms&#x27;</td>" in page, "as it was said"


def test_a_table_of_differences_can_be_asked_for_those_that_are_significant(run: bl.Run) -> None:
    table = bl.paired(run, bl.simulate(run.config, {"protocol.sizing.tokens": 2048}, replications=1)).table
    assert str(table["significant"].dtype) == "boolean"
    assert table["significant"].isna().any()
    assert len(table[table.significant]) == int(table["significant"].sum())


# --- folders that nobody chose -------------------------------------------------------------------------------------


def in_python_process(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


def test_a_folder_goes_at_the_end_and_that_of_a_killed_process_when_the_next_begins(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = "from bufferlab.api.temporary import new_folder; import os; (new_folder() / 'file').write_text('x')\n"
    assert in_python_process(make, folder).returncode == 0
    assert list(folder.iterdir()) == []
    killed = in_python_process(f"{make}os.kill(os.getpid(), 9)", folder)
    assert killed.returncode == -signal.SIGKILL
    (left,) = folder.iterdir()
    gone = left.name.split("-")[1]
    others = [
        f"bufferlab-{gone}-abc",
        f"bufferlab-{gone}-abcdefgh",
        "bufferlab-abcdefgh",
        f"bufferlab-{os.getpid()}-abcdefgh",
    ]
    for name in others:  # of another form, without a lock, of another version, of a living process
        (folder / name).mkdir()
    (folder / others[3] / "lock").touch()
    assert in_python_process(make, folder).returncode == 0
    assert sorted(path.name for path in folder.iterdir()) == sorted(others)
    # A process with other numbers, as in a container: what counts is that its lock is held.
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(temporary, "_roots", {})
    own = temporary.new_folder().parent
    monkeypatch.setattr(temporary, "_is_alive", lambda _: False)
    temporary._remove_stale(folder)
    assert own.is_dir()
    temporary.remove(own, os.getpid() + 1)
    assert own.is_dir(), "a process that was forked takes nothing away"


# --- sentences -----------------------------------------------------------------------------------------------------


def test_a_sentence_of_a_command_becomes_one_of_a_function() -> None:
    said = {
        "--out is '/a --b', which holds a finished run; give a new folder, or --force to replace it":
            "out is '/a --b', which holds a finished run; give a new folder, or force=True to replace it",
        "--set is 'a', it must look like protocol.block_tokens=128":
            "an override is 'a', it must look like protocol.block_tokens=128",
        "RUN is '/tmp/x', which kept no events; repeat that run without --no-events":
            "the run 'a' kept no events; repeat that run with events=True",
        "CONFIG is 'q', it must be a file": "source is 'q', it must be a file",
        "not finished: bufferlab sweep a --out b goes on": "not finished: bufferlab sweep a --out b goes on",
        "--max-error is 'x'": "max_error is 'x'",
    }  # fmt: skip
    for sentence, expected in said.items():
        assert in_python(sentence, "source", [("/tmp/x", "the run 'a'")]) == expected


CALLS: list[tuple[Callable[[bl.Run, bl.Run, bl.Sweep], object], str]] = [
    (lambda run, silent, sweep: bl.simulate(None), "config is None, it must be the name of an example, a file"),  # type: ignore[arg-type]
    (lambda run, silent, sweep: bl.simulate(["ustudy"]), "config is ['ustudy'], it must be the name of an example"),  # type: ignore[arg-type]
    (lambda run, silent, sweep: bl.simulate("ustdy"), "config is 'ustdy' (did you mean ustudy?), it must be"),
    (lambda run, silent, sweep: bl.load(3), "source is 3, it must be the name of an example"),  # type: ignore[arg-type]
    (lambda run, silent, sweep: bl.simulate("quickstart", out=3), "out is 3, it must be a path"),  # type: ignore[arg-type]
    (lambda run, silent, sweep: bl.read("runs/a", "run"), "kind is 'run', it must be one of bl.Run, bl.Sweep"),  # type: ignore[call-overload]
    (lambda run, silent, sweep: bl.read("runs/a"), "path is 'runs/a', it must be the directory of a finished run"),
    (lambda run, silent, sweep: bl.sweep("quickstart", {"protocol.sizing.tokens": 512}), "the grid has protocol.sizing.tokens 512, it must be a list"),  # type: ignore[dict-item]
    (lambda run, silent, sweep: bl.sweep("quickstart", {"protocol.sizing.policy": "fixed"}), "the grid has protocol.sizing.policy 'fixed', it must be a list"),
    (lambda run, silent, sweep: bl.sweep("quickstart", ["protocol"]), "grid is ['protocol'], it must be a dictionary"),  # type: ignore[arg-type]
    (lambda run, silent, sweep: bl.sweep("quickstart", {"protocol.block_tokens": [64]}, jobs="2"), "jobs is '2', it must be a whole number"),  # type: ignore[arg-type]
    (lambda run, silent, sweep: bl.sweep("quickstart", {"protocol.block_tokens": [64]}, jobs=0), "jobs is 0, it must be at least 1"),
    (lambda run, silent, sweep: bl.sweep("quickstart", {"protocol.block_tokens": [64]}, executor="ray"), "executor is 'ray', it must be one of local, dask"),  # type: ignore[arg-type]
    (lambda run, silent, sweep: bl.sweep("quickstart"), "the sweep has no configurations, it must have at least one value of grid or one of configurations"),
    (lambda run, silent, sweep: bl.sweep("quickstart", {"protocol.block_tokens": [64]}, baseline={"protocol.block_token": 64}), "baseline names protocol.block_token, which is not swept"),
    (lambda run, silent, sweep: bl.paired(run, sweep), "second is Sweep('quickstart'"),  # type: ignore[arg-type]
    (lambda run, silent, sweep: bl.paired(run, silent), "the run 'quickstart' kept no events; repeat that run with events=True"),
    (lambda run, silent, sweep: silent.events, "the run 'quickstart' kept no events; repeat that run with events=True"),
    (lambda run, silent, sweep: silent.plot.pools(), "the run 'quickstart' kept no events"),
    (lambda run, silent, sweep: silent.timeline("x.json"), "the run 'quickstart' kept no events"),
    (lambda run, silent, sweep: run.timeline("x.json", replication=1), "replication is 1, it must be 0, the only one"),
    (lambda run, silent, sweep: run.plot.ecdf(quantity="latency"), "quantity is 'latency' (did you mean latency_s?), it must be one of latency_s, ttft_s, transfer_s"),  # type: ignore[arg-type]
    (lambda run, silent, sweep: run.plot.pools(side="encoder"), "side is 'encoder' (did you mean encode?)"),  # type: ignore[arg-type]
    (lambda run, silent, sweep: sweep.plot.u_shape(), "no number was swept, only protocol.sizing.policy; plot.ecdf()"),
    (lambda run, silent, sweep: sweep.plot.tradeoff(x="protocol.sizing.policy"), "no number was swept"),
    (lambda run, silent, sweep: sweep.plot.tail(quantity="ttft_s"), "quantity is 'ttft_s'"),  # type: ignore[arg-type]
    (lambda run, silent, sweep: sweep.config(9), "configuration is 9, it must be a number from 1 to 2"),
    (lambda run, silent, sweep: bl.what_if("quickstart").run(rate="2"), "rate is '2', it must be a number"),  # type: ignore[arg-type]
    (lambda run, silent, sweep: bl.what_if("quickstart").figure(rat=2), "rat is no slider, there are rate, tokens"),
    (lambda run, silent, sweep: setattr(run.config, "slo", 3), "a configuration never changes; config.with_(slo=…) makes another one"),
    (lambda run, silent, sweep: bl.validate(3, "tcp-loopback"), "runs is 3, it must be runs (bl.Run) or the folders of runs"),  # type: ignore[arg-type]
    (lambda run, silent, sweep: bl.validate(run, 3), "profile is 3, it must be the name of a link profile"),  # type: ignore[arg-type]
    (lambda run, silent, sweep: bl.validate(run, "tcp-loopback", max_error={"p5": 1}), "max_error "),
    (lambda run, silent, sweep: bl.tune(None), "source is None, it must be a file of requests"),  # type: ignore[arg-type]
    (lambda run, silent, sweep: bl.tune("quickstart", slo=["ttft_p99"]), "slo is ['ttft_p99'], it must be a dictionary"),  # type: ignore[arg-type]
    (lambda run, silent, sweep: run.report("x.txt"), "out is 'x.txt'"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "said"), CALLS, ids=[said for _, said in CALLS])
def test_what_no_function_takes_is_refused_in_the_words_of_python(
    call: Callable[[bl.Run, bl.Run, bl.Sweep], object], said: str, run: bl.Run, silent: bl.Run, sweep: bl.Sweep
) -> None:
    with pytest.raises(bl.UserError) as refused:
        call(run, silent, sweep)
    assert str(refused.value).startswith(said) or f": {said}" in str(refused.value)
    assert "--" not in str(refused.value)
    assert "\n" not in str(refused.value)
    assert os.listdir() == []  # noqa: PTH208


def test_a_curve_of_what_was_not_swept_is_refused(folder: Path) -> None:
    made = bl.sweep("quickstart", {"protocol.block_tokens": [64, 128]}, overrides=SMALL, jobs=1)
    with pytest.raises(
        bl.UserError, match=r"x is 'protocol.sizing.tokens', it must be a number that was swept: .*block"
    ):
        made.plot.u_shape()
    with pytest.raises(bl.UserError, match=r"figure is 'latency' .*, it must be one of .*latency_s.mean"):
        made.plot.u_shape(figure="latency", x="protocol.block_tokens")
    with pytest.raises(bl.UserError, match="lines is 'protocol'"):
        made.plot.u_shape(x="protocol.block_tokens", lines=["protocol"])
    assert made.plot.u_shape(x="protocol.block_tokens").get_xlabel() == "protocol.block_tokens"
