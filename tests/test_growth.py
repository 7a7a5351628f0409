"""The growth table: exponents of made-up series, with and without noise, and what is printed."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

SCRIPT = Path(__file__).resolve().parent.parent / "tools" / "growth.py"
SIZES = (1, 2, 4, 8, 16)


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bufferlab_growth", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a dataclass looks its own module up
    spec.loader.exec_module(module)
    return module


growth: Any = load_script()


@given(power=st.floats(-1, 3), first_s=st.floats(1e-6, 1e3), sizes=st.sets(st.integers(1, 10**6), min_size=2))
def test_a_power_law_has_its_exponent(power: float, first_s: float, sizes: set[int]) -> None:
    times_s = [first_s * size**power for size in sizes]
    assert growth.exponent(list(sizes), times_s) == pytest.approx(power, abs=1e-6)


def test_one_size_has_no_exponent() -> None:
    with pytest.raises(ValueError, match="at least two different ones"):
        growth.exponent([4, 4], [1.0, 2.0])


def noisy_rounds(power: float, rounds: int, seed: int) -> list[dict[tuple[str, int], float]]:
    """Times of an axis "x", each off by some 5 %."""
    draw = random.Random(seed)
    return [{("x", size): 1e-3 * size**power * draw.lognormvariate(0, 0.05) for size in SIZES} for _ in range(rounds)]


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_noise_widens_the_interval_and_leaves_the_exponent_in_it(power: float) -> None:
    estimates = [growth.exponent_over(noisy_rounds(power, 5, seed), "x", SIZES) for seed in range(200)]
    assert all(abs(one["value"] - power) < 0.05 for one in estimates)
    assert all(one["low"] < one["value"] < one["high"] for one in estimates)
    inside = sum(one["low"] <= power <= one["high"] for one in estimates)
    assert 180 <= inside < 200  # 95 % of 200, give or take three standard deviations


def axis(of: str = "a request", run: Any = None) -> Any:
    return growth.Axis("x", (1, 10, 100), run, of, "at most 1")


def test_the_table_has_the_least_times_and_the_mean_exponent() -> None:
    first = {("x", 1): 0.001, ("x", 10): 0.010, ("x", 100): 0.1}
    second = {("x", 1): 0.002, ("x", 10): 0.020, ("x", 100): 0.2}
    assert growth.table([axis()], {"x": (1, 10, 100)}, [first, second]).splitlines() == [
        "growth in  sizes     time of    ms at each size  exponent  95 % interval   expected",
        "---------  --------  ---------  ---------------  --------  --------------  ---------",
        "x          1 10 100  a request  1 10 100         +1.00     +1.00 to +1.00  at most 1",
    ]


def test_one_round_has_no_interval() -> None:
    last = growth.table([axis()], {"x": (1, 10)}, [{("x", 1): 1.0, ("x", 10): 100.0}]).splitlines()[-1]
    assert last.split() == ["x", "1", "10", "a", "request", "1000", "100000", "+2.00", "-", "at", "most", "1"]


@pytest.mark.parametrize("backwards", [False, True])
def test_a_round_takes_every_point_once_and_divides_by_the_requests(
    backwards: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    ran: list[int] = []

    def run(size: int) -> int:
        ran.append(size)
        clock[0] += 6.0
        return 3

    monkeypatch.setattr(growth, "AXES", [axis(run=run)])
    monkeypatch.setattr(growth.time, "process_time", lambda: clock[0])
    assert growth.measure({"x": (1, 10)}, backwards=backwards) == {("x", 1): 2.0, ("x", 10): 2.0}
    assert ran == ([10, 1] if backwards else [1, 10])
    monkeypatch.setattr(growth, "AXES", [axis("the run", run)])
    assert growth.measure({"x": (10,)}, backwards=backwards) == {("x", 10): 6.0}


@pytest.mark.parametrize("one", growth.AXES, ids=lambda one: one.name)
def test_every_axis_runs_to_its_end_at_its_smallest_size(one: Any) -> None:
    assert len(one.sizes) >= 4
    assert one.of in ("the run", "a request")
    factors = {later / earlier for earlier, later in zip(one.sizes, one.sizes[1:], strict=False)}
    assert len(factors) == 1
    assert one.run(one.sizes[0]) > 0
