"""The CPU usage of a process, which says where its time went: of fabricated threads, of real ones, and of a run over Mooncake."""

from __future__ import annotations

import collections
import itertools
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch", reason="torch is not installed (extra real-cpu)")
pytest.importorskip("zmq", reason="pyzmq is not installed (extra real-cpu)")
pytest.importorskip("aiohttp", reason="aiohttp is not installed (extra real-cpu)")

import bufferlab.real.run.clock
import bufferlab.real.run.driver
import bufferlab.real.run.forward
from bufferlab.experiments.config.schema import Config
from bufferlab.experiments.runs.measure import run_measured
from bufferlab.experiments.runs.rundir import StoredRun
from bufferlab.experiments.runs.simulate import run_sim
from bufferlab.experiments.workloads.loading import load
from bufferlab.protocol.chunks import plan_chunk
from bufferlab.protocol.compiled import state
from bufferlab.protocol.emulation.loop import LoopGrid
from bufferlab.protocol.emulation.passes import Passes
from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario, ServiceTimes
from bufferlab.protocol.messages import Action, CopyOut, Deliver, Iteration, Quiet, StartEncode, StartWrite, WriteDone
from bufferlab.protocol.topology import RankId, Side
from bufferlab.real.control.route import Route
from bufferlab.real.control.spec import Heartbeats
from bufferlab.real.counts import MOST_DURATIONS, QUANTILES, Counts, Durations, WriteCounts
from bufferlab.real.engine.base import WriteResult
from bufferlab.real.engine.memory import Pool
from bufferlab.real.engine.writer import Writer
from bufferlab.real.errors import EngineError
from bufferlab.real.run.agenda import Agenda
from bufferlab.real.run.clock import RunClock
from bufferlab.real.run.driver import Driver
from bufferlab.real.run.forward import Forward
from bufferlab.real.run.usage import Meter, Part, Thread, Usage, part_of, read_threads

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
PARTS = [f"{part.value}_cpu_s" for part in Part]


# --- what the kernel says ---


def add_thread(tasks: Path, number: int, name: str, schedstat: str | None, utime: int = 0, stime: int = 0) -> None:
    folder = tasks / str(number)
    folder.mkdir()
    (folder / "comm").write_text(f"{name}\n")
    (folder / "stat").write_text(f"{number} ({name}) S 1 2 3 0 -1 4194304 5 6 7 8 {utime} {stime} 9 10 20 0 1 0 99\n")
    if schedstat is not None:
        (folder / "schedstat").write_text(f"{schedstat}\n")


def test_times_are_nanoseconds_where_there_are_some_and_ticks_elsewhere(tmp_path: Path) -> None:
    add_thread(tmp_path, 101, "python", "1234567890 55 7", utime=9, stime=9)
    add_thread(tmp_path, 102, "ZMQbg/IO/0", "0 0 0", utime=30, stime=12)
    add_thread(tmp_path, 103, "odd) S 1 (name", None, utime=2, stime=1)
    (tmp_path / "104").mkdir()  # what is seen of one that ends meanwhile
    assert read_threads(tmp_path) == {
        101: Thread("python", 1.23456789),
        102: Thread("ZMQbg/IO/0", 42 / TICKS_A_SECOND),
        103: Thread("odd) S 1 (name", 3 / TICKS_A_SECOND),
    }


def test_without_such_files_nothing_is_said(tmp_path: Path) -> None:
    assert read_threads(tmp_path / "none") is None
    assert read_threads(tmp_path) is None
    meter = Meter(read=lambda: None)
    meter.start()
    assert meter.started
    assert meter.stop(Counts()) is None


@pytest.mark.parametrize(
    ("number", "name", "part"),
    [
        (1, "python", Part.MAIN),
        (2, "python", Part.WRITER),
        (3, "python", Part.OTHER),
        (4, "python", Part.ENGINE),
        (5, "ZMQbg/IO/0", Part.CONTROL),
        (6, "ZMQbg/Reaper", Part.CONTROL),
        (7, "gloo_tcp_loop", Part.COLLECTIVE),
        (8, "pt_gloo_runloop", Part.COLLECTIVE),
        (9, "pt_tcpstore_uv", Part.COLLECTIVE),
        (10, "pt_main_thread", Part.ENGINE),
    ],
)
def test_whose_a_thread_is(number: int, name: str, part: Part) -> None:
    python = {1: "MainThread", 2: "writer 0", 3: "heartbeat"}
    assert part_of(number, name, 1, python, Part.ENGINE) is part
    if part is Part.ENGINE:
        assert part_of(number, name, 1, python, Part.OTHER) is Part.OTHER


