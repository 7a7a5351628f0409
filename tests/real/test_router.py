"""How the router ends a run, with ranks that are played by this process: no backend, no waiting."""

from __future__ import annotations

import contextlib
import errno
import heapq
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("zmq", reason="needs pyzmq")
pytest.importorskip("numpy", reason="needs numpy")

import zmq

from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.protocol.recording import Event, Record
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side
from bufferlab.real.control.clocks import SAME
from bufferlab.real.engine.proof import TransportProof
from bufferlab.real.errors import EngineError
from bufferlab.real.faults import Kill, Restart
from bufferlab.real.run import patience as real_patience
from bufferlab.real.run import processes as real_processes
from bufferlab.real.run import restarts as real_restarts
from bufferlab.real.run import spool as real_spool
from bufferlab.real.run import watching as real_watching
from bufferlab.real.run.commands import (
    GROUP_STATUS,
    Alive,
    Ask,
    Broken,
    Command,
    Concluded,
    Describe,
    GiveUp,
    Holdings,
    Records,
    Report,
    Start,
    Stop,
    Submit,
)
from bufferlab.real.run.outcome import RealOutcome
from bufferlab.real.run.patience import Patience
from bufferlab.real.run.ranks import Child
from bufferlab.real.run.router import Router

ENCODE, LANGUAGE = RankId(Side.ENCODE, 0, 0), RankId(Side.LANGUAGE, 0, 0)
SCENARIO = Scenario(block_tokens=16, hidden=64, encode_blocks=64, language_blocks=64, timeout_s=None)
PATIENCE = Patience(silence_s=0.3, no_progress_s=0.6, report_s=1.0)


