"""Faults of ranks and groups: T1 to T7."""

from __future__ import annotations

from typing import Any

import pytest
from exhibit import exhibit

import bufferlab.protocol.encode
from bufferlab.protocol.checker.bounds import Bound, Fault
from bufferlab.protocol.encode import EncodeRank, EncodeRoom
from bufferlab.protocol.language import LanguageRank
from bufferlab.protocol.messages import Iteration, LanguageRequest
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side, destinations
from bufferlab.protocol.values import replaced


@exhibit(
    "T1",
    "A surplus encode rank",
    wrong="An encode rank beyond the language ranks waits for an offer that nobody sends, and its whole group with it.",
    ruled_out="Destinations are a set, and a rank whose set is empty agrees to everything (EncodeRank._on_request).",
    bound=Bound(name="T1: two encode ranks for one language rank", lengths=(1,), encode_tp=2, encode_blocks=1),
    breaks={21},
)
def surplus_rank_waits(patch: pytest.MonkeyPatch) -> None:
    def one_at_least(rank: int, encode_tp: int, instance: int, language_tp: int) -> tuple[RankId, ...]:
        # Every rank believes to be somebody's target; the language ranks know better.
        theirs = destinations(rank, encode_tp, instance, language_tp)
        return theirs or (RankId(Side.LANGUAGE, instance, rank % language_tp),)

    patch.setattr(bufferlab.protocol.encode, "destinations", one_at_least)


@exhibit(
    "T2",
    "A count of destinations",
    wrong="The number of destinations is language TP // encode TP, so at 3 to 2 a rank is left out and told nothing.",
    ruled_out="Destinations are an explicit set from the pairing rule, whatever the ratio (topology.destinations).",
    bound=Bound(
        name="T2: two encode ranks for three language ranks",
        lengths=(1,),
        encode_tp=2,
        language_tp=3,
        encode_blocks=1,
        language_blocks=1,
        arrivals_any=False,
        atomic_iterations=True,
    ),
    breaks={10, 14, 21},
)
def counted_destinations(patch: pytest.MonkeyPatch) -> None:
    def first_of_them(rank: int, encode_tp: int, instance: int, language_tp: int) -> tuple[RankId, ...]:
        # The fork serves whichever ranks offer first; here it is always the same ones.
        return destinations(rank, encode_tp, instance, language_tp)[: max(1, language_tp // encode_tp)]

    patch.setattr(bufferlab.protocol.encode, "destinations", first_of_them)


@exhibit(
    "T3",
    "Only the first encode instance can be found",
    wrong="The route table knows the ranks of encode instance 0 alone, so the rooms of every other instance fail.",
    ruled_out="A rank is named by side, instance and rank (RankId), and the instance comes with the request.",
    bound=Bound(
        name="T3: a request for the second of two instances",
        lengths=(1,),
        instances=(1,),
        encode_instances=2,
        encode_blocks=1,
        language_blocks=1,
    ),
    breaks={22},
)
def one_instance_registered(patch: pytest.MonkeyPatch) -> None:
    original = LanguageRank._on_request

    def on_request(self: LanguageRank, request: LanguageRequest, now: float, actions: list[Any]) -> None:
        original(self, request, now, actions)
        if request.encode_instance:
            self._fail(self.rooms[request.room, request.incarnation], "the route table has no such rank")

    patch.setattr(LanguageRank, "_on_request", on_request)


@exhibit(
    "T4",
    "A timer that is never armed",
    wrong="The bootstrap timeout counts from a moment that is only set when it no longer matters, so it never fires.",
    ruled_out="A room's timer is armed when it is submitted and at every step on (EncodeRank._on_request).",
    bound=Bound(
        name="T4: an abort, and its Cancel is lost",
        lengths=(1,),
        encode_blocks=1,
        language_blocks=1,
        timers=True,
        faults=(Fault.ABORT, Fault.LOSE),
        most_faults=2,
    ),
    breaks={21, 22},
)
def bootstrap_timer_never_armed(patch: pytest.MonkeyPatch) -> None:
    original = EncodeRank._arm

    def arm(self: EncodeRank, room: EncodeRoom, delay_s: float | None, now: float) -> None:
        if room.status is not Status.Bootstrapping:
            original(self, room, delay_s, now)

    patch.setattr(EncodeRank, "_arm", arm)


@exhibit(
    "T5",
    "Only the failing destination is told",
    wrong="A failed write is said to the rank it was for, and the room's other ranks learn of it from their group at best.",
    ruled_out="A room that fails on the encode side says so to every one of its destinations (EncodeRank._fail).",
    bound=Bound(
        name="T5: two ranks, one write fails",
        lengths=(1,),
        language_tp=2,
        encode_blocks=1,
        language_blocks=1,
        faults=(Fault.FAIL,),
        most_faults=1,
    ),
    breaks={22},
)
def only_the_failing_destination_is_told(patch: pytest.MonkeyPatch) -> None:
    original = EncodeRank._fail

    def fail(self: EncodeRank, room: EncodeRoom, reason: str, now: float, actions: list[Any]) -> None:
        told: list[Any] = []
        original(self, room, reason, now, told)
        actions += [send for send in told if reason.startswith(f"the write to {send.to} failed")]

    patch.setattr(EncodeRank, "_fail", fail)


@exhibit(
    "T6",
    "Decided on what arrived here",
    wrong="A rank acts on its own arrivals before the group has agreed, so the queues of the ranks differ.",
    ruled_out="Every decision is made in an iteration, on the minimum over all ranks (agreement.hold_iteration).",
    bound=Bound(
        name="T6: an announced length, two ranks",
        lengths=(1,),
        discipline="exact_announce",
        language_tp=2,
        encode_blocks=1,
        language_blocks=1,
    ),
    breaks={12},
)
def decided_locally(patch: pytest.MonkeyPatch) -> None:
    original = LanguageRank._on_iteration

    def on_iteration(self: LanguageRank, iteration: Iteration, now: float, actions: list[Any]) -> None:
        mine = self.candidates()
        arrived_here = tuple(zip(mine, self.progress_of(mine), strict=True))
        original(self, replaced(iteration, progress=arrived_here), now, actions)

    patch.setattr(LanguageRank, "_on_iteration", on_iteration)


@exhibit(
    "T7",
    "Responders of the chunk before",
    wrong="The ranks that confirmed the first chunk count for the second, which is over at its first answer.",
    ruled_out="The set of ranks that hold a chunk starts empty with each chunk (EncodeRank._start_chunk).",
    bound=Bound(name="T7: two ranks, two chunks", lengths=(3,), language_tp=2, atomic_iterations=True),
    breaks={10},
)
def responders_kept(patch: pytest.MonkeyPatch) -> None:
    original = EncodeRank._start_chunk

    def start_chunk(self: EncodeRank, room: EncodeRoom, now: float, actions: list[Any]) -> None:
        landed = set(room.landed)
        original(self, room, now, actions)
        room.landed = landed

    patch.setattr(EncodeRank, "_start_chunk", start_chunk)
