"""The link benchmark: figures from known times, content that shows every fault, both sides as real processes, the command."""

import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bufferlab.experiments.calibration.bench_link import choose_folder, claim_folder, make_sweep, write_files
from bufferlab.experiments.errors import UserError
from bufferlab.protocol.recording import Event, Record
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side
from bufferlab.real.bench import link as bench_link
from bufferlab.real.bench.link import count_steps, measure_link
from bufferlab.real.bench.pair import LinkBench, spawn
from bufferlab.real.bench.pattern import PATTERN_WORDS, SHIFT_BYTES, Pattern
from bufferlab.real.bench.tasks import Case, SideSpec, Timed
from bufferlab.real.engine.mooncake_start import import_mooncake
from bufferlab.real.errors import EngineError, EngineMissing, EngineStartError

ROOT = Path(__file__).resolve().parents[2]
PATTERN = Pattern(7)
PERIOD_BYTES = 8 * PATTERN_WORDS

try:
    import_mooncake()
    MISSING = ""
except EngineMissing as missing:
    MISSING = str(missing)

pytestmark = pytest.mark.timeout(60)
needs_mooncake = [pytest.mark.real, pytest.mark.skipif(bool(MISSING), reason=MISSING or "Mooncake is here")]


def over_mooncake(test: Any) -> Any:
    for mark in needs_mooncake:
        test = mark(test)
    return test


def no_adapter() -> bool:
    folder = Path("/sys/class/infiniband")
    return not (folder.is_dir() and any(folder.iterdir()))


# --- content ---


def sent(number: int, size: int) -> np.ndarray:
    """What measurement ``number`` leaves at the target."""
    memory = np.empty(size + number * SHIFT_BYTES, dtype=np.uint8)
    PATTERN.fill(memory)
    return memory[number * SHIFT_BYTES :].copy()


@given(st.integers(0, 5000), st.integers(1, 5000))
@settings(max_examples=50, deadline=None)
def test_what_was_sent_is_right(number: int, size: int) -> None:
    assert PATTERN.difference(sent(number, size), number) == ""


@given(st.integers(0, 300), st.integers(1, 3000), st.integers(0, 7), st.data())
@settings(max_examples=100, deadline=None)
def test_one_flipped_bit_is_named(number: int, size: int, bit: int, data: st.DataObject) -> None:
    memory = sent(number, size)
    at = data.draw(st.integers(0, size - 1))
    right = int(memory[at])
    memory[at] ^= 1 << bit
    difference = PATTERN.difference(memory, number)
    assert difference.startswith(f"byte {at} is 0x{right ^ 1 << bit:02x}, it was sent as 0x{right:02x} (1 of")


@given(st.integers(0, 300), st.integers(0, 300), st.integers(16, 300))
@settings(max_examples=50, deadline=None)
def test_bytes_of_another_measurement_are_wrong(number: int, other: int, size: int) -> None:
    assert (PATTERN.difference(sent(number, size), other) == "") == (number == other)


def test_content_goes_on_behind_its_period_and_no_block_size_repeats_it() -> None:
    memory = np.empty(PERIOD_BYTES + 4096, dtype=np.uint8)
    PATTERN.fill(memory)
    assert PATTERN.difference(memory, 0) == ""
    assert PATTERN.difference(memory[64:], 1) == ""
    memory[PERIOD_BYTES + 100] ^= 1
    assert PATTERN.difference(memory, 0).startswith(f"byte {PERIOD_BYTES + 100} is")
    assert all(PERIOD_BYTES % (8 << power) for power in range(1, 30))
    assert not np.array_equal(Pattern(8)._bytes[:64], PATTERN._bytes[:64])


# --- figures ---


