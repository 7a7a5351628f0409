"""Where a request is cut into chunks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bufferlab.protocol.chunks import Chunk, plan_chunk
from bufferlab.protocol.errors import ProtocolError

B = 4


def plan(total: int, sent: int, *capacities: int) -> Chunk:
    return plan_chunk(total_tokens=total, sent_tokens=sent, capacities_tokens=capacities, block_tokens=B)


@pytest.mark.parametrize(
    ("total", "sent", "capacities", "expected"),
    [
        pytest.param(1, 0, [B], (0, 1, True), id="one token"),
        pytest.param(B - 1, 0, [B], (0, B - 1, True), id="a block less one"),
        pytest.param(B, 0, [B], (0, B, True), id="a block, allocation exactly equal"),
        pytest.param(B + 1, 0, [B], (0, B, False), id="one token more than the allocation"),
        pytest.param(B + 1, B, [B], (B, 1, True), id="the one token that was left"),
        pytest.param(3 * B, 0, [3 * B], (0, 3 * B, True), id="three blocks, allocation exactly equal"),
        pytest.param(3 * B, 0, [2 * B], (0, 2 * B, False), id="three blocks in two"),
        pytest.param(3 * B, 2 * B, [2 * B], (2 * B, B, True), id="the rest in more than it needs"),
        pytest.param(3 * B, 0, [3 * B, B], (0, B, False), id="the smaller destination decides, last"),
        pytest.param(3 * B, 0, [B, 3 * B], (0, B, False), id="the smaller destination decides, first"),
        pytest.param(2 * B, 0, [2 * B, 5 * B], (0, 2 * B, True), id="the smaller one is enough"),
    ],
)
def test_a_cut(total: int, sent: int, capacities: list[int], expected: tuple[int, int, bool]) -> None:
    chunk = plan(total, sent, *capacities)
    assert (chunk.start_token, chunk.tokens, chunk.is_last) == expected
    assert chunk.end_token == sent + chunk.tokens


@pytest.mark.parametrize(
    ("total", "sent", "capacities", "reason"),
    [
        pytest.param(0, 0, [B], "nothing to send", id="an empty request"),
        pytest.param(B, B, [B], "nothing to send", id="all sent"),
        pytest.param(B, 2 * B, [B], "nothing to send", id="more than all sent"),
        pytest.param(B, -B, [B], "nothing to send", id="less than nothing sent"),
        pytest.param(2 * B, B - 1, [B], "sent_tokens 3 is not a multiple", id="sent inside a block"),
        pytest.param(2 * B, B + 1, [B], "sent_tokens 5 is not a multiple", id="sent inside a later block"),
        pytest.param(2 * B, 0, [], "no destination", id="nobody offered"),
        pytest.param(2 * B, 0, [0], "capacity of 0", id="an empty offer"),
        pytest.param(2 * B, 0, [-B], "capacity of -4", id="a negative offer"),
        pytest.param(2 * B, 0, [B + 1], "capacity of 5", id="not a multiple"),
        pytest.param(2 * B, 0, [B, 2 * B - 1], "capacity of 7", id="the second is not a multiple"),
    ],
)
def test_what_cannot_be_cut(total: int, sent: int, capacities: list[int], reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        plan(total, sent, *capacities)


@given(
    total=st.integers(1, 200),
    block=st.integers(1, 9),
    grants=st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=3), min_size=1),
)
def test_planning_until_last_moves_every_token_once(total: int, block: int, grants: list[list[int]]) -> None:
    sent = rounds = 0
    last = False
    while not last:
        capacities = [blocks * block for blocks in grants[rounds % len(grants)]]
        chunk = plan_chunk(total_tokens=total, sent_tokens=sent, capacities_tokens=capacities, block_tokens=block)
        assert chunk.start_token == sent
        assert 0 < chunk.tokens <= min(capacities), "nobody receives more than it offered"
        assert chunk.is_last == (chunk.end_token == total)
        assert chunk.is_last or chunk.end_token % block == 0
        assert chunk.is_last or chunk.tokens == min(capacities), "an allocation is used to the full"
        sent, last, rounds = chunk.end_token, chunk.is_last, rounds + 1
    assert sent == total
