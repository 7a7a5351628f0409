"""Faults of this project's own core, before the checker, the random fault runs or a reader found them: F1 to F4."""

from __future__ import annotations

from typing import Any

import pytest
from exhibit import exhibit

from bufferlab.protocol.checker.bounds import Bound, Fault
from bufferlab.protocol.encode import EncodeRank
from bufferlab.protocol.language import LanguageRank, LanguageRoom
from bufferlab.protocol.language_phases import LanguagePhase
from bufferlab.protocol.messages import EncodeRequest, LanguageRequest
from bufferlab.protocol.rank import EarlyMessages
from bufferlab.protocol.topology import RankId


@exhibit(
    "F1",
    "A cancellation forgotten with its sender",
    wrong="A false alarm dropped a Cancel that had come before its request, and a late offer brought the room to life.",
    ruled_out="Only offers are dropped with a peer: a Cancel has been answered with Quiet and must hold (drop_from).",
    bound=Bound(
        name="F1: an abort and a false alarm",
        lengths=(1,),
        encode_blocks=1,
        language_blocks=1,
        timers=True,
        faults=(Fault.ABORT, Fault.SUSPECT),
        most_faults=2,
    ),
    breaks={2, 15},
)
def cancellation_forgotten(patch: pytest.MonkeyPatch) -> None:
    def drop_from(self: EarlyMessages, peer: RankId) -> None:
        for key, kept in list(self._kept.items()):
            kept[:] = [one for one in kept if getattr(one[1], "receiver", None) != peer]
            if not kept:
                del self._kept[key]

    patch.setattr(EarlyMessages, "drop_from", drop_from)


@exhibit(
    "F2",
    "Asking the dead",
    wrong="A room that came when its writer was down was not in quarantine, and its Cancel was repeated for ever.",
    ruled_out="A request for a peer that is down begins with its writer gone (LanguageRank._on_request).",
    bound=Bound(
        name="F2: two requests, and an encode rank that dies",
        lengths=(1, 1),
        encode_tp=2,
        language_tp=2,
        encode_blocks=1,
        language_blocks=1,
        timers=True,
        atomic_iterations=True,
        faults=(Fault.DIE,),
        most_faults=1,
    ),
    breaks={20},
)
def asking_the_dead(patch: pytest.MonkeyPatch) -> None:
    original = LanguageRank._on_request

    def on_request(self: LanguageRank, request: LanguageRequest, now: float, actions: list[Any]) -> None:
        original(self, request, now, actions)
        self.rooms[request.room, request.incarnation].writer_gone = False

    patch.setattr(LanguageRank, "_on_request", on_request)


@exhibit(
    "F3",
    "A quarantine from the living",
    wrong="After a false alarm blocks came free when the quarantine ended, although the living writer still had the offer.",
    ruled_out="A quarantine ends without the writer's word only while the writer is down (LanguageRank._timed_out).",
    bound=Bound(
        name="F3: a false alarm",
        lengths=(1,),
        encode_blocks=1,
        language_blocks=1,
        timers=True,
        faults=(Fault.SUSPECT,),
        most_faults=1,
    ),
    breaks={2},
)
def quarantine_from_the_living(patch: pytest.MonkeyPatch) -> None:
    original = LanguageRank._conclude_failed

    def conclude_failed(self: LanguageRank, room: LanguageRoom, *given: Any) -> None:
        original(self, room, *given)
        if room.phase is LanguagePhase.QUARANTINED:
            room.landing = self._landings[LanguagePhase.ANSWERED]  # as if it had given its word

    patch.setattr(LanguageRank, "_conclude_failed", conclude_failed)


@exhibit(
    "F4",
    "A timer that belongs to another",
    wrong="A surplus encode rank's timer ran from submission on, through all that its group waited for, and ended the room.",
    ruled_out="Who waits for its group has no timer; each phase that the group enters has a new one (EncodeRank._on_iteration).",
    bound=Bound(
        name="F4: a surplus encode rank, and a lost message",
        lengths=(1,),
        encode_tp=2,
        encode_blocks=1,
        language_blocks=1,
        timers=True,
        faults=(Fault.LOSE,),
        most_faults=1,
    ),
    breaks={21},
)
def timer_of_another(patch: pytest.MonkeyPatch) -> None:
    original = EncodeRank._on_request

    def on_request(self: EncodeRank, request: EncodeRequest, now: float, actions: list[Any]) -> None:
        original(self, request, now, actions)
        self._arm(self.rooms[request.room, request.incarnation], self.timeout_s, now)

    patch.setattr(EncodeRank, "_on_request", on_request)