def test_the_figures_of_a_case_follow_from_its_times() -> None:
    """Two threads, ten blocks of 1000 bytes a batch; two rounds of 4 batches each (2 per thread)."""
    fast = Timed(0.02, [0.010] * 4, [0.001] * 4, 0.03, 0.01)
    slow = Timed(0.04, [0.020] * 4, [0.004] * 4, 0.03, 0.02)
    raw = [Timed(0.01, [0.01], [], 0, 0), Timed(0.02, [0.02], [], 0, 0)]
    row = bench_link._row(Case(1000, 10, 2), [fast, slow], raw)
    assert row.bytes_per_s.median == pytest.approx((4 * 10_000 / 0.02 + 4 * 10_000 / 0.04) / 2)
    assert row.bytes_per_s.relative_iqr == pytest.approx(0.5e6 / 1.5e6)
    assert row.socket_bytes_per_s.median == pytest.approx((20_000 / 0.01 + 20_000 / 0.02) / 2)
    assert row.batch_s == pytest.approx((0.015, 0.020, 0.020, 0.020))
    assert row.operation_s == pytest.approx((0.0015, 0.002, 0.002, 0.002))
    assert (row.post_s, row.transfer_s) == pytest.approx((0.0025, 0.0125))
    assert (row.source_cpu, row.target_cpu) == pytest.approx((1.0, 0.5))
    assert row.batches == 8


def test_every_case_gets_about_the_same_time() -> None:
    def repeats(batch_s: float) -> int:
        return bench_link._repeats(Timed(0, [1.0, batch_s], [], 0, 0))

    assert repeats(0.005) == 10
    assert repeats(1e-5) == bench_link.MOST_REPEATS
    assert repeats(9.0) == bench_link.FEWEST_REPEATS


# --- two processes ---

CASES = [Case(4096, 1, 1), Case(5000, 7, 1), Case(64 << 10, 4, 2)]


def no_child_is_left() -> bool:
    return not [
        child for child in psutil.Process().children(recursive=True) if "bufferlab.real.bench.side" in child.cmdline()
    ]


@over_mooncake
def test_all_bytes_of_all_cases_are_compared_and_timed() -> None:
    started: list[str] = []
    steps: list[int] = []
    report = measure_link(
        CASES,
        rounds=2,
        seed=3,
        begin=lambda proof: started.append(proof.actual),
        progress=lambda: steps.append(1),
    )
    assert started == ["tcp"]
    assert len(steps) == count_steps(CASES, 2) == 3 * 6
    assert report.mismatches == []
    assert report.verified_bytes == 3 * sum(case.total_bytes for case in CASES)
    assert report.written_bytes > report.verified_bytes
    assert [row.case for row in report.rows] == CASES
    for row in report.rows:
        assert 0 < row.batch_s[0] <= row.batch_s[1] <= row.batch_s[2] <= row.batch_s[3]
        assert 0 < row.post_s < row.batch_s[3]
        assert row.batches >= 2 * row.case.threads * bench_link.FEWEST_REPEATS
        assert row.source_cpu > 0
        assert row.target_cpu > 0
        assert row.socket_bytes_per_s.median > 0
    assert "were written" in report.proof.evidence[-1]
    assert "less than that" not in report.proof.evidence[-1]
    assert no_child_is_left()


@over_mooncake
def test_wrong_bytes_are_told() -> None:
    """The target expects other content than the source sends: no measurement may pass."""

    def other_seed(spec: SideSpec, errors: Path) -> subprocess.Popen[bytes]:
        return spawn(spec if spec.is_source else msgspec.structs.replace(spec, seed=spec.seed + 1), errors)

    report = measure_link(CASES[:1], rounds=2, spawn=other_seed)
    assert len(report.mismatches) == 3
    assert report.verified_bytes == 0
    assert report.mismatches[0].startswith("1 × 1 × 4096 bytes: byte 0 is 0x")


