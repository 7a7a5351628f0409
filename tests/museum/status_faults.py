"""Faults of the status logic: S1 to S15."""

from __future__ import annotations

from typing import Any

import pytest
from exhibit import exhibit

import protocol.encode
from protocol.checker.bounds import Bound
from protocol.encode import EncodeRank
from protocol.messages import Offer
from protocol.status import Status


@exhibit(
    "S3",
    "Success on any chunk",
    wrong="The end of every chunk is reported as Success, so rows that never arrived are delivered.",
    ruled_out="is_last is derived from the cut (sent + chunk = total) and decides in one table, chunk_status.",
    bound=Bound(name="S3: two chunks", lengths=(3,)),
    breaks={9, 10},
)
def success_on_any_chunk(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(protocol.encode, "chunk_status", lambda *, is_last, all_hold: Status.Success)


@exhibit(
    "S5",
    "A resume that starts with the first rank's message",
    wrong="The second chunk is written as soon as one rank has offered; the others are written into blocks of the first.",
    ruled_out="A chunk starts when the set of required destinations has offered for its epoch (EncodeRank._start_chunk).",
    bound=Bound(name="S5: two ranks, two chunks", lengths=(3,), language_tp=2),
    breaks={2, 7, 14},
)
def resume_without_gate(patch: pytest.MonkeyPatch) -> None:
    original = EncodeRank._on_offer

    def on_offer(self: EncodeRank, offer: Offer, now: float, actions: list[Any]) -> None:
        room = self.rooms.get((offer.room, offer.incarnation))
        if room is not None and offer.epoch == room.epoch > 0:
            for peer in room.destinations:
                # The record of the other rank still names its old blocks, and the worker uses what is there.
                room.offers.setdefault(peer, offer)
            room.offers[offer.receiver] = offer
            self._start_chunk(room, now, actions)
            return
        original(self, offer, now, actions)

    patch.setattr(EncodeRank, "_on_offer", on_offer)
