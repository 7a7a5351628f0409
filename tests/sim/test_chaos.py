"""Random runs with random faults keep every invariant, and would not if the protocol were broken."""

import pickle
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from bufferlab.protocol.agreement import agree
from bufferlab.protocol.allocator import BlockPool
from bufferlab.protocol.disciplines import DISCIPLINES
from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.protocol.encode import EncodeRank, EncodeRoom
from bufferlab.protocol.language import LanguageRank, LanguageRoom
from bufferlab.protocol.language_phases import LanguagePhase
from bufferlab.protocol.messages import Abort, Action, Iteration
from bufferlab.sim.chaos import ChaosCase, ChaosOutcome, describe, draw_case, run_case, run_seed
from bufferlab.sim.cluster import iterations
from bufferlab.sim.faults import FaultPlan
from bufferlab.sim.network.link import LinkProfile

KINDS = {
    "client abort", "death", "doubled message", "failed write", "false alarm", "hang", "restart", "late message", "late request",
    "late write", "lost message", "slow rank",
}  # fmt: skip


def violated(seeds: range) -> list[ChaosOutcome]:
    return [outcome for outcome in map(run_seed, seeds) if outcome.violations]


def test_some_hundred_seeds_are_clean() -> None:
    outcomes = [run_seed(seed) for seed in range(300)]
    violations = [describe(outcome) for outcome in outcomes if outcome.violations]
    assert not violations, "\n".join(violations)
    # The runs are no use unless much happens in them and much is served nevertheless.
    assert set().union(*(outcome.faults for outcome in outcomes)) == KINDS
    requests, succeeded = (sum(getattr(one, field) for one in outcomes) for field in ("requests", "succeeded"))
    assert 0.3 < succeeded / requests < 0.9
    assert sum(not outcome.faults for outcome in outcomes) > 10


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", range(1000, 11000, 1000))
def test_thousands_of_seeds_are_clean(first: int) -> None:
    violations = [describe(outcome) for outcome in violated(range(first, first + 1000))]
    assert not violations, "\n".join(violations)


def test_a_seed_is_a_pure_function_and_travels() -> None:
    for seed in (3, 12, 34):
        outcome = run_seed(seed)
        assert run_seed(seed) == outcome
        assert pickle.loads(pickle.dumps(outcome)) == outcome
    assert run_seed(4) != run_seed(5)
    assert pickle.loads(pickle.dumps(run_seed)) is run_seed


