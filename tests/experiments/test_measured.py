"""What a measured run leaves of what its processes told, with the backend played by the simulator: no process, no port."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("zmq", reason="needs pyzmq")

from bufferlab.experiments.calibration.input.reading import read_inputs
from bufferlab.experiments.config.schema import Config
from bufferlab.experiments.errors import RunFaultedError
from bufferlab.experiments.runs import busy, measure
from bufferlab.experiments.runs.rundir import StoredRun
from bufferlab.experiments.workloads.loading import load
from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.protocol.recording import Event, Record
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side
from bufferlab.real.control.guard import Refusal
from bufferlab.real.engine.proof import TransportProof
from bufferlab.real.run import launcher
from bufferlab.real.run.outcome import Conclusion, Incident, RealOutcome
from bufferlab.sim.network.link import load_profile
from bufferlab.sim.run import simulate

ENCODE, LANGUAGE = RankId(Side.ENCODE, 0, 0), RankId(Side.LANGUAGE, 0, 0)
PROOF = TransportProof(requested="tcp", actual="tcp", evidence=[])


class Played:
    """``run_real`` with what a test adds to its outcome, and without the records that it takes out."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.more: dict[str, Any] = {}
        self.without: set[tuple[int, RankId, Event]] = set()
        monkeypatch.setattr(launcher, "run_real", self.run)
        monkeypatch.setattr(measure, "examine_real", lambda _transport="tcp": "")

    def run(self, scenario: Scenario, requests: Sequence[Request], **options: Any) -> RealOutcome:
        options["watch"]()
        records: list[Record] = []
        simulate(
            scenario, requests, load_profile("tcp-loopback"), recorder=lambda *row: records.append(Record(*row))
        )  # fmt: skip
        end_s = records[-1].time_s
        fields: dict[str, Any] = dict.fromkeys(("verified_rooms", "verified_bytes", "rooms_left", "blocks_lost"), 0)
        fields |= {"proof": PROOF, "mismatches": [], "end_s": end_s, "requests": list(requests)}
        fields["records"] = [one for one in records if (one.room, one.rank_id, one.event) not in self.without]
        fields["conclusions"] = [Conclusion(end_s, one.room, 0, LANGUAGE, Status.Success) for one in requests]
        options["watch"]()
        return RealOutcome(**fields | self.more)


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    return Played(monkeypatch)


def small(**settings: object) -> Config:
    return load(
        "quickstart",
        [f"{name}={value}" for name, value in {"workload.requests": 4, "run.replications": 1, **settings}.items()],
    )


def measured(folder: Path, config: Config | None = None) -> tuple[dict[str, Any], list[str]]:
    said: list[str] = []
    summary = measure.run_measured(config or small(), folder, notice=said.append)
    return summary, said


def environment(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "environment.json").read_text())
    return found


def test_who_was_refused_is_told_each_for_itself_and_is_no_violation(played: Played, tmp_path: Path) -> None:
    refused = [Refusal(f"control port of language{number}.0", "127.0.0.1", 79) for number in range(5)]
    played.more = {"refused": refused, "incidents": [Incident(0.5, "something")]}
    summary, said = measured(tmp_path / "run")
    assert said == [*map(str, refused), "at 0.500 s: something"]
    assert said[0].startswith("the control port of language0.0 refused 127.0.0.1 79 times: ")
    assert len(environment(tmp_path / "run")["refused"]) == 5
    assert summary["invariant_violations"] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody tells whose the processors' time was")
def test_what_others_took_while_the_requests_ran_is_kept_and_told_where_it_is_too_much(
    played: Played, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = iter(range(10))

    def spent(processors: tuple[int, ...]) -> busy.Spent:
        past_s = float(next(second))  # of each second of both processors, 0.2 s are ours, 0.8 s theirs, 0.4 s stolen
        return busy.Spent(past_s, busy_s=past_s * len(processors) / 2, stolen_s=past_s * len(processors) / 5,
                          own_s=past_s * len(processors) / 10)  # fmt: skip

    monkeypatch.setattr(busy, "spent", spent)
    _, said = measured(tmp_path / "run", small(**{"run.replications": 2}))
    share = {"processors": len(busy.usable()), "lasts_s": 1.0, "others": 0.4, "stolen": 0.2, "too_busy": True}
    assert environment(tmp_path / "run")["busy"] == [pytest.approx(share)] * 2
    assert StoredRun(tmp_path / "run").busy == pytest.approx(busy.Busy(share["processors"], 2.0, 0.4, 0.2))
    (sentence,) = said
    assert sentence.startswith("this host is busy: other programs took 40% and the host of this virtual machine")


def test_a_room_without_an_end_is_told_unless_its_rank_said_it_is_in_quarantine(played: Played, tmp_path: Path) -> None:
    """That as many others are in quarantine, on this rank or another, excuses nothing."""
    played.without = {(1, LANGUAGE, Event.RELEASED), (2, LANGUAGE, Event.RELEASED)}
    played.more = {
        "quarantined": frozenset({(1, LANGUAGE), (3, LANGUAGE), (2, ENCODE)}), "rooms_quarantined": 3,
        "left": frozenset({(4, ENCODE)}), "rooms_left": 1,
    }  # fmt: skip
    summary, said = measured(tmp_path / "run")
    assert said == ["violation: room 2 never ended on language0.0"]
    assert summary["invariant_violations"] == 1
    assert environment(tmp_path / "run")["quarantined"] == [
        {"replication": 0, "rank": "language0.0", "room": 1},
        {"replication": 0, "rank": "encode0.0", "room": 2},
        {"replication": 0, "rank": "language0.0", "room": 3},
    ]


def test_a_run_whose_proof_fails_is_kept_whole_and_ends_as_one_that_met_a_fault(
    played: Played, tmp_path: Path, bufferlab: Any
) -> None:
    sentence = "the data of an rdma engine went over tcp (eth0 rose)"
    refuted = TransportProof(requested="rdma", actual="tcp", evidence=["eth0 rose"], refuted=sentence)
    played.more = {"proof": refuted, "faults": (sentence,)}
    config = small(**{"run.replications": 2, "real.transport": "rdma"})
    with pytest.raises(RunFaultedError, match="the run directory has all that was done") as told:
        measured(tmp_path / "run", config)
    assert str(told.value).count(sentence) == 2  # it is so in each replication, and none is given away
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["transport"], summary["faults"]) == ("tcp", [sentence] * 2)
    assert (summary["requests"]["succeeded"], summary["invariant_violations"]) == (8, 0)
    assert len(StoredRun(tmp_path / "run").requests()) == 8
    assert len(StoredRun(tmp_path / "run").events()) > 8
    proofs = environment(tmp_path / "run")["transport_proof"]["replications"]
    assert [one["refuted"] for one in proofs] == [sentence] * 2
    assert read_inputs([tmp_path / "run"]).transport == "tcp"  # a profile made from it is of what ran
    # The command: all of it is shown, one sentence says why, and its status is 1.
    settings = ("--set", "workload.requests=4", "--set", "run.replications=1", "--no-plots")
    ended = bufferlab("real", "quickstart", *settings, "--out", tmp_path / "again")
    assert ended.status == 1
    assert ended.err.count(sentence) == 1
    assert ended.err.startswith("bufferlab: ")
    assert (tmp_path / "again" / "summary.json").is_file()
