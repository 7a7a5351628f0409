"""What both drivers make of service times: when a loop iterates, what a pass takes and how long, who prepares images."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bufferlab.protocol.emulation.loop import LoopGrid
from bufferlab.protocol.emulation.passes import Passes
from bufferlab.protocol.emulation.processors import Processors
from bufferlab.protocol.emulation.scenario import Scenario, ServiceTimes
from bufferlab.protocol.messages import Deliver

SERVED = Scenario(
    block_tokens=1,
    hidden=6,
    services=ServiceTimes(encode_base_s=0.5, prefill_base_s=1.0, prefill_per_token_s=0.01, prefill_per_token2_s=0.001),
)


def delivered(*tokens: int, most_tokens: int | None = None, slowness: float = 1.0) -> Passes:
    passes = Passes(msgspec.structs.replace(SERVED, prefill_batch_tokens=most_tokens), slowness)
    for room, count in enumerate(tokens):
        passes.add(Deliver(room, 0, count))
    return passes


def rooms_of(passes: Passes) -> list[list[int]]:
    found = []
    while passes.waiting:
        found.append([one.room for one in passes.prefill()[0]])
    return found


# --- loops ---


def test_a_loop_iterates_on_its_grid_and_a_long_iteration_starts_a_new_one() -> None:
    grid = LoopGrid(0.25)
    assert grid.next_s(0.0) == 0.0
    grid.end_iteration(0.0, 0.0)
    assert grid.next_s(0.0) == 0.25
    assert grid.next_s(0.6) == 0.75
    grid.end_iteration(0.75, 0.6)  # busy until 1.35
    assert grid.next_s(0.8) == 1.35
    grid.end_iteration(1.35, 0.1)  # shorter than the period: the loop sleeps for the rest
    assert grid.next_s(1.36) == 1.6


@given(
    origin_s=st.floats(0, 1e6),
    period_s=st.sampled_from([0.001, 0.0003, 1 / 3, 7.0]),
    after_s=st.floats(0, 1e4),
)
def test_the_next_iteration_is_the_first_grid_point_not_before_now(
    origin_s: float, period_s: float, after_s: float
) -> None:
    grid = LoopGrid(period_s)
    grid.end_iteration(0.0, origin_s)
    origin_s, now = grid.origin_s, grid.origin_s + after_s
    next_s = grid.next_s(now)
    assert next_s >= now
    assert next_s == origin_s + grid.index * period_s
    assert grid.index <= 1 or origin_s + (grid.index - 1) * period_s < now


# --- passes ---


def test_a_prefill_pass_takes_what_fits_in_order_and_a_longer_request_alone() -> None:
    assert rooms_of(delivered(10, 20, 30, 100, 5, 35, 1, most_tokens=40)) == [[0, 1], [2], [3], [4, 5], [6]]
    assert rooms_of(delivered(10, 20, 30)) == [[0, 1, 2]]


def test_a_pass_lasts_for_its_base_and_its_requests_and_longer_on_a_slow_rank() -> None:
    first = 0.01 * 10 + 0.001 * 100
    second = 0.01 * 20 + 0.001 * 400
    assert delivered(10, 20).prefill()[1] == pytest.approx(1.0 + first + second)
    assert delivered(10, 20, slowness=2.0).prefill()[1] == pytest.approx(2 * (1.0 + first + second))
    passes = delivered(10, 20, most_tokens=20)
    assert [passes.prefill()[1], passes.prefill()[1]] == pytest.approx([1.0 + first, 1.0 + second])
    passes.add(Deliver(7, 3, 10, prefill_factor=4.0))
    ((one,), lasts_s) = passes.prefill()
    assert (one.room, one.incarnation, one.tokens) == (7, 3, 10)
    assert lasts_s == pytest.approx(1.0 + 4 * first)
    assert Passes(SERVED).encoder_s(2.0) == 2.5
    assert Passes(SERVED, 3.0).encoder_s(2.0) == 7.5


# --- processors ---


def test_processors_take_work_in_order() -> None:
    processors = Processors(2)
    assert [processors.give(now, lasts) for now, lasts in ((0, 5), (0, 1), (0, 1), (3, 1))] == [5, 1, 2, 4]
    assert processors.busy_s == 8
    with pytest.raises(ValueError, match="0 processors"):
        Processors(0)
