"""What the software costs the processors: the CPU usage of known costs gives these back, and a profile has them."""

import json
import math
import shutil
import tomllib
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import msgspec
import numpy as np
import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

import bufferlab.sim.cluster.threads
from bufferlab.experiments.calibration.host.host import CpuUsage, Found, cpu_usages_of, host_costs
from bufferlab.experiments.calibration.input.reading import read_cpu_usages
from bufferlab.experiments.calibration.report import report_text
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.runs.rundir import StoredRun
from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.protocol.messages import Encoded, EncodeRequest, LanguageRequest, WriteDone
from bufferlab.real.run.usage import Usage
from bufferlab.sim.cluster.shared import _ENTERS, _IS_TAKEN, _LEAVES
from bufferlab.sim.host.costs import FIELDS, FROM_EVENTS, HostCosts
from bufferlab.sim.host.processors import SharedProcessors
from bufferlab.sim.network.link import LinkProfile, load_profile
from bufferlab.sim.run import simulate

Command = Callable[..., Any]

LINK = LinkProfile(
    name="host",
    latency_s=0.3e-3,
    per_segment_s=0.05e-3,
    bandwidth_Bps=2.4e9,
    control_latency_s=0.25e-3,
    copy_bandwidth_Bps=12e9,
)
TRUTH = HostCosts(
    processors=2.0,
    input_s=110e-6,
    iteration_s=110e-6,
    message_s=50e-6,
    command_s=70e-6,
    fill_bandwidth_Bps=6.5e9,
    write_processors=1.3,
    collective_processors=0.6,
    collective_quantiles_s=(0.2e-3, 0.3e-3, 0.5e-3, 0.9e-3, 4e-3),
)
MESSAGES_AND_ITERATIONS = ("input_s", "iteration_s", "message_s", "command_s")
OF_GROUPS = ("collective_processors", "collective_quantiles_s")


class Load(NamedTuple):
    """What one replication did: requests, chunks of each, their bytes and segments, iterations of each rank."""

    requests: int = 40
    chunks: int = 3
    chunk_bytes: int = 3_000_000
    segments: int = 4
    iterations: int = 150
    copy_cpu_s: float = 0.03
    prefills: bool = False

    @property
    def writes(self) -> int:
        return self.requests * self.chunks


def process(**fields: Any) -> dict[str, Any]:
    """One process's usage, as environment.json has it; nothing spent but what is named."""
    quiet = dict.fromkeys(("main_cpu_s", "writer_cpu_s", "engine_cpu_s", "control_cpu_s", "collective_cpu_s"), 0.0)
    usage = Usage(**{"lasts_s": 3.0, "other_cpu_s": 0.5} | quiet | fields)
    made: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(usage))
    return made


def write_cpu_s(truth: HostCosts, load: Load, link: LinkProfile = LINK) -> float:
    """What the writes of a replication cost, as the simulator has it: without what the rank's thread does."""
    alone_s = link.write_s(load.chunk_bytes, load.segments) - truth.before_s(link.control_latency_s)
    return truth.write_processors * load.writes * max(0.0, alone_s)


