from experiments.runs.equality import differences
from protocol.recording import Event, Record
from protocol.status import Status
from protocol.topology import RankId, Side

RANK, PEER = RankId(Side.ENCODE, 0, 0), RankId(Side.LANGUAGE, 0, 0)


def line(event: Event, status: Status | None, tokens: int = 0, detail: str = "", time_s: float = 0.0) -> Record:
    return Record(time_s, RANK, 1, event, status, tokens, 0, detail)


LIFE = [
    line(Event.SUBMITTED, Status.Bootstrapping),
    line(Event.WRITE_DONE, None, 8, "language0.0"),
    line(Event.ENCODED, None, 8),
    line(Event.CHUNK_DONE, Status.Success, 8),
]


def test_equal_lives_at_other_times_do_not_differ() -> None:
    later = [one._replace(time_s=one.time_s + 3, bytes=5) for one in LIFE]
    assert differences(LIFE, later) == []


def test_independent_tracks_may_interleave() -> None:
    assert differences(LIFE, [LIFE[0], LIFE[2], LIFE[1], LIFE[3]]) == []


def test_the_first_difference_of_a_track_is_told() -> None:
    other = [*LIFE[:3], line(Event.CHUNK_DONE, Status.Transferring, 8)]
    assert differences(LIFE, other, ("sim", "real")) == [
        "room 1 on encode0.0, room, event 2: chunk_done (Success, 8 tokens) in sim, "
        "chunk_done (Transferring, 8 tokens) in real"
    ]


def test_a_shorter_and_a_missing_history() -> None:
    assert differences(LIFE, LIFE[:3]) == [
        "room 1 on encode0.0, room, event 2: chunk_done (Success, 8 tokens) in left, nothing more in right"
    ]
    assert differences(LIFE, [LIFE[0], *LIFE[2:]]) == [
        "room 1 on encode0.0, language0.0: 1 events in left, none in right"
    ]
    assert differences([], LIFE[2:3]) == ["room 1 on encode0.0, compute: 1 events in right, none in left"]