class PlayedProcess:
    """A process as its host tells of it."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.stopped = False
        self.stays = False
        self.got: list[int] = []

    def poll(self) -> int | None:
        return self.status

    def wait(self, timeout_s: float) -> int:
        if self.status is None:
            raise subprocess.TimeoutExpired("a rank", timeout_s)
        return self.status

    def send_signal(self, number: int) -> None:
        self.got.append(number)
        if number == signal.SIGKILL and not self.stays:
            self.status = -number

    def is_stopped(self) -> bool:
        return self.stopped

    def how_it_ended(self) -> str:
        return f"ended with status {self.status}"

    def last_words(self) -> str:
        return "its last words"


class PlayedRank:
    """A rank that concludes every request at once, answers, reports and leaves, unless a test has it do otherwise."""

    def __init__(self, rank_id: RankId, stage: Stage) -> None:
        self.rank_id = rank_id
        self.process = PlayedProcess()
        self.stage = stage
        self.silent = False
        self.concludes = True
        self.gives_up = True
        self.reports = True
        self.expects_s: float | None = None
        self.report: dict[str, Any] = {}
        self.told = 0
        self.missed: list[Command] = []

    def take(self, command: Command) -> None:
        if self.process.status is not None:
            return
        if self.silent:
            self.missed.append(command)
            return
        match command:
            case Submit(request) if self.concludes:
                up = self.stage.played[self.stage.partner.get(request.room, LANGUAGE)].process.status is None
                self.conclude(request.room, Status.Success if up else Status.Failed)
            case GiveUp(room, _, reason) if self.gives_up:
                self.conclude(room, Status.Failed, reason)
            case Ask():
                self.stage.say(Alive(self.rank_id, self.told, self.expects_s))
            case Stop() if self.reports:
                compared = self.told if self.rank_id.side is Side.LANGUAGE else 0
                fields = dict.fromkeys(
                    ("rooms_left", "blocks_lost", "rooms_quarantined", "blocks_fenced", "frames_dropped",
                     "messages_stale", "ignored_messages", "verified_bytes"), 0,
                )  # fmt: skip
                given: dict[str, Any] = {"verified_rooms": compared, "differences": [], **fields, **self.report}
                self.stage.say(Report(rank_id=self.rank_id, **given))
                self.process.status = None if self.process.stays else 0

    def conclude(self, room: int, status: Status, reason: str = "") -> None:
        records: list[Any] = []
        if status is Status.Success and self.rank_id.side is Side.LANGUAGE:
            records = [(self.stage.now_s(), room, Event.DELIVERED, status, 100, 0, "")]
            self.told += 1
        self.stage.say(Concluded(self.rank_id, room, 0, status, reason, 0, records))

    def go_on(self) -> None:
        self.silent = False
        for command in self.missed:
            self.take(command)


class Stage:
    """What the router takes for the ranks of a run (``real.run.ranks.Ranks``)."""

    mortal = False
    verify = True

    def __init__(self, **sizes: int) -> None:
        fields = {name: getattr(SCENARIO, name) for name in SCENARIO.__struct_fields__}
        self.scenario = Scenario(**(fields | sizes))
        self.ids = [*self.scenario.encode_ids(), *self.scenario.language_ids()]
        self.played = {rank_id: PlayedRank(rank_id, self) for rank_id in self.ids}
        self.children = {rank_id: Child(rank_id, 0, one.process, ready=True) for rank_id, one in self.played.items()}
        self.partner: dict[int, RankId] = {}  # of a room, where that is not the first language rank
        self.hosts = SimpleNamespace(sent_counters=dict, address_of=lambda rank_id: "here")
        self.proofs = {self.ids[0]: TransportProof(requested="tcp", actual="tcp", evidence=[])}
        self.processes: list[Any] = []
        self.unmeasured: list[RankId] = []
        self.on_start: Callable[[Side, int], None] = lambda side, instance: None
        self.frames_dropped = 0
        self.refused: Callable[[], list[Any]] = list
        self.clocks = dict.fromkeys(self.ids, SAME)
        self.memory: dict[RankId, str] = {}
        self._said: list[Command] = []
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._zero_s = 0.0

    def now_s(self) -> float:
        return time.monotonic() - self._zero_s

    def at(self, time_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._later, (time_s, len(self._later), action))

    def say(self, command: Command) -> None:
        self._said.append(command)

    def begin(self, rank_id: RankId, zero_s: float) -> None:
        self._zero_s = zero_s
        self.send(rank_id, Start(zero_s))

    def members(self, side: Side, instance: int) -> list[RankId]:
        return [rank_id for rank_id in self.ids if (rank_id.side, rank_id.instance) == (side, instance)]

    def alive(self, rank_id: RankId) -> bool:
        return not self.children[rank_id].gone

    def send(self, rank_id: RankId, command: Command) -> None:
        self.played[rank_id].take(command)

    def receive(self, timeout_s: float) -> Iterator[Command]:
        while self._later and self._later[0][0] <= self.now_s():
            heapq.heappop(self._later)[2]()
        if not self._said:
            time.sleep(min(max(timeout_s, 0.0), 0.01))
        said, self._said = self._said, []
        yield from said

    def start_again(self, side: Side, instance: int) -> None:
        self.on_start(side, instance)

    def measure_again(self) -> list[RankId]:
        return self.unmeasured

    def clocked(self, records: Iterable[Record], zero_s: float) -> Iterable[Record]:
        return records


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_patience, "ASK_S", 0.1)
    monkeypatch.setattr(real_watching, "WATCH_S", 0.02)
    monkeypatch.setattr(real_processes, "MEMBER_GRACE_S", 0.1)
    for module in (real_processes, real_restarts):
        monkeypatch.setattr(module, "EXIT_TIMEOUT_S", 0.3)


def play(stage: Stage, *arrivals_s: float, concurrency: int | None = None) -> RealOutcome:
    requests = [Request(room, arrival_s, 100) for room, arrival_s in enumerate(arrivals_s, 1)]
    ranks: Any = stage
    return Router(ranks, (), None, concurrency, PATIENCE).run(requests)


def test_others_are_watched_before_and_after_the_requests_and_never_between() -> None:
    stage = Stage()
    watched: list[int] = []
    ranks: Any = stage
    requests = [Request(room, 0.05 * room, 100) for room in range(1, 4)]
    router = Router(ranks, (), None, None, PATIENCE, lambda: watched.append(len(router._requests.submitted)))
    outcome = router.run(requests)
    assert watched == [0, 3]
    assert outcome.succeeded_rooms == {1, 2, 3}


def test_a_clean_run_says_nothing_however_long_its_traffic_pauses() -> None:
    outcome = play(Stage(), 0.0, 0.1, 2.0)
    assert outcome.succeeded_rooms == {1, 2, 3}
    assert (outcome.faults, outcome.violations, outcome.ended_early, outcome.incidents) == ((), (), "", [])
    assert (outcome.deadlock, outcome.cut_short) == (False, frozenset())
    assert outcome.verified_rooms == 3


@pytest.mark.parametrize("stopped", [True, False])
def test_a_rank_that_answers_nothing_is_ended_and_named(*, stopped: bool) -> None:
    stage = Stage()
    rank = stage.played[LANGUAGE]

    def fall_silent() -> None:
        rank.silent, rank.process.stopped = True, stopped

    stage.at(0.15, fall_silent)
    outcome = play(stage, 0.0, 0.1, 0.2, 5.0)
    assert rank.process.got == [signal.SIGKILL]
    assert (outcome.succeeded_rooms, outcome.failed_rooms) == ({1, 2}, {3})
    (fault,) = outcome.faults
    assert "language0.0 had given no sign of life for" in fault
    assert ("because its process was stopped" in fault) is stopped
    assert fault.endswith("was ended; 1 request failed by it")
    assert "no language rank was left, so 1 requests were not handed out any more" in outcome.ended_early
    assert outcome.cut_short == {LANGUAGE}


def test_the_others_of_a_stopped_ranks_instance_are_not_accused() -> None:
    stage = Stage(language_tp=2)
    second = RankId(Side.LANGUAGE, 0, 1)

    def fall_silent() -> None:
        stage.played[LANGUAGE].silent = stage.played[second].silent = True  # the first waits for the second
        stage.played[second].process.stopped = True

    stage.at(0.0, fall_silent)
    outcome = play(stage, 0.1)
    (fault,) = outcome.faults
    assert "language0.1 had given no sign of life" in fault


def test_a_rank_on_a_host_out_of_reach_is_lost_all_the_same() -> None:
    stage = Stage()
    stage.played[ENCODE].silent = stage.played[ENCODE].process.stays = True
    outcome = play(stage, 0.0)
    assert outcome.failed_rooms == {1}
    assert "encode0.0 had given no sign of life" in outcome.faults[0]


def test_a_rank_that_goes_on_costs_what_failed_meanwhile() -> None:
    for fails in (True, False):
        stage = Stage()
        rank = stage.played[LANGUAGE]
        rank.silent = True
        rank.concludes = not fails
        stage.at(0.3, rank.go_on)
        if fails:
            stage.at(0.4, lambda rank=rank: rank.conclude(1, Status.Failed, "encode0.0 is down"))  # type: ignore[misc]
        outcome = play(stage, 0.0)
        assert any("language0.0 had given no sign of life for" in one.what for one in outcome.incidents)
        told = ["went on; 1 request failed by it" in fault for fault in outcome.faults]
        assert told == ([True] if fails else [])
        assert outcome.cut_short == frozenset()


@pytest.mark.parametrize(("status", "how"), [(0, "ended with status 0"), (7, "ended with status 7: its last words")])
def test_a_process_that_ends_in_the_middle_is_named(status: int, how: str) -> None:
    stage = Stage(language_instances=2)
    stage.at(0.05, lambda: setattr(stage.played[LANGUAGE].process, "status", status))
    requests = [Request(room, 0.1 * room, 100, language_instance=room % 2) for room in range(1, 7)]
    stage.partner = {request.room: RankId(Side.LANGUAGE, request.language_instance, 0) for request in requests}
    ranks: Any = stage
    outcome = Router(ranks, (), None, None, PATIENCE).run(requests)
    assert outcome.succeeded_rooms == {1, 3, 5}
    (fault,) = outcome.faults
    assert f"language0.0 {how}; 3 requests failed by it" in fault
    assert outcome.ended_early == ""


def test_a_rank_that_breaks_says_why_and_only_once() -> None:
    stage = Stage()

    def break_down() -> None:
        stage.say(Broken(ENCODE, "its 'writer 0' thread ended with MemoryError: no more"))
        stage.played[ENCODE].silent = True

    stage.at(0.05, break_down)
    outcome = play(stage, 0.0, 0.1)
    (fault,) = outcome.faults
    assert "encode0.0 broke: its 'writer 0' thread ended with MemoryError: no more; 1 request failed by it" in fault


def end(stage: Stage, time_s: float, rank_id: RankId, status: int) -> None:
    stage.at(time_s, lambda: setattr(stage.played[rank_id].process, "status", status))


def test_a_group_that_lost_a_rank_nobody_saw_end_is_named() -> None:
    stage = Stage(language_tp=2)
    end(stage, 0.05, LANGUAGE, GROUP_STATUS)
    outcome = play(stage, 0.1, 5.0)
    (fault,) = outcome.faults
    assert (
        "language0.0 left because another rank of its instance took no part any more; 1 request failed by it" in fault
    )
    assert "no language rank was left, so 1 requests were not handed out any more" in outcome.ended_early


@pytest.mark.parametrize("victim", [0, 1, 2])
@pytest.mark.parametrize("later_s", [0.0, 0.2])
def test_a_member_that_somebody_kills_is_named_and_not_the_others_that_leave(
    victim: int, later_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are all seen to have ended in one moment, or the host of the killed one says so later."""
    monkeypatch.setattr(real_processes, "MEMBER_GRACE_S", 2.0)
    stage = Stage(language_tp=3)
    members = stage.members(Side.LANGUAGE, 0)
    for member in members:
        stage.played[member].concludes = False
        killed = member.rank == victim
        end(stage, 0.1 + (later_s if killed else 0.0), member, -signal.SIGKILL if killed else GROUP_STATUS)
    outcome = play(stage, 0.0, 0.05, 5.0)
    (fault,) = outcome.faults
    assert f"language0.{victim} ended with status -9; 2 requests failed by it" in fault
    assert "no language rank was left, so 1 requests were not handed out any more" in outcome.ended_early


