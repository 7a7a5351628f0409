"""Every invariant is violated once by hand, so that the count in summary.json is known to be real."""

from collections.abc import Callable

import pytest

from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.protocol.observe.monitor import InvariantMonitor
from bufferlab.protocol.recording import Event, Record
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side

ENCODE, LANGUAGE, OTHER = RankId(Side.ENCODE, 0, 0), RankId(Side.LANGUAGE, 0, 0), RankId(Side.LANGUAGE, 0, 1)
BOOT, WAIT, MOVE, OK, BAD = Status
Lines = list[Record]


def record(
    time_s: float, rank: RankId, event: Event, status: Status | None, tokens: int = 0, detail: str = "", bytes_: int = 0
) -> Record:
    return Record(time_s, rank, 1, event, status, tokens, bytes_, detail)


def good() -> Lines:
    """One request of 24 tokens in two chunks of 16 and 8: 24 bytes a token, 64 of aux in the first chunk."""
    return [
        record(0, ENCODE, Event.SUBMITTED, BOOT),
        record(0, LANGUAGE, Event.SUBMITTED, BOOT),
        record(0, LANGUAGE, Event.ALLOCATED, BOOT, 16),
        record(0, LANGUAGE, Event.OFFERED, WAIT),
        record(1, ENCODE, Event.OFFER_RECEIVED, None, 0, "language0.0"),
        record(1, ENCODE, Event.OFFERS_COMPLETE, WAIT),
        record(1, ENCODE, Event.ENCODE_STARTED, None, 24),
        record(2, ENCODE, Event.ENCODED, None, 24),
        record(2, ENCODE, Event.WRITE_DONE, None, 16, "language0.0", 448),
        record(2, ENCODE, Event.CHUNK_DONE, MOVE, 16),
        record(3, LANGUAGE, Event.CHUNK_RECEIVED, MOVE, 16, "", 384),
        record(3, LANGUAGE, Event.ALLOCATED, MOVE, 16),
        record(4, ENCODE, Event.WRITE_DONE, None, 24, "language0.0", 192),
        record(4, ENCODE, Event.CHUNK_DONE, OK, 24),
        record(5, ENCODE, Event.RELEASED, OK, 24),
        record(5, LANGUAGE, Event.CHUNK_RECEIVED, OK, 24, "", 192),
        record(5, LANGUAGE, Event.DELIVERED, OK, 24),
        record(5, LANGUAGE, Event.RELEASED, OK, 24),
    ]


def check(lines: Lines, *, language_tp: int = 1, blocks: int = 4, again: Lines | None = None) -> list[str]:
    scenario = Scenario(block_tokens=8, hidden=4, language_tp=language_tp, language_blocks=blocks, encode_blocks=blocks)
    checker = InvariantMonitor(scenario)
    for life in (lines, again or []):
        checker.expect(Request(room=1, arrival_s=0, total_tokens=24))
        for line in life:
            checker.record(line)
    checker.finish()
    assert checker.violations == len(checker.examples)
    return checker.examples


def find(lines: Lines, event: Event, side: Side = Side.LANGUAGE, last: bool = False) -> int:
    found = [number for number, one in enumerate(lines) if one.event is event and one.rank_id.side is side]
    return found[-1 if last else 0]


def late(lines: Lines) -> None:
    lines[-1] = lines[-1]._replace(time_s=4.5)


def falls(lines: Lines) -> None:
    lines[find(lines, Event.ALLOCATED, last=True)] = record(3, LANGUAGE, Event.ALLOCATED, WAIT, 16)


def rises_after_its_end(lines: Lines) -> None:
    lines[-1] = record(5, LANGUAGE, Event.RELEASED, BAD, 24)


def ends_twice(lines: Lines) -> None:
    lines.insert(-1, record(5, LANGUAGE, Event.DELIVERED, OK, 24))


def delivered_and_failed(lines: Lines) -> None:
    lines.insert(-1, record(5, LANGUAGE, Event.FAILED, OK, 24))


def lacks_tokens(lines: Lines) -> None:
    lines[find(lines, Event.DELIVERED)] = record(5, LANGUAGE, Event.DELIVERED, OK, 23)


def was_never_written(lines: Lines) -> None:
    del lines[find(lines, Event.WRITE_DONE, Side.ENCODE, last=True)]


def overflows(lines: Lines) -> None:
    lines[find(lines, Event.CHUNK_RECEIVED)] = record(3, LANGUAGE, Event.CHUNK_RECEIVED, MOVE, 17)


def gains_nothing(lines: Lines) -> None:
    lines.insert(find(lines, Event.ALLOCATED, last=True), record(3, LANGUAGE, Event.CHUNK_RECEIVED, MOVE, 16))


def sends_backwards(lines: Lines) -> None:
    lines.insert(find(lines, Event.RELEASED, Side.ENCODE), record(4, ENCODE, Event.CHUNK_DONE, OK, 8))


def overdraws(lines: Lines) -> None:
    lines[find(lines, Event.ALLOCATED)] = record(0, LANGUAGE, Event.ALLOCATED, BOOT, 48)


def lives_after_release(lines: Lines) -> None:
    lines.append(record(6, LANGUAGE, Event.OFFERED, BOOT))


