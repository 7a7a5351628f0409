"""Buffer disciplines: what each takes, keeps and waits for, which deadlock, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bufferlab.protocol import disciplines
from bufferlab.protocol.disciplines import DISCIPLINES, ResumeGrant, make_discipline
from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.protocol.errors import ProtocolError
from bufferlab.protocol.messages import Abort, Announce
from bufferlab.protocol.recording import Event
from bufferlab.protocol.sizing import RequestView, SizingPolicy
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side

S, T, F = Status.Success, Status.Transferring, Status.Failed
E0, L0 = RankId(Side.ENCODE, 0, 0), RankId(Side.LANGUAGE, 0, 0)
NewStage = Callable[..., Any]


def test_their_names_and_properties() -> None:
    claims = {
        name: (kind.announces_length, kind.resumes, kind.releases_before_waiting) for name, kind in DISCIPLINES.items()
    }
    assert (
        claims.items()
        >= {
            "window": (False, True, False),
            "exact_announce": (True, False, False),
            "alloc_then_free": (False, True, False),
            "free_then_alloc": (False, True, True),
            "default_fail": (False, False, False),
            "slot": (False, False, False),
        }.items()
    )
    assert [make_discipline(name).name for name in DISCIPLINES] == list(DISCIPLINES)
    with pytest.raises(ValueError, match=r"unknown discipline 'windows'; known: .*\bwindow, "):
        make_discipline("windows")


@given(
    name=st.sampled_from(["window", "alloc_then_free", "free_then_alloc"]),
    held=st.integers(0, 9),
    remaining=st.integers(1, 9),
    free=st.integers(-3, 9),
)
def test_a_grant_is_within_what_is_held_free_and_needed(name: str, held: int, remaining: int, free: int) -> None:
    grant = make_discipline(name).resume(held, remaining, free)
    if name != "window":
        assert grant == (ResumeGrant(0, remaining) if free >= remaining else None)
        return
    assert grant is not None, "a window never waits"
    assert grant.keep == min(held, remaining)
    assert 0 <= grant.take <= max(free, 0)
    assert grant.keep + grant.take <= remaining
    assert grant.keep + grant.take == remaining or grant.take == max(free, 0), "it takes all it can use"


def test_a_slot_has_one_size_whatever_is_asked_for() -> None:
    assert [make_discipline("slot", 3).first_blocks(asked, 8) for asked in (0, 1, 8, 9)] == [3, 3, 3, 3]
    assert make_discipline("slot", 3).first_blocks(1, 2) == 2, "a pool that is smaller is one slot"
    assert make_discipline("slot").first_blocks(1, 8) == 8, "no size given: the largest that the pool admits"


class Learns(SizingPolicy):
    """Asks for less from request to request, and is told when it is asked."""

    name = "learns"

    def __init__(self) -> None:
        self.calls = 0

    def first_tokens(self, view: RequestView) -> int:
        self.calls += 1
        return max(1, 12 // self.calls)


@pytest.mark.parametrize(("discipline", "taken"), [("slot", [8, 8, 8]), ("default_fail", [12, 8, 4])])
def test_a_slot_is_not_the_policys_answer_and_a_default_is(stage: NewStage, discipline: str, taken: list[int]) -> None:
    made: list[Learns] = []

    def make() -> Learns:
        made.append(Learns())
        return made[-1]

    world = stage(sizing=make, discipline=discipline, language_blocks=8, default_tokens=8)
    for room in (1, 2, 3):
        world.submit(room, 4)
    world.run_until_quiet()
    assert [allocations(world, room)[0] for room in (1, 2, 3)] == taken
    assert {policy.calls for policy in made} == ({0} if discipline == "slot" else {3})


@pytest.mark.parametrize(("fields", "blocks"), [({}, 16), ({"slot_tokens": 9}, 3), ({"sizing": "oracle"}, 64)])
def test_a_scenario_says_how_large_a_slot_is(fields: dict[str, Any], blocks: int) -> None:
    options = {} if "sizing" in fields else {"tokens": 64}
    scenario = Scenario(block_tokens=4, hidden=1, discipline="slot", sizing_options=options, **fields)
    assert scenario.make_language_rank(L0, None).discipline.first_blocks(1, 64) == blocks


@pytest.mark.parametrize("name", ["window", "alloc_then_free", "free_then_alloc", "default_fail"])
def test_a_new_room_takes_at_least_a_block_and_at_most_the_pool(name: str) -> None:
    assert [make_discipline(name).first_blocks(asked, 8) for asked in (0, 1, 8, 9)] == [1, 1, 8, 8]


@pytest.mark.parametrize("name", ["slot", "default_fail", "exact_announce"])
def test_some_never_resume(name: str) -> None:
    with pytest.raises(ProtocolError, match=f"{name} does not resume"):
        make_discipline(name).resume(1, 1, 1)


# --- how each moves a request that is longer than the default ---


def allocations(world: Any, room: int) -> list[int]:
    return [record.tokens for record in world.records if record.room == room and record.event is Event.ALLOCATED]


def offers(world: Any, room: int) -> list[int]:
    """Where each chunk was offered to begin."""
    events = (Event.OFFERED, Event.RESUMED)
    return [record.tokens for record in world.records if record.room == room and record.event in events]


@pytest.mark.parametrize(
    ("discipline", "pool", "taken", "chunks_from"),
    [
        pytest.param("window", 1, [4, 4, 4, 4], [0, 4, 8, 12], id="a window of one block slides"),
        pytest.param("window", 2, [4, 8, 4], [0, 4, 12], id="a window grows into what is free, and shrinks"),
        pytest.param("window", 8, [4, 12], [0, 4], id="a window grows to all that is left"),
        pytest.param("exact_announce", 8, [16], [0], id="exact takes all at once"),
        pytest.param("alloc_then_free", 4, [4, 12], [0, 4], id="alloc_then_free holds the whole for a moment"),
        pytest.param("free_then_alloc", 3, [4, 0, 12], [0, 4], id="free_then_alloc holds nothing in between"),
    ],
)
def test_what_a_request_of_four_blocks_takes(
    stage: NewStage, discipline: str, pool: int, taken: list[int], chunks_from: list[int]
) -> None:
    world = stage(discipline=discipline, language_blocks=pool)
    world.submit(1, 16)
    world.run_until_quiet()
    assert world.outcomes(1) == [S, S]
    assert allocations(world, 1) == taken
    assert offers(world, 1) == chunks_from
    assert world.quiescent


def test_a_window_reuses_its_own_blocks_only_after_they_are_copied_out(stage: NewStage) -> None:
    world = stage(language_blocks=1)
    world.until_writing(1, 8)
    (first,) = world.writing[E0]
    world.finish_write(E0)
    world.send_all()
    assert world.copied == {}
    world.iteration(Side.LANGUAGE)
    assert world.copied[1, L0] == [(0, 4)]
    world.send_all()
    (second,) = world.writing[E0]
    assert first.target_blocks == second.target_blocks


def test_a_window_shares_a_full_pool(stage: NewStage) -> None:
    """Nothing is free to grow into, so both go block by block; when one is done the other takes its block."""
    world = stage(language_blocks=2)
    world.submit(1, 12)
    world.submit(2, 20)
    world.run_until_quiet()
    assert world.outcomes(1) == world.outcomes(2) == [S, S]
    assert max(allocations(world, 2)) == 8
    assert world.quiescent


# --- the two deadlocks of the original system ---

HOLD_AND_WAIT = {"language_blocks": 4, "encode_blocks": 12}


def play(world: Any, lengths: list[int]) -> list[list[Status]]:
    for room, total in enumerate(lengths):
        world.submit(room, total)
    world.run_until_quiet()
    return [world.outcomes(room) for room in range(len(lengths))]


def test_hold_and_wait_on_the_language_pool(stage: NewStage) -> None:
    """Four requests of three blocks, a pool of four, a default of one: every block holds some first part."""
    lengths = [12] * 4
    world = stage(discipline="alloc_then_free", **HOLD_AND_WAIT)
    assert play(world, lengths) == [[]] * 4
    assert world.language[0].pool.free == 0
    assert world.language[0].waiting_rooms == 4
    assert [world.statuses(room, Side.LANGUAGE)[-1] for room in range(4)] == [(T, 4)] * 4
    for discipline in ("window", "free_then_alloc", "exact_announce"):
        world = stage(discipline=discipline, **HOLD_AND_WAIT)
        assert play(world, lengths) == [[S, S]] * 4
        assert world.quiescent


@pytest.mark.parametrize(
    ("discipline", "language_blocks", "waiting"), [("alloc_then_free", 3, 1), ("free_then_alloc", 2, 2)]
)
def test_circular_wait_across_the_sides(stage: NewStage, discipline: str, language_blocks: int, waiting: int) -> None:
    """One oversized request holds the source blocks and waits for language blocks; small ones hold those."""
    lengths = [12, 4, 4]
    world = stage(discipline=discipline, encode_blocks=3, language_blocks=language_blocks)
    assert play(world, lengths) == [[], [], []]
    assert world.encode[0].pool.free == 0, "the oversized request holds the whole source pool"
    # Behind the resume waits, where the pool is smaller, the last small one.
    assert world.language[0].waiting_rooms == (2 if discipline == "free_then_alloc" else 1)
    assert world.statuses(0, Side.LANGUAGE)[-1] == (T, 4)
    for safe in ("window", "exact_announce"):
        world = stage(discipline=safe, encode_blocks=3, language_blocks=3)
        assert play(world, lengths) == [[S, S]] * 3
        assert world.quiescent


@pytest.mark.parametrize("discipline", ["alloc_then_free", "free_then_alloc"])
def test_a_timeout_ends_a_deadlock(stage: NewStage, discipline: str) -> None:
    world = stage(discipline=discipline, timeout_s=10.0, encode_blocks=3, language_blocks=3)
    play(world, [12, 4, 4])
    for _ in range(3):
        world.now += 10.0
        world.run_until_quiet()
    assert all(len(world.outcomes(room)) == 2 for room in range(3))
    assert world.quiescent


# --- what can never fit ---


@pytest.mark.parametrize("discipline", list(DISCIPLINES))
def test_a_request_larger_than_the_source_pool_fails_at_once(stage: NewStage, discipline: str) -> None:
    world = stage(discipline=discipline, encode_blocks=2, language_blocks=9)
    assert play(world, [12, 4]) == [[F, F], [S, S]]
    assert world.reason(0, E0) == "it needs 3 source blocks, the pool has 2"
    assert world.reason(0, L0) == "it needs 3 source blocks, the pool has 2"
    assert not any(record.room == 0 and record.event is Event.ENCODE_STARTED for record in world.records)
    assert world.quiescent


@pytest.mark.parametrize("discipline", list(DISCIPLINES))
def test_an_empty_request_fails_at_once(stage: NewStage, discipline: str) -> None:
    world = stage(discipline=discipline)
    assert play(world, [0, 4]) == [[F, F], [S, S]]
    assert world.reason(0, L0) == "the embedding is empty"
    assert world.quiescent


@pytest.mark.parametrize(
    ("discipline", "pool", "total", "who", "reason"),
    [
        ("slot", 8, 5, E0, "5 tokens do not fit the allocation of 4"),
        ("default_fail", 8, 5, E0, "5 tokens do not fit the allocation of 4"),
        ("alloc_then_free", 2, 12, L0, "can never fit: it holds 1 blocks and needs 2 more, the pool has 2"),
        ("free_then_alloc", 2, 16, L0, "can never fit: it needs 3 more blocks, the pool has 2"),
        ("exact_announce", 2, 9, L0, "can never fit: it needs 3 blocks, the pool has 2"),
    ],
)
def test_a_request_that_can_never_fit_fails_at_once_with_a_reason(
    stage: NewStage, discipline: str, pool: int, total: int, who: RankId, reason: str
) -> None:
    world = stage(discipline=discipline, language_blocks=pool)
    assert play(world, [total, 4]) == [[F, F], [S, S]]
    assert world.reason(0, who) == reason
    assert reason in world.reason(0, L0 if who == E0 else E0), "the other side learns why"
    assert world.quiescent


@pytest.mark.parametrize(("discipline", "total"), [("alloc_then_free", 12), ("free_then_alloc", 16)])
def test_what_can_never_fit_gives_its_blocks_back_at_once(stage: NewStage, discipline: str, total: int) -> None:
    """Its chunk lies there whole, so nobody writes into its blocks any more, and no writer has to say so."""
    world = stage(discipline=discipline, language_blocks=2, language_tp=2, encode_tp=2)
    assert play(world, [total]) == [[F, F, F, F]]
    assert "can never fit" in world.reason(0, L0)
    for rank in range(2):
        records = [one for one in world.records if one.room == 0]
        failed = records.index(next(one for one in records if one.event is Event.FAILED and one.rank_id[2] == rank))
        assert [(one.rank_id, one.event) for one in records[failed : failed + 2]] == [
            (RankId(Side.LANGUAGE, 0, rank), Event.FAILED),
            (RankId(Side.LANGUAGE, 0, rank), Event.RELEASED),
        ]


@pytest.mark.parametrize(
    ("discipline", "pool", "total"),
    [
        ("slot", 1, 4),
        ("default_fail", 1, 4),
        ("alloc_then_free", 3, 12),
        ("free_then_alloc", 2, 12),
        ("exact_announce", 2, 8),
        ("window", 1, 32),
    ],
)
def test_what_only_just_fits(stage: NewStage, discipline: str, pool: int, total: int) -> None:
    world = stage(discipline=discipline, language_blocks=pool)
    assert play(world, [total]) == [[S, S]]
    assert world.quiescent


def test_what_fits_only_without_the_reserve_fails_at_once(stage: NewStage) -> None:
    """New rooms never get the reserve, so this one would wait for ever."""
    scenario = Scenario(
        block_tokens=4,
        hidden=1,
        discipline="exact_announce",
        sizing_options={"tokens": 4},
        language_blocks=3,
        reserve_blocks=1,
        timeout_s=None,
    )
    world = stage(discipline="exact_announce", language_blocks=3)
    world.language[0] = world.ranks[L0] = scenario.make_language_rank(L0, world._record)
    assert play(world, [12, 8]) == [[F, F], [S, S]]
    assert world.reason(0, L0) == "can never fit: it needs 3 blocks, the pool has 2"


# --- announced lengths ---


def test_a_second_announcement_is_ignored(stage: NewStage) -> None:
    world = stage(discipline="exact_announce")
    world.submit(1, 4)
    world.feed(L0, Announce(1, 0, 4))
    world.feed(L0, Announce(1, 0, 8))
    world.iteration(Side.LANGUAGE)
    world.feed(L0, Announce(1, 0, 8))
    world.iteration(Side.LANGUAGE)
    assert world.language[0].ignored_messages == 2
    assert allocations(world, 1) == [4]


def test_an_announcement_that_the_discipline_does_not_know_is_ignored(stage: NewStage) -> None:
    world = stage()
    world.submit(1, 4)
    world.feed(L0, Announce(1, 0, 8))
    assert world.language[0].ignored_messages == 1
    world.run_until_quiet()
    assert world.outcomes(1) == [S, S]


# --- who goes first ---


@pytest.mark.parametrize("resume_first", [True, False])
def test_resumes_go_before_new_rooms_if_told_so(stage: NewStage, resume_first: bool) -> None:
    """One block is free, wanted by a resume and by a new room in the same iteration."""
    world = stage(language_blocks=2, resume_first=resume_first)
    world.until_writing(1, 12)
    world.finish_write(E0)
    world.send_all()
    world.submit(2, 4)
    world.iteration(Side.LANGUAGE)
    assert allocations(world, 1) == ([4, 8] if resume_first else [4, 4])
    assert allocations(world, 2) == ([] if resume_first else [4])
    world.run_until_quiet()
    assert world.outcomes(1) == world.outcomes(2) == [S, S]


def test_a_waiting_resume_is_not_overtaken(stage: NewStage) -> None:
    """It waits for two blocks; a new room that needs only the one that is free waits behind it."""
    world = stage(language_blocks=3, discipline="alloc_then_free")
    world.until_writing(1, 12)
    world.until_writing(2, 4)
    world.finish_write(E0)  # of room 1
    world.send_all()
    world.submit(3, 4)
    world.iterations(2)
    assert allocations(world, 3) == []
    world.finish_write(E0)  # of room 2
    world.send_all()
    world.iteration(Side.LANGUAGE)
    assert allocations(world, 1) == [4, 8]
    world.run_until_quiet()
    assert all(world.outcomes(room) == [S, S] for room in (1, 2, 3))


def test_resumes_are_served_in_the_order_they_began_to_wait(stage: NewStage) -> None:
    world = stage(language_blocks=3, discipline="alloc_then_free")
    for room, total in ((1, 8), (2, 8), (3, 4)):
        world.until_writing(room, total)
    for _ in range(2):
        world.finish_write(E0)  # of rooms 1 and 2, which now wait for one block more
        world.send_all()
        world.iteration(Side.LANGUAGE)
    assert world.language[0].waiting_rooms == 2
    world.finish_write(E0)  # of room 3
    world.send_all()
    world.iteration(Side.LANGUAGE)
    resumed = [record.room for record in world.records if record.event is Event.RESUMED]
    assert resumed == [1, 2]


def test_new_rooms_are_served_in_the_order_of_submission(stage: NewStage) -> None:
    world = stage(language_blocks=1)
    for room in (1, 2, 3):
        world.submit(room, 4)
    world.run_until_quiet()
    assert [deliver.room for _, deliver in world.delivered] == [1, 2, 3]


def test_requests_get_source_blocks_in_order(stage: NewStage) -> None:
    """Room 2 needs the whole pool. Room 3 would fit beside room 1, but it came later."""
    world = stage(encode_blocks=2)
    world.until_writing(1, 4)
    world.submit(2, 8)
    world.submit(3, 4)
    for _ in range(3):
        world.iterations()
        world.send_all()
    assert not world.encoding
    world.finish_write(E0)
    world.iteration(Side.ENCODE)
    assert [work.room for _, work in world.encoding] == [2], "what room 1 releases counts in the same iteration"


def test_a_large_new_room_is_not_overtaken_by_small_ones(stage: NewStage) -> None:
    world = stage(language_blocks=4, discipline="exact_announce")
    for room, total in ((1, 8), (2, 16), (3, 4)):
        world.submit(room, total)
    world.iteration(Side.ENCODE)
    world.send_all()
    world.iteration(Side.LANGUAGE)
    # Room 3 would fit, but room 2 came first; its source waits as well, so only rooms 1 and 2 are announced.
    assert (allocations(world, 1), allocations(world, 2), allocations(world, 3)) == ([8], [], [])
    world.run_until_quiet()
    assert all(world.outcomes(room) == [S, S] for room in (1, 2, 3))


def test_new_rooms_leave_the_reserve_to_resumes(stage: NewStage) -> None:
    scenario = Scenario(
        block_tokens=4,
        hidden=1,
        sizing_options={"tokens": 4},
        language_blocks=3,
        reserve_blocks=1,
        timeout_s=None,
    )
    world = stage(language_blocks=3)
    world.language[0] = world.ranks[L0] = scenario.make_language_rank(L0, world._record)
    for room in (1, 2, 3):
        world.submit(room, 12)
    world.iteration(Side.LANGUAGE)
    assert [allocations(world, room) for room in (1, 2, 3)] == [[4], [4], []]
    assert world.language[0].pool.free == 1
    world.run_until_quiet()
    assert max(max(allocations(world, room)) for room in (1, 2, 3)) == 8, "a resume took the reserve"
    assert all(world.outcomes(room) == [S, S] for room in (1, 2, 3))


@pytest.mark.parametrize("reserve", [-1, 3, 4])
def test_a_reserve_leaves_something_for_new_rooms(reserve: int) -> None:
    scenario = Scenario(block_tokens=4, hidden=1, language_blocks=3, reserve_blocks=reserve)
    with pytest.raises(ValueError, match="it must be between 0 and 2"):
        scenario.make_language_rank(L0, None)


class ByRoom(SizingPolicy):
    """Three blocks for the first room, two for the others."""

    name = "by_room"

    def first_tokens(self, view: RequestView) -> int:
        return 12 if view.request.room == 1 else 8


def test_blocks_a_resume_gives_back_reach_the_new_rooms_that_were_asked_before_it(stage: NewStage) -> None:
    """Nothing arrives between the two iterations, so only the core can say that the second is due."""
    world = stage(sizing=ByRoom, language_blocks=3, resume_first=False)
    world.until_writing(1, 16)
    world.submit(2, 8)
    world.iteration(Side.LANGUAGE)
    world.finish_write(E0)
    world.send_all()
    language = world.language[0]
    assert not language.unsettled
    world.iteration(Side.LANGUAGE)
    assert (language.pool.free, language.waiting_rooms) == (2, 1), "the resume needs one block of its three"
    assert language.unsettled
    world.iteration(Side.LANGUAGE)
    assert (language.pool.free, language.waiting_rooms) == (0, 0)
    assert not language.unsettled
    world.run_until_quiet()
    assert (world.outcomes(1), world.outcomes(2)) == ([S, S], [S, S])


# --- blocks of rooms that fail ---


def test_a_room_that_fails_while_it_waits_to_resume_frees_its_blocks_at_once(stage: NewStage) -> None:
    """No offer of it is out, so nobody can write into them: there is no Quiet to wait for."""
    world = stage(language_blocks=2, discipline="alloc_then_free")
    for room in (1, 2):
        world.until_writing(room, 8)
    for _ in range(2):
        world.finish_write(E0)
    world.send_all()
    world.iteration(Side.LANGUAGE)
    assert world.language[0].waiting_rooms == 2
    world.feed(L0, Abort(1, 0))
    world.iteration(Side.LANGUAGE)
    assert world.language[0].pool.fenced == 0
    assert allocations(world, 2) == [4, 4], "what it held serves the next in the same iteration"


def test_a_discipline_is_known_by_being_in_the_folder_and_its_claims_fit_together() -> None:
    folder = Path(disciplines.__path__[0])
    assert {path.stem for path in folder.glob("[a-z]*.py")} - {"base"} == set(DISCIPLINES)
    for name, kind in DISCIPLINES.items():
        assert kind.__module__ == f"bufferlab.protocol.disciplines.{name}"
        if kind.waits_holding:
            assert (kind.may_deadlock, kind.resumes, kind.releases_before_waiting) == (True, True, False), name
        if kind.announces_length:
            assert not kind.resumes, name
        assert kind.has_slots <= (not kind.asks_policy), name