def test_two_members_that_somebody_kills_are_both_named() -> None:
    stage = Stage(language_tp=2)
    for member in stage.members(Side.LANGUAGE, 0):
        end(stage, 0.05, member, -signal.SIGKILL)
    told = play(stage, 0.1).faults
    assert ["language0.0 ended with status -9" in told[0], "language0.1 ended with status -9" in told[1]] == [True] * 2


def test_those_that_leave_because_of_a_planned_death_are_no_fault() -> None:
    stage = Stage(language_tp=2, language_instances=2)
    end(stage, 0.1, LANGUAGE, GROUP_STATUS)
    ranks: Any = stage
    requests = [
        Request(1, 0.0, 100, language_instance=1),
        Request(2, 0.3, 100),
        Request(3, 0.4, 100, language_instance=1),
    ]
    stage.partner = dict.fromkeys((1, 3), RankId(Side.LANGUAGE, 1, 0))
    plan = [Kill(rank=RankId(Side.LANGUAGE, 0, 1), time_s=0.05)]
    outcome = Router(ranks, plan, None, None, PATIENCE).run(requests)
    assert (outcome.faults, outcome.ended_early, outcome.failed_rooms) == ((), "", {2})


@pytest.mark.parametrize("tp", [1, 2])
def test_ranks_with_the_status_of_those_left_alone_whom_nobody_left_are_named(tp: int) -> None:
    """A user's sizing policy can end its process with any status."""
    stage = Stage(language_tp=tp)
    for member in stage.members(Side.LANGUAGE, 0):
        stage.played[member].concludes = False
        end(stage, 0.1, member, GROUP_STATUS)
    outcome = play(stage, 0.0, 5.0)
    (fault,) = outcome.faults
    alone = f"language0.0 ended with status {GROUP_STATUS}: its last words"
    both = f"all ranks of language0 ended with status {GROUP_STATUS}, as if another one had ended first: its last words"
    assert (alone if tp == 1 else both) in fault
    assert fault.endswith("; 1 request failed by it")
    assert "no language rank was left, so 1 requests were not handed out any more" in outcome.ended_early


