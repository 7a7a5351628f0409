"""One run, one command per process: on hosts that are addresses of this machine, and on network namespaces.

The first need nothing and take the whole path but the network; the second have a network of their own
(``tools/hosts.py``), where it also shows what crosses it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("mooncake", reason="needs Mooncake's Transfer Engine")
pytest.importorskip("psutil", reason="needs psutil")

import pandas as pd
import psutil

from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.real.control.guard import new_token
from bufferlab.real.control.spec import Heartbeats
from bufferlab.real.hosts.coordinator import Coordinator
from bufferlab.real.run.launcher import run_real

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]

ROOT = Path(__file__).resolve().parents[2]
BUFFERLAB = (sys.executable, "-m", "bufferlab")
END_S = 120.0
"""Far longer than anything here takes on a busy machine."""

LENGTHS = [1, 15, 16, 17, 63, 64, 65, 128, 327, 777]
CONFIG = """
[model]
hidden = 64
[workload]
{requests}
[protocol]
block_tokens = 16
timeout_s = "60s"
[protocol.sizing]
tokens = 64
[encode]
tp = {encode}
pool_blocks = 128
[language]
tp = {language}
pool_blocks = 256
"""

Where = Callable[[Sequence[str]], list[str]]


def here(command: Sequence[str]) -> list[str]:
    """On this machine."""
    return list(command)


class Process:
    """A ``bufferlab`` command that runs, as far as the tests look at it."""

    def __init__(self, folder: Path, arguments: Sequence[object], where: Where = here) -> None:
        command = where([*BUFFERLAB, *map(str, arguments)])
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.popen = psutil.Popen(
            command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.err = ""

    def await_line(self, words: str) -> str:
        """The line of standard error with these words."""
        for line in self.popen.stderr:
            self.err += line
            if words in line:
                return str(line)
        raise AssertionError(f"it ended before it said {words!r}: {self.err}")

    def ended(self) -> int:
        """Wait for its end; its exit status."""
        out, err = self.popen.communicate(timeout=END_S)
        self.out, self.err = out, self.err + err
        return int(self.popen.returncode)


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Process]]:
    """Starts commands; at the end nothing that they started may be left, and no file of theirs but runs."""
    folder, scratch = tmp_path / "work", tmp_path / "scratch"
    folder.mkdir()
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("BUFFERLAB_TOKEN", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.chdir(folder)
    started: list[Process] = []

    def one(*arguments: object, where: Where = here) -> Process:
        started.append(Process(folder, arguments, where))
        return started[-1]

    def family() -> list[psutil.Process]:
        """The commands and their ranks; a rank has left its command's session, so it is found by its environment."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("TMPDIR") == str(scratch) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    try:
        yield one
        _, alive = psutil.wait_procs(family(), timeout=20)
        assert alive == []
        assert list(scratch.iterdir()) == []
    finally:
        for process in family():
            process.kill()
        for command in started:
            command.popen.communicate()
        monkeypatch.setattr(tempfile, "tempdir", None)


def write_config(encode: int, language: int, lengths: Sequence[int] = LENGTHS, name: str = "mine.toml") -> None:
    requests = "\n".join(
        f"[[workload.request]]\narrival_s = {0.05 * number}\ntotal_tokens = {tokens}"
        for number, tokens in enumerate(lengths)
    )
    Path(name).write_text(CONFIG.format(requests=requests, encode=encode, language=language))


def port_of(coordinator: Process) -> str:
    return coordinator.await_line("waiting at").split()[2].rpartition(":")[2]


def environment(run: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(run) / "environment.json").read_text())
    return content


