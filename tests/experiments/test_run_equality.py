from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bufferlab.experiments.runs.equality import compare_runs, differences
from bufferlab.experiments.runs.rundir import SUMMARY_SCHEMA, RunWriter
from bufferlab.experiments.workloads.loading import load
from bufferlab.protocol.recording import Event, Record
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side

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


FAILS = [
    line(Event.SUBMITTED, Status.Bootstrapping),
    line(Event.FAILED, Status.Failed),
    line(Event.RELEASED, Status.Failed),
]


def test_the_release_after_a_quarantine_that_outlasts_the_run_is_no_difference() -> None:
    fenced = {(1, RANK)}
    assert differences(FAILS, FAILS[:2], fenced=(set(), fenced)) == []
    assert differences(FAILS[:2], FAILS, fenced=(fenced, set())) == []
    assert differences(FAILS, FAILS, fenced=(set(), fenced)) == []


def test_nothing_else_of_a_room_in_quarantine_is_forgiven() -> None:
    fenced = {(1, RANK)}
    assert len(differences(FAILS, FAILS[:2])) == 1, "nobody said that it was in quarantine"
    assert len(differences(FAILS, FAILS[:2], fenced=({(1, RANK)}, {(1, PEER), (2, RANK)}))) == 1
    assert len(differences(FAILS, FAILS[:1], fenced=(set(), fenced))) == 1, "it had not failed"
    assert len(differences(FAILS, [FAILS[0]._replace(tokens=3), FAILS[1]], fenced=(set(), fenced))) == 1


RESTARTS = 'incidents=[{kind="restart", instance="encode0", time_s="2s", lasts_s="1s"}]'


def stored(
    folder: Path, kind: str, records: Sequence[Record], settings: Sequence[str] = (), **environment: Any
) -> Path:
    with RunWriter(folder, load("quickstart", list(settings))) as writer:
        writer.begin(0)
        for record in records:
            writer.event(*record)
        writer.finish({"schema": SUMMARY_SCHEMA, "kind": kind}, environment)
        writer.publish()
    return folder


def test_compare_says_what_it_does_not_hold_against_a_measured_run(tmp_path: Path) -> None:
    simulated = stored(tmp_path / "sim", "sim", FAILS)
    told = [{"replication": 0, "rank": str(RANK), "room": 1}]
    measured = stored(tmp_path / "real", "real", FAILS[:2], quarantined=told)
    assert compare_runs(simulated, measured) == {
        "equal": True,
        "histories": 1,
        "differences": [],
        "notes": [
            "1 room of a measured run was in quarantine at its end; that its release is missing is no difference"
        ],
    }
    unsaid = stored(tmp_path / "unsaid", "real", FAILS[:2])
    found = compare_runs(simulated, unsaid)
    assert (found["equal"], len(found["differences"]), found["notes"]) == (False, 1, [])


def test_compare_says_what_a_restart_takes_where_rooms_differ(tmp_path: Path) -> None:
    simulated = stored(tmp_path / "sim", "sim", FAILS, [RESTARTS])
    for name, records, count in (("same", FAILS, 0), ("other", LIFE, 1)):
        notes = compare_runs(simulated, stored(tmp_path / name, "real", records, [RESTARTS]))["notes"]
        assert len(notes) == count
        assert all("a measured instance is up again some seconds after its restart is over" in one for one in notes)
    assert compare_runs(simulated, stored(tmp_path / "again", "sim", LIFE, [RESTARTS]))["notes"] == []
