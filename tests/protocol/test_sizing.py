"""Sizing policies: what they answer, what they refuse, and how small a new one is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bufferlab.protocol import sizing
from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.protocol.messages import LanguageRequest
from bufferlab.protocol.sizing import POLICIES, CompletedView, Fixed, Oracle, Quantile, RequestView, SizingPolicy
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side


def view(true_tokens: int | None = None, text_tokens: int = 0) -> RequestView:
    return RequestView(LanguageRequest(1, 0, text_tokens=text_tokens, true_tokens=true_tokens), 4, 8, 8)


def learn(policy: SizingPolicy, lengths: list[int]) -> None:
    for length in lengths:
        policy.completed(CompletedView(LanguageRequest(1, 0), length, 1))


def test_fixed_never_learns() -> None:
    policy = Fixed(100)
    learn(policy, [7, 1000])
    assert policy.first_tokens(view(7)) == 100


def test_the_oracle_answers_the_truth_and_needs_it() -> None:
    assert Oracle().first_tokens(view(123)) == 123
    with pytest.raises(ValueError, match="room 1 came without its true length"):
        Oracle().first_tokens(view())


def test_only_the_oracle_sees_the_truth() -> None:
    assert [name for name, policy in POLICIES.items() if policy.sees_true_length] == ["oracle"]
    helping = {"__init__", "base", "clients", "options", "places", "registry", "supervised", "views", "window"}
    files = {path.stem for path in Path(sizing.__path__[0]).glob("*.py")} - helping
    assert {policy.__module__.rpartition(".")[2] for policy in POLICIES.values()} == files, "one file is a policy"
    assert next(iter(POLICIES)) == "fixed"


LENGTHS = st.lists(st.integers(1, 1000), min_size=1, max_size=60)


@given(lengths=LENGTHS, sixtyfourths=st.integers(1, 64), window=st.integers(1, 20))
def test_the_quantile_is_numpys_inverted_cdf_of_the_window(lengths: list[int], sixtyfourths: int, window: int) -> None:
    q = sixtyfourths / 64  # exact, so that both find the same rank
    policy = Quantile(tokens=5, q=q, window=window, warmup=1)
    learn(policy, lengths)
    assert policy.first_tokens(view()) == np.quantile(lengths[-window:], q, method="inverted_cdf")


@given(lengths=LENGTHS, q=st.floats(0, 1, exclude_min=True), window=st.integers(1, 20))
def test_a_share_of_q_of_the_window_fitted(lengths: list[int], q: float, window: int) -> None:
    policy = Quantile(q=q, window=window, warmup=1)
    learn(policy, lengths)
    recent = lengths[-window:]
    answer = policy.first_tokens(view())
    assert answer in recent
    assert sum(length <= answer for length in recent) >= q * len(recent)


def test_the_quantile_answers_the_default_until_it_is_warm() -> None:
    policy = Quantile(tokens=50, q=1.0, window=4, warmup=3)
    answers = []
    for length in (9, 8, 7, 6, 5, 4):
        answers.append(policy.first_tokens(view()))
        learn(policy, [length])
    assert answers == [50, 50, 50, 9, 9, 8]


@pytest.mark.parametrize(
    ("sizing", "options", "reason"),
    [
        ("fixed", {"tokens": 0}, "tokens is 0"),
        ("quantile", {"tokens": 0}, "tokens is 0"),
        ("quantile", {"q": 0.0}, "q is 0.0"),
        ("quantile", {"q": 1.01}, "q is 1.01"),
        ("quantile", {"q": float("nan")}, "q is nan"),
        ("quantile", {"warmup": 0}, "warmup is 0"),
        ("quantile", {"window": 8, "warmup": 9}, "warmup is 9"),
        ("quantile", {"window": 0, "warmup": 0}, "warmup is 0"),
        ("fixed", {"size": 1}, "sizing policy fixed: .*size"),
        ("oracle", {"tokens": 1}, "sizing policy oracle"),
        ("per_client_quantile", {"clients": 0}, "clients is 0"),
        ("per_client_quantile", {"warmup": 999}, "warmup is 999"),
        ("ewma_margin", {"margin": -1.0}, "margin is -1"),
        ("ewma_margin", {"margin": float("inf")}, "margin is inf"),
        ("ewma_margin", {"gain": 0.0}, "gain is 0"),
        ("ewma_margin", {"deviation_gain": 1.5}, "deviation_gain is 1.5"),
        ("ewma_margin", {"warmup": 0}, "warmup is 0"),
        ("hint_regression", {"ridge": 0.0}, "ridge is 0"),
        ("hint_regression", {"q": 0.0}, "q is 0"),
        ("newsvendor", {"holding_s": -1.0}, "holding_s is -1"),
        ("newsvendor", {"tokens_per_resume": 0}, "tokens_per_resume is 0"),
        ("newsvendor", {"resume_s": 0.0, "waiting": 0.0}, "resume_s is 0.0, it must be above 0 when"),
        ("pressure_aware", {"start": 1.0}, "start is 1.0"),
        ("pressure_aware", {"least": 0.0}, "least is 0"),
        ("pressure_aware", {"base": "oracle"}, "base is 'oracle', it must be one of fixed, ewma_margin, "),
        ("pressure_aware", {"base": "pressure_aware"}, "base is 'pressure_aware', it must be one of "),
        ("pressure_aware", {"base_options": {"q": 1}}, "base_options is {'q': 1}, but sizing policy fixed"),
        ("magic", {}, "sizing policy 'magic' must be one of fixed, ewma_margin, .*or the place of your own"),
        ("quantil", {}, r"did you mean quantile\?"),
    ],
)
def test_bad_parameters_are_refused_with_a_reason(sizing: str, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Scenario(block_tokens=4, hidden=1, sizing=sizing, sizing_options=options).make_sizing()


class TextTimesTwo(SizingPolicy):
    """Twice the text, or twice the longest request so far: a new policy is this long."""

    name: ClassVar[str] = "text_times_two"

    def __init__(self) -> None:
        self.longest = 0

    def first_tokens(self, view: RequestView) -> int:
        return 2 * max(view.request.text_tokens, self.longest, 1)

    def completed(self, view: CompletedView) -> None:
        self.longest = max(self.longest, view.total_tokens)


def test_a_new_policy_is_a_small_class(stage: Callable[..., Any]) -> None:
    world = stage(TextTimesTwo, language_tp=2)
    for room in (1, 2):
        world.submit(room, 12)
        world.run_until_quiet()
        assert world.outcomes(room) == [Status.Success] * 3
    first = {
        (record.room, record.rank_id): record.tokens
        for record in reversed(world.records)
        if record.event == "allocated"
    }
    # 2 tokens asked for at first: one block of 4; then 24 of the 32 tokens of the pool. Each rank has its own copy.
    for rank in range(2):
        assert first[1, RankId(Side.LANGUAGE, 0, rank)] == 4
        assert first[2, RankId(Side.LANGUAGE, 0, rank)] == 24


def test_a_policy_sees_the_agreed_pool_and_is_clipped_to_it(stage: Callable[..., Any]) -> None:
    seen: list[RequestView] = []

    class Greedy(Fixed):
        def first_tokens(self, view: RequestView) -> int:
            seen.append(view)
            return 10**9

    world = stage(Greedy, language_blocks=3)
    world.submit(1, 5)
    world.run_until_quiet()
    assert [(look.block_tokens, look.free_blocks, look.pool_blocks) for look in seen] == [(4, 3, 3)]
    assert [record.tokens for record in world.records if record.event == "allocated"] == [12]
    assert world.quiescent
