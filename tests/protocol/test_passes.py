"""Batches of encoder passes, resume sizes, and blocks that are kept until the prefill is over."""

import pytest

from bufferlab.protocol.agreement import hold_iteration
from bufferlab.protocol.disciplines import make_discipline
from bufferlab.protocol.encode import EncodeRank
from bufferlab.protocol.language import CANCEL_RETRY_S, LanguageRank
from bufferlab.protocol.layout import BufferLayout
from bufferlab.protocol.messages import (
    Abort,
    Action,
    Cancel,
    ChunkStatus,
    Conclude,
    Deliver,
    Encoded,
    EncodeRequest,
    LanguageRequest,
    Offer,
    PeerDown,
    PeerUp,
    Prefilled,
    Send,
    StartEncode,
)
from bufferlab.protocol.recording import Event, Record
from bufferlab.protocol.sizing import Fixed
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side

LAYOUT = BufferLayout(block_tokens=4, hidden=8)
WRITER = RankId(Side.ENCODE, 0, 0)
READER = RankId(Side.LANGUAGE, 0, 0)


def iteration(core: EncodeRank | LanguageRank, now: float = 0.0) -> list[Action]:
    return core.handle(hold_iteration([core]), now)


def of(actions: list[Action], kind: type) -> list:
    return [action for action in actions if isinstance(action, kind)]


def messages(actions: list[Action], kind: type) -> list:
    return [action.message for action in actions if isinstance(action, Send) and isinstance(action.message, kind)]


# --- encoder passes ------------------------------------------------------------------------------------------------


def encoder(batch: int | None) -> EncodeRank:
    rank = EncodeRank(
        WRITER, layout=LAYOUT, discipline=make_discipline("exact_announce"), pool_blocks=8, batch_requests=batch
    )
    for room in range(5):
        rank.handle(EncodeRequest(room, 0, 4, encode_s=0.5), 0.0)
    return rank


def test_without_a_limit_a_pass_takes_all_that_fits() -> None:
    assert [start.room for start in of(iteration(encoder(None)), StartEncode)] == [0, 1, 2, 3, 4]


def test_a_pass_takes_its_batch_and_the_next_iteration_goes_on_by_itself() -> None:
    rank = encoder(2)
    passes = []
    while True:
        started = of(iteration(rank), StartEncode)
        passes.append([start.room for start in started])
        if not rank.unsettled:
            break
    assert passes == [[0, 1], [2, 3], [4]]


def test_a_pass_says_what_each_request_costs() -> None:
    assert {start.encode_s for start in of(iteration(encoder(None)), StartEncode)} == {0.5}


def test_a_failed_room_does_not_count_towards_the_batch() -> None:
    rank = EncodeRank(WRITER, layout=LAYOUT, discipline=make_discipline("window"), pool_blocks=2, batch_requests=1)
    for room in range(3):
        rank.handle(EncodeRequest(room, 0, 8), 0.0)
        rank.handle(Offer(room, 0, 0, READER, (room,), 4, 0), 0.0)
    assert [start.room for start in of(iteration(rank), StartEncode)] == [0]
    iteration(rank)
    rank.handle(Abort(1, 0), 0.0)
    iteration(rank)
    rank.handle(Abort(0, 0), 0.0)
    rank.handle(Encoded(0, 0), 0.0)
    iteration(rank)
    assert [start.room for start in of(iteration(rank), StartEncode)] == [2]


def test_a_batch_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_requests is 0"):
        encoder(0)


# --- resume sizes --------------------------------------------------------------------------------------------------


def reader(*, discipline: str = "window", blocks: int = 8, recorder: list[Record] | None = None, **options) -> LanguageRank:  # fmt: skip
    return LanguageRank(
        READER,
        layout=LAYOUT,
        discipline=make_discipline(discipline),
        sizing=Fixed(4),
        pool_blocks=blocks,
        timeout_s=30.0,
        recorder=None if recorder is None else lambda *fields: recorder.append(Record(*fields)),
        **options,
    )


def all_chunks(rank: LanguageRank, total: int) -> list[int]:
    """Sizes of the chunks, in tokens, in which ``total`` tokens come."""
    rank.handle(LanguageRequest(0, 0), 0.0)
    chunks, here = [], 0
    actions = iteration(rank)
    while here < total:
        (offer,) = messages(actions, Offer)
        assert offer.sent_tokens == here
        size = min(offer.capacity_tokens, total - here)
        chunks.append(size)
        here += size
        status = Status.Success if here == total else Status.Transferring
        rank.handle(ChunkStatus(0, 0, offer.epoch, status, total, here), 0.0)
        actions = iteration(rank)
    assert of(actions, Deliver)
    return chunks


