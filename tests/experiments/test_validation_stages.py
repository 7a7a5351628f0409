"""The stages of a request: by hand, and that they add up to its latency in every discipline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bufferlab.experiments.runs.replay import replications_of
from bufferlab.experiments.runs.rundir import StoredRun
from bufferlab.experiments.runs.simulate import run_sim
from bufferlab.experiments.runs.spans import in_order, writes_of
from bufferlab.experiments.validation.stages import STAGES, stage_scores, stage_table
from bufferlab.experiments.workloads.loading import load
from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.protocol.recording import Event, Record
from bufferlab.protocol.topology import RankId, Side

WRITER, FIRST, SECOND = RankId(Side.ENCODE, 0, 0), RankId(Side.LANGUAGE, 0, 0), RankId(Side.LANGUAGE, 0, 1)
SCENARIO = Scenario(block_tokens=16, hidden=64, language_tp=2)


def at(time_s: float, rank_id: RankId, event: Event, peer: RankId | str = "", *, room: int = 1) -> Record:
    return Record(time_s, rank_id, room, event, None, 0, 0, str(peer))


def writes(first_s: float, second_s: float, begin_s: float, *, room: int = 1) -> list[Record]:
    """One chunk to both ranks, asked for at ``begin_s``."""
    return [
        at(begin_s, WRITER, Event.CHUNK_STARTED, room=room),
        at(begin_s, WRITER, Event.WRITE_STARTED, FIRST, room=room),
        at(begin_s, WRITER, Event.WRITE_STARTED, SECOND, room=room),
        at(first_s, WRITER, Event.WRITE_DONE, FIRST, room=room),
        at(second_s, WRITER, Event.WRITE_DONE, f"{SECOND} late", room=room),
    ]


LIFE = [
    at(11.0, FIRST, Event.SUBMITTED), at(12.0, SECOND, Event.SUBMITTED), at(14.0, WRITER, Event.SUBMITTED),
    at(16.0, FIRST, Event.OFFERED), at(15.0, SECOND, Event.OFFERED),
    at(17.0, WRITER, Event.OFFER_RECEIVED, FIRST), at(18.0, WRITER, Event.OFFERS_COMPLETE),
    at(20.0, WRITER, Event.ENCODE_STARTED), at(25.0, WRITER, Event.ENCODED),
    *writes(33.0, 36.0, 25.0),
    at(40.0, FIRST, Event.CHUNK_RECEIVED), at(41.0, SECOND, Event.CHUNK_RECEIVED),
    at(42.0, SECOND, Event.RESUMED), at(47.0, FIRST, Event.RESUMED),
    at(48.0, WRITER, Event.OFFERS_COMPLETE),
    *writes(50.0, 51.0, 48.0),
    at(55.0, FIRST, Event.CHUNK_RECEIVED), at(54.0, SECOND, Event.CHUNK_RECEIVED),
    at(55.5, FIRST, Event.DELIVERED), at(57.0, SECOND, Event.DELIVERED),
]  # fmt: skip
# Another room has the writing thread until 30 s.
OTHER = writes(28.0, 30.0, 24.0, room=2)


def test_a_request_of_two_chunks_by_hand() -> None:
    (row,) = stage_table(in_order([*LIFE, *OTHER]), SCENARIO, {1: 10.0}, [1])
    assert dict(zip(STAGES, row.tolist(), strict=True)) == {
        "submit": 4.0,  # 10 .. 14, the encode side's
        "announce": 0.0,
        "allocate": 2.0,  # 14 .. 16
        "offer": 2.0 + 1.0,  # 16 .. 18 and 47 .. 48
        "source": 2.0,  # 18 .. 20
        "encode": 5.0,  # 20 .. 25
        "thread": 5.0,  # 25 .. 30, when the other room's last write is done
        "write": 6.0 + 3.0,  # 30 .. 36 and 48 .. 51
        "acknowledge": 5.0 + 4.0,  # 36 .. 41 and 51 .. 55
        "resume": 6.0,  # 41 .. 47
        "copy": 2.0,  # 55 .. 57
    }


def test_what_something_longer_hides_takes_no_time() -> None:
    # Its images are prepared last of all: both sides have long agreed on its blocks.
    late = [one._replace(time_s=16.5) if one == LIFE[2] else one for one in LIFE]
    (row,) = stage_table(in_order(late), SCENARIO, {1: 10.0}, [1])
    assert row[:4].tolist() == [6.5, 0.0, 0.0, 1.5 + 1.0]
    assert row.sum() == 47.0


def test_writes_of_one_thread_follow_each_other() -> None:
    found = [
        (one.room, one.chunk, one.asked_s, one.begun_s, one.done_s) for one in writes_of(in_order([*LIFE, *OTHER]), 1)
    ]
    assert found == [
        (2, 0, 24.0, 24.0, 28.0), (2, 0, 24.0, 28.0, 30.0), (1, 0, 25.0, 30.0, 33.0), (1, 0, 25.0, 33.0, 36.0),
        (1, 1, 48.0, 48.0, 50.0), (1, 1, 48.0, 50.0, 51.0),
    ]  # fmt: skip


@pytest.mark.parametrize("discipline", ["window", "exact_announce", "alloc_then_free", "free_then_alloc", "slot"])
def test_the_stages_add_up_to_the_latency(tmp_path: Path, discipline: str) -> None:
    settings = ["workload.requests=60", "run.replications=1", f"protocol.discipline={discipline}", "encode.tp=3"]
    config = load("quickstart", [*settings, "language.tp=2", "protocol.timeout_s=never", "protocol.sizing.tokens=2048"])
    run_sim(config, tmp_path / "run")
    run = StoredRun(tmp_path / "run")
    (figures,) = replications_of(run)
    rooms = figures.rooms()[figures.delivered()]
    assert len(rooms) > 10
    arrivals_s = dict(zip(*(run.requests()[name].tolist() for name in ("room", "arrival_s")), strict=True))
    records = in_order(record for _, record in run.records())
    table = stage_table(records, config.scenario(), arrivals_s, rooms.tolist())
    assert table.min() >= 0
    assert np.allclose(table.sum(axis=1), figures.latencies_s(), rtol=0, atol=1e-9)
    announced = table[:, list(STAGES).index("announce")]
    assert announced.any() == (discipline == "exact_announce")


def test_the_share_of_a_stage_is_its_part_of_the_whole_miss() -> None:
    measured = np.ones((3, len(STAGES)))
    predicted = measured.copy()
    predicted[:, 0] += 3.0
    predicted[:, 7] -= 1.0
    scores = stage_scores([(measured[:1], predicted[:1]), (measured[1:], predicted[1:])])
    assert [one.name for one in scores] == list(STAGES)
    assert {one.name: (one.difference_s, one.share) for one in scores if one.difference_s} == {
        "submit": (3.0, 0.75),
        "write": (-1.0, 0.25),
    }
    assert all(one.share is None for one in stage_scores([(measured, measured)]))
    assert scores[0].predicted == {"mean": 4.0, "p50": 4.0, "p99": 4.0}
    with pytest.raises(ValueError, match="no request was delivered on both sides"):
        stage_scores([(measured[:0], measured[:0])])
