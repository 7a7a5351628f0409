"""Clean start, clean stop: no process, no shared memory, no port and no file is left, whatever happens."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("mooncake", reason="needs Mooncake's Transfer Engine")
pytest.importorskip("psutil", reason="needs psutil")

import msgspec
import psutil

from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.protocol.topology import RankId, Side
from bufferlab.real.errors import EngineStartError
from bufferlab.real.faults import Kill, Pause, RealFault, RefuseRegistration
from bufferlab.real.hosts.processes import warm_up
from bufferlab.real.run.launcher import run_real

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

ROOT = Path(__file__).resolve().parents[2]
LANGUAGE, ENCODE = RankId(Side.LANGUAGE, 0, 0), RankId(Side.ENCODE, 0, 0)
SMALL = Scenario(
    block_tokens=16, hidden=64, sizing_options={"tokens": 64}, encode_blocks=64, language_blocks=64, timeout_s=10.0
)
REQUESTS = [Request(room=room, arrival_s=0.02 * room, total_tokens=100) for room in range(1, 6)]


def shared_memory() -> set[str]:
    """What lies in /dev/shm, without that of joblib's workers: sweeps may run beside the tests, ranks never use it."""
    folder = Path("/dev/shm")
    found = {one.name for one in folder.iterdir()} if folder.is_dir() else set()
    return {name for name in found if "loky" not in name and "joblib" not in name}


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)  # it is looked up once
    warm_up()  # the server that the ranks are forked from stays until the launching process ends
    this = psutil.Process()
    before, descriptors = shared_memory(), this.num_fds()
    children = set(this.children(recursive=True))
    yield
    assert set(this.children(recursive=True)) <= children
    assert shared_memory() <= before
    assert list(tmp_path.iterdir()) == []
    assert this.num_fds() <= descriptors
    monkeypatch.setattr(tempfile, "tempdir", None)


def test_after_success() -> None:
    outcome = run_real(SMALL, REQUESTS)
    assert outcome.succeeded_rooms == {1, 2, 3, 4, 5}
    assert (outcome.rooms_left, outcome.blocks_lost) == (0, 0)
    assert outcome.incidents == []


@pytest.mark.slow
def test_after_a_refused_registration() -> None:
    with pytest.raises(EngineStartError, match=r"refuses language0\.0: language0\.0 may not register here"):
        run_real(SMALL, REQUESTS, plan=[RefuseRegistration(rank=LANGUAGE)])


@pytest.mark.slow
def test_after_memory_that_the_engine_refuses() -> None:
    with pytest.raises(EngineStartError, match=r"refused to register embeddings, \d+ bytes: it overlaps"):
        run_real(SMALL, REQUESTS, plan=[RefuseRegistration(rank=ENCODE, what="memory")])


@pytest.mark.slow
def test_after_a_run_in_which_every_rank_was_killed() -> None:
    plan: list[RealFault] = [Kill(rank=LANGUAGE, time_s=0.03), Kill(rank=ENCODE, time_s=0.03)]
    outcome = run_real(SMALL, REQUESTS, plan=plan)
    assert outcome.failed_rooms | outcome.succeeded_rooms == {1, 2, 3, 4, 5}
    assert outcome.failed_rooms