@pytest.mark.parametrize(
    ("discipline", "resume_tokens", "chunks"),
    [
        ("window", None, [4, 18]),
        ("window", 8, [4, 8, 8, 2]),
        ("window", 5, [4, 8, 8, 2]),  # whole blocks
        ("alloc_then_free", None, [4, 18]),
        ("alloc_then_free", 8, [4, 8, 8, 2]),
        ("free_then_alloc", 4, [4, 4, 4, 4, 4, 2]),
    ],
)
def test_a_resume_asks_for_at_most_its_size(discipline: str, resume_tokens: int | None, chunks: list[int]) -> None:
    rank = reader(discipline=discipline, resume_tokens=resume_tokens)
    assert all_chunks(rank, 22) == chunks
    assert rank.pool.free == 8


def test_a_resume_in_parts_fits_where_all_the_rest_would_not() -> None:
    assert all_chunks(reader(discipline="free_then_alloc", blocks=2, resume_tokens=8), 22) == [4, 8, 8, 2]


def test_a_resume_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="resume_tokens is 0"):
        reader(resume_tokens=0)


# --- release after prefill -----------------------------------------------------------------------------------------


def delivered(records: list[Record] | None = None, **options) -> LanguageRank:
    rank = reader(release_after_prefill=True, blocks=1, recorder=records, **options)
    for room in range(2):
        rank.handle(LanguageRequest(room, 0), 0.0)
    iteration(rank)
    rank.handle(ChunkStatus(0, 0, 0, Status.Success, 4, 4), 1.0)
    actions = iteration(rank, 1.0)
    assert [action.room for action in of(actions, Deliver)] == [0]
    assert [action.status for action in of(actions, Conclude)] == [Status.Success]
    return rank


def test_a_delivered_room_keeps_its_blocks_until_it_is_prefilled() -> None:
    records: list[Record] = []
    rank = delivered(records)
    assert rank.pool.free == 0
    assert not messages(iteration(rank, 2.0), Offer)
    rank.handle(Prefilled(0, 0), 3.0)
    assert rank.unsettled  # the room that waits must not need another event
    assert [offer.room for offer in messages(iteration(rank, 3.0), Offer)] == [1]
    assert [record.time_s for record in records if record.event is Event.RELEASED] == [3.0]


def test_a_long_prefill_is_no_time_out_and_no_business_of_the_writer() -> None:
    rank = delivered()
    rank.handle(PeerDown(WRITER), 2.0)
    actions = iteration(rank, 1000.0)
    assert not [one for one in of(actions, Conclude) if one.room == 0]
    assert not messages(rank.handle(PeerUp(WRITER), 1001.0), Cancel)
    assert rank.pool.fenced == 0
    rank.handle(Prefilled(0, 0), 1002.0)
    assert rank.pool.free == 1


def test_prefilled_means_nothing_to_a_room_whose_writer_may_write() -> None:
    rank = reader(release_after_prefill=True, blocks=1)
    rank.handle(LanguageRequest(0, 0), 0.0)
    iteration(rank)
    rank.handle(Abort(0, 0), 0.0)
    iteration(rank)
    rank.handle(Prefilled(0, 0), CANCEL_RETRY_S / 2)
    rank.handle(Prefilled(7, 0), CANCEL_RETRY_S / 2)
    assert (rank.pool.free, rank.pool.fenced, rank.ignored_messages) == (0, 1, 2)


# --- timers of many rooms ------------------------------------------------------------------------------------------


def test_the_timers_of_ended_rooms_do_not_pile_up_and_those_of_the_living_go_off() -> None:
    rank = reader(blocks=8)
    rank.handle(LanguageRequest(0, 0), 0.0)
    iteration(rank)
    for room in range(1, 3000):
        rank.handle(LanguageRequest(room, 0), room / 1000)
        iteration(rank, room / 1000)
        rank.handle(ChunkStatus(room, 0, 0, Status.Success, 4, 4), room / 1000)
        iteration(rank, room / 1000)
    assert len(rank._timers) < 200
    assert rank.next_deadline() == 30.0
    assert [one.room for one in of(iteration(rank, 31.0), Conclude)] == []
    assert [one.room for one in of(iteration(rank, 31.0), Conclude)] == [0]
