"""What each sizing policy promises: answers that are sane whatever it is told, and that it learns what it should."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bufferlab.protocol.messages import LanguageRequest
from bufferlab.protocol.sizing import (
    POLICIES,
    CompletedView,
    EwmaMargin,
    Fixed,
    HintRegression,
    Newsvendor,
    PerClientQuantile,
    PressureAware,
    Quantile,
    RequestView,
    SizingPolicy,
    make_policy,
)
from bufferlab.protocol.sizing.clients import Clients
from bufferlab.protocol.sizing.regression import EXPECTED, solved
from bufferlab.protocol.sizing.window import Window

BLOCK, POOL = 16, 64


def asked(policy: SizingPolicy, free: int = POOL, block: int = BLOCK, pool: int = POOL, **request: Any) -> int:
    return policy.first_tokens(RequestView(LanguageRequest(1, 0, **request), block, free, pool))


def told(policy: SizingPolicy, length: int, **request: Any) -> None:
    policy.completed(CompletedView(LanguageRequest(1, 0, **request), length, 1))


def learn(policy: SizingPolicy, lengths: Iterable[int], **request: Any) -> None:
    for length in lengths:
        told(policy, length, **request)


# --- every policy ---

LEARNERS: dict[str, Callable[[], SizingPolicy]] = {
    "fixed": lambda: Fixed(100),
    "quantile": lambda: Quantile(100, window=8, warmup=2),
    "per_client_quantile": lambda: PerClientQuantile(100, window=8, warmup=2, clients=2),
    "ewma_margin": lambda: EwmaMargin(100, warmup=2),
    "ewma_margin per client": lambda: EwmaMargin(100, warmup=2, per_client=True, clients=2),
    "hint_regression": lambda: HintRegression(100, window=8, warmup=2),
    "newsvendor": lambda: Newsvendor(100, window=8, warmup=2),
    "pressure_aware": lambda: PressureAware(100, base="quantile", base_options={"window": 8, "warmup": 2}),
}

SIZES = st.integers(0, 200_000)
REQUESTS = st.fixed_dictionaries(
    {
        "text_tokens": SIZES,
        "images": st.integers(0, 64),
        "image_tokens_hint": SIZES,
        "client": st.sampled_from(["", "a", "b", "c"]),
    }
)
STEPS = st.lists(st.tuples(REQUESTS, st.integers(1, 400_000), st.integers(-8, POOL)), min_size=1, max_size=40)


def test_every_policy_of_the_package_is_held_to_these_tests() -> None:
    assert {name.partition(" ")[0] for name in LEARNERS} == set(POLICIES) - {"oracle"}


@pytest.mark.parametrize("make", LEARNERS.values(), ids=LEARNERS)
@given(steps=STEPS)
def test_answers_are_whole_positive_and_the_same_for_every_copy(make: Callable[[], SizingPolicy], steps: Any) -> None:
    """Whatever comes: two ranks' copies answer alike, and asking changes nothing."""
    first, second = make(), make()
    for request, length, free in steps:
        answer = asked(first, free, **request)
        assert type(answer) is int
        assert answer >= 1
        assert asked(first, free, **request) == answer
        assert asked(second, free, **request) == answer
        told(first, length, **request)
        told(second, length, **request)


@pytest.mark.parametrize("make", LEARNERS.values(), ids=LEARNERS)
@given(steps=STEPS)
def test_a_copy_of_a_policy_goes_its_own_way(make: Callable[[], SizingPolicy], steps: Any) -> None:
    """The checker of interleavings copies ranks, and with them their policies."""
    policy = make()
    for request, length, _ in steps:
        twin, before = copy.deepcopy(policy), asked(policy, **request)
        told(policy, length, **request)
        assert asked(twin, **request) == before


def is_learnt_by(make: Callable[[], SizingPolicy]) -> bool:
    policy = make()
    learn(policy, [7] * 100)
    return asked(policy) != 100