@pytest.mark.parametrize("gives_up", [True, False])
def test_requests_with_which_nothing_happens_are_given_up(*, gives_up: bool) -> None:
    stage = Stage()
    rank = stage.played[LANGUAGE]
    rank.concludes, rank.gives_up = False, gives_up
    outcome = play(stage, 0.0, 0.1)
    assert outcome.failed_rooms == {1, 2}
    (fault,) = outcome.faults
    assert "nothing happened for" in fault
    assert fault.endswith("although all ranks were there; 2 requests failed by it")
    reasons = {one.reason for one in outcome.conclusions if one.rank_id == LANGUAGE}
    assert all(reason.startswith("given up by the router") for reason in reasons)


def test_a_long_pass_is_waited_for() -> None:
    stage = Stage()
    rank = stage.played[LANGUAGE]
    rank.concludes, rank.expects_s = False, 1.5
    stage.at(1.5, lambda: rank.conclude(1, Status.Success))
    outcome = play(stage, 0.0)
    assert (outcome.succeeded_rooms, outcome.faults) == ({1}, ())


@pytest.mark.parametrize("how", ["silent", "mute", "gone", "killed"])
def test_a_rank_without_a_report_at_the_end_is_named_and_the_rest_is_kept(how: str) -> None:
    stage = Stage()
    rank = stage.played[LANGUAGE]
    rank.reports = False

    def strike(command: Command) -> None:
        if isinstance(command, Stop):
            rank.silent = how == "silent"
            rank.process.status = {"gone": 0, "killed": -9}.get(how)
        else:
            PlayedRank.take(rank, command)

    rank.take = strike  # type: ignore[method-assign]
    outcome = play(stage, 0.0, 0.1)
    assert outcome.succeeded_rooms == {1, 2}
    (fault,) = outcome.faults
    told = {
        "silent": "language0.0 had given no sign of life",
        "mute": "language0.0 gave no account of the run",
        "gone": "language0.0 ended with status 0 before it had given its account",
        "killed": "language0.0 ended with status -9 before it had given its account",
    }
    assert told[how] in fault
    delivered = [one.room for one in outcome.records if one.event is Event.DELIVERED]
    assert delivered == [1, 2], "what it had told is kept"