@pytest.mark.slow
def test_after_the_router_itself_raises_while_a_rank_is_stopped() -> None:
    def stop(_count: int) -> None:
        raise RuntimeError("the caller's progress bar broke")

    with pytest.raises(RuntimeError, match="progress bar"):
        spec = msgspec.structs.replace(SMALL, language_instances=2)
        stopped = RankId(Side.LANGUAGE, 1, 0)
        run_real(spec, REQUESTS, progress=stop, plan=[Pause(rank=stopped, time_s=0.0, lasts_s=60.0)])


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Kill(rank=RankId(Side.LANGUAGE, 1, 0), time_s=0.0), r"Kill: language1\.0 is not a rank of this run"),
        (Kill(rank=LANGUAGE), "give exactly one of time_s and on_write_of"),
        (Kill(rank=LANGUAGE, time_s=0.0, on_write_of=1), "give exactly one of time_s and on_write_of"),
        (Kill(rank=LANGUAGE, time_s=-1.0), "must not be negative"),
        (Pause(rank=LANGUAGE, time_s=1.0, lasts_s=-2.0), "must not be negative"),
        (Kill(rank=LANGUAGE, on_write_of=77), "room 77 is not a request of this run"),
    ],
)
def test_a_bad_plan_is_refused_before_anything_starts(fault: RealFault, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        run_real(SMALL, REQUESTS, plan=[fault])


ROUTER = """
import sys
from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.protocol.topology import RankId, Side
from bufferlab.real.faults import Pause
from bufferlab.real.run.launcher import run_real

spec = Scenario(block_tokens=16, hidden=64, sizing_options={"tokens": 64}, encode_instances=1, timeout_s=60.0)
requests = [Request(room=room, arrival_s=0.01 * room, total_tokens=100) for room in range(1, 100_000)]
plan = [Pause(rank=RankId(Side.LANGUAGE, 0, 0), time_s=0.5, lasts_s=60.0)] if sys.argv[1] == "stopped" else []
run_real(spec, requests, progress=lambda _count: print("going", flush=True), plan=plan)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "ranks"), [(signal.SIGINT, "running"), (signal.SIGINT, "stopped"), (signal.SIGKILL, "running")]
)
def test_after_ctrl_c_and_after_the_router_is_killed(how: signal.Signals, ranks: str, tmp_path: Path) -> None:
    router = psutil.Popen(
        [sys.executable, "-c", ROUTER, ranks], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert router.stdout.readline() == b"going\n"
        time.sleep(1.0)
        children = router.children(recursive=True)
        assert len([one for one in children if "bufferlab.real.run.rank" in one.cmdline()]) == 2
        router.send_signal(how)
        begun_s = time.monotonic()
        router.communicate(timeout=30)
        assert router.returncode != 0
        _, alive = psutil.wait_procs(children, timeout=15)
        assert not alive
        assert time.monotonic() - begun_s < 20
        if how == signal.SIGKILL:  # nobody was left to remove the folder of the ranks' error files
            [folder] = tmp_path.iterdir()
            shutil.rmtree(folder)
    finally:
        if router.poll() is None:
            router.kill()
            router.wait()


@pytest.mark.slow
def test_a_rank_that_ends_unasked_is_reported_and_nothing_is_left() -> None:
    ended: list[psutil.Process] = []

    def end_one(_count: int) -> None:
        if not ended:
            ended.append(
                next(
                    one
                    for one in psutil.Process().children(recursive=True)
                    if "bufferlab.real.run.rank" in one.cmdline()
                )
            )
            ended[0].kill()

    outcome = run_real(SMALL, REQUESTS, progress=end_one)
    assert any("ended with status -9" in incident.what for incident in outcome.incidents)
    assert outcome.failed_rooms | outcome.succeeded_rooms == {1, 2, 3, 4, 5}


@pytest.mark.slow
def test_sigterm_ends_the_command_as_ctrl_c_does(tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = ["--set", "workload.requests=100000", "--set", "workload.rate_rps=50"]
    router = psutil.Popen(
        [sys.executable, "-m", "bufferlab", "real", "quickstart", *settings, "--out", str(out), "--json"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        deadline_s = time.monotonic() + 60
        ranks: list[psutil.Process] = []
        while len(ranks) < 2 and time.monotonic() < deadline_s:
            time.sleep(0.1)
            ranks = [one for one in router.children(recursive=True) if "bufferlab.real.run.rank" in one.cmdline()]
        assert len(ranks) == 2
        router.send_signal(signal.SIGTERM)
        said = router.communicate(timeout=30)[1].decode()
        assert (router.returncode, said.splitlines()[-1]) == (143, "bufferlab: interrupted")
        _, alive = psutil.wait_procs(ranks, timeout=15)
        assert not alive
    finally:
        if router.poll() is None:
            router.kill()
            router.wait()