def test_what_was_spent_before_the_start_and_by_earlier_threads_does_not_count() -> None:
    main = threading.get_native_id()
    engine, control, fresh, again = main + 1_000_001, main + 1_000_002, main + 1_000_003, main + 1_000_004
    readings: Iterator[Mapping[int, Thread]] = iter(
        [
            {
                main: Thread("python", 5.0),
                engine: Thread("python", 2.0),
                control: Thread("ZMQbg/IO/0", 1.0),
                again: Thread("gloo_tcp_loop", 9.0),
            },
            {
                main: Thread("python", 5.5),
                engine: Thread("python", 2.25),
                control: Thread("ZMQbg/IO/0", 1.125),
                fresh: Thread("python", 0.5),
                again: Thread("gloo_tcp_loop", 0.0625),  # the number of a thread that has ended
            },
        ]
    )
    meter = Meter(read=lambda: next(readings))
    assert not meter.started
    meter.start()
    usage = meter.stop(Counts(iterations=7), WriteCounts(segments=3), durations([1.0, 3.0]))
    assert usage is not None
    assert [getattr(usage, part) for part in PARTS] == [0.5, 0.0, 0.75, 0.125, 0.0625, 0.0]
    assert (usage.iterations, usage.segments, usage.collectives) == (7, 3, 2)
    assert usage.collective_quantiles_s[QUANTILES // 2] == 2.0
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(usage), type=Usage) == usage


@pytest.mark.skipif(read_threads() is None, reason="the kernel does not say what threads spend")
def test_a_busy_thread_is_found_by_its_name() -> None:
    """Only what cannot depend on other load: processor time, lower bounds and order."""
    busy_s = 0.15
    worked, leave = threading.Event(), threading.Event()

    def work() -> None:
        while time.thread_time() < busy_s:
            pass
        worked.set()
        leave.wait(30)  # a thread that has ended would not be seen

    meter = Meter()
    meter.start()
    thread = threading.Thread(target=work, name="writer 3", daemon=True)
    thread.start()
    assert worked.wait(60)
    began_s = time.thread_time()
    while time.thread_time() < began_s + busy_s / 3:
        pass
    usage = meter.stop(Counts())
    leave.set()
    thread.join(30)
    assert usage is not None
    tick_s = 2 / TICKS_A_SECOND  # where there are only ticks
    assert usage.writer_cpu_s >= busy_s - tick_s
    assert usage.writer_cpu_s > usage.main_cpu_s >= busy_s / 3
    assert usage.lasts_s >= max(usage.writer_cpu_s, usage.main_cpu_s) - tick_s
    assert (usage.control_cpu_s, usage.collective_cpu_s) == (0.0, 0.0)


def test_what_is_counted_has_the_names_of_the_account() -> None:
    counted = [*Counts.__struct_fields__, *WriteCounts.__struct_fields__]
    assert set(counted) < set(Usage.__struct_fields__)
    assert len(set(counted)) == len(counted)
    one = WriteCounts(1, 2, 3.0, 4)
    one.add(WriteCounts(10, 20, 30.0, 40))
    assert one == WriteCounts(11, 22, 33.0, 44)


# --- durations ---


def durations(lasted_s: Sequence[float], most: int = MOST_DURATIONS) -> Durations:
    made = Durations(most)
    for one_s in lasted_s:
        made.add(one_s)
    return made