def test_a_rank_that_does_not_leave_is_ended() -> None:
    stage = Stage()
    stage.played[ENCODE].process.stays = True
    outcome = play(stage, 0.0)
    assert (outcome.succeeded_rooms, outcome.faults) == ({1}, ())
    assert [one.what for one in outcome.incidents] == ["encode0.0 did not leave within 0.3 s and was ended"]


@pytest.mark.parametrize(
    ("report", "sentence"),
    [
        ({"rooms_left": 2}, "language0.0 ended with 2 rooms that were not over"),
        ({"blocks_lost": 3}, "language0.0 ended with 3 blocks missing in its pool"),
        ({"blocks_lost": -1}, "language0.0 ended with -1 blocks missing in its pool"),
        ({"verified_rooms": 1}, "language0.0 delivered 2 embeddings and compared 1"),
        ({"verified_rooms": 1, "differences": ["room 2: wrong"]}, None),
    ],
)
def test_an_account_that_is_not_even_is_told(report: dict[str, Any], sentence: str | None) -> None:
    stage = Stage()
    stage.played[LANGUAGE].report = report
    outcome = play(stage, 0.0, 0.1)
    assert outcome.violations == (() if sentence is None else (sentence,))
    stage = Stage()
    stage.verify = False
    stage.played[LANGUAGE].report = {"verified_rooms": 0}
    assert play(stage, 0.0).violations == ()


def test_a_command_that_makes_no_sense_ends_the_run_and_not_its_results() -> None:
    stage = Stage()
    stage.at(0.15, lambda: stage.say(Stop()))
    outcome = play(stage, 0.0, 0.1, 5.0)
    assert outcome.succeeded_rooms == {1, 2}
    assert "a rank sent Stop in the middle of the run" in outcome.faults[0]
    assert "the run was broken off, so 1 requests were not handed out any more" in outcome.ended_early


def test_rooms_in_quarantine_and_rooms_left_are_told_each_with_its_rank() -> None:
    stage = Stage()
    stage.played[LANGUAGE].report = {"rooms_quarantined": 2, "quarantined": [4, 7], "rooms_left": 1, "left": [5]}
    outcome = play(stage, 0.0)
    assert (outcome.quarantined, outcome.left) == ({(4, LANGUAGE), (7, LANGUAGE)}, {(5, LANGUAGE)})