@over_mooncake
@pytest.mark.parametrize("killed", [True, False])
def test_a_side_that_dies_ends_the_measurement(killed: bool) -> None:
    processes: dict[bool, subprocess.Popen[bytes]] = {}

    def remembered(spec: SideSpec, errors: Path) -> subprocess.Popen[bytes]:
        processes[spec.is_source] = spawn(spec, errors)
        return processes[spec.is_source]

    def kill() -> None:
        processes[killed].kill()

    started_s = time.monotonic()
    with pytest.raises(EngineError, match=f"the {'source' if killed else 'target'} ended with status -9"):
        measure_link(CASES[1:2], rounds=50, progress=kill, spawn=remembered)
    assert time.monotonic() - started_s < 20
    assert no_child_is_left()


@over_mooncake
def test_a_side_does_not_outlive_its_launcher(tmp_path: Path) -> None:
    spec = SideSpec(
        is_source=False, host="127.0.0.1", transport="tcp", device="", seed=0, memory_bytes=4096, numbers=1
    )  # fmt: skip
    process = spawn(spec, tmp_path / "errors")
    assert process.stdin is not None
    assert process.stdout is not None
    assert b"started" in process.stdout.readline()
    process.stdin.close()
    assert process.wait(10) == 130
    process.stdout.close()


def test_a_side_without_mooncake_says_what_mends_it() -> None:
    def without(spec: SideSpec, errors: Path) -> subprocess.Popen[bytes]:
        code = "import sys; sys.modules['mooncake'] = None; from bufferlab.real.bench.side import main; main()"
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(spec) + b"\n")
        process.stdin.flush()
        return process

    with pytest.raises(EngineMissing, match=r"run: .* -m pip install"):
        measure_link(CASES[:1], rounds=1, spawn=without)


@over_mooncake
def test_rdma_without_an_adapter_does_not_start() -> None:
    if not no_adapter():
        pytest.skip("this machine has an RDMA adapter")
    with (
        pytest.raises(EngineStartError, match="No available RNIC"),
        LinkBench(transport="rdma", device="", seed=0, memory_bytes=4096, numbers=1),
    ):
        pass
    assert no_child_is_left()


# --- the command ---


