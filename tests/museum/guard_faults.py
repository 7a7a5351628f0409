"""Faults that no version had, one for each invariant that no historic fault breaks first.

An invariant that nothing is seen to break may be one that nothing can break. The ids are the invariants' numbers.
"""

from __future__ import annotations

from typing import Any

import pytest
from exhibit import exhibit

from bufferlab.protocol.checker.bounds import Bound, Fault
from bufferlab.protocol.chunks import Chunk
from bufferlab.protocol.encode import EncodeRank, EncodeRoom
from bufferlab.protocol.encode_phases import EncodePhase
from bufferlab.protocol.language import LanguageRank, LanguageRoom
from bufferlab.protocol.messages import CopyOut, Encoded, Quiet
from bufferlab.protocol.rank import NEVER_S


def one_abort(name: str) -> Bound:
    """One request of one block, whose client may go away."""
    return Bound(
        name=name,
        lengths=(1,),
        encode_blocks=1,
        language_blocks=1,
        faults=(Fault.ABORT,),
        most_faults=1,
    )


@exhibit(
    "G6",
    "Progress that starts again",
    wrong="The sender counts the tokens of the last chunk instead of all that it has sent.",
    ruled_out="sent_tokens is the end of the chunk, which plan_chunk has computed from its start (EncodeRank._finish_chunk).",
    bound=Bound(name="G6: two chunks", lengths=(3,)),
    breaks={6},
)
def progress_starts_again(patch: pytest.MonkeyPatch) -> None:
    original = EncodeRank._finish_chunk

    def finish_chunk(self: EncodeRank, room: EncodeRoom, chunk: Chunk, now: float, actions: list[Any]) -> None:
        original(self, room, chunk, now, actions)
        room.sent_tokens = chunk.tokens

    patch.setattr(EncodeRank, "_finish_chunk", finish_chunk)


@exhibit(
    "G15",
    "A write after Cancel",
    wrong="A room that was cancelled while it was being encoded is written all the same when the encoder is done.",
    ruled_out="A Cancel fails the room before it is answered, and a failed room starts no write (EncodeRank._on_encoded).",
    bound=one_abort("G15: an abort during the forward pass"),
    breaks={15},
)
def written_after_cancel(patch: pytest.MonkeyPatch) -> None:
    original = EncodeRank._on_encoded

    def on_encoded(self: EncodeRank, done: Encoded, now: float, actions: list[Any]) -> None:
        original(self, done, now, actions)
        room = self.rooms.get((done.room, done.incarnation))
        if room is not None and room.failure:
            room.landing = self._landings[EncodePhase.AWAITING_OFFERS]
            self._start_chunk(room, now, actions)
            room.landing = self._landings[EncodePhase.FAILED]

    patch.setattr(EncodeRank, "_on_encoded", on_encoded)


@exhibit(
    "G16",
    "Read behind the fence",
    wrong="What had arrived for a room that failed is still read, out of blocks that are the room's no longer.",
    ruled_out="Only _copy_out reads blocks, and only in the iteration that still owns them (LanguageRank._copy_out).",
    bound=one_abort("G16: an abort after the last status"),
    breaks={16},
)
def read_behind_the_fence(patch: pytest.MonkeyPatch) -> None:
    original = LanguageRank._on_quiet

    def on_quiet(self: LanguageRank, quiet: Quiet, now: float, actions: list[Any]) -> None:
        room = self.rooms.get((quiet.room, quiet.incarnation))
        if room is not None and room.over and room.upto_tokens:
            actions.append(CopyOut(*room.key, 0, room.upto_tokens, room.blocks))
        original(self, quiet, now, actions)

    patch.setattr(LanguageRank, "_on_quiet", on_quiet)


@exhibit(
    "G20",
    "A fence without a timer",
    wrong="Fenced blocks wait for a Quiet that nothing asks for again if it is lost.",
    ruled_out="A room that fences its blocks arms a timer, which repeats Cancel (LanguageRank._conclude_failed, _timed_out).",
    bound=one_abort("G20: an abort after the offer"),
    breaks={20},
)
def fence_without_timer(patch: pytest.MonkeyPatch) -> None:
    original = LanguageRank._conclude_failed

    def conclude_failed(self: LanguageRank, room: LanguageRoom, reason: str, now: float, actions: list[Any]) -> None:
        original(self, room, reason, now, actions)
        room.deadline = NEVER_S

    patch.setattr(LanguageRank, "_conclude_failed", conclude_failed)


@exhibit(
    "G23",
    "A fence that never falls",
    wrong="The language side does not act on Quiet, so the blocks of a cancelled room stay fenced for ever.",
    ruled_out="Quiet of a room that is over unfences its blocks and forgets it (LanguageRank._on_quiet).",
    bound=one_abort("G23: an abort after the offer"),
    breaks={21, 22, 23},
)
def quiet_not_heard(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LanguageRank, "_on_quiet", lambda self, quiet, now, actions: None)
