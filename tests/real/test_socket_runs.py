"""Whole runs over the socket engine: the histories of the simulator, a proof of its own, and no trace of Mooncake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed (extra real-socket)")
pytest.importorskip("zmq", reason="pyzmq is not installed (extra real-socket)")
pytest.importorskip("aiohttp", reason="aiohttp is not installed (extra real-socket)")

from bufferlab.experiments.calibration.input.reading import read_inputs
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.runs.equality import differences
from bufferlab.experiments.runs.measure import run_measured
from bufferlab.experiments.runs.rundir import StoredRun
from bufferlab.experiments.workloads.loading import load
from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario, ServiceTimes, WriteFault
from bufferlab.protocol.recording import Record
from bufferlab.protocol.status import Status
from bufferlab.real.run.launcher import run_real
from bufferlab.sim.network.link import load_profile
from bufferlab.sim.run import simulate

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

ROOT = Path(__file__).resolve().parents[2]
BLOCK, DEFAULT = 16, 64
LENGTHS = [1, BLOCK, BLOCK + 1, DEFAULT - 1, DEFAULT, DEFAULT + 1, 5 * DEFAULT + 7, 777]


@pytest.mark.parametrize(
    "changes",
    [
        {"encode_tp": 2, "language_tp": 3, "deepstack_layers": 2},
        {"language_tp": 2, "faults": (WriteFault(room=1), WriteFault(room=7, epoch=1), WriteFault(room=4))},
        {"language_tp": 2, "wire": "sglang", "discipline": "alloc_then_free"},
    ],
    ids=["ranks", "failed writes", "frames of the fork"],
)
def test_histories_equal_the_simulators(changes: dict[str, Any]) -> None:
    spec = Scenario(
        block_tokens=BLOCK,
        hidden=64,
        sizing_options={"tokens": DEFAULT},
        encode_blocks=128,
        language_blocks=256,
        timeout_s=20.0,
        services=ServiceTimes(encode_poll_interval_s=0.002, language_poll_interval_s=0.002, encode_base_s=0.001),
        **changes,
    )
    requests = [
        Request(room=room, arrival_s=0.02 * room, total_tokens=tokens, text_tokens=1)
        for room, tokens in enumerate(LENGTHS, 1)
    ]
    simulated: list[Record] = []
    simulate(spec, requests, load_profile("tcp-loopback"), recorder=lambda *fields: simulated.append(Record(*fields)))
    measured = run_real(spec, requests, transport="socket")
    assert differences(simulated, measured.records, ("sim", "real")) == []
    failed = {fault.room for fault in spec.faults}
    assert {one.room for one in measured.conclusions if one.status is Status.Failed} == failed
    assert measured.mismatches == []
    assert measured.verified_rooms == (len(LENGTHS) - len(failed)) * spec.language_tp
    assert (measured.rooms_left, measured.blocks_lost, measured.frames_dropped) == (0, 0, 0)
    assert measured.refused == []


@pytest.fixture(scope="module")
def seed_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example that resumes, over sockets, as a user runs it, where Mooncake cannot be imported at all."""
    folder = tmp_path_factory.mktemp("run")
    without = "import sys; sys.modules['mooncake'] = None; sys.argv[0] = 'bufferlab'; from bufferlab.experiments.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", without, "real", "seed-resume", "--transport", "socket", "--out", str(folder / "run")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / "run"


def test_the_run_says_which_engine_ran_and_how_that_is_known(seed_run: Path) -> None:
    run = StoredRun(seed_run)
    assert run.summary["transport"] == "socket"
    assert run.config.real.transport == "socket"
    proof = json.loads((seed_run / "environment.json").read_text())["transport_proof"]
    assert (proof["requested"], proof["actual"]) == ("socket", "socket")
    assert "Mooncake is not loaded in this process" in proof["evidence"]
    written = sum(record.bytes for _, record in run.records() if record.event.value == "write_done")
    assert proof["evidence"][-1] == (
        f"by their own counters the socket engines of 2 of 2 ranks sent {written} bytes that were acknowledged, "
        f"and placed {written}"
    )


def test_compare_takes_it_like_any_other_run(seed_run: Path, tmp_path: Path) -> None:
    for arguments in (
        ("sim", str(seed_run / "config.toml"), "--out", str(tmp_path / "sim")),
        ("compare", str(seed_run), str(tmp_path / "sim")),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "bufferlab", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, (done.stdout, done.stderr)


def test_calibration_takes_it_but_not_together_with_mooncakes(
    seed_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_inputs([seed_run]).transport == "socket"
    table = tmp_path / "link.csv"
    table.write_text(
        "table,system,link,op,msg_bytes,batch,threads,total_bytes,time_us,bw_GBps\n"
        "bench_link_tcp,host,tcp,write,4096,1,1,4096,60,0.0683\n"
    )
    with pytest.raises(
        UserError, match="made over tcp and over socket, which resembles no other: they must all be of one"
    ):
        read_inputs([seed_run, table])
    assert read_inputs([table]).transport == "tcp"


def test_a_gpus_memory_is_refused_in_one_sentence(tmp_path: Path) -> None:
    config = load("seed-small", ["real.transport=socket", "real.memory=gpu"])
    with pytest.raises(UserError, match=r"real.memory is 'gpu', but (torch sees no GPU|the socket engine writes host)"):
        run_measured(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_is_kept_whatever_lies_in_the_folder_and_whoever_reads(tmp_path: Path) -> None:
    for name in ("torch", "zmq", "selectors", "msgspec", "real"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('imported from the folder of the user')\n")
    command = [sys.executable, "-P", "-m", "bufferlab", "real", "seed-small", "--transport", "socket", "--no-plots"]
    with subprocess.Popen(
        [*command, "--out", "run"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 0, said
    assert StoredRun(tmp_path / "run").summary["requests"]["succeeded"] == 1
