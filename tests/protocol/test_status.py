"""The rules of a status, each as a literal table."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise, product
from typing import Any

import pytest

from bufferlab.protocol.errors import IllegalTransitionError
from bufferlab.protocol.recording import ORDERING_DOMAINS, OrderingDomain
from bufferlab.protocol.status import Status, advance, chunk_status, group_status, is_resume
from bufferlab.protocol.topology import RankId, Side
from bufferlab.protocol.wire.codec import SglangStatus, decode_sglang, encode_sglang

B, W, T, S, F = Status

STEPS = """
from \\ to  B W T S F
B           . x . . x
W           . . x x x
T           . . x x x
S           . . . . .
F           . . . . .
"""
ROWS = [line.split() for line in STEPS.strip().splitlines()[1:]]


def test_the_numbers_are_those_of_the_specification() -> None:
    assert {status.name: status.value for status in Status} == {
        "Bootstrapping": 0,
        "WaitingForInput": 1,
        "Transferring": 2,
        "Success": 3,
        "Failed": 4,
    }


@pytest.mark.parametrize(
    ("current", "new", "legal"),
    [
        (current, new, cell == "x")
        for current, row in zip(Status, ROWS, strict=True)
        for new, cell in zip(Status, row[1:], strict=True)
    ],
)
def test_every_step_from_every_status(current: Status, new: Status, legal: bool) -> None:
    if legal:
        assert advance(current, new) is new
    else:
        with pytest.raises(IllegalTransitionError, match=f"{current.name} may not become {new.name}"):
            advance(current, new)


@pytest.mark.parametrize("final", [S, F])
def test_success_and_failed_are_absorbing(final: Status) -> None:
    for new in Status:
        with pytest.raises(IllegalTransitionError, match="it is final"):
            advance(final, new)


@pytest.mark.parametrize(
    ("is_last", "all_hold", "status"),
    [(True, True, S), (False, True, T), (True, False, F), (False, False, F)],
)
def test_truth_table_of_a_finished_chunk(is_last: bool, all_hold: bool, status: Status) -> None:
    assert chunk_status(is_last=is_last, all_hold=all_hold) is status


def test_sent_tokens_alone_mark_a_resume() -> None:
    assert [is_resume(sent) for sent in (0, 1, 4, 8192)] == [False, True, True, True]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_group_fails_with_any_member_and_else_waits_for_the_slowest(size: int) -> None:
    order = [B, W, T, S]
    for members in product(Status, repeat=size):
        expected = F if F in members else next(status for status in order if status in members)
        assert group_status(members) is expected
        assert group_status(iter(members)) is expected


def test_a_group_has_a_member() -> None:
    with pytest.raises(ValueError, match="at least one rank"):
        group_status([])


@pytest.mark.parametrize(("status", "digit"), [(F, b"0"), (B, b"1"), (W, b"2"), (T, b"3"), (S, b"4")])
def test_sglang_numbers_translate_both_ways(status: Status, digit: bytes) -> None:
    assert encode_sglang(SglangStatus(7, status)) == [b"7", digit]
    assert decode_sglang([b"7", digit]) == SglangStatus(7, status)


@pytest.mark.parametrize("tp", [1, 2])
def test_three_resumes_never_lower_a_status(stage: Callable[..., Any], tp: int) -> None:
    """16 tokens through one block of 4: four chunks, three resumes; every recorded status is looked at."""
    world = stage(encode_tp=tp, language_tp=tp, language_blocks=1)
    world.submit(1, 16)
    world.run_until_quiet()
    for side, rank in product(Side, range(tp)):
        recorded = [
            record.status
            for record in world.records
            if record.rank_id == RankId(side, 0, rank) and ORDERING_DOMAINS[record.event] is OrderingDomain.ROOM
        ]
        assert None not in recorded
        assert recorded == sorted(recorded)
        assert recorded.count(T) >= 3
        # Repetitions apart, each step is in the table.
        for current, new in pairwise(recorded):
            assert new is current or advance(current, new) is new
        assert world.statuses(1, side, rank)[-1] == (S, 16)
    resumes = [record.tokens for record in world.records if record.event == "resumed"]
    assert sorted(set(resumes)) == [4, 8, 12]
    assert all(is_resume(sent) for sent in resumes)
