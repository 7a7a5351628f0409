"""The phases of a room on the language side: the one table that its timers, its errors and its diagram come from."""

from __future__ import annotations

from bufferlab.protocol.phases import Phase, Row, Step, Table, Timer


class LanguagePhase(Phase):
    """Where a room is on a language rank."""

    JOINING = 0
    AWAITING_LENGTH = 1
    KNOWS_LENGTH = 2
    AWAITING_BLOCKS = 3
    RECEIVING = 4
    HOLDS_CHUNK = 5
    AWAITING_RESUME = 6
    PREFILLING = 7
    FENCED = 8
    QUARANTINED = 9
    ANSWERED = 10
    ENDED = 11


class LanguageStep(Step):
    """What a language rank decides about a room."""

    ALL_RANKS_HAVE_IT = 0
    LENGTH_HEARD = 1
    ALL_RANKS_KNOW_LENGTH = 2
    BLOCKS_GRANTED = 3
    CHUNK_HEARD = 4
    MORE_TO_COME = 5
    DELIVERED = 6
    DELIVERED_AND_KEPT = 7
    PREFILLED = 8
    FAILED = 9
    FAILED_WITHOUT_WRITER = 10
    REFUSED = 11
    WRITER_QUIET = 12
    WRITER_DOWN = 13
    UNANSWERED = 14
    QUARANTINE_OVER = 15


P, S = LanguagePhase, LanguageStep

_ENDS = ("ChunkStatus", "PeerDown", "Abort")
"""What ends a room in every phase before its conclusion; a status that says Failed does, whatever it is about."""

LANGUAGE_PHASES: Table = {
    P.JOINING: Row(
        what="waiting for the other ranks",
        timer=Timer.PHASE,
        takes=_ENDS,
        steps={S.ALL_RANKS_HAVE_IT: P.AWAITING_BLOCKS, S.FAILED: P.ENDED},
    ),
    P.AWAITING_LENGTH: Row(
        what="waiting for the announced length",
        timer=Timer.PHASE,
        takes=("Announce", *_ENDS),
        steps={S.LENGTH_HEARD: P.KNOWS_LENGTH, S.FAILED: P.ENDED},
    ),
    P.KNOWS_LENGTH: Row(
        what="waiting for the other ranks to know the length",
        timer=Timer.NONE,
        takes=_ENDS,
        steps={S.ALL_RANKS_KNOW_LENGTH: P.AWAITING_BLOCKS, S.REFUSED: P.ENDED, S.FAILED: P.ENDED},
    ),
    P.AWAITING_BLOCKS: Row(
        what="waiting for blocks",
        timer=Timer.PHASE,
        takes=_ENDS,
        steps={S.BLOCKS_GRANTED: P.RECEIVING, S.FAILED: P.ENDED},
    ),
    P.RECEIVING: Row(
        what="waiting for chunk {epoch}",
        timer=Timer.PHASE,
        takes=_ENDS,
        steps={S.CHUNK_HEARD: P.HOLDS_CHUNK, S.FAILED: P.FENCED, S.FAILED_WITHOUT_WRITER: P.QUARANTINED},
    ),
    P.HOLDS_CHUNK: Row(
        what="waiting for the other ranks to hold chunk {epoch}",
        timer=Timer.NONE,
        takes=_ENDS,
        steps={
            S.MORE_TO_COME: P.AWAITING_RESUME,
            S.DELIVERED: P.ENDED,
            S.DELIVERED_AND_KEPT: P.PREFILLING,
            S.REFUSED: P.ENDED,
            # Another rank's writer may still write, and a group fences alike.
            S.FAILED: P.FENCED,
            S.FAILED_WITHOUT_WRITER: P.QUARANTINED,
        },
    ),
    P.AWAITING_RESUME: Row(
        what="waiting for blocks to resume",
        timer=Timer.PHASE,
        takes=_ENDS,
        steps={S.BLOCKS_GRANTED: P.RECEIVING, S.FAILED: P.ENDED},
    ),
    P.PREFILLING: Row(
        what="delivered and read by the prefill",
        timer=Timer.NONE,
        takes=("Prefilled",),
        steps={S.PREFILLED: P.ENDED},
        over=True,
    ),
    P.FENCED: Row(
        what="over and waiting for its writer to be quiet",
        timer=Timer.CANCEL_RETRY,
        takes=("Quiet", "PeerDown"),
        steps={S.WRITER_QUIET: P.ENDED, S.WRITER_DOWN: P.QUARANTINED, S.UNANSWERED: P.FENCED},
        over=True,
    ),
    P.QUARANTINED: Row(
        what="over and in quarantine, its writer is gone",
        timer=Timer.QUARANTINE,
        takes=("Quiet", "PeerDown"),
        steps={
            S.WRITER_QUIET: P.ANSWERED,
            S.WRITER_DOWN: P.QUARANTINED,
            S.UNANSWERED: P.FENCED,
            S.QUARANTINE_OVER: P.ENDED,
        },
        # The process that answers speaks for itself, not for one of the same name that may have ended before it.
        runs_on=frozenset({S.WRITER_QUIET}),
        over=True,
    ),
    P.ANSWERED: Row(
        what="over and in quarantine, its writer is back and quiet",
        timer=Timer.QUARANTINE,
        takes=("PeerDown",),
        steps={S.WRITER_DOWN: P.ANSWERED, S.QUARANTINE_OVER: P.ENDED},
        over=True,
    ),
    P.ENDED: Row(what="over", timer=Timer.NONE, takes=(), steps={}, over=True),
}
