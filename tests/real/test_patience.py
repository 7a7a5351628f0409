"""When a run waits no longer, and what it says of the troubles it had."""

from __future__ import annotations

import pytest

from bufferlab.protocol.topology import RankId, Side
from bufferlab.real.control.spec import Heartbeats
from bufferlab.real.run.commands import Alive
from bufferlab.real.run.patience import ASK_S, Patience, Watch
from bufferlab.real.run.troubles import Troubles

ONE, TWO = RankId(Side.ENCODE, 0, 0), RankId(Side.LANGUAGE, 0, 0)
PATIENCE = Patience(silence_s=10.0, no_progress_s=20.0)
STEP_S = 0.25


class Run:
    """A clock and ranks that answer, some of them: who is asked at a look says where its loop stands."""

    def __init__(self, *answering: RankId) -> None:
        self.now_s = 0.0
        self.watch = Watch(PATIENCE, 0.0)
        self.answering = set(answering)
        self.events = 0
        self.expects_s: float | None = None

    def pass_time(self, lasts_s: float, *wanted: RankId) -> None:
        until_s = self.now_s + lasts_s
        while self.now_s < until_s:
            self.now_s += STEP_S
            for rank_id in self.watch.look(wanted, self.now_s):
                if rank_id in self.answering:
                    self.watch.heard(rank_id, self.now_s)
                    self.watch.answered(Alive(rank_id, self.events, self.expects_s), self.now_s)

    def stands_still(self, expected_s: float = 0.0) -> bool:
        return self.watch.stands_still(expected_s, self.now_s)


def test_the_rank_that_does_not_answer_is_silent_and_the_others_are_not() -> None:
    run = Run(ONE)
    run.pass_time(ASK_S + PATIENCE.silence_s, ONE, TWO)
    assert run.watch.silent(run.now_s) == {}
    run.pass_time(2 * STEP_S, ONE, TWO)
    assert run.watch.silent(run.now_s).keys() == {TWO}
    assert not run.stands_still(), "whoever does not answer is no deadlock_probe"


def test_silence_counts_only_while_somebody_waits() -> None:
    run = Run()
    run.pass_time(ASK_S + 2.0, TWO)
    run.pass_time(1000.0)
    run.pass_time(ASK_S + PATIENCE.silence_s - STEP_S, TWO)
    assert run.watch.silent(run.now_s) == {}


def test_who_was_stopped_itself_does_not_take_what_it_missed_for_silence() -> None:
    run = Run()
    run.pass_time(ASK_S + STEP_S, TWO)
    run.now_s += 100.0
    run.pass_time(PATIENCE.silence_s - STEP_S, TWO)
    assert run.watch.silent(run.now_s) == {}


def test_one_that_goes_on_was_silent_for_so_long() -> None:
    run = Run()
    run.pass_time(ASK_S + 5.0, TWO)
    assert run.watch.heard(TWO, run.now_s) == pytest.approx(ASK_S + 5.0, abs=2 * STEP_S)
    assert run.watch.heard(TWO, run.now_s + 1.0) == 0.0


def test_nothing_stands_still_while_something_is_recorded_or_expected() -> None:
    run = Run(ONE, TWO)
    for _ in range(10):
        run.events += 1
        run.pass_time(PATIENCE.no_progress_s - ASK_S, ONE, TWO)
        assert not run.stands_still()
    run.expects_s = 100.0  # a long pass, of which nothing is heard until it is over
    run.pass_time(PATIENCE.no_progress_s + 2 * ASK_S, ONE, TWO)
    assert not run.stands_still()
    run.expects_s = None
    run.pass_time(100.0, ONE, TWO)
    assert not run.stands_still()
    run.pass_time(PATIENCE.no_progress_s, ONE, TWO)
    assert run.stands_still()


def test_what_is_expected_again_and_again_and_moves_nothing_is_waited_for_once() -> None:
    run = Run(ONE)
    run.expects_s = 5.0
    ends_s = []
    while not ends_s and run.now_s < 100.0:
        run.pass_time(STEP_S, ONE)
        if run.stands_still():
            ends_s.append(run.now_s)
    assert 2 * PATIENCE.no_progress_s < ends_s[0] < 2 * PATIENCE.no_progress_s + 10.0


def test_the_callers_own_plans_are_waited_for() -> None:
    run = Run(ONE)
    run.pass_time(PATIENCE.no_progress_s + 2 * ASK_S, ONE)
    assert not run.stands_still(expected_s=500.0)
    run.pass_time(500.0 + PATIENCE.no_progress_s, ONE)
    assert run.stands_still(expected_s=500.0)


def test_patience_is_longer_than_any_timer() -> None:
    assert Patience.of(Heartbeats(), None) == Patience(silence_s=30.0, no_progress_s=90.0)
    patience = Patience.of(Heartbeats(interval_s=20.0, failures=3), 600.0)
    assert (patience.silence_s, patience.no_progress_s) == (140.0, 690.0)
    with pytest.raises(ValueError, match=r"silence_s is 0, it must be more than 0"):
        Patience(silence_s=0)


def test_troubles_say_what_they_cost() -> None:
    troubles = Troubles()
    assert not troubles
    troubles.add(1.0, "encode0.0 ended with status 0", rank_id=ONE, struck=[(1, 0), (2, 0)])
    troubles.add(2.0, "language0.0 had given no sign of life for 5.0 s and went on", rank_id=TWO, passed=True)
    troubles.strike((Side.ENCODE, 0), (3, 0))
    troubles.strike((Side.LANGUAGE, 0), (3, 0))
    assert troubles.befell((Side.ENCODE, 0))
    assert not troubles.befell((Side.LANGUAGE, 0))
    assert troubles.sentences({(2, 0), (3, 0), (4, 0)}) == (
        "at 1.0 s encode0.0 ended with status 0; 2 requests failed by it",
    )
    troubles.add(3.0, "language0.0 had given no sign of life for 6.0 s and went on", struck=[(4, 0)], passed=True)
    assert troubles.sentences({(4, 0)}) == (
        "at 1.0 s encode0.0 ended with status 0",
        "at 3.0 s language0.0 had given no sign of life for 6.0 s and went on; 1 request failed by it",
    )