def test_clocks_and_counters_that_are_missing_at_the_end_are_named() -> None:
    stage = Stage()
    stage.unmeasured = [LANGUAGE]
    told = iter([{"one": {"tcp:lo": 1}, "two": {"tcp:lo": 1}}, {"one": {"tcp:lo": 5}}])
    stage.hosts = SimpleNamespace(
        sent_counters=lambda: next(told), address_of=lambda rank_id: "one" if rank_id == ENCODE else "two"
    )
    for rank_id, size in ((ENCODE, 3), (LANGUAGE, 9)):
        record = (0.0, 1, Event.WRITE_DONE, None, 0, size, "")
        stage.say(Records(rank_id, 0, [record]))
    outcome = play(stage, 0.0)
    assert [one.what for one in outcome.incidents] == [
        "the clock of language0.0 was not measured again, so its drift is unknown"
    ]
    assert outcome.proof.evidence == [
        "on one, while 3 bytes were written, tcp:lo rose by 4 bytes",
        "on two, 9 bytes were written; it did not say what it sent meanwhile",
    ]
    assert outcome.faults == ()


def test_a_proof_that_fails_after_the_run_is_told_beside_all_that_was_done() -> None:
    """Rdma was asked for and claimed, its counters stand still and the network carried the bytes."""
    stage = Stage()
    stage.proofs = {ENCODE: TransportProof(requested="rdma", actual="rdma", evidence=["the engine's word"])}
    told = iter([{"one": {"tcp:eth0": 1, "rdma:a/1": 7}}, {"one": {"tcp:eth0": 10, "rdma:a/1": 7}}])
    stage.hosts = SimpleNamespace(sent_counters=lambda: next(told), address_of=lambda rank_id: "one")
    stage.say(Records(ENCODE, 0, [(0.0, 1, Event.WRITE_DONE, None, 0, 9, "")]))
    outcome = play(stage, 0.0, 0.1)
    assert outcome.succeeded_rooms == {1, 2}
    assert {record.room for record in outcome.records} == {1, 2}
    assert (outcome.proof.requested, outcome.proof.actual) == ("rdma", "tcp")
    assert outcome.faults == (
        "the data of an rdma engine went over tcp (while 9 bytes were written, rdma:a/1 rose by 0, tcp:eth0 by 9)",
    )


FULL = OSError(errno.ENOSPC, "No space left on device", "/tmp")
IN_WORDS = "No space left on device (/tmp)"


def fail(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (FULL, IN_WORDS),
        (EngineError("encode1.0 takes no commands any more"), "encode1.0 takes no commands any more"),
        (zmq.ZMQError(zmq.EAGAIN), "Resource temporarily unavailable"),
    ],
)
def test_what_goes_wrong_in_the_routers_own_work_ends_the_run_and_not_its_results(error: Exception, told: str) -> None:
    stage = Stage()
    stage.at(0.15, lambda: fail(error))
    outcome = play(stage, 0.0, 0.1, 5.0)
    assert outcome.succeeded_rooms == {1, 2}
    assert [fault.partition(" s ")[2] for fault in outcome.faults] == [told]
    assert "the run was broken off, so 1 requests were not handed out any more" in outcome.ended_early
    assert len(outcome.usage) + len(outcome.violations) == 0


def test_what_goes_wrong_while_the_accounts_are_collected_costs_those_alone() -> None:
    stage = Stage()
    take = stage.played[ENCODE].take

    def strike(command: Command) -> None:
        if isinstance(command, Stop):
            fail(FULL)
        take(command)

    stage.played[ENCODE].take = strike  # type: ignore[method-assign]
    outcome = play(stage, 0.0, 0.1)
    assert outcome.succeeded_rooms == {1, 2}
    assert outcome.verified_rooms == 2
    assert [fault.partition(" s ")[2] for fault in outcome.faults] == [
        f"the ranks could not give their reports: {IN_WORDS}"
    ]
    assert outcome.cut_short == {ENCODE}
    assert stage.played[ENCODE].process.got == [signal.SIGKILL]


