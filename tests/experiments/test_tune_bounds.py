"""Bounds of ``tune``: no stage does more work than a run shows, and screening never drops what an exhaustive race finds best."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bufferlab.experiments.runs.simulate import simulate_one
from bufferlab.experiments.tuning import bounds
from bufferlab.experiments.tuning.base import Asked, make_base
from bufferlab.experiments.tuning.bounds import cost_of, demand_of, loads_of, never_served, sizes_to_look_at, work_of
from bufferlab.experiments.tuning.contest import Runs, figure_of
from bufferlab.experiments.tuning.decision import pareto
from bufferlab.experiments.tuning.question import parse_objective
from bufferlab.experiments.tuning.remedies import remedy
from bufferlab.experiments.tuning.screening import overloaded, screen
from bufferlab.experiments.tuning.space import changes_that_count, make_space
from bufferlab.experiments.workloads.loading import load
from bufferlab.experiments.workloads.requests import make_requests

PRESETS = ["quickstart", "multi-image-documents", "video", "text-only"]


@pytest.mark.parametrize("example", [*PRESETS, "adversarial-bimodal"])
@pytest.mark.parametrize(
    "more", [(), ("encode.tp=2", "language.tp=2", "language.instances=2", "link.profile=efa-p5en")]
)
def test_no_stage_is_offered_less_than_the_bound_says(example: str, more: tuple[str, ...]) -> None:
    config = load(example, ["workload.requests=120", "run.replications=1", "protocol.timeout_s=never", *more])
    demand = demand_of(config)
    loads = loads_of(config, demand)
    one, _ = simulate_one(config, 0)
    assert demand.rate_rps is not None
    window_s = one.window_s[1] - one.window_s[0]
    offered_s = len(demand.lengths) / demand.rate_rps
    seen = {name: (use.busy_s / use.servers) for name, use in one.stages.items() if use is not None}
    if one.adapters is not None:
        seen["adapters"] = one.adapters * window_s
    compared = 0
    for name, busy_s in seen.items():
        if name in loads:
            compared += 1
            # What a run's records tell of a stage is right to half a percent.
            assert loads[name] * offered_s <= 1.005 * busy_s + 1e-9, name
    assert compared >= 4
    pools = one.pools
    held = next(use for side, use in pools.items() if side.value == "language")
    assert loads["language_pool"] * offered_s <= 1.005 * held.held_block_s / held.pool_blocks


@pytest.mark.parametrize("example", [*PRESETS, "adversarial-bimodal"])
def test_the_work_of_requests_is_what_the_emulation_makes_of_each(example: str) -> None:
    config = load(example, ["workload.requests=120", "run.replications=1", "workload.service_log_sd=0.3"])
    times, work = config.scenario().services, work_of(config, demand_of(config))
    requests = list(make_requests(config, 0))
    assert work.preprocess_s * 120 == pytest.approx(sum(map(times.preprocess_s, requests)))
    assert work.encode_s * 120 == pytest.approx(sum(map(times.encode_s, requests)))
    prefills = [times.prefill_s(one.total_tokens, one.prefill_factor) for one in requests]
    assert work.prefill_s * 120 == pytest.approx(sum(prefills))


def test_the_bound_of_the_prefill_is_close() -> None:
    config = load("quickstart", ["workload.requests=300", "run.replications=1"])
    demand = demand_of(config)
    one, _ = simulate_one(config, 0)
    use = one.stages["prefill"]
    assert use is not None
    assert demand.rate_rps is not None
    assert loads_of(config, demand)["prefill"] * len(demand.lengths) / demand.rate_rps > 0.9 * use.busy_s


SPACES: list[dict[str, list[Any]]] = [
    {
        "protocol.discipline": ["window", "slot", "default_fail", "exact_announce"],
        "protocol.sizing.policy": ["fixed"],
        "protocol.sizing.tokens": [1024, 8192, 65536, 131072],
        "protocol.block_tokens": [128],
        "language.pool_blocks": [64, 256, 1024],
    },
]


@pytest.mark.parametrize("example", PRESETS)
def test_screening_never_drops_the_best_of_all(example: str) -> None:
    base = make_base(Asked(example, settings=("workload.requests=50", "link.profile=tcp-loopback")))
    demand = demand_of(base.config)
    space = make_space(base, demand, given=SPACES[0])
    out = screen(space.settings, demand, spared=frozenset())
    assert out, "nothing is screened out, so this tests nothing"
    settings = {one.number: one for one in space.settings}
    runs = Runs(settings, lambda function, tasks: ((index, function(*task)) for index, task in enumerate(tasks)))
    replications = range(2)
    runs.get([(number, each) for number in settings for each in replications], "race")
    served = set()
    for objective in ("latency_p99", "ttft_mean"):
        values = {}
        for number in settings:
            each = [figure_of(row, parse_objective(objective)) for row in runs.rows(number)]
            if None not in each:
                values[number] = sum(value for value in each if value is not None)
        assert values
        lowest = min(values.values())
        assert any(value == lowest for number, value in values.items() if number not in out)
        served |= values.keys()
    fits = {number for number, why in out.items() if "do not fit" in why or "does not fit" in why}
    assert fits
    assert not fits & served, "what can never fit was served"


def test_what_can_never_be_served_is_counted_as_the_simulator_does() -> None:
    for discipline, tokens in (("slot", 2048), ("default_fail", 1024), ("exact_announce", 1024), ("window", 1024)):
        config = load(
            "quickstart",
            ["workload.requests=200", "run.replications=1", f"protocol.discipline={discipline}", "workload.rate_rps=0.5",
             f"protocol.sizing.tokens={tokens}", "language.pool_blocks=32"],
        )  # fmt: skip
        one, _ = simulate_one(config, 0)
        assert one.statuses.get("Failed", 0) == never_served(config, demand_of(config))


LARGE: dict[str, list[Any]] = {
    "protocol.sizing.policy": ["fixed"], "protocol.sizing.tokens": [1024, 16384, 32768], "protocol.block_tokens": [128],
    "protocol.discipline": ["window"], "language.pool_blocks": [4096],
}  # fmt: skip


def test_a_default_that_holds_every_request_makes_larger_ones_useless() -> None:
    listed = ("workload={lengths=[500, 9000], rate_rps=2.0, requests=60}", "language.pool_blocks=4096")
    base = make_base(Asked("quickstart", settings=listed))
    demand = demand_of(base.config)
    assert demand.longest == 9000
    space = make_space(base, demand, given=LARGE)
    out = screen(space.settings, demand, spared=frozenset())
    sizes = {one.config.protocol.sizing.tokens for one in space.settings if one.number in out}
    assert sizes == {32768}
    (why,) = out.values()
    assert why.startswith(f"no request is longer than {demand.longest} tokens")


def test_the_default_of_today_is_raced_with_smaller_pools_though_it_is_larger_than_it_need_be() -> None:
    """The same default in a smaller pool is one change; a smaller default in a smaller pool would be two."""
    listed = ("workload={lengths=[500, 9000], rate_rps=2.0, requests=60}", "language.pool_blocks=4096",
              "protocol.sizing.tokens=32768")  # fmt: skip
    base = make_base(Asked("quickstart", settings=listed))
    demand = demand_of(base.config)
    space = make_space(base, demand, given=LARGE | {"language.pool_blocks": [4096, 2048, 1024]})
    out = screen(space.settings, demand, spared=frozenset())
    left = [one.config for one in space.settings if one.number not in out]
    today = [one.language.pool_blocks for one in left if one.protocol.sizing.tokens == 32768]
    assert sorted(today, reverse=True) == [4096, 2048, 1024]


def test_lengths_that_are_drawn_may_be_longer_than_any_that_was_seen() -> None:
    base = make_base(Asked("single-image-chat", settings=("workload.requests=60", "language.pool_blocks=4096")))
    demand = demand_of(base.config)
    assert demand.longest <= 16384, "a larger default looks useless"
    assert screen(make_space(base, demand, given=LARGE).settings, demand, spared=frozenset()) == {}


def test_the_longest_request_of_a_file_is_that_of_the_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "MOST_LOOKED_AT", 10)
    file = tmp_path / "mine.csv"
    lengths = [*[900] * 19, 20_000]
    file.write_text("arrival_s,total_tokens\n" + "".join(f"{at},{tokens}\n" for at, tokens in enumerate(lengths)))
    base = make_base(Asked(str(file)))
    demand = demand_of(base.config)
    assert (len(demand.lengths), demand.longest, demand.bounded) == (10, 20_000, True)
    # A default of 16,384 is not enough for the last one, so nothing says that 32,768 is too much.
    assert screen(make_space(base, demand, given=LARGE).settings, demand, spared=frozenset()) == {}


def test_overload_is_named_where_every_setting_has_it() -> None:
    base = make_base(Asked("quickstart", settings=("workload.requests=100", "workload.rate_rps=100")))
    demand = demand_of(base.config)
    space = make_space(base, demand)
    above = overloaded(space.settings, demand)
    assert above is not None
    assert above["prefill"] > 1
    text = remedy(base.config, demand, "prefill", above["prefill"], above)
    changes = re.findall(r"(\S+) = (\d+) instead of", text)
    # All that is above what it can do, not only what holds the others up.
    assert [name for name, _ in changes] == ["language.instances", "encode.instances"]
    mended = load(
        "quickstart", ["workload.requests=100", "workload.rate_rps=100", *(f"{name}={to}" for name, to in changes)]
    )
    assert max(loads_of(mended, demand)[name] for name in ("preprocessing", "encoder", "prefill")) <= 0.8
    # Of a thousand times too much it says what is likely, and not a number of machines.
    far = make_base(Asked("quickstart", settings=("workload.requests=100", "workload.rate_rps=10000")))
    loads = loads_of(far.config, demand_of(far.config))
    text = remedy(far.config, demand_of(far.config), "prefill", loads["prefill"], loads)
    assert re.match(
        r"at most \d+(\.\d+)? requests a second instead of 1\d{4}; \d+ times what it can do is hardly", text
    )
    assert "units" in text
    assert " = " not in text
    idle = make_base(Asked("quickstart", settings=("workload.requests=100",)))
    assert overloaded(space.settings, demand_of(idle.config)) is None


def test_sizes_to_look_at_are_blocks_within_the_pool() -> None:
    for example in PRESETS:
        config = load(example, ["workload.requests=200", "run.replications=1"])
        demand = demand_of(config)
        block = config.protocol.block_tokens
        best, sizes = sizes_to_look_at(config, demand, 2 * block)
        assert best in sizes
        assert all(size % block == 0 for size in sizes)
        assert max(sizes) <= config.blocks(config.language) * block
        # Nothing fills what is set aside beyond the longest request.
        assert max(sizes) <= demand.longest + 2 * block
        assert cost_of(config, demand, best) == min(cost_of(config, demand, size) for size in sizes)


def test_a_pool_of_the_same_memory_in_other_blocks_is_no_change_to_think_about() -> None:
    base = make_base(Asked("quickstart", settings=("workload.requests=40",)))
    space = make_space(base, demand_of(base.config))
    today = space.settings[0]
    assert changes_that_count(base.config, today) == 0
    own = today.config.protocol
    same = [
        one
        for one in space.settings
        if one.config.protocol.block_tokens != own.block_tokens
        and one.config.protocol.sizing == own.sizing
        and one.config.protocol.discipline == own.discipline
        and abs(one.memory_bytes - today.memory_bytes) < 2**20
    ]
    assert same
    assert {changes_that_count(base.config, one) for one in same} == {1}


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), max_size=20))
def test_a_front_is_what_nothing_beats(points: list[tuple[float, float]]) -> None:
    numbered = [(number, memory, value) for number, (memory, value) in enumerate(points)]
    front = pareto(numbered)
    for number, memory, value in numbered:
        beaten = any(
            other_memory <= memory and other_value <= value and (other_memory, other_value) != (memory, value)
            for _, other_memory, other_value in numbered
        )
        if beaten:
            assert number not in front
        else:
            assert any((points[one][0], points[one][1]) == (memory, value) for one in front)