def lone_usage(truth: HostCosts = TRUTH, load: Load = Load(), link: LinkProfile = LINK) -> CpuUsage:  # noqa: B008
    """One encode and one language rank that cost what ``truth`` says, all in its own thread."""
    fill_bytes = load.writes * load.chunk_bytes
    # A request and, of every chunk, an offer come in, and the ends of the writes and of the pass.
    encode_inputs = load.requests + load.writes + load.writes + load.requests
    language_messages = load.requests + load.writes
    language_inputs = language_messages + (load.requests if load.prefills else 0)
    commands = 2 * load.requests
    writing_s = write_cpu_s(truth, load, link)
    fill_cpu_s = fill_bytes / truth.fill_bandwidth_Bps
    usage = {
        "router": process(
            main_cpu_s=truth.command_s * (commands + 2 * load.requests),
            control_cpu_s=truth.message_s * commands,
            inputs=commands,
            submissions=load.requests,
        ),
        "encode0.0": process(
            main_cpu_s=truth.input_s * (encode_inputs + load.iterations) + fill_cpu_s,
            control_cpu_s=truth.message_s * (load.requests + load.writes),
            writer_cpu_s=0.25 * writing_s,
            engine_cpu_s=0.5 * writing_s,
            inputs=encode_inputs,
            submissions=load.requests,
            iterations=load.iterations,
            fills=load.requests,
            fill_bytes=fill_bytes,
            fill_cpu_s=fill_cpu_s,
            writes=load.writes,
            write_bytes=load.writes * load.chunk_bytes,
            segments=load.writes * load.segments,
            write_s=7.0,
        ),
        "language0.0": process(
            main_cpu_s=truth.input_s * (language_inputs + load.iterations) + load.copy_cpu_s,
            control_cpu_s=truth.message_s * language_messages,
            engine_cpu_s=0.25 * writing_s,
            inputs=language_inputs,
            submissions=load.requests,
            iterations=load.iterations,
            copies=load.writes,
            copy_bytes=fill_bytes,
            copy_cpu_s=load.copy_cpu_s,
        ),
    }
    return CpuUsage(usage, 1, 2, load.prefills)


def group_usage(
    truth: HostCosts = TRUTH, collectives: int = 300, inputs: int = 110, side: str = "language"
) -> CpuUsage:
    """A group of two ranks on one side; its first rank waits for the second, and took what it took to come."""
    steps = np.array(truth.collective_quantiles_s)
    mean_s = float(np.mean((steps[1:] + steps[:-1]) / 2))
    busy_s = truth.collective_processors * mean_s * collectives
    moved = "copy_cpu_s" if side == "language" else "fill_cpu_s"
    alike = {"inputs": inputs, "collectives": collectives, "iterations": 250, moved: 0.04}
    known_s = truth.input_s * inputs + 0.04
    other = "encode" if side == "language" else "language"
    usage = {
        # What follows costs ten times as much as in a lone run: none of it may count.
        "router": process(main_cpu_s=10.0, control_cpu_s=10.0, inputs=90, submissions=30),
        f"{other}0.0": process(main_cpu_s=10.0, inputs=300, iterations=200, writes=90, write_bytes=9, segments=90),
        f"{side}0.0": process(
            main_cpu_s=known_s + 0.7 * busy_s,
            collective_cpu_s=0.3 * busy_s,
            collective_quantiles_s=tuple((steps + 0.4e-3).tolist()),
            **alike,
        ),
        f"{side}0.1": process(
            main_cpu_s=known_s, collective_cpu_s=busy_s, collective_quantiles_s=tuple(steps.tolist()), **alike
        ),
    }
    return CpuUsage(usage, 2, 2)


def costs_of(*usages: CpuUsage, link: LinkProfile = LINK, base: HostCosts | None = None) -> Found:
    found = host_costs(usages, link, base)
    assert found is not None
    return found


def check_costs(found: HostCosts, wanted: HostCosts, rel: float = 1e-9) -> None:
    for name in FIELDS:
        assert getattr(found, name) == pytest.approx(getattr(wanted, name), rel=rel), name


# --- what was put in comes out ---


def test_every_cost_comes_out_as_it_was_put_in() -> None:
    usages = (lone_usage(), lone_usage(load=Load(requests=90, chunks=2, iterations=400)), group_usage())
    found = costs_of(*usages)
    check_costs(found.costs, TRUTH)
    assert found.untold == []