def bufferlab(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bufferlab", "bench-link", *map(str, arguments)],
        cwd=cwd, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip


FINE: dict[str, Any] = {
    "block": "4KiB",
    "batch": "1",
    "threads": "1",
    "rounds": 9,
    "transport": "tcp",
    "device": "",
    "seed": 0,
    "min_gbps": None,
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"block": "4KX"}, "--block is '4KX', it must be sizes such as 4KiB,1MiB"),
        ({"block": "0"}, "--block is '0', each must be from 1 B to 1 GiB"),
        ({"block": "4KiB,2GiB"}, "--block is '4KiB,2GiB', each must be from 1 B to 1 GiB"),
        ({"block": ""}, "--block is '', it must be sizes"),
        ({"batch": "1,x"}, "--batch is '1,x', it must be whole numbers"),
        ({"batch": "0"}, "--batch is '0', each must be from 1 to 65536"),
        ({"threads": "65"}, "--threads is '65', each must be from 1 to 64"),
        ({"rounds": 8}, "--rounds is 8, it must be from 9 to 1000"),
        ({"transport": "udp"}, "--transport is 'udp', it must be one of tcp, rdma, socket"),
        ({"seed": -1}, "--seed is -1, it must be at least 0"),
        ({"min_gbps": 0.0}, "--min-GBps is 0.0, it must be a finite number more than 0"),
        ({"min_gbps": float("nan")}, "--min-GBps is nan, it must be"),
        ({"block": "1GiB", "batch": "65536"}, "the largest case of --block, --batch and --threads takes 64 TiB"),
        ({"batch": ",".join(map(str, range(1, 502)))}, "make 501 cases, at most 500"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as refused:
        make_sweep(**(FINE | changes))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_cases_are_all_combinations_once() -> None:
    sweep = make_sweep(**(FINE | {"block": "1MiB, 4KiB,4096", "batch": "16,1", "threads": "2,1"}))
    assert sweep.shapes[:4] == [(4096, 1, 1), (4096, 16, 1), (1 << 20, 1, 1), (1 << 20, 16, 1)]
    assert len(sweep.shapes) == 8
    assert sweep.steps == count_steps([Case(*shape) for shape in sweep.shapes], sweep.rounds)


def test_a_taken_folder_is_refused_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    assert choose_folder(taken) == taken
    (taken / "file").write_text("mine")
    with pytest.raises(UserError, match="it must be a new or empty folder"):
        claim_folder(taken)
    with pytest.raises(UserError, match="in a folder that can be written"):
        claim_folder(taken / "file" / "below")
    monkeypatch.chdir(tmp_path)
    with claim_folder(None) as claim:
        assert claim.target == Path("runs/bench-link")
        with claim_folder(None) as other:  # while the first is being measured
            assert other.target == Path("runs/bench-link-2")
    (tmp_path / "runs/bench-link").mkdir(parents=True)
    with claim_folder(None) as claim:
        assert claim.target == Path("runs/bench-link-2")


def test_nothing_half_written_remains(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_files({"rows": [{"bw_GBps": 1.0}], "broken": float("nan")}, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@over_mooncake
def test_the_command_writes_what_calibration_reads(tmp_path: Path) -> None:
    arguments = ("--block", "4KiB,64KiB", "--batch", "2", "--rounds", 9, "--out", "out", "--json")
    ended = bufferlab(*arguments, "--seed", 5, "--min-GBps", 1e6, cwd=tmp_path)
    assert ended.returncode == 1, ended.stderr
    result = json.loads(ended.stdout)
    assert result["failures"] == [
        f"the fastest case moves {result['fastest_GBps']:.3g} GB/s, --min-GBps asks for 1e+06",
    ]
    assert ended.stderr.startswith("link       Mooncake writes between two processes")
    assert json.loads((tmp_path / "out/link.json").read_text()) == result
    assert result["configuration"]["seed"] == 5
    assert result["configuration"]["engine_settings"]["MC_TCP_SLICE_SIZE"] == os.environ.get(
        "MC_TCP_SLICE_SIZE", str(4 << 20)
    )
    assert result["environment"]["transport_proof"]["actual"] == "tcp"
    with (tmp_path / "out/link.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:1] == ["table"]
    assert {"msg_bytes", "batch", "threads", "total_bytes", "time_us", "bw_GBps"} < set(rows[0])
    assert [(row["msg_bytes"], row["batch"], row["total_bytes"]) for row in rows] == [
        ("4096", "2", "8192"),
        ("65536", "2", "131072"),
    ]
    for row in rows:
        assert float(row["operation_p50_us"]) == pytest.approx(float(row["batch_p50_us"]) / 2)
        assert row["time_us"] == row["batch_p50_us"]


@over_mooncake
def test_the_table_follows_the_proved_transport(tmp_path: Path) -> None:
    ended = bufferlab("--block", "8KiB", "--batch", "1", "--min-GBps", "0.000001", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.index("tcp runs (tcp was asked for)") < ended.stdout.index("GB/s")
    assert "mooncake-transfer-engine" in ended.stdout
    assert "0 measurements with wrong bytes" in ended.stdout
    assert ended.stdout.rstrip().endswith("written to: runs/bench-link")
    assert sorted(path.name for path in (tmp_path / "runs/bench-link").iterdir()) == ["link.csv", "link.json"]


@over_mooncake
def test_rdma_that_is_not_there_is_bad_input(tmp_path: Path) -> None:
    if not no_adapter():
        pytest.skip("this machine has an RDMA adapter")
    ended = bufferlab("--transport", "rdma", cwd=tmp_path)
    assert ended.returncode == 2
    assert "No available RNIC" in ended.stderr
    assert ended.stdout == ""
    assert list(tmp_path.iterdir()) == []


@over_mooncake
def test_an_interruption_leaves_no_file_and_no_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bufferlab", "bench-link", "--rounds", "1000", "--out", "out"]
    # Buffered as a pipe is by default, whatever this process was told.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("link ")  # the heading: both sides run
        sides = psutil.Process(process.pid).children(recursive=True)
        assert len(sides) == 2
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    finally:
        if process.poll() is None:  # it will not go by itself, and its sides end with it
            process.kill()
            process.wait()
    assert process.returncode == 130
    assert "bufferlab: interrupted" in errors
    assert psutil.wait_procs(sides, timeout=5)[1] == []
    assert list(tmp_path.iterdir()) == []


# --- the ratio's arithmetic ---


@pytest.fixture(scope="module")
def ratio() -> ModuleType:
    pytest.importorskip("torch", reason="torch is not installed (extra real-cpu)")
    spec = importlib.util.spec_from_file_location("transport_ratio", ROOT / "tools/transport_ratio.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def record(time_s: float, side: Side, event: Event, size: int = 0) -> Record:
    return Record(time_s, RankId(side, 0, 0), 1, event, Status.Transferring, 0, size, "language0.0")


def test_overlapping_writes_count_once(ratio: ModuleType) -> None:
    assert ratio.busy_s([(0.0, 1.0), (0.5, 2.0), (0.6, 0.7), (3.0, 4.0)]) == pytest.approx(3.0)


def test_a_requests_time_is_its_writes_and_its_control(ratio: ModuleType) -> None:
    records = [
        record(1.00, Side.LANGUAGE, Event.SUBMITTED),
        record(1.01, Side.ENCODE, Event.SUBMITTED),
        record(1.05, Side.ENCODE, Event.ENCODED),
        record(1.06, Side.ENCODE, Event.WRITE_STARTED),
        record(1.16, Side.ENCODE, Event.WRITE_DONE, 100),
        record(1.18, Side.ENCODE, Event.WRITE_STARTED),
        record(1.23, Side.ENCODE, Event.WRITE_DONE, 50),
        record(1.30, Side.LANGUAGE, Event.DELIVERED),
    ]
    account = ratio.account(records)
    assert account["write"] == pytest.approx(0.15)
    assert account["control"] == pytest.approx(0.15)
    assert [account[name] for name in ratio.PHASES] == pytest.approx([0.05, 0.01, 0.02, 0.07])


@over_mooncake
def test_the_wheels_benchmark_is_measured_and_ended(ratio: ModuleType) -> None:
    binary = ratio.bench_binary()
    assert binary is not None, "the wheel ships it"
    case = Case(64 << 10, 16, 1)
    with ratio.bench_target(binary, case, ratio.FORCE_TCP) as target:
        targets = [child for child in psutil.Process().children() if "-mode=target" in child.cmdline()]
        assert len(targets) == 1
        assert ratio.bench_rate(binary, case, target, ratio.FORCE_TCP) > 1e6
    assert not targets[0].is_running()
    with pytest.raises(EngineError, match="failed with status 1"):
        ratio.bench_rate(Path("/bin/false"), case, target, {})
    with (
        pytest.raises(EngineError, match="transfer_engine_bench does not start"),
        ratio.bench_target(Path("/bin/false"), case, {}),
    ):
        pass


def test_the_ratio_tool_refuses_too_few_rounds(ratio: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert ratio.main(["--rounds", "8"]) == 2
    assert capsys.readouterr().err == "transport_ratio: --rounds is 8, it must be at least 9.\n"


@over_mooncake
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_ratio_is_measured_round_by_round(ratio: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--tokens", "512", "--hidden", "1024", "--requests", "1", "--json"]
    assert ratio.main([*arguments, "--min-ratio", "1e9"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert (result["configuration"]["block_bytes"], result["configuration"]["batch"]) == (256 << 10, 4)
    assert all(one["median"] > 0.001 for one in result["GBps"].values())
    assert set(result["ratios"]) == set(result["GBps"]) - {"run"}
    for parts in result["control_s"].values():
        assert parts["control"]["median"] > 0