def check_run(start: Callable[..., Process], coordinator: Process, language: int, lengths: Sequence[int]) -> None:
    """All succeeded, all bytes are right, the histories are the simulator's, and the clocks are the same one."""
    summary = json.loads(coordinator.out)
    count = len(lengths)
    ended = {"offered": count, "succeeded": count, "failed": 0, "unfinished": 0, "not_served": 0}
    assert summary["requests"] == ended
    assert (summary["kind"], summary["transport"], summary["invariant_violations"]) == ("real", "tcp", 0)
    simulated = start("sim", "mine.toml", "--out", "sim", "--no-plots")
    assert simulated.ended() == 0, simulated.err
    compared = start("compare", "real", "sim", "--json")
    assert compared.ended() == 0, compared.out
    assert json.loads(compared.out)["equal"]
    found = environment("real")
    bytes_per_token = found["transport_proof"]["verified_bytes"] / (sum(lengths) * language)
    assert bytes_per_token == int(bytes_per_token) > 0
    for rank in found["ranks"]:
        assert abs(rank["clock_offset_s"]) <= rank["clock_uncertainty_s"] < 1.0, rank
        assert found["hosts"][rank["host"]]["packages"]["bufferlab"]


# --- on one machine ---


def test_a_run_whose_ranks_come_by_themselves(start: Callable[..., Process], tmp_path: Path) -> None:
    write_config(encode=1, language=2)
    coordinator = start("real", "mine.toml", "--bootstrap", "127.0.0.1:0", "--out", "real", "--no-plots", "--json")
    bootstrap = f"127.0.0.1:{port_of(coordinator)}"
    rank = ["real", "--bootstrap", bootstrap, "--role"]
    ranks = [
        start(*rank, "encode", "--rank", 0, "--host", "127.0.0.2"),
        start(*rank, "language", "--rank", 0, "--host", "127.0.0.3"),
        start(*rank, "language", "--rank", 1),
    ]
    assert [one.ended() for one in ranks] == [0, 0, 0], [one.err for one in ranks]
    assert coordinator.ended() == 0, coordinator.err
    check_run(start, coordinator, 2, LENGTHS)
    assert environment("real")["refused"] == []
    assert list((tmp_path / "state").rglob("token-*")) == []  # it ends with the coordinator
    places = {one["rank"]: one["host"] for one in environment("real")["ranks"]}
    assert places == {"encode0.0": "127.0.0.2", "language0.0": "127.0.0.3", "language0.1": "127.0.0.1"}