@settings(max_examples=60, deadline=None)
@given(
    input_s=st.floats(1e-6, 1e-3),
    message_s=st.floats(1e-6, 1e-3),
    command_s=st.floats(1e-6, 1e-3),
    fill_bandwidth_Bps=st.floats(1e8, 1e11),
    write_processors=st.floats(0.1, 3.0),
    collective_processors=st.floats(0.1, 2.0),
    steps=st.lists(st.floats(1e-5, 1e-2), min_size=2, max_size=6),
    loads=st.lists(
        st.builds(
            Load,
            requests=st.integers(1, 200),
            chunks=st.integers(1, 5),
            chunk_bytes=st.integers(10_000_000, 50_000_000),
            segments=st.integers(1, 64),
            iterations=st.integers(1, 1000),
            copy_cpu_s=st.floats(0.0, 1.0),
            prefills=st.booleans(),
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_whatever_the_costs_and_the_loads_are(steps: list[float], loads: list[Load], **costs: float) -> None:
    truth = HostCosts(
        processors=2.0, iteration_s=costs["input_s"], collective_quantiles_s=tuple(sorted(steps)), **costs
    )  # fmt: skip
    found = costs_of(*(lone_usage(truth, load) for load in loads), group_usage(truth))
    check_costs(found.costs, truth, rel=1e-6)
    for name, estimate in found.estimates.items():
        value, low, high = estimate["value"], estimate["low"], estimate["high"]
        assert value is not None
        several = len(loads) > 1 and name not in ("processors", "collective_processors", "collective_median_s")
        assert (low is not None) == (high is not None) == several, name
        if low is not None and high is not None:
            assert 0 <= low <= value <= high


def test_the_interval_is_that_of_the_runs() -> None:
    truths = [msgspec.structs.replace(TRUTH, command_s=command_s) for command_s in (60e-6, 70e-6, 80e-6)]
    estimate = costs_of(*map(lone_usage, truths)).estimates["command_s"]
    # Student's t of 97.5 % with 2 degrees of freedom is 4.303, the standard deviation 10 µs.
    assert estimate["value"] == pytest.approx(70e-6)
    assert estimate["low"] == pytest.approx(70e-6 - 4.3027 * 10e-6 / math.sqrt(3), rel=1e-3)
    assert estimate["high"] == pytest.approx(70e-6 + 4.3027 * 10e-6 / math.sqrt(3), rel=1e-3)


def test_a_long_run_counts_for_more_than_a_short_one() -> None:
    cheap, dear = (msgspec.structs.replace(TRUTH, command_s=command_s) for command_s in (50e-6, 80e-6))
    found = costs_of(lone_usage(cheap, Load(requests=200)), lone_usage(dear, Load(requests=100)))
    assert found.costs.command_s == pytest.approx(60e-6)


# --- what does not tell ---


def test_groups_of_several_ranks_tell_only_all_reduces() -> None:
    assert host_costs([group_usage(), group_usage()], LINK) is None
    alone, with_groups = costs_of(lone_usage()), costs_of(lone_usage(), group_usage(), group_usage())
    for name in set(FIELDS) - set(OF_GROUPS):
        assert getattr(with_groups.costs, name) == getattr(alone.costs, name), name
    assert alone.untold == list(OF_GROUPS)
    assert (alone.costs.collective_processors, alone.costs.collective_quantiles_s) == (1.0, (0.0,))


def test_the_base_has_what_no_run_tells() -> None:
    base = HostCosts(input_s=9.0, collective_processors=0.25, collective_quantiles_s=(1e-3, 2e-3))
    found = costs_of(lone_usage(), base=base)
    assert found.costs.collective_quantiles_s == (1e-3, 2e-3)
    assert found.costs.collective_processors == 0.25
    assert found.costs.input_s == pytest.approx(TRUTH.input_s)
    assert not set(found.estimates) & {*OF_GROUPS, "collective_median_s"}


def test_processors_are_the_most_that_a_run_could_use_or_are_not_told() -> None:
    usages = [lone_usage()._replace(processors=count) for count in (1, 4, None)]
    assert costs_of(*usages).costs.processors == 4
    found = costs_of(usages[2])
    assert "processors" in found.untold
    assert math.isinf(found.costs.processors)
    assert costs_of(usages[2], base=HostCosts(processors=3)).costs.processors == 3


def test_no_usages_tell_nothing() -> None:
    assert host_costs([], LINK) is None
    assert host_costs([CpuUsage({"router": process(main_cpu_s=1.0, inputs=3)}, 1, 2)], LINK) is None


def test_a_run_without_writes_and_test_content_tells_the_rest() -> None:
    nothing = {"writes": 0, "write_bytes": 0, "segments": 0, "fills": 0, "fill_bytes": 0, "fill_cpu_s": 0.0}
    idle = {"writer_cpu_s": 0.0, "engine_cpu_s": 0.0}
    whole = lone_usage(load=Load(chunks=0))
    usage = {name: one | idle | (nothing if name == "encode0.0" else {}) for name, one in whole.usage.items()}
    # Without test content the ends of its passes would pass for messages: take them out.
    usage["encode0.0"]["inputs"] -= 40
    usage["encode0.0"]["main_cpu_s"] -= 40 * TRUTH.input_s
    found = costs_of(whole._replace(usage=usage))
    assert found.untold == ["fill_bandwidth_Bps", "write_processors", *OF_GROUPS]
    assert math.isinf(found.costs.fill_bandwidth_Bps)
    assert found.costs.write_processors == 0
    for name in MESSAGES_AND_ITERATIONS:
        assert getattr(found.costs, name) == pytest.approx(getattr(TRUTH, name)), name


def test_less_than_nothing_is_nothing() -> None:
    usage = lone_usage()
    # Copies that took more processor time than the thread had: a kernel that counts in ticks says so.
    language = usage.usage["language0.0"] | {"copy_cpu_s": 100.0}
    runs = [usage._replace(usage=usage.usage | {"language0.0": language})] * 2
    found = costs_of(*runs)
    assert found.costs.input_s == found.costs.iteration_s == 0
    assert found.estimates["input_s"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    # An all-reduce on no processor would never end, so that is not told.
    dear = group_usage()
    known = {
        name: one | ({"copy_cpu_s": 100.0} if one["collectives"] else {}) for name, one in dear.usage.items()
    }  # fmt: skip
    found = costs_of(lone_usage(), dear._replace(usage=known))
    assert found.untold == ["collective_processors"]
    assert found.costs.collective_processors == 1.0
    assert found.costs.collective_quantiles_s == pytest.approx(TRUTH.collective_quantiles_s)


def test_all_reduces_are_the_means_of_groups_and_runs() -> None:
    slow = msgspec.structs.replace(TRUTH, collective_quantiles_s=tuple(3 * s for s in TRUTH.collective_quantiles_s))
    both = costs_of(lone_usage(), group_usage(), group_usage(slow, side="encode"))
    wanted = tuple(2 * one for one in TRUTH.collective_quantiles_s)
    assert both.costs.collective_quantiles_s == pytest.approx(wanted)
    median = both.estimates["collective_median_s"]
    assert median["value"] == pytest.approx(wanted[2])
    assert median["low"] is not None
    assert both.costs.collective_processors == pytest.approx(TRUTH.collective_processors)


def test_groups_of_one_run_count_alike() -> None:
    slow = msgspec.structs.replace(TRUTH, collective_quantiles_s=tuple(3 * s for s in TRUTH.collective_quantiles_s))
    # The slow group held three times as many, which matters to the processors but not to how long one takes.
    first, second = group_usage(), group_usage(slow, collectives=900, side="encode")
    members = {name: one for one in (first, second) for name, one in one.usage.items() if one["collectives"]}
    usage = first._replace(usage={"router": first.router} | members)
    found = costs_of(lone_usage(), usage)
    assert found.costs.collective_quantiles_s == pytest.approx([2 * one for one in TRUTH.collective_quantiles_s])
    assert found.costs.collective_processors == pytest.approx(TRUTH.collective_processors)
    assert found.estimates["collective_processors"]["low"] is None


# --- the same sums as the simulator's ---


class Tally(SharedProcessors):
    """Counts what a simulated run has its processors do, by whose work it is, and the events that ranks take."""

    work_s: ClassVar[dict[str, float]] = {}
    times: ClassVar[dict[str, int]] = {}
    taken: ClassVar[dict[tuple[str, type], int]] = {}

    def work(self, work_s: float, width: float, then: Any) -> None:
        name = type(then).__name__
        if name == "_Input":
            name = {_ENTERS: "carried", _IS_TAKEN: "taken", _LEAVES: "done"}[then._next]
        self.work_s[name] += work_s
        self.times[name] += work_s > 0
        if name == "taken":
            self.taken[str(then._rank.core.rank_id), type(then._event)] += 1
        super().work(work_s, width, then)


@pytest.fixture
def tally(monkeypatch: pytest.MonkeyPatch) -> type[Tally]:
    for field in ("work_s", "times", "taken"):
        monkeypatch.setattr(Tally, field, defaultdict(int))
    monkeypatch.setattr(bufferlab.sim.cluster.threads, "SharedProcessors", Tally)
    return Tally


@pytest.mark.interpreted
def test_a_simulated_run_costs_what_its_usages_say(tally: type[Tally]) -> None:
    # All of a latency is work, so that nothing of an input comes after it; bytes alone make a write long.
    link = msgspec.structs.replace(LINK, per_segment_s=0.0, control_latency_s=1.0, submit_latency_s=1.0, host=TRUTH)
    scenario = Scenario(
        block_tokens=128, hidden=2048, encode_blocks=512, language_blocks=256, sizing_options={"tokens": 1024}
    )
    requests = [Request(room, 0.03 * room, 900 + 150 * (room % 9)) for room in range(60)]
    outcome = simulate(scenario, requests, link)
    work_s, times = tally.work_s, tally.times

    def took(side: str, *kinds: type) -> int:
        return sum(
            number
            for (name, kind), number in tally.taken.items()
            if name.startswith(side) and kind in (kinds or (kind,))
        )

    # The usage that a measured run keeps of the same. The threads of both ranks are added up anyway.
    usage = {
        "router": process(
            main_cpu_s=work_s["_Task"], control_cpu_s=work_s["carried"] + work_s["_Report"], inputs=times["_Report"]
        ),
        "encode0.0": process(
            main_cpu_s=work_s["taken"] + work_s["done"] + work_s["_Filled"],
            inputs=took("encode"),
            iterations=times["done"],
            submissions=took("encode", EncodeRequest),
            writes=took("encode", WriteDone),
            write_bytes=outcome.bytes_written,
            writer_cpu_s=work_s["_Writing"],
            fills=took("encode", Encoded),
            fill_bytes=sum(request.total_tokens for request in requests) * scenario.layout.bytes_per_token,
            fill_cpu_s=work_s["_Filled"],
        ),
        "language0.0": process(
            main_cpu_s=work_s["_Acting"],
            copy_cpu_s=work_s["_Acting"],
            inputs=took("language"),
            submissions=took("language", LanguageRequest),
        ),
    }
    assert usage["encode0.0"]["writes"] > len(requests)
    found = costs_of(CpuUsage(usage, 1, 2), link=link)
    assert found.untold == list(OF_GROUPS)
    check_costs(found.costs, msgspec.structs.replace(TRUTH, collective_processors=1.0, collective_quantiles_s=(0.0,)))


# --- run directories ---


def stored(
    bufferlab: Command, name: str, usage: list[dict[str, Any]] | None, *settings_: str, **environment: Any
) -> Path:
    """A run directory, simulated, whose environment says what processes spent as that of a measured one does."""
    config = {
        "workload": {"lengths": [300, 700, 1500, 3000, 5000], "requests": 20, "loop": "closed", "concurrency": 1},
        "protocol": {"block_tokens": 128, "sizing": {"tokens": 1024}},
    }
    Path(f"{name}.toml").write_text(tomli_w.dumps(config), encoding="utf-8")
    chosen = [part for setting in settings_ for part in ("--set", setting)]
    ended = bufferlab("sim", f"{name}.toml", *chosen, "--out", name, "--no-plots")
    assert ended.status == 0, ended.err
    path = Path(name) / "environment.json"
    found = json.loads(path.read_text(encoding="utf-8")) | environment
    found["host"]["cpus"] = 2
    if usage is not None:
        found["usage"] = usage
    path.write_text(json.dumps(found), encoding="utf-8")
    return Path(name)


def test_a_run_has_an_account_a_replication(bufferlab: Command) -> None:
    usage = [dict(lone_usage().usage), dict(lone_usage(load=Load(requests=7)).usage)]
    run = stored(bufferlab, "twice", usage, "language.tp=2", "language.release=prefill")
    usages = cpu_usages_of(StoredRun(run))
    assert usages == [CpuUsage(one, 2, 2, prefills=True) for one in usage]


@pytest.mark.parametrize(
    ("usage", "settings_", "environment", "reason"),
    [
        (None, (), {}, "whose processes kept no CPU usage of their processor time; it must be a measured run that has"),
        ([{}], (), {}, "whose processes kept no CPU usage of their processor time"),
        ("lone", ("random_faults.failed_writes=0.1",), {}, "which has faults or incidents; only undisturbed runs can"),
        ("lone", (), {"hosts": []}, "whose ranks were on several hosts; it must be a run on one"),
    ],
)
def test_a_run_that_tells_nothing_is_refused(
    bufferlab: Command, usage: Any, settings_: tuple[str, ...], environment: dict[str, Any], reason: str
) -> None:
    kept = [dict(lone_usage().usage)] if usage == "lone" else usage
    run = stored(bufferlab, "kept", kept, *settings_, **environment)
    assert cpu_usages_of(StoredRun(run)) == []
    good = stored(bufferlab, "good", [dict(lone_usage().usage)])
    before = sorted(Path().iterdir())
    ended = bufferlab("calibrate", good, "--cpu-usage", good, "--cpu-usage", run, "--out", "found.toml")
    assert ended.status == 2
    assert ended.err.count("\n") == 1
    assert f"--cpu-usage has 'kept', {reason}" in ended.err
    assert sorted(Path().iterdir()) == before
    # Only asked for it has to tell something.
    assert read_cpu_usages((), [run]) == []


@pytest.mark.parametrize("made", ["missing", "folder", "file"])
def test_what_is_no_run_is_refused(bufferlab: Command, made: str) -> None:
    good = stored(bufferlab, "good", None)
    if made == "folder":
        Path("other").mkdir()
    elif made == "file":
        Path("other").write_text("no run", encoding="utf-8")
    before = sorted(Path().iterdir())
    ended = bufferlab("calibrate", good, "--cpu-usage", "other", "--out", "found.toml")
    assert ended.status == 2
    assert ended.err.count("\n") == 1
    assert "--cpu-usage has 'other', it must be a finished run directory (with a summary.json)" in ended.err
    assert sorted(Path().iterdir()) == before


def test_groups_alone_and_usages_without_a_profile_are_refused(bufferlab: Command) -> None:
    good = stored(bufferlab, "good", [dict(lone_usage().usage)])
    groups = stored(bufferlab, "groups", [dict(group_usage().usage)], "language.tp=2")
    ended = bufferlab("calibrate", good, "--cpu-usage", groups, "--out", "found.toml")
    assert ended.status == 2
    assert "it must have one with encode.tp = 1 and language.tp = 1 as well" in ended.err
    assert not Path("found.toml").exists()
    ended = bufferlab("calibrate", good, "--cpu-usage", good)
    assert ended.status == 2
    assert "there is no --out" in ended.err
    with pytest.raises(UserError, match="only runs whose groups have several ranks"):
        read_cpu_usages([groups, groups], [])


def test_a_profile_has_the_costs_and_simulates(bufferlab: Command) -> None:
    measured = stored(bufferlab, "measured", None)
    loop = stored(
        bufferlab, "loop", [dict(lone_usage(load=Load(iterations=iterations)).usage) for iterations in (150, 190)]
    )
    groups = stored(bufferlab, "groups", [dict(group_usage().usage)] * 2, "language.tp=2")
    command = ("calibrate", measured, "--cpu-usage", loop, "--cpu-usage", groups)
    ended = bufferlab(*command, "--out", "found.toml", "--json")
    assert ended.status == 0, ended.err
    profile = load_profile("found.toml")
    found = host_costs([*cpu_usages_of(StoredRun(loop)), *cpu_usages_of(StoredRun(groups))], profile)
    assert found is not None
    assert profile.host == found.costs
    # Another law of the writes than LINK was found, so these take other processors.
    check_costs(msgspec.structs.replace(found.costs, write_processors=TRUTH.write_processors), TRUTH)
    content = tomllib.loads(Path("found.toml").read_text(encoding="utf-8"))
    assert content["host"]["processors"] == 2
    kept = content["calibration"]["host"]
    assert set(kept) == {*FIELDS, "collective_median_s"} - {"collective_quantiles_s", *FROM_EVENTS}
    for name, one in kept.items():
        if name == "processors":
            assert one == {"value": 2.0}
        else:
            assert one["low"] <= one["value"] <= one["high"]
            assert one["value"] == getattr(profile.host, name, one["value"])
    result = json.loads(ended.out)
    assert result["host"]["runs"] == {"one rank a group": 2, "several ranks a group": 2}
    assert result["profile"]["assumed"] == ["wakeup_s", "shared_by"]
    text = report_text(result)
    assert "on the processors of the host (runs: 2 with one rank a group, 2 with several ranks a group):" in text
    for line in (
        "processors             2",
        "input_s                110 µs   110 µs .. 110 µs",
        "fill_bandwidth_Bps     6.5 GB/s   6.5 GB/s .. 6.5 GB/s",
        "collective_processors  0.6   0.6 .. 0.6",
        "collective_median_s    500 µs   500 µs .. 500 µs",
    ):
        assert f"\n  {line}\n" in text
    ended = bufferlab("sim", "groups.toml", "--set", "link.profile=found.toml", "--set", "language.tp=2", "--no-plots",
                      "--out", "again")  # fmt: skip
    assert ended.status == 0, ended.err
    slow, fast = (StoredRun(run).summary["latency_s"]["mean"]["value"] for run in ("again", "groups"))
    assert slow > fast  # which had a processor for every thread


def test_runs_that_are_measurements_say_what_they_cost_themselves(bufferlab: Command) -> None:
    run = stored(bufferlab, "both", [dict(lone_usage().usage)])
    ended = bufferlab("calibrate", run, "--out", "found.toml", "--json")
    assert ended.status == 0, ended.err
    host = load_profile("found.toml").host
    assert host is not None
    assert host.input_s == pytest.approx(TRUTH.input_s)
    told = json.loads(ended.out)
    assert told["profile"]["assumed"][-2:] == [f"host.{name}" for name in OF_GROUPS]
    assert "no run tells collective_processors, collective_quantiles_s" in report_text(told)
    # In their place, what is asked for; and a base's own where there is nothing at all.
    dear = [dict(lone_usage(msgspec.structs.replace(TRUTH, command_s=1e-3)).usage)]
    asked = stored(bufferlab, "asked", dear)
    assert bufferlab("calibrate", run, "--cpu-usage", asked, "--out", "other.toml").status == 0
    host = load_profile("other.toml").host
    assert host is not None
    assert host.command_s == pytest.approx(1e-3)
    shutil.copy("other.toml", "base.toml")
    plain = stored(bufferlab, "plain", None)
    ended = bufferlab("calibrate", plain, "--base", "base.toml", "--out", "third.toml", "--json")
    assert ended.status == 0, ended.err
    assert load_profile("third.toml").host == host
    assert "host" in json.loads(ended.out)["profile"]["assumed"]


def test_without_usages_a_profile_has_no_host(bufferlab: Command) -> None:
    ended = bufferlab("calibrate", stored(bufferlab, "plain", None), "--out", "found.toml", "--json")
    assert ended.status == 0, ended.err
    assert load_profile("found.toml").host is None
    assert json.loads(ended.out)["host"] is None
    assert "processors of the host" not in report_text(json.loads(ended.out))