def test_what_is_drawn_covers_the_ground() -> None:
    cases = [draw_case(seed) for seed in range(400)]
    assert {case.scenario.discipline for case in cases} == set(DISCIPLINES)
    assert {(case.scenario.encode_tp, case.scenario.language_tp) for case in cases} == {
        (encode, language) for encode in (1, 2, 3) for language in (1, 2, 3)
    }
    assert {case.scenario.sizing for case in cases} == {"fixed", "quantile", "oracle"}
    assert {case.scenario.resume_first for case in cases} == {True, False}
    assert all(case.scenario.timeout_s is not None and 5 <= len(case.requests) <= 60 for case in cases)
    calm = Counter((case.calm, case.plan == FaultPlan(seed=case.plan.seed)) for case in cases)
    assert all(calm[key] > 5 for key in ((True, True), (True, False), (False, False)))
    for wanted in (
        lambda case, tokens, first: tokens == 0,
        lambda case, tokens, first: tokens == first,
        lambda case, tokens, first: tokens == first + 1,
        lambda case, tokens, first: tokens > case.scenario.language_blocks * case.scenario.block_tokens,
    ):
        assert any(
            wanted(case, request.total_tokens, -(-case.scenario.sizing_options["tokens"] // case.scenario.block_tokens) * case.scenario.block_tokens)
            for case in cases if case.scenario.sizing == "fixed" for request in case.requests
        )  # fmt: skip


def test_an_outcome_tells_how_to_see_it_again() -> None:
    outcome = run_seed(3)
    assert describe(outcome).startswith(f"seed 3: {outcome.drawn}\n  happened: ")
    assert "replay" not in describe(outcome)
    told = describe(msgspec.structs.replace(outcome, violations=("a", "b")))
    assert "VIOLATION: a\n" in told
    assert told.endswith("replay: bufferlab check --random 1 --seed 3")


# --- a broken protocol is caught -----------------------------------------------------------------------------------

Break = Callable[[pytest.MonkeyPatch], None]


def release_instead_of_fencing(patch: pytest.MonkeyPatch) -> None:
    concluded = LanguageRank._conclude_failed

    def broken(self: LanguageRank, room: LanguageRoom, reason: str, now: float, actions: list[Action]) -> None:
        room.landing = self._landings[LanguagePhase.AWAITING_RESUME]
        concluded(self, room, reason, now, actions)

    patch.setattr(LanguageRank, "_conclude_failed", broken)


def forget_the_fence_of_the_pool(patch: pytest.MonkeyPatch) -> None:
    def fence(self: BlockPool, blocks: tuple[int, ...], owner: object) -> None:
        for block in blocks:
            self._owner[block] = None
            self._fenced[block] = owner
            self._return([block, block + 1])

    patch.setattr(BlockPool, "fence", fence)


def answer_quiet_while_writing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(EncodeRoom, "quiet_to", lambda self, destination: True)


def release_the_source_while_writing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(EncodeRoom, "source_in_use", property(lambda self: self.encoding))


def tell_before_all_hold(patch: pytest.MonkeyPatch) -> None:
    done = EncodeRank._on_write_done

    def broken(self: EncodeRank, event: Any, now: float, actions: list[Action]) -> None:
        room = self.rooms.get((event.room, event.incarnation))
        if room is not None and event.ok:
            room.landed.update(room.destinations)
            room.landed.discard(event.destination)
        done(self, event, now, actions)

    patch.setattr(EncodeRank, "_on_write_done", broken)


def act_on_own_progress(patch: pytest.MonkeyPatch) -> None:
    def hold_iteration(members: list[Any]) -> Iteration:
        proposal = agree([member.proposal() for member in members])
        candidates = tuple(members[0].candidates())
        return Iteration(*proposal, tuple(zip(candidates, members[0].progress_of(candidates), strict=True)))

    patch.setattr(iterations, "hold_iteration", hold_iteration)


def never_repeat_a_cancel(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("bufferlab.protocol.language.CANCEL_RETRY_S", None)


def conclude_twice(patch: pytest.MonkeyPatch) -> None:
    reaped = EncodeRank._conclude_success

    def broken(self: EncodeRank, room: EncodeRoom, now: float, actions: list[Action]) -> None:
        reaped(self, room, now, actions)
        actions.append(actions[-1])

    patch.setattr(EncodeRank, "_conclude_success", broken)


@pytest.mark.interpreted
@pytest.mark.parametrize(
    ("broken", "word"),
    [
        (release_instead_of_fencing, "free"),
        (forget_the_fence_of_the_pool, "owned by"),
        (answer_quiet_while_writing, "landing"),
        (release_the_source_while_writing, "source block"),
        (tell_before_all_hold, "copies block"),
        (act_on_own_progress, ""),
        (never_repeat_a_cancel, "is left with"),
        (conclude_twice, "concludes Success on encode"),
    ],
)  # fmt: skip
def test_a_broken_core_is_caught(broken: Break, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    for seed in range(150):
        if any(word in violation for violation in run_seed(seed).violations):
            return
    pytest.fail("150 seeds saw nothing")


@pytest.mark.interpreted
def test_an_exception_of_a_core_is_a_violation_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: LanguageRank, *_: object) -> None:
        raise KeyError("gone")

    monkeypatch.setattr(LanguageRank, "_deliver", broken)
    link = LinkProfile(
        name="test", latency_s=0.0, per_segment_s=0.0, bandwidth_Bps=1e9, control_latency_s=0.0, copy_bandwidth_Bps=1e9
    )
    scenario = Scenario(block_tokens=4, hidden=8, sizing_options={"tokens": 8}, timeout_s=1.0)
    outcome = run_case(
        ChaosCase(scenario=scenario, requests=(Request(0, 0.0, 4),), link=link, plan=FaultPlan(), calm=True)
    )
    assert any("KeyError in broken: 'gone'" in violation for violation in outcome.violations)
    assert (outcome.succeeded, outcome.failed) == (0, 1)


@pytest.mark.interpreted
def test_an_abort_that_nobody_asked_for_is_seen_in_a_calm_run(monkeypatch: pytest.MonkeyPatch) -> None:
    request = EncodeRank._on_request

    def broken(self: EncodeRank, event: Any, now: float, actions: list[Action]) -> None:
        request(self, event, now, actions)
        self._on_abort(Abort(event.room, event.incarnation), now, actions)

    calm = next(seed for seed in range(100) if draw_case(seed).calm and draw_case(seed).scenario.discipline == "window")
    assert run_seed(calm).violations == ()
    monkeypatch.setattr(EncodeRank, "_on_request", broken)
    assert any("fails without a reason" in violation for violation in run_seed(calm).violations)