@given(st.lists(st.floats(0, 1e3), max_size=300), st.integers(1, 100))
def test_quantiles_and_sample(lasted_s: list[float], most: int) -> None:
    made = durations(lasted_s, most)
    assert made.count == len(lasted_s)
    assert len(made.kept) == min(len(lasted_s), most)
    left = sorted(lasted_s)
    for one_s in made.kept:
        left.remove(one_s)  # each is one that was given, once
    quantiles_s = made.quantiles_s()
    if not lasted_s:
        assert quantiles_s == ()
        return
    assert len(quantiles_s) == QUANTILES
    # Interpolation rounds: within a part in 1e12 they do not fall.
    assert all(later >= earlier * (1 - 1e-12) for earlier, later in itertools.pairwise(quantiles_s))
    kept_s = sorted(made.kept)
    assert (quantiles_s[0], quantiles_s[-1]) == (kept_s[0], kept_s[-1])
    if len(kept_s) % 2:
        assert quantiles_s[QUANTILES // 2] == pytest.approx(kept_s[len(kept_s) // 2], rel=1e-12)


def test_memory_is_bounded_and_the_sample_favours_nobody() -> None:
    """The sample's random numbers are fixed, so these bounds (five deviations) hold always or never."""
    made = durations(range(10 * MOST_DURATIONS))
    assert len(made.kept) == MOST_DURATIONS
    tenths = [sum(1 for one in made.kept if one // MOST_DURATIONS == tenth) for tenth in range(10)]
    expected = MOST_DURATIONS / 10
    assert all(abs(tenth - expected) < 5 * (expected * 0.9) ** 0.5 for tenth in tenths), tenths
    # The first of an iteration's all-reduces waits for the others, the second does not.
    alternating = durations([float(number % 2) for number in range(10_000)], most=1_000)
    assert abs(sum(alternating.kept) - 500) < 5 * 250**0.5


# --- what a rank counts ---


class Clock:
    """In place of the module ``time``: stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s

    thread_time = monotonic

    def sleep(self, lasts_s: float) -> None:
        self.now_s += lasts_s


class SlowPool:
    """Blocks to which and from which a copy takes ``copy_s`` by ``clock``."""

    def __init__(self, clock: Clock, copy_s: float) -> None:
        self._clock = clock
        self._copy_s = copy_s

    def fill(self, blocks: Sequence[int], content: Any) -> None:
        self._clock.sleep(self._copy_s)

    def gather(self, blocks: Sequence[int], tokens: int, *, start_token: int) -> None:
        self._clock.sleep(self._copy_s)


ITERATION_S, PASS_S = 0.001, 0.010
Make = Callable[[Side, float, list[Action]], Driver]


@pytest.fixture
def make_driver(monkeypatch: pytest.MonkeyPatch) -> Make:
    """A driver that has only what an iteration needs; one second after zero its core answers with the actions."""

    def make(side: Side, copy_s: float, actions: list[Action]) -> Driver:
        clock = Clock()
        for module in (bufferlab.real.run.clock, bufferlab.real.run.driver, bufferlab.real.run.forward):
            monkeypatch.setattr(module, "time", clock)
        services = ServiceTimes(encode_base_s=PASS_S, prefill_base_s=PASS_S)
        scenario = Scenario(block_tokens=8, hidden=32, services=services)
        made = Driver.__new__(Driver)
        made.rank_id, made.scenario = RankId(side, 0, 0), scenario
        made.clock, made.counts, made.agenda = RunClock(clock.now_s - 1.0), Counts(), Agenda()
        made.journal = SimpleNamespace(send_on=lambda: None)  # type: ignore[assignment]
        made.core = SimpleNamespace(handle=lambda iteration, now: actions)  # type: ignore[assignment]
        made.grid = LoopGrid(ITERATION_S)
        pool: Any = SlowPool(clock, copy_s)
        made.forward = Forward(made.rank_id, scenario, pool, Passes(scenario), made.agenda, made.counts)
        made.grid.next_s(1.0)
        return made

    return make


@pytest.mark.parametrize(("fill_s", "ends_s"), [(0.0, 1.010), (0.002, 1.010), (0.004, 1.010), (0.020, 1.040)])
def test_an_iteration_lasts_as_long_as_its_pass_or_the_filling_whichever_is_longer(
    make_driver: Make, fill_s: float, ends_s: float
) -> None:
    encodes: list[Action] = [StartEncode(1, 0, 8, (0,)), StartEncode(2, 0, 5, (1,))]
    one = make_driver(Side.ENCODE, fill_s, encodes)
    one.iteration(Iteration(0, 0, 0, ()))
    assert one.grid.next_s(1.0) == pytest.approx(ends_s, abs=1e-9)
    # The pass is over when it is; one that filled for longer notices it late.
    assert [due_s - one.clock.zero_s for due_s in one.agenda.times_s] == pytest.approx([1.010, 1.010], abs=1e-9)
    assert (one.counts.fills, one.counts.fill_bytes) == (2, 13 * one.scenario.layout.bytes_per_token)
    assert one.counts.fill_cpu_s == pytest.approx(2 * fill_s, abs=1e-9)


def test_on_the_language_side_the_pass_begins_behind_the_copies(make_driver: Make) -> None:
    one = make_driver(Side.LANGUAGE, 0.003, [CopyOut(1, 0, 0, 8, (0,)), CopyOut(1, 0, 8, 4, (1,)), Deliver(1, 0, 12)])
    one.iteration(Iteration(0, 0, 0, ()))
    assert one.grid.next_s(1.0) == pytest.approx(1.016, abs=1e-9)
    assert (one.counts.copies, one.counts.copy_bytes) == (2, 12 * one.scenario.layout.bytes_per_token)
    assert one.counts.copy_cpu_s == pytest.approx(0.006, abs=1e-9)


@pytest.mark.parametrize(("side", "copies"), [(Side.ENCODE, 0), (Side.LANGUAGE, 2)])
def test_an_iteration_without_a_pass_ends_with_what_it_did(make_driver: Make, side: Side, copies: int) -> None:
    one = make_driver(side, 0.003, [CopyOut(1, 0, 0, 8, (0,))] * copies)
    one.iteration(Iteration(0, 0, 0, ()))
    expected_s = 1.0 + (0.003 * copies or ITERATION_S)
    assert one.grid.next_s(1.0) == pytest.approx(expected_s, abs=1e-9)


def test_each_thread_of_a_writer_counts_what_the_engine_took() -> None:
    scenario = Scenario(block_tokens=8, hidden=32, language_instances=2, transfer_workers=2)
    done: list[WriteDone] = []
    counted: list[int] = []

    class Wire:
        def write(self, session: str, segments: Sequence[tuple[int, int, int]]) -> WriteResult:
            if session.endswith("1.0") and len(done) >= 2:
                raise EngineError("refused before anything was sent")
            size = sum(length for _, _, length in segments)
            return WriteResult(ok=True, elapsed_s=0.25, completed_bytes=size, quiet=True)

    def finish(one: WriteDone) -> None:
        counted.append(sum(counts.writes for counts in writer.counts))
        done.append(one)

    pool = Pool(scenario.layout, 16)
    routes = {
        rank_id: Route(rank_id=rank_id, host="", control_port=0, session=str(rank_id), bases=pool.bases)
        for rank_id in scenario.language_ids()
    }
    engine: Any = Wire()
    writer = Writer(engine, pool, scenario.layout, routes, scenario, finish)
    chunk = plan_chunk(total_tokens=20, sent_tokens=0, capacities_tokens=[64], block_tokens=8)
    for room, instance in ((1, 0), (2, 0), (3, 1)):
        writer.start(StartWrite(room, 0, 0, RankId(Side.LANGUAGE, instance, 0), chunk, (0, 1, 2), (5, 6, 7)))
        while len(done) < room:  # bounded by the test's time
            time.sleep(0.001)
    writer.close()
    size = 2 * scenario.layout.chunk_bytes(chunk)
    assert list(writer.counts) == [WriteCounts(2, size, 0.5, 8), WriteCounts()]
    assert [one.ok for one in done] == [True, True, False]
    assert counted == [1, 2, 2], "a write is counted before it is reported"


# --- a run ---


def small(**workload: Any) -> Config:
    """Two language ranks, one encode rank, embeddings that need several chunks."""
    lengths = random.Random(1).choices(range(20, 400), k=12)
    requests = [{"arrival_s": 0.03 * number, "total_tokens": tokens} for number, tokens in enumerate(lengths)]
    return Config.model_validate(
        {
            "run": {"replications": 2, "warmup_requests": 0},
            "model": {"hidden": 64},
            "workload": {"request": requests, **workload},
            "protocol": {"block_tokens": 16, "timeout_s": "30s", "sizing": {"tokens": 64}},
            "encode": {"pool_blocks": 128},
            "language": {"tp": 2, "pool_blocks": 128},
        }
    )


def test_the_account_of_a_run_agrees_with_its_events(tmp_path: Path) -> None:
    pytest.importorskip("mooncake", reason="needs Mooncake's Transfer Engine")
    config = small()
    tokens = sum(one.total_tokens for one in config.workload.request or ())
    run_measured(config, tmp_path / "run")
    run = StoredRun(tmp_path / "run")
    if read_threads() is None:
        assert run.usage == [{}, {}]
        return
    events = run.events()
    assert len(run.usage) == 2
    for number, named in enumerate(run.usage):
        assert set(named) == {"router", "encode0.0", "language0.0", "language0.1"}
        processes = {name: msgspec.convert(one, Usage, strict=False) for name, one in named.items()}
        assert {one.build for one in processes.values()} == {state().digest}, "ranks run what their launcher runs"
        router, encode = processes["router"], processes["encode0.0"]
        of = events[events.replication == number]
        written = of[of.event == "write_done"]
        assert encode.writes == len(written) >= 2 * 12
        assert encode.write_bytes == written.bytes.sum()
        assert encode.segments >= encode.writes
        assert encode.write_s > 0
        assert encode.fills == (of.event == "encoded").sum() == 12
        assert encode.fill_bytes == tokens * config.layout.bytes_per_token
        for rank in (0, 1):
            one = processes[f"language0.{rank}"]
            received = of[(of.event == "chunk_received") & (of["rank"] == rank)]
            assert one.copies == len(received) > 12
            assert one.copy_bytes == received.bytes.sum() == encode.fill_bytes
            assert 0 < one.copy_cpu_s < one.lasts_s
            assert one.collectives >= one.iterations > 0
            assert len(one.collective_quantiles_s) == QUANTILES
            assert 0 < one.collective_quantiles_s[0] <= one.collective_quantiles_s[-1]
            assert one.collective_cpu_s > 0
            assert one.writes == one.fills == 0
        for name, one in processes.items():
            assert one.main_cpu_s > 0, name
            # A thread that runs elsewhere is up to a tick of the kernel's behind.
            assert one.main_cpu_s <= one.lasts_s + 0.02, name
            assert one.submissions == 12, name
            assert one.inputs > 12, name
        assert encode.writer_cpu_s > 0
        assert encode.engine_cpu_s > 0
        assert encode.iterations > 0
        assert (encode.collectives, encode.collective_quantiles_s) == (0, ())
        assert (router.iterations, router.writes, router.engine_cpu_s) == (0, 0, 0.0)
        # Every rank concludes every request, and says so at least.
        assert router.inputs >= 3 * 12
        last_s = of.time_s.max()
        assert all(one.lasts_s >= last_s / 2 for one in processes.values())


def test_a_simulated_run_has_none(tmp_path: Path) -> None:
    run_sim(load("seed-small"), tmp_path / "run")
    assert StoredRun(tmp_path / "run").usage == []


@pytest.mark.slow
def test_a_killed_process_leaves_none_and_a_restarted_one_its_own() -> None:
    pytest.importorskip("mooncake", reason="needs Mooncake's Transfer Engine")
    pytest.importorskip("psutil", reason="needs psutil")
    from bufferlab.real.faults import Kill, RealFault, Restart
    from bufferlab.real.run.launcher import run_real

    scenario = Scenario(
        block_tokens=16, hidden=64, sizing_options={"tokens": 64}, encode_blocks=64, language_blocks=64,
        timeout_s=20.0, language_instances=3,
    )  # fmt: skip
    requests = [
        Request(room=room, arrival_s=0.1 * room, total_tokens=100, language_instance=room % 3) for room in range(1, 60)
    ]
    killed, restarted, whole = (RankId(Side.LANGUAGE, instance, 0) for instance in range(3))
    plan: list[RealFault] = [
        Kill(rank=killed, time_s=0.5),
        Restart(side=Side.LANGUAGE, instance=1, down_s=0.0, time_s=0.5),
    ]
    outcome = run_real(scenario, requests, plan=plan, heartbeats=Heartbeats(interval_s=0.5, failures=2))
    assert killed not in outcome.usage
    assert outcome.router_usage is not None
    [up_s] = [one.time_s for one in outcome.incidents if one.what == "language1 is up again"]
    assert outcome.usage[restarted].lasts_s < outcome.usage[whole].lasts_s - up_s / 2
    assert 0 < outcome.usage[restarted].submissions < outcome.usage[whole].submissions


def test_what_comes_before_the_run_has_begun_gets_its_own_time(make_driver: Make) -> None:
    """The core's clock never goes back: what is kept for a minute would be kept for as long as the host is up."""
    one = make_driver(Side.LANGUAGE, 0.0, [])
    fed: list[tuple[object, float]] = []
    one.core = SimpleNamespace(handle=lambda event, now: fed.append((event, now)) or [])  # type: ignore[assignment]
    one.clock.zero_s, one._before_start = 0.0, collections.deque()
    clock: Clock = bufferlab.real.run.driver.time  # type: ignore[assignment]
    one.feed(Quiet(1, 0))
    clock.sleep(0.5)
    one.feed(Quiet(2, 0))
    assert fed == []
    one.start(clock.now_s + 0.25)
    clock.sleep(1.0)
    one.feed(Quiet(3, 0))
    assert fed == [(Quiet(1, 0), -0.75), (Quiet(2, 0), -0.25), (Quiet(3, 0), 0.75)]