def is_released_without_an_end(lines: Lines) -> None:
    del lines[find(lines, Event.DELIVERED)]


def is_negative(lines: Lines) -> None:
    lines[find(lines, Event.OFFERED)] = record(0, LANGUAGE, Event.OFFERED, WAIT, -1)


def is_submitted_twice(lines: Lines) -> None:
    lines.insert(2, record(0, LANGUAGE, Event.SUBMITTED, BOOT))


def is_released_twice(lines: Lines) -> None:
    lines.append(lines[-1])


def is_released_unfinished(lines: Lines) -> None:
    lines[find(lines, Event.OFFERED) + 1 :] = [record(1, LANGUAGE, Event.RELEASED, None)]


def forgets_tokens(lines: Lines) -> None:
    lines[-1] = record(5, LANGUAGE, Event.RELEASED, OK, 23)


def receives_too_few_bytes(lines: Lines) -> None:
    lines[find(lines, Event.CHUNK_RECEIVED)] = record(3, LANGUAGE, Event.CHUNK_RECEIVED, MOVE, 16, "", 383)


def writes_too_few_bytes(lines: Lines) -> None:
    lines[find(lines, Event.WRITE_DONE, Side.ENCODE)] = record(2, ENCODE, Event.WRITE_DONE, None, 16, "language0.0")


def fails_with_success(lines: Lines) -> None:
    lines[find(lines, Event.DELIVERED)] = record(5, LANGUAGE, Event.FAILED, OK, 24)


def delivers_on_the_encode_side(lines: Lines) -> None:
    lines.insert(find(lines, Event.RELEASED, Side.ENCODE), record(5, ENCODE, Event.DELIVERED, OK, 24))


def writes_on_the_language_side(lines: Lines) -> None:
    lines.insert(find(lines, Event.DELIVERED), record(5, LANGUAGE, Event.WRITE_DONE, None, 24, "language0.0"))


def test_a_good_life_violates_no_invariant() -> None:
    assert check(good()) == []


@pytest.mark.parametrize(
    ("fault", "word"),
    [
        (late, "time goes back"),
        (falls, "Transferring became WaitingForInput"),
        (rises_after_its_end, "Success became Failed"),
        (ends_twice, "delivered and then delivered"),
        (delivered_and_failed, "delivered and then failed"),
        (lacks_tokens, "delivered 23 tokens, received 24, written 24, the request has 24"),
        (was_never_written, "delivered 24 tokens, received 24, written 16"),
        (overflows, "17 of 24 tokens after 0 into room for 16"),
        (gains_nothing, "16 of 24 tokens after 16"),
        (sends_backwards, "8 tokens sent after 24"),
        (overdraws, "6 blocks held of a pool of 4"),
        (lives_after_release, "the room does not live here"),
        (is_released_without_an_end, "released before its end"),
        (is_negative, "-1 tokens"),
        (is_submitted_twice, "submitted twice"),
        (is_released_twice, "the room does not live here"),
        (is_released_unfinished, "released in WaitingForInput"),
        (forgets_tokens, "24 tokens became 23"),
        (receives_too_few_bytes, "received 575 bytes of 576"),
        (writes_too_few_bytes, "192 bytes landed at language0.0, the request has 640"),
        (fails_with_success, "failed, yet released in Success"),
        (delivers_on_the_encode_side, "encode0.0, delivered: no encode rank does that"),
        (writes_on_the_language_side, "language0.0, write_done: no language rank does that"),
    ],
)
def test_a_violation_is_counted_and_told(fault: Callable[[Lines], None], word: str) -> None:
    lines = good()
    fault(lines)
    told = check(lines)
    assert any(word in line for line in told), told
    assert told[0].startswith("room 1 on ")


def test_success_that_is_never_delivered() -> None:
    assert "Success but neither delivered nor failed" in check(good()[:-2])[0]


def test_a_room_nobody_submitted() -> None:
    assert "nobody submitted this room" in check([good()[0]._replace(room=9)])[0]


def test_the_group_ends_alike() -> None:
    lines = good()
    for one in good():
        if one.rank_id == LANGUAGE and one.event in (Event.SUBMITTED, Event.ALLOCATED, Event.OFFERED):
            lines.append(one._replace(time_s=6, rank_id=OTHER))
    lines = [*lines[:-2], record(6, OTHER, Event.FAILED, BAD), record(6, OTHER, Event.RELEASED, BAD)]
    assert any("another rank of the group delivered it" in line for line in check(lines, language_tp=2))


def test_an_unfinished_room_is_no_violation() -> None:
    # A deadlock is told as such; that a room waits breaks no rule.
    assert check(good()[:10]) == []


def test_a_room_number_may_live_again() -> None:
    again = [one._replace(time_s=one.time_s + 10) for one in good()]
    assert check(good(), again=again) == []


def test_only_some_examples_are_kept_but_all_are_counted() -> None:
    checker = InvariantMonitor(Scenario(block_tokens=8, hidden=4))
    for _ in range(1000):
        checker.record(good()[0])
    assert checker.violations == 1000
    assert len(checker.examples) == 20