def test_every_policy_but_the_fixed_one_learns() -> None:
    assert [name for name, make in LEARNERS.items() if not is_learnt_by(make)] == ["fixed"]


@given(lengths=st.lists(st.integers(1, 10**6), min_size=4, max_size=30))
def test_answers_stay_within_what_was_seen(lengths: list[int]) -> None:
    """A quantile is one of the lengths, a newsvendor's answer one rounded up, an estimate at most its margin beyond."""
    for policy in (Quantile(warmup=1), PerClientQuantile(warmup=1)):
        learn(policy, lengths, client="a")
        assert asked(policy, client="a") in lengths
    vendor = Newsvendor(warmup=1)
    learn(vendor, lengths)
    assert asked(vendor) in {-(-length // BLOCK) * BLOCK for length in lengths}
    ewma = EwmaMargin(margin=2.0)
    learn(ewma, lengths)
    assert min(lengths) <= asked(ewma) <= max(lengths) + 2 * max(max(lengths) - min(lengths), max(lengths) // 2 + 1)


# --- the window ---


@given(st.lists(st.integers(-50, 50), max_size=60), st.integers(1, 12), st.integers(-3, 20))
def test_a_window_is_the_sorted_tail(values: list[int], size: int, rank: int) -> None:
    window = Window(size)
    for value in values:
        window.add(value)
    tail = sorted(values[-size:])
    assert len(window) == len(tail)
    if tail:
        assert window.order(rank) == tail[min(max(rank, 1), len(tail)) - 1]


# --- clients ---


@given(st.lists(st.sampled_from("abcdefgh"), max_size=60), st.integers(1, 6))
def test_the_clients_remembered_are_the_most_recent(names: list[str], most: int) -> None:
    clients: Clients[list[int]] = Clients(list, most)
    recent: list[str] = []
    for name in names:
        clients.touch(name)
        recent = [*(one for one in recent if one != name), name][-most:]
        assert {one for one in "abcdefgh" if clients.find(one) is not None} == set(recent)
    assert len(clients) == len(recent)


def test_a_request_without_a_client_is_nobodys() -> None:
    clients: Clients[list[int]] = Clients(list, 4)
    assert clients.touch("") is None
    assert len(clients) == 0


def test_memory_is_bounded_in_the_number_of_clients() -> None:
    policies = PerClientQuantile(clients=10, warmup=1), EwmaMargin(per_client=True, clients=10, warmup=1)
    for policy in policies:
        for number in range(500):
            told(policy, 5, client=f"client {number}")
        assert len(policy._clients) == 10  # type: ignore[arg-type]


# --- quantiles ---


def lognormal(seed: int, count: int, median: float = 1000.0, log_sd: float = 1.0) -> list[int]:
    draws = np.random.default_rng(seed).lognormal(math.log(median), log_sd, count)
    return np.maximum(np.rint(draws), 1).astype(int).tolist()


def coverage(policy: SizingPolicy, requests: Sequence[tuple[dict[str, Any], int]], skip: int) -> float:
    """The share of requests, after the first ``skip``, whose length fitted what the policy answered before."""
    fitted = []
    for request, length in requests:
        fitted.append(length <= asked(policy, **request))
        told(policy, length, **request)
    return float(np.mean(fitted[skip:]))


@pytest.mark.parametrize("q", [0.5, 0.9, 0.99])
def test_a_quantile_covers_its_share_of_what_comes_next(q: float) -> None:
    """The order statistic of rank ceil(q n) covers the next of n + 1 exchangeable lengths with probability
    ceil(q n) / (n + 1); what is observed lies within four standard errors of that."""
    count, window = 6000, 512
    lengths = [({"client": "a"}, length) for length in lognormal(1, count)]
    wanted = math.ceil(q * window) / (window + 1)
    error = math.sqrt(wanted * (1 - wanted) / (count - window))
    for policy in (Quantile(q=q, window=window), PerClientQuantile(q=q, window=window)):
        assert coverage(policy, lengths, skip=window) == pytest.approx(wanted, abs=4 * error)


def two_clients(count: int) -> list[tuple[dict[str, Any], int]]:
    """In turns a client of about 200 tokens and one of about 5000."""
    short, long = lognormal(2, count, 200, 0.2), lognormal(3, count, 5000, 0.2)
    pairs = zip(short, long, strict=True)
    return [({"client": name}, length) for pair in pairs for name, length in zip(("short", "long"), pair, strict=True)]


def test_of_two_clients_each_is_covered_by_its_own_quantile() -> None:
    requests = two_clients(2000)
    for name in ("short", "long"):
        policy, fitted = PerClientQuantile(q=0.8, window=256), []
        for request, length in requests:
            if request["client"] == name:
                fitted.append(length <= asked(policy, **request))
            told(policy, length, **request)
        assert np.mean(fitted[256:]) == pytest.approx(math.ceil(0.8 * 256) / 257, abs=0.04)


def unused_and_missing(policy: SizingPolicy, requests: Sequence[tuple[dict[str, Any], int]], skip: int) -> np.ndarray:
    """Mean tokens held for nothing and mean tokens that lacked, per request after the first ``skip``."""
    gaps = []
    for request, length in requests:
        gaps.append(asked(policy, **request) - length)
        told(policy, length, **request)
    late = np.array(gaps[skip:])
    return np.array([np.maximum(late, 0).mean(), np.maximum(-late, 0).mean()])


def test_per_client_beats_global_on_two_clients() -> None:
    """It holds less for nothing at equal coverage: the global quantile gives the short client the long one's size."""
    requests = two_clients(1000)
    own = unused_and_missing(PerClientQuantile(q=0.8), requests, skip=500)
    everybody = unused_and_missing(Quantile(q=0.8), requests, skip=500)
    assert own[0] < everybody[0] / 3
    assert coverage(PerClientQuantile(q=0.8), requests, 500) >= coverage(Quantile(q=0.8), requests, 500) - 0.02
    ewma = unused_and_missing(EwmaMargin(per_client=True), requests, skip=500)
    assert ewma.sum() < unused_and_missing(EwmaMargin(), requests, skip=500).sum() / 3


def test_an_unknown_client_is_sized_by_everybody_and_nobody_by_the_default() -> None:
    policy = PerClientQuantile(tokens=77, q=1.0, warmup=3)
    assert asked(policy, client="new") == 77
    learn(policy, [5, 900], client="old")
    assert asked(policy, client="old") == 77
    told(policy, 6, client="old")
    assert asked(policy, client="old") == asked(policy, client="new") == asked(policy) == 900
    learn(policy, [10, 11], client="new")
    assert asked(policy, client="new") == 900
    told(policy, 12, client="new")
    assert asked(policy, client="new") == 12


# --- the running estimate ---


@given(lengths=st.lists(st.integers(1, 10**6), min_size=1, max_size=40), margin=st.floats(0, 8))
def test_the_estimate_is_tcps(lengths: list[int], margin: float) -> None:
    """RFC 6298, section 2: SRTT and RTTVAR, then SRTT + K RTTVAR."""
    smoothed, variation = lengths[0], lengths[0] / 2
    for length in lengths[1:]:
        variation = (1 - 1 / 4) * variation + 1 / 4 * abs(smoothed - length)
        smoothed = (1 - 1 / 8) * smoothed + 1 / 8 * length
    policy = EwmaMargin(margin=margin, warmup=1)
    learn(policy, lengths)
    assert asked(policy) == pytest.approx(smoothed + margin * variation, rel=1e-9, abs=1)


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=20), st.floats(0, 8), st.floats(0, 8))
def test_a_larger_margin_never_answers_less(lengths: list[int], one: float, other: float) -> None:
    answers = []
    for margin in sorted((one, other)):
        policy = EwmaMargin(margin=margin, warmup=1)
        learn(policy, lengths)
        answers.append(asked(policy))
    assert answers == sorted(answers)


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_the_estimate_forgets_and_settles(before: int, after: int) -> None:
    policy = EwmaMargin()
    learn(policy, [before] * 10)
    learn(policy, [after] * 200)
    assert asked(policy) - after in (0, 1)


def test_the_margin_of_two_covers_95_percent_of_a_normal_distribution() -> None:
    draws = np.random.default_rng(4).normal(10_000, 500, 20_000)
    lengths = [({}, int(length)) for length in draws]
    # The estimates move, hence a little less than the 94.5 % of fixed ones.
    assert 0.90 < coverage(EwmaMargin(gain=0.02, deviation_gain=0.02), lengths, skip=500) < 0.96


# --- the regression ---

HINTED = st.fixed_dictionaries(
    {"text_tokens": st.integers(0, 5000), "images": st.integers(0, 16), "image_tokens_hint": st.integers(0, 40_000)}
)


@given(rows=st.lists(HINTED, min_size=1, max_size=25), noise=st.lists(st.integers(-500, 500), min_size=25, max_size=25))
def test_the_weights_minimise_the_penalised_squares(rows: list[dict[str, int]], noise: list[int]) -> None:
    """The normal equations of the same problem, solved by numpy in the scaled columns."""
    columns = np.array([[1, row["text_tokens"], row["image_tokens_hint"], row["images"]] for row in rows])
    lengths = columns @ [10, 1, 1, 2] + noise[: len(rows)]
    scales, ridge = np.array([1, 1024, 1024, 1]), 1e-3
    scaled = columns / scales
    left = lengths - columns @ EXPECTED
    wanted = EXPECTED + np.linalg.solve(scaled.T @ scaled + ridge * np.eye(4), scaled.T @ left) / scales
    products = columns.T @ columns
    triangle = [int(products[row, column]) for row in range(4) for column in range(row + 1)]
    found = solved(triangle, [int(moment) for moment in columns.T @ lengths], ridge)
    # The condition number is at most about 1e9 here, so nine digits may go.
    assert columns @ found == pytest.approx(columns @ wanted, rel=1e-5, abs=1e-2)


def hinted(seed: int, count: int) -> list[dict[str, int]]:
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        images = int(generator.integers(0, 9))
        hint = 4 * int(generator.integers(1, 600, images).sum())
        rows.append({"text_tokens": 4 * int(generator.integers(3, 750)), "images": images, "image_tokens_hint": hint})
    return rows


@pytest.mark.parametrize("weights", [(0, 1, 1, 2), (35, 1, 1, 2), (0, 1, 0.25, 5), (12, 1.5, 1, 0)])
def test_exact_hints_are_answered_exactly(weights: tuple[float, ...]) -> None:
    """Whatever the router's hints mean, a length that depends on them linearly is learnt to the token."""
    policy = HintRegression(window=64, warmup=16)
    constant, per_text, per_hint, per_image = weights
    for number, row in enumerate(hinted(5, 400)):
        # Texts and hints are multiples of 4, so this is a whole number.
        exact = (
            constant + per_text * row["text_tokens"] + per_hint * row["image_tokens_hint"] + per_image * row["images"]
        )
        assert exact == int(exact)
        if number >= 200:
            assert asked(policy, **row) == exact
        told(policy, int(exact), **row)


def test_one_image_in_every_request_leaves_its_weight_open_and_the_answer_right() -> None:
    policy = HintRegression(window=64, warmup=8)
    for row in hinted(6, 200):
        row["images"] = 1
        told(policy, row["text_tokens"] + row["image_tokens_hint"] + 2, **row)
    assert asked(policy, text_tokens=100, images=1, image_tokens_hint=1000) == 1102


@pytest.mark.parametrize("q", [0.5, 0.9, 0.98])
def test_the_margin_covers_its_share_of_noisy_hints(q: float) -> None:
    generator, count = np.random.default_rng(7), 4000
    noise = generator.normal(0, 300, count)
    requests = [
        (row, max(1, round(row["text_tokens"] + row["image_tokens_hint"] + error)))
        for row, error in zip(hinted(8, count), noise.tolist(), strict=True)
    ]
    error = math.sqrt(q * (1 - q) / (count - 600))
    assert coverage(HintRegression(q=q), requests, skip=600) == pytest.approx(q, abs=4 * error)


def test_hints_beat_history() -> None:
    """At the same wanted share, what is held for nothing is a fraction of what a quantile of the lengths holds."""
    requests = [(row, row["text_tokens"] + row["image_tokens_hint"] + 2 * row["images"]) for row in hinted(9, 600)]
    requests = [(row, max(1, length)) for row, length in requests]
    regression = unused_and_missing(HintRegression(window=128), requests, skip=300)
    quantile = unused_and_missing(Quantile(window=128), requests, skip=300)
    assert regression.sum() < quantile.sum() / 100


@given(st.lists(st.tuples(HINTED, st.integers(1, 50_000)), min_size=20, max_size=60))
def test_what_left_the_window_leaves_no_trace_in_the_weights(steps: Any) -> None:
    window = 10
    policy = HintRegression(window=window, warmup=1)
    for row, length in steps:
        told(policy, length, **row)
    fresh = HintRegression(window=window, warmup=1)
    for row, length in steps[-window:]:
        told(fresh, length, **row)
    assert (policy._products, policy._moments) == (fresh._products, fresh._moments)


def test_the_regression_answers_the_default_until_errors_are_known() -> None:
    policy = HintRegression(tokens=50, warmup=3, window=8)
    answers = []
    for _ in range(7):
        answers.append(asked(policy, text_tokens=9))
        told(policy, 9, text_tokens=9)
    assert answers == [50] * 6 + [9]


# --- the newsvendor ---

COSTS = st.fixed_dictionaries(
    {
        "resume_s": st.floats(0, 10),
        "holding_s": st.floats(0, 10),
        "waiting": st.floats(0, 50),
        "tokens_per_resume": st.integers(1, 5000),
    }
)


@given(
    lengths=st.lists(st.integers(1, 120), min_size=1, max_size=20),
    costs=COSTS,
    block=st.sampled_from([1, 4, 16, 128]),
    pool=st.integers(1, 4096),
)
def test_the_closed_form_is_the_best_of_all_sizes(
    lengths: list[int], costs: dict[str, Any], block: int, pool: int
) -> None:
    """The expected cost over the window, exactly, of every number of blocks that could be given."""
    assume(costs["resume_s"] or costs["holding_s"] * costs["waiting"])
    policy = Newsvendor(**costs, warmup=1)
    learn(policy, lengths)
    missing_s, superfluous_s = policy.costs_s(block, pool)
    needed = [-(-length // block) for length in lengths]

    # Both over one denominator, so that whole numbers can be added up.
    missing = missing_s.numerator * superfluous_s.denominator
    superfluous = superfluous_s.numerator * missing_s.denominator

    def cost(blocks: int) -> int:
        return sum(missing * max(need - blocks, 0) + superfluous * max(blocks - need, 0) for need in needed)

    answer = asked(policy, block=block, pool=pool)
    assert answer % block == 0
    by_size = {blocks: cost(blocks) for blocks in range(1, max(needed) + 2)}
    assert by_size[answer // block] == min(by_size.values())
    assert all(value > by_size[answer // block] for blocks, value in by_size.items() if blocks < answer // block)


@given(st.integers(1, 12), st.floats(0.001, 1.0), st.floats(0.0001, 0.5))
def test_for_a_memoryless_excess_one_resume_whatever_lacks_is_the_same_problem(
    mean: int, resume_s: float, superfluous_s: float
) -> None:
    """Lengths in blocks that are geometric: P(D > S) × resume = c_u × E[(D - S)⁺] with c_u = resume / mean, so the size
    that is best when a resume brings all the rest is the critical fractile too."""
    assume(mean > 1)
    stay = 1 - 1 / mean
    sizes = range(1, 400)
    tail = [stay**size for size in sizes]  # P(D > S)
    lacking = [mean * one for one in tail]  # E[(D - S)⁺] of a geometric distribution
    unused = [size - mean + one for size, one in zip(sizes, lacking, strict=True)]
    cost = [resume_s * one + superfluous_s * other for one, other in zip(tail, unused, strict=True)]
    per_block_s = resume_s / mean
    fractile = per_block_s / (per_block_s + superfluous_s)
    closed = next((size for size, one in zip(sizes, tail, strict=True) if 1 - one >= fractile), None)
    assume(closed is not None)
    assert cost[closed - 1] == pytest.approx(min(cost), rel=1e-9)


def test_units_of_the_costs() -> None:
    """10 ms a resume, which brings 2048 tokens, 16 blocks of 128; 2 waiting requests share a pool of 256 blocks."""
    policy = Newsvendor(resume_s=0.01, tokens_per_resume=2048, holding_s=0.1, waiting=2.0)
    missing_s, superfluous_s = policy.costs_s(128, 256)
    assert float(missing_s) == pytest.approx(0.01 / 16)
    assert float(superfluous_s) == pytest.approx(0.1 * 2 / 256)


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=30), st.floats(0, 20), st.floats(0, 20))
def test_the_dearer_memory_is_the_less_is_held(lengths: list[int], one: float, other: float) -> None:
    answers = []
    for waiting in sorted((one, other)):
        policy = Newsvendor(waiting=waiting, warmup=1)
        learn(policy, lengths)
        answers.append(asked(policy))
    assert answers == sorted(answers, reverse=True)


def test_free_memory_means_the_maximum_and_free_resumes_one_block() -> None:
    for policy, wanted in ((Newsvendor(waiting=0.0, warmup=1), 96), (Newsvendor(resume_s=0.0, warmup=1), BLOCK)):
        learn(policy, [50, 90, 40])
        assert asked(policy) == wanted


def test_another_pool_is_another_price() -> None:
    policy = Newsvendor(warmup=1)
    learn(policy, range(1, 1001))
    assert asked(policy, pool=10) < asked(policy, pool=10_000)
    assert asked(policy, pool=10, block=16) % 16 == 0


# --- pressure ---


@given(st.integers(1, 200), st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_min=True), st.integers(1, 10**5))
def test_pressure_never_gives_more_when_less_is_free(pool: int, start: float, least: float, tokens: int) -> None:
    policy = PressureAware(tokens, start=start, least=least)
    answers = [asked(policy, free, pool=pool) for free in range(-3, pool + 1)]
    assert all(one <= other for one, other in pairwise(answers))
    assert answers[-1] == tokens
    assert answers[0] == answers[3] == max(1, math.floor(tokens * (1 - (1 - least)) + 0.5))


def test_pressure_starts_where_it_says_and_ends_at_least() -> None:
    policy = PressureAware(1000, start=0.5, least=0.25)
    assert [asked(policy, free, pool=100) for free in (100, 50, 40, 25, 0)] == [1000, 1000, 850, 625, 250]


def test_pressure_shrinks_what_its_base_has_learnt() -> None:
    policy = PressureAware(100, base="quantile", base_options={"q": 1.0, "warmup": 1})
    assert asked(policy, POOL) == 100
    told(policy, 640)
    assert asked(policy, POOL) == 640
    assert asked(policy, 0) == 160


def test_a_base_takes_its_own_default() -> None:
    policy = make_policy("pressure_aware", {"tokens": 100, "base": "ewma_margin", "base_options": {"tokens": 60}})
    assert asked(policy) == 60
