"""The phases of a room on the encode side: the one table that its timers, its errors and its diagram come from."""

from __future__ import annotations

from bufferlab.protocol.phases import Phase, Row, Step, Table, Timer


class EncodePhase(Phase):
    """Where a room is on an encode rank. Beside it a room only has facts: its offers, writes, encoder and source."""

    AWAITING_FIRST_OFFERS = 0
    READY = 1
    AWAITING_SOURCE = 2
    ENCODING = 3
    AWAITING_OFFERS = 4
    WRITING = 5
    CHUNK_WRITTEN = 6
    DONE = 7
    FAILED = 8
    DRAINING = 9
    ENDED = 10


class EncodeStep(Step):
    """What an encode rank decides about a room."""

    OFFERS_COMPLETE = 0
    NEEDS_NO_OFFERS = 1
    ALL_RANKS_READY = 2
    SOURCE_GRANTED = 3
    ENCODED = 4
    ENCODED_AS_SURPLUS = 5
    WRITES_STARTED = 6
    CHUNK_WRITTEN_BY_THE_GROUP = 7
    CHUNK_WRITTEN_HERE = 8
    LAST_CHUNK_WRITTEN = 9
    ALL_RANKS_WRITTEN = 10
    ALL_RANKS_DONE = 11
    FAILED_HERE = 12
    FAILED_IN_THE_GROUP = 13
    SOURCE_UNUSED = 14


P, S = EncodePhase, EncodeStep

_ENDS = ("Cancel", "PeerDown", "Abort")
"""What ends a room in every phase in which this rank has not done its part."""

ENCODE_PHASES: Table = {
    P.AWAITING_FIRST_OFFERS: Row(
        what="waiting for memory on the language side",
        timer=Timer.PHASE,
        takes=("Offer", *_ENDS),
        steps={S.OFFERS_COMPLETE: P.READY, S.NEEDS_NO_OFFERS: P.READY, S.FAILED_HERE: P.FAILED},
    ),
    P.READY: Row(
        what="waiting for the other ranks to be ready",
        timer=Timer.NONE,
        takes=("Offer", *_ENDS),
        steps={S.ALL_RANKS_READY: P.AWAITING_SOURCE, S.FAILED_HERE: P.FAILED},
    ),
    P.AWAITING_SOURCE: Row(
        what="waiting for source blocks",
        timer=Timer.PHASE,
        takes=("Offer", *_ENDS),
        steps={S.SOURCE_GRANTED: P.ENCODING, S.FAILED_HERE: P.FAILED},
    ),
    P.ENCODING: Row(
        what="encoding",
        timer=Timer.PHASE,
        takes=("Encoded", "Offer", *_ENDS),
        steps={S.ENCODED: P.AWAITING_OFFERS, S.ENCODED_AS_SURPLUS: P.DONE, S.FAILED_HERE: P.FAILED},
    ),
    P.AWAITING_OFFERS: Row(
        what="waiting for memory on the language side",
        timer=Timer.PHASE,
        takes=("Offer", *_ENDS),
        steps={S.WRITES_STARTED: P.WRITING, S.FAILED_HERE: P.FAILED},
    ),
    P.WRITING: Row(
        what="writing chunk {epoch}",
        timer=Timer.PHASE,
        takes=("WriteDone", *_ENDS),
        steps={
            S.CHUNK_WRITTEN_BY_THE_GROUP: P.AWAITING_OFFERS,
            S.CHUNK_WRITTEN_HERE: P.CHUNK_WRITTEN,
            S.LAST_CHUNK_WRITTEN: P.DONE,
            S.FAILED_HERE: P.FAILED,
        },
    ),
    P.CHUNK_WRITTEN: Row(
        what="waiting for the other ranks to write their chunk",
        timer=Timer.NONE,
        takes=("Offer", *_ENDS),
        # The language side may have the chunk of all ranks, and offer again, before this group agrees that it has.
        steps={S.ALL_RANKS_WRITTEN: P.AWAITING_OFFERS, S.WRITES_STARTED: P.WRITING, S.FAILED_HERE: P.FAILED},
    ),
    P.DONE: Row(
        what="waiting for the other ranks to be done",
        timer=Timer.NONE,
        takes=("Cancel",),
        # Only a surplus rank may still fail here: it has written nothing that somebody holds.
        steps={S.ALL_RANKS_DONE: P.ENDED, S.FAILED_HERE: P.FAILED, S.FAILED_IN_THE_GROUP: P.DRAINING},
    ),
    P.FAILED: Row(
        what="failed and waiting for the other ranks to know",
        timer=Timer.NONE,
        takes=("Encoded", "WriteDone", "WriterQuiet", "Cancel"),
        # What the group has not yet ended it carries on, on all of its ranks alike.
        steps={
            S.ALL_RANKS_READY: P.FAILED,
            S.SOURCE_GRANTED: P.FAILED,
            S.FAILED_IN_THE_GROUP: P.DRAINING,
        },
    ),
    P.DRAINING: Row(
        what="failed and waiting for the encoder and its writes to end",
        timer=Timer.NONE,
        takes=("Encoded", "WriteDone", "WriterQuiet", "Cancel"),
        steps={S.SOURCE_UNUSED: P.ENDED},
        over=True,
    ),
    P.ENDED: Row(what="over", timer=Timer.NONE, takes=(), steps={}, over=True),
}
