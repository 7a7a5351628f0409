"""Faults of liveness that are the protocol's own: those of N1 to N14 that are not threads, sockets or set-up."""

from __future__ import annotations

from typing import Any

import pytest
from exhibit import exhibit

import bufferlab.protocol.encode
from bufferlab.protocol.checker.bounds import NEED_TIMERS, Bound, Fault
from bufferlab.protocol.chunks import Chunk, plan_chunk
from bufferlab.protocol.encode import EncodeRank, EncodeRoom
from bufferlab.protocol.errors import ProtocolError
from bufferlab.protocol.language import LanguageRank, LanguageRoom
from bufferlab.protocol.messages import Abort, Cancel, PeerDown, Send, WriteDone


def one_room(name: str, fault: Fault) -> Bound:
    """One request of one block, and one fault."""
    return Bound(
        name=name,
        lengths=(1,),
        encode_blocks=1,
        language_blocks=1,
        timers=fault in NEED_TIMERS,
        faults=(fault,),
        most_faults=1,
    )


@exhibit(
    "N2",
    "An exception ends the worker",
    wrong="A request longer than its memory raises in the transfer worker, which ends, and no request is written any more.",
    ruled_out="Every input is defined in every phase, and what cannot be done fails its own room (EncodeRank._start_chunk).",
    bound=Bound(
        name="N2: a request that is too long, and another",
        lengths=(3, 1),
        discipline="default_fail",
        encode_blocks=3,
    ),
    breaks={18, 21, 27},
)
def exception_ends_worker(patch: pytest.MonkeyPatch) -> None:
    original = EncodeRank._start_chunk

    def plan(**given: Any) -> Chunk:
        chunk = plan_chunk(**given)
        if not chunk.is_last:
            raise ProtocolError("index out of range")
        return chunk

    def start_chunk(self: EncodeRank, room: EncodeRoom, now: float, actions: list[Any]) -> None:
        if "worker_ended" in self.__dict__:
            return
        try:
            original(self, room, now, actions)
        except ProtocolError:
            self.__dict__["worker_ended"] = True  # the rest of the process stays healthy

    patch.setattr(bufferlab.protocol.encode, "plan_chunk", plan)
    patch.setattr(EncodeRank, "_start_chunk", start_chunk)


@exhibit(
    "N3",
    "Quarantined for ever",
    wrong="One failed write puts its destination on a list that nothing takes it off again, and all later rooms fail.",
    ruled_out="A failed write fails its room; only PeerDown bars a peer, and PeerUp lifts that (EncodeRank._on_write_done).",
    bound=Bound(
        name="N3: one failed write, two requests",
        lengths=(1, 1),
        faults=(Fault.FAIL,),
        most_faults=1,
    ),
    breaks={18},
)
def quarantined_for_ever(patch: pytest.MonkeyPatch) -> None:
    original = EncodeRank._on_write_done

    def on_write_done(self: EncodeRank, done: WriteDone, now: float, actions: list[Any]) -> None:
        original(self, done, now, actions)
        if not done.ok:
            self._down.add(done.destination)  # a peer registers once per connection, so nothing undoes this

    patch.setattr(EncodeRank, "_on_write_done", on_write_done)


@exhibit(
    "N4",
    "The encode side is not told",
    wrong="When a room ends on the language side the encode side never hears of it and keeps its source blocks for ever.",
    ruled_out="A room that ends without Success sends Cancel, again and again while it has fenced blocks (_conclude_failed).",
    bound=one_room("N4: an abort", Fault.ABORT),
    breaks={21, 22, 23},
)
def no_cancel(patch: pytest.MonkeyPatch) -> None:
    original = LanguageRank._conclude_failed

    def conclude_failed(self: LanguageRank, room: LanguageRoom, reason: str, now: float, actions: list[Any]) -> None:
        original(self, room, reason, now, actions)
        actions[:] = [one for one in actions if not (isinstance(one, Send) and isinstance(one.message, Cancel))]

    patch.setattr(LanguageRank, "_conclude_failed", conclude_failed)


@exhibit(
    "N5",
    "An abort that does nothing",
    wrong="The sender has no abort, so a request whose client is gone is encoded and transferred to the end.",
    ruled_out="EncodeRank takes Abort in every phase and fails the room at once (EncodeRank._on_abort).",
    bound=one_room("N5: an abort on the encode side", Fault.ABORT),
    breaks={25},
)
def abort_is_a_no_op(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(EncodeRank, "_on_abort", lambda self, abort, now, actions: None)


@exhibit(
    "N6",
    "An abort that waits for blocks",
    wrong="The abort of a request that waits for blocks is noticed only when it gets them, and then it is still encoded.",
    ruled_out="An abort is noted in every phase and the next iteration ends the room (LanguageRank._on_abort).",
    bound=one_room("N6: an abort before the first allocation", Fault.ABORT),
    breaks={25},
)
def abort_ignored_while_waiting(patch: pytest.MonkeyPatch) -> None:
    original = LanguageRank._on_abort

    def on_abort(self: LanguageRank, abort: Abort, now: float, actions: list[Any]) -> None:
        room = self.rooms.get((abort.room, abort.incarnation))
        if room is None or room.blocks:  # nobody looks at the others before they have blocks
            original(self, abort, now, actions)

    patch.setattr(LanguageRank, "_on_abort", on_abort)


@exhibit(
    "N8",
    "The language side dies unnoticed",
    wrong="The encode side learns of a dead receiver only from a failed write, so a room that waits for it waits for ever.",
    ruled_out="PeerDown fails the peer's rooms, and a timer runs in every waiting phase (EncodeRank._on_peer_down, _arm).",
    bound=one_room("N8: the language rank dies", Fault.DIE),
    breaks={21, 22},
)
def dead_receiver_unnoticed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(EncodeRank, "_on_peer_down", lambda self, down, now, actions: None)
    patch.setattr(EncodeRank, "_arm", lambda self, room, delay_s, now: None)  # no lease on source blocks


@exhibit(
    "N9",
    "The encode side restarts unnoticed",
    wrong="An encode process that is back before two heartbeats have failed knows no room, and its receivers wait for ever.",
    ruled_out="A timer runs while an offer is outstanding and its end fails the room (LanguageRank._offer, _timed_out).",
    bound=one_room("N9: the encode rank dies", Fault.DIE),
    breaks={21, 22},
)
def restart_unnoticed(patch: pytest.MonkeyPatch) -> None:
    def on_peer_down(self: LanguageRank, down: PeerDown, now: float, actions: list[Any]) -> None:
        """The new process answers the heartbeat in the old one's place."""

    patch.setattr(LanguageRank, "_on_peer_down", on_peer_down)
    patch.setattr(LanguageRank, "_arm", lambda self, room, delay_s, now: None)
