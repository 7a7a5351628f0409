"""Histories: what must be equal between two recordings of the same requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bufferlab.protocol.recording import (
    ORDERING_DOMAINS,
    Event,
    Listeners,
    OrderingDomain,
    Record,
    histories,
    listening,
)
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side

E0 = RankId(Side.ENCODE, 0, 0)
L0, L1 = RankId(Side.LANGUAGE, 0, 0), RankId(Side.LANGUAGE, 0, 1)
NewStage = Callable[..., Any]


def test_every_event_has_an_ordering_domain() -> None:
    assert set(ORDERING_DOMAINS) == set(Event)
    apart = {event for event, domain in ORDERING_DOMAINS.items() if domain is not OrderingDomain.ROOM}
    assert apart == {
        Event.OFFER_RECEIVED,
        Event.WRITE_STARTED,
        Event.WRITE_DONE,
        Event.ENCODE_STARTED,
        Event.ENCODED,
        Event.PREFILLED,
    }


def record(event: Event, status: Status | None, tokens: int, detail: str = "", rank_id: RankId = E0) -> Record:
    return Record(0.0, rank_id, 1, event, status, tokens, 0, detail)


def test_each_domain_has_its_own_history() -> None:
    records = [
        record(Event.SUBMITTED, Status.Bootstrapping, 0),
        record(Event.OFFER_RECEIVED, None, 0, "language0.1"),
        record(Event.OFFER_RECEIVED, None, 0, "language0.0"),
        record(Event.ENCODE_STARTED, None, 8),
        record(Event.WRITE_STARTED, None, 0, "language0.0"),
        record(Event.WRITE_DONE, None, 0, "language0.0 the engine said 7"),
        record(Event.SUBMITTED, Status.Bootstrapping, 0, rank_id=L0),
    ]
    assert histories(records) == {
        (1, E0, "room"): [(Event.SUBMITTED, Status.Bootstrapping, 0)],
        (1, E0, "compute"): [(Event.ENCODE_STARTED, None, 8)],
        (1, E0, "language0.1"): [(Event.OFFER_RECEIVED, None, 0)],
        (1, E0, "language0.0"): [
            (Event.OFFER_RECEIVED, None, 0),
            (Event.WRITE_STARTED, None, 0),
            (Event.WRITE_DONE, None, 0),
        ],
        (1, L0, "room"): [(Event.SUBMITTED, Status.Bootstrapping, 0)],
    }


def test_concurrent_steps_may_come_in_any_order(stage: NewStage) -> None:
    """Offers, the forward pass and writes overtake each other; the histories are equal, the records are not."""

    def play(swapped: bool) -> list[Record]:
        world = stage(language_tp=2, discipline="exact_announce")
        world.submit(1, 4)
        world.iterations()
        world.send_all()
        world.iteration(Side.LANGUAGE)
        steps: list[Callable[[], object]] = [
            lambda: world.deliver_message(L0, E0),
            lambda: world.deliver_message(L1, E0),
            world.finish_encode,
        ]
        for step in reversed(steps) if swapped else steps:
            step()
        if swapped:
            world.writing[E0].rotate()
        world.finish_write(E0)
        world.finish_write(E0)
        world.run_until_quiet()
        return list(world.records)

    straight, swapped = play(False), play(True)
    assert straight != swapped
    assert histories(straight) == histories(swapped)


def test_the_order_within_an_ordering_domain_counts() -> None:
    first = record(Event.CHUNK_STARTED, Status.WaitingForInput, 0)
    second = record(Event.CHUNK_DONE, Status.Transferring, 4)
    assert histories([first, second]) != histories([second, first])


def test_what_a_rank_writes_down_about_two_chunks(stage: NewStage) -> None:
    world = stage(language_blocks=1)
    world.submit(1, 6)
    world.run_until_quiet()
    found = histories(world.records)
    b, w, t, s = list(Status)[:4]
    assert found[1, E0, "room"] == [
        (Event.SUBMITTED, b, 0),
        (Event.OFFERS_COMPLETE, w, 0),
        (Event.CHUNK_STARTED, w, 0),
        (Event.CHUNK_DONE, t, 4),
        (Event.OFFERS_COMPLETE, t, 4),
        (Event.CHUNK_STARTED, t, 4),
        (Event.CHUNK_DONE, s, 6),
        (Event.RELEASED, s, 6),
    ]
    assert found[1, L0, "room"] == [
        (Event.SUBMITTED, b, 0),
        (Event.ALLOCATED, b, 4),
        (Event.OFFERED, w, 0),
        (Event.CHUNK_RECEIVED, t, 4),
        (Event.ALLOCATED, t, 4),
        (Event.RESUMED, t, 4),
        (Event.CHUNK_RECEIVED, s, 6),
        (Event.DELIVERED, s, 6),
        (Event.RELEASED, s, 6),
    ]
    moved = {record.event: record.bytes for record in world.records if record.tokens == 6 and record.bytes}
    per_token = world.layout.bytes_per_token
    assert moved == {
        Event.WRITE_DONE: 2 * per_token,
        Event.CHUNK_DONE: 2 * per_token,
        Event.CHUNK_RECEIVED: 2 * per_token,
    }


class Few:
    """Keeps what it is told, and wants no details."""

    wants_details = False

    def __init__(self, kept: list[Any]) -> None:
        self.kept = kept

    def __call__(self, *fields: Any) -> None:
        self.kept.append(("few", *fields))


def test_listeners_are_told_in_their_order_whatever_they_are() -> None:
    kept: list[Any] = []
    one = record(Event.ENCODED, None, 8)
    both = Listeners([Few(kept), lambda *fields: kept.append(("plain", *fields))])
    both.record(one)
    both(*one)
    assert kept == [("few", *one), ("plain", *one)] * 2
    assert listening(both) is both
    # Whoever says nothing about details wants them, so all of them are told.
    assert both.wants_details
    assert not Listeners([Few(kept), Few(kept)]).wants_details