@pytest.mark.parametrize(
    ("error", "told"),
    [(FULL, IN_WORDS), (EngineError("cannot listen at here:1: it is in use"), "cannot listen at here:1: it is in use")],
)
@pytest.mark.parametrize("begun", [0, 1])
def test_an_instance_that_cannot_be_started_again_stays_down_and_costs_nothing_else(
    error: Exception, told: str, begun: int
) -> None:
    """The first of its ranks may have been started already."""
    stage = Stage(encode_instances=2, encode_tp=2)
    members = stage.members(Side.ENCODE, 1)

    def start(side: Side, instance: int) -> None:
        for rank_id in members[:begun]:
            stage.played[rank_id] = PlayedRank(rank_id, stage)
            stage.children[rank_id] = Child(rank_id, 1, stage.played[rank_id].process)
        fail(error)

    stage.on_start = start
    requests = [Request(room, 0.1 * room, 100, encode_instance=room % 2) for room in range(1, 7)]
    ranks: Any = stage
    plan = [Restart(side=Side.ENCODE, instance=1, down_s=0.05, time_s=0.15)]
    outcome = Router(ranks, plan, None, None, PATIENCE).run(requests)
    assert (outcome.succeeded_rooms, outcome.ended_early) == ({1, 2, 4, 6}, "")
    (fault,) = outcome.faults
    assert f"encode1 could not be started again: {told}; 2 requests failed by it" in fault
    assert [stage.played[rank_id].process.got for rank_id in members] == [[signal.SIGKILL]] * 2


def test_a_process_that_does_not_end_keeps_its_instance_from_coming_back() -> None:
    stage = Stage(encode_instances=2)
    rank_id = RankId(Side.ENCODE, 1, 0)
    stage.played[rank_id].process.stays = True
    ranks: Any = stage
    plan = [Restart(side=Side.ENCODE, instance=1, down_s=0.0, time_s=0.0)]
    outcome = Router(ranks, plan, None, None, PATIENCE).run([Request(1, 0.3, 100)])
    assert outcome.succeeded_rooms == {1}
    assert "encode1 could not be started again: a process of it had not ended after 0.3 s" in outcome.faults[0]


def test_a_closed_loop_ends_as_well() -> None:
    stage = Stage()
    stage.played[ENCODE].silent = True
    outcome = play(stage, *([0.0] * 10), concurrency=2)
    assert len(outcome.requests) == 2
    assert "so 8 requests were not handed out any more" in outcome.ended_early


@pytest.mark.parametrize("stuck", [True, False])
def test_deadlocks_are_those_that_the_probe_sees_also_under_traffic(*, stuck: bool) -> None:
    """Requests come all the time, faster than looks. That rooms time out together does not make a deadlock."""
    stage = Stage()
    rank = stage.played[LANGUAGE]
    rank.concludes = False

    def describe(number: int) -> None:
        one, two = (1, 0), (2, 0)
        held = [(one, 1), (two, 1)] if stuck else []
        queues = [[(one, 1), (two, 1)]] if stuck else []
        stage.say(Holdings(LANGUAGE, number, held, queues, [(one, 2), (two, 2)], [(key, 7) for key, _ in held]))
        stage.say(Holdings(ENCODE, number, [], [], [], []))

    def answer(command: Command) -> None:
        if isinstance(command, Describe):
            describe(command.number)
        PlayedRank.take(rank, command)

    rank.take = answer  # type: ignore[method-assign]
    if not stuck:
        for room in range(1, 31):
            stage.at(1.6, lambda room=room: rank.conclude(room, Status.Failed, "timed out while waiting for blocks"))  # type: ignore[misc]
    outcome = play(stage, *(0.05 * number for number in range(30)))
    assert outcome.deadlock is stuck
    if stuck:
        assert "room 1 holds 1 of language0 and waits for 1 of language0; room 2 holds 1" in outcome.deadlocks[0]
        assert len(outcome.deadlocks) == 1


def open_in(folder: Path) -> list[str]:
    """The files in a folder that this process has open, with a name or without."""
    links = []
    for one in Path("/proc/self/fd").glob("*"):
        with contextlib.suppress(OSError):
            links.append(str(one.readlink()))
    return [link for link in links if link.startswith(f"{folder}/")]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_a_run_that_raises_leaves_no_file_open_also_while_somebody_holds_the_exception(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(real_spool, "_AT_ONCE", 1)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    opened: list[str] = []

    def stop(_count: int) -> None:
        opened.extend(open_in(tmp_path))
        raise RuntimeError("the caller's progress bar broke")

    ranks: Any = Stage()
    with pytest.raises(RuntimeError, match="progress bar") as held:
        Router(ranks, (), stop, None, PATIENCE).run([Request(room, 0.05 * room, 100) for room in range(1, 4)])
    assert opened
    assert held.value.__traceback__ is not None
    assert open_in(tmp_path) == []
