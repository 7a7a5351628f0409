"""The closed forms and recursions against each other and against sums, so that no test rests on a slip in them."""

from __future__ import annotations

import math

import numpy
import pytest
import queue_formulas as formulas
from hypothesis import given, settings
from hypothesis import strategies as st
from queue_drivers import LAWS, SECOND_MOMENTS, draw, draws_of
from queue_estimates import controlled, estimate
from queue_recursions import one_server, some_servers

LOADS = st.floats(0.01, 0.97)
TIMES_S = st.floats(0.001, 1000.0)


@given(load=LOADS, mean_s=TIMES_S)
def test_queues_agree_where_one_is_the_others_special_case(load: float, mean_s: float) -> None:
    rate = load / mean_s
    mm1 = formulas.mm1_sojourn_s(rate, mean_s)
    assert formulas.mg1_sojourn_s(rate, mean_s, 2 * mean_s**2) == pytest.approx(mm1)
    assert formulas.mmc_sojourn_s(1, rate, mean_s) == pytest.approx(mm1)
    assert formulas.mm1k_sojourn_s(4000, load, mean_s) == pytest.approx(mm1)
    assert formulas.processor_sharing_slowdown(load) * mean_s == pytest.approx(mm1)
    assert formulas.mm1_sojourn_quantile_s(rate, mean_s, 1 - math.exp(-1)) == pytest.approx(mm1)
    assert formulas.vacation_sojourn_s(rate, mean_s, mean_s, 2 * mean_s**2, 0.0) == pytest.approx(mm1)
    # Both branches are done later than one, and not later than one after the other would be.
    assert mm1 < formulas.fork_join_sojourn_s(rate, mean_s) <= 1.5 * mm1
    assert formulas.mg1_wait_s(rate, mean_s, mean_s**2) == pytest.approx((mm1 - mean_s) / 2)


@given(servers=st.integers(1, 30), offered=st.floats(0.01, 60.0))
def test_erlang_b_is_the_truncated_poisson_law(servers: int, offered: float) -> None:
    weights = [offered**number / math.factorial(number) for number in range(servers + 1)]
    assert formulas.erlang_b(servers, offered) == pytest.approx(weights[-1] / math.fsum(weights))
    assert formulas.mm1k_loss(1, offered) == pytest.approx(formulas.erlang_b(1, offered))


@given(servers=st.integers(1, 20), load=LOADS)
def test_erlang_c_is_the_sum_over_all_states(servers: int, load: float) -> None:
    offered = load * servers
    below = math.fsum(offered**number / math.factorial(number) for number in range(servers))
    above = offered**servers / math.factorial(servers) / (1 - load)
    assert formulas.erlang_c(servers, offered) == pytest.approx(above / (below + above))


@given(rate=st.floats(0.01, 3.0))
def test_bulk_service_tends_to_one_pass_and_to_one_and_a_half(rate: float) -> None:
    sojourn_s = formulas.bulk_sojourn_s(rate, 1.0)
    assert 1.0 < sojourn_s < 1.5
    assert sojourn_s < formulas.bulk_sojourn_s(2 * rate, 1.0)
    assert formulas.bulk_sojourn_s(1e-9, 1.0) == pytest.approx(1.0)
    assert formulas.bulk_sojourn_s(50.0, 1.0) == pytest.approx(1.5)


@given(mean=st.floats(1.5, 40.0), missing=st.floats(0.1, 20.0))
@settings(max_examples=50)
def test_the_newsvendors_order_is_the_cheapest_and_its_cost_the_sum(mean: float, missing: float) -> None:
    order = formulas.geometric_fractile(mean, missing / (missing + 1))
    costs = [formulas.newsvendor_cost(mean, other, missing, 1.0) for other in range(1, 400)]
    assert formulas.newsvendor_cost(mean, order, missing, 1.0) <= min(costs) * (1 + 1e-12)
    lengths = numpy.arange(1, 4000)
    shares = (1 - 1 / mean) ** (lengths - 1) / mean
    by_sum = (shares * (missing * numpy.maximum(lengths - order, 0) + numpy.maximum(order - lengths, 0))).sum()
    assert formulas.newsvendor_cost(mean, order, missing, 1.0) == pytest.approx(by_sum)


@given(small=st.floats(0.01, 0.99))
@settings(max_examples=30)
def test_head_of_line_blocking_by_the_balance_equations(small: float) -> None:
    large = 1 - small
    # Rates between (two small ones), (a small one, a large one waits), (a large one); services of mean 1.
    rates = numpy.array([[0, 2 * large, 0], [0, 0, 1], [small * small, small * large, 0]])
    rates -= numpy.diag(rates.sum(axis=1))
    system = numpy.vstack([rates.T, numpy.ones(3)])
    shares = numpy.linalg.lstsq(system, numpy.array([0, 0, 0, 1.0]), rcond=None)[0]
    assert shares @ numpy.array([2, 1, 1]) == pytest.approx(formulas.two_place_throughput(small, 1.0))


def test_harmonic_numbers_and_unstable_queues() -> None:
    assert [formulas.harmonic(number) for number in (1, 2, 4)] == pytest.approx([1, 1.5, 25 / 12])
    for formula in (formulas.mm1_sojourn_s, lambda *given: formulas.mg1_wait_s(*given, 2.0)):
        with pytest.raises(ValueError, match=r"the load is 1\.0"):
            formula(1.0, 1.0)
    with pytest.raises(ValueError, match=r"the load is 1\.25"):
        formulas.mmc_sojourn_s(4, 5.0, 1.0)


@given(
    gaps=st.lists(st.floats(0, 10), min_size=1, max_size=30),
    services=st.lists(st.floats(0, 10), min_size=30, max_size=30),
    servers=st.integers(1, 4),
)
def test_recursions_do_what_a_loop_over_customers_does(gaps: list[float], services: list[float], servers: int) -> None:
    arrivals, taken = numpy.cumsum(gaps), numpy.array(services[: len(gaps)])
    free = [0.0] * servers
    expected = []
    for arrival, service in zip(arrivals.tolist(), taken.tolist(), strict=True):
        first = min(range(servers), key=free.__getitem__)
        free[first] = max(free[first], arrival) + service
        expected.append(free[first])
    assert some_servers(arrivals[None], taken[None], servers)[0] == pytest.approx(expected)
    if servers == 1:
        assert one_server(arrivals, taken) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("law", LAWS)
def test_laws_have_the_moments_that_the_formulas_are_given(law: str) -> None:
    draws = draw(law, draws_of("moments", 0), 400_000)
    assert draws.mean() == pytest.approx(1.0, rel=0.01)
    assert (draws**2).mean() == pytest.approx(SECOND_MOMENTS[law], rel=0.03)


def test_intervals_hold_the_truth_about_as_often_as_they_say_and_controls_narrow_them() -> None:
    draws = draws_of("intervals", 0)
    missed, narrower = 0, 0
    for _ in range(2000):
        known = draws.normal(0.0, 1.0, 12)
        values = 5 + known + draws.normal(0.0, 0.5, 12)
        plain, better = estimate(values.tolist()), controlled(values.tolist(), known)
        missed += abs(better.mean - 5) > better.half
        narrower += better.half < plain.half
    # At 99.9 %, 2 of 2000 are missed on average, Poisson: more than 9 have a chance below 1e-4.
    assert missed <= 9
    assert narrower > 1900


def test_too_few_replications_are_refused() -> None:
    with pytest.raises(ValueError, match="6 replications are too few for 1 controls"):
        controlled([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [[0.1]] * 6)