@pytest.mark.slow
def test_the_ranks_stay_for_all_replications(start: Callable[..., Process]) -> None:
    arguments = ["quickstart", "--set", "workload.requests=5", "--set", "run.replications=2"]
    coordinator = start("real", *arguments, "--bootstrap", "127.0.0.1:0", "--out", "real", "--no-plots", "--json")
    bootstrap = f"127.0.0.1:{port_of(coordinator)}"
    ranks = [
        start("real", *arguments, "--role", role, "--rank", 0, "--bootstrap", bootstrap)
        for role in ("encode", "language")
    ]
    assert [one.ended() for one in ranks] == [0, 0], [one.err for one in ranks]
    assert coordinator.ended() == 0, coordinator.err
    assert json.loads(coordinator.out)["requests"]["succeeded"] == 10
    assert [one["replication"] for one in environment("real")["ranks"]] == [0, 0, 1, 1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "said"),
    [
        (signal.SIGINT, "the run was not carried through: the coordinator was interrupted"),
        (signal.SIGKILL, "because the coordinator is gone: the connection"),
    ],
)
def test_ranks_end_with_their_coordinator(start: Callable[..., Process], how: signal.Signals, said: str) -> None:
    settings = ["--set", "workload.requests=100000", "--set", "workload.rate_rps=50"]
    coordinator = start("real", "quickstart", *settings, "--bootstrap", "127.0.0.1:0", "--out", "real", "--json")
    bootstrap = f"127.0.0.1:{port_of(coordinator)}"
    ranks = [start("real", "--role", role, "--rank", 0, "--bootstrap", bootstrap) for role in ("encode", "language")]
    coordinator.await_line("the run begins")
    deadline_s = time.monotonic() + END_S
    while (
        not all(
            any("bufferlab.real.run.rank" in one.cmdline() for one in rank.popen.children(recursive=True))
            for rank in ranks
        )
        and time.monotonic() < deadline_s
    ):
        time.sleep(0.1)
    coordinator.popen.send_signal(how)
    assert [one.ended() for one in ranks] == [1, 1]
    assert all(said in one.err for one in ranks), [one.err for one in ranks]
    assert coordinator.ended() == (130 if how == signal.SIGINT else -how)
    assert not Path("real").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "status", "what"),
    [
        (signal.SIGINT, 130, "was interrupted"),
        (signal.SIGTERM, 143, "was interrupted"),
        (signal.SIGKILL, -signal.SIGKILL, "is lost: the connection was closed"),
    ],
)
def test_a_rank_that_leaves_is_named_and_the_run_goes_on(
    start: Callable[..., Process],
    how: signal.Signals,
    status: int,
    what: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BUFFERLAB_TOKEN", token := new_token())
    scenario = Scenario(
        block_tokens=16, hidden=64, sizing_options={"tokens": 64}, encode_blocks=64, language_blocks=64,
        language_instances=2, timeout_s=10.0,
    )  # fmt: skip
    requests = [
        Request(room=room, arrival_s=0.02 * room, total_tokens=100, language_instance=room % 2)
        for room in range(1, 101)
    ]
    with Coordinator(scenario, "127.0.0.1", 0, token=token) as hosts:
        names = [("encode", 0), ("language", 0), ("language", 1)]
        ranks = [start("real", "--role", role, "--rank", n, "--bootstrap", hosts.address) for role, n in names]
        hosts.gather(END_S, print)
        told: list[int] = []

        def progress(count: int) -> None:
            if not told:
                ranks[1].popen.send_signal(how)
            told.append(count)

        outcome = run_real(scenario, requests, hosts=hosts, progress=progress, heartbeats=Heartbeats(interval_s=0.5))
    assert [one.ended() for one in ranks] == [0, status, 0], [one.err for one in ranks]
    assert [one.what for one in outcome.incidents] == [f"language0.0 {what} (on 127.0.0.1)"]
    assert {request.room for request in requests if request.language_instance == 1} <= outcome.succeeded_rooms
    assert outcome.failed_rooms
    assert outcome.failed_rooms | outcome.succeeded_rooms == {request.room for request in requests}
    assert outcome.mismatches == []
    if how == signal.SIGKILL:  # nobody was left to remove the folder of its rank's error file
        [left] = Path(os.environ["TMPDIR"]).iterdir()
        shutil.rmtree(left)


# --- on network namespaces ---


def load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hosts_tool", ROOT / "tools" / "hosts.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclass looks for its annotations
    spec.loader.exec_module(module)
    return module


TOOL = load_tool()


def need(rate: str = "") -> None:
    """Skip where hosts cannot be made, and say what is missing."""
    reason = TOOL.why_not(rate)
    if reason:
        pytest.skip(reason)


def run_on(
    start: Callable[..., Process], hosts: Sequence[Any], encode: int, language: int, where: Sequence[int]
) -> tuple[Process, list[tuple[int, int]]]:
    """A run with the coordinator on the first of ``hosts`` and the ranks where ``where`` says; also, by host, the bytes
    that it sent and received meanwhile."""
    before = [host.traffic_bytes() for host in hosts]
    bootstrap = f"{hosts[0].address}:7077"
    arguments = ["real", "mine.toml", "--bootstrap", bootstrap, "--out", "real", "--no-plots", "--json"]
    coordinator = start(*arguments, where=hosts[0].command)
    commands = TOOL.rank_arguments(encode, language, bootstrap)
    ranks = [start(*command, where=hosts[one].command) for one, command in zip(where, commands, strict=True)]
    assert [one.ended() for one in ranks] == [0] * len(ranks), [coordinator.err, *(one.err for one in ranks)]
    assert coordinator.ended() == 0, coordinator.err
    after = [host.traffic_bytes() for host in hosts]
    assert [host.processes() for host in hosts] == [[]] * len(hosts)
    moved = [(one[0] - two[0], one[1] - two[1]) for one, two in zip(after, before, strict=True)]
    return coordinator, moved


def namespaces() -> list[str]:
    return subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.hosts
def test_two_hosts(start: Callable[..., Process]) -> None:
    need()
    write_config(encode=1, language=1)
    with TOOL.hosts(2) as hosts:
        coordinator, moved = run_on(start, hosts, 1, 1, where=[0, 1])
        names = [host.name for host in hosts]
    check_run(start, coordinator, 1, LENGTHS)
    found = environment("real")
    assert {one["rank"]: one["host"] for one in found["ranks"]} == {
        "encode0.0": "10.77.0.1",
        "language0.0": "10.77.0.2",
    }
    payload = found["transport_proof"]["verified_bytes"]
    assert payload > 100_000
    (sent, _), (_, received) = moved
    # Headers, acknowledgements, control messages and records come on top.
    assert payload < received < 2 * payload + 2_000_000
    assert payload < sent < 2 * payload + 2_000_000
    assert any(
        "on 10.77.0.1, while" in line and "tcp:eth0 rose by" in line for line in found["transport_proof"]["evidence"]
    )
    assert not [line for line in namespaces() if line.split()[0] in names]


@pytest.mark.hosts
@pytest.mark.slow
def test_three_hosts_and_groups_that_span_them(start: Callable[..., Process]) -> None:
    need()
    write_config(encode=2, language=3)
    with TOOL.hosts(3) as hosts:
        coordinator, moved = run_on(start, hosts, 2, 3, where=[0, 1, 0, 1, 2])
    check_run(start, coordinator, 3, LENGTHS)
    # Encode 0 writes to language 0, beside it, and language 2; encode 1 to language 1, beside it.
    payload = environment("real")["transport_proof"]["verified_bytes"] / 3
    assert moved[2][1] > payload


@pytest.mark.hosts
@pytest.mark.slow
def test_the_transfer_is_as_fast_as_the_link(start: Callable[..., Process]) -> None:
    took_s: dict[int, float] = {}
    for rate_mbit in (40, 160):
        need(f"{rate_mbit}mbit")
        write_config(encode=1, language=1, lengths=[60_000])
        text = Path("mine.toml").read_text().replace("= 128", "= 4000").replace("= 256", "= 4000")
        Path("mine.toml").write_text(text.replace("tokens = 64", "tokens = 60_000"))
        with TOOL.hosts(2, f"{rate_mbit}mbit") as hosts:
            coordinator, _ = run_on(start, hosts, 1, 1, where=[0, 1])
        assert json.loads(coordinator.out)["requests"]["succeeded"] == 1
        events = pd.read_parquet("real/events.parquet").set_index("event")
        took_s[rate_mbit] = float(events.time_s["write_done"] - events.time_s["write_started"])
        bits = 8 * environment("real")["transport_proof"]["verified_bytes"]
        # The bucket was full at first; headers take the rest. It can be slower on a busy machine, but never quicker.
        assert took_s[rate_mbit] > (bits - 8 * 128 * 1024) / (rate_mbit * 1e6)
        Path("real").rename(f"real-{rate_mbit}")
    assert 2.0 < took_s[40] / took_s[160] < 8.0


@pytest.mark.hosts
def test_nothing_is_left_of_hosts_when_their_user_fails() -> None:
    need()
    with ExitStack() as stack:
        stack.enter_context(pytest.raises(RuntimeError, match="the user"))
        [host] = stack.enter_context(TOOL.hosts(1))
        left = subprocess.Popen(host.command(["sleep", "1000"]))
        while not host.processes():
            time.sleep(0.01)
        raise RuntimeError("the user broke")
    assert left.wait(10) == -signal.SIGKILL
    assert not [line for line in namespaces() if line.split()[0] == host.name]


def test_what_cannot_be_made_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert TOOL.why_not() == "the command ip is missing (Debian: apt-get install iproute2)"
