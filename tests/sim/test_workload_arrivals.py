"""Arrival processes: against closed forms, and against what traces show."""

import math
from collections.abc import Callable, Iterator
from itertools import islice

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bufferlab.sim.workload import Arrivals, ClientArrivals, Pace, even_times, load_mix, superposed_times

Times = NDArray[numpy.float64]

T_95 = {7: 2.365, 11: 2.201, 19: 2.093}
"""Student's t at 95 %, by degrees of freedom."""
T_999 = {19: 3.883, 39: 3.558}


def until(blocks: Iterator[Times], end: float) -> Times:
    """All times before ``end``."""
    found = []
    for block in blocks:
        found.append(block)
        if block[-1] >= end:
            break
    times = numpy.concatenate(found)
    return times[times < end]


def seconds(arrivals: Arrivals, rate_rps: float, span_s: float, replication: int = 0, seed: int = 1) -> Times:
    pace = Pace(arrivals, rate_rps, seed, replication)
    return until((pace.seconds(block) for block in even_times(arrivals.cv, seed, replication)), span_s)


def gap_cv(times: Times) -> float:
    gaps = numpy.diff(times)
    return float(gaps.std() / gaps.mean())


def dispersion(times: Times, window_s: float, span_s: float) -> float:
    counts = numpy.bincount((times // window_s).astype(int), minlength=int(span_s // window_s))[
        : int(span_s // window_s)
    ]
    return float(counts.var() / counts.mean())


# --- closed forms --------------------------------------------------------------------------------------------------


def agrees(values: list[float], expected: float, t: float) -> bool:
    """Whether the mean of independent ``values`` is within its interval of ``expected``."""
    return abs(float(numpy.mean(values)) - expected) <= t * float(numpy.std(values, ddof=1)) / math.sqrt(len(values))


@pytest.mark.parametrize("cv", [0.5, 1.0, 4.0, 10.0])
def test_arrivals_have_the_right_rate_from_the_start(cv: float) -> None:
    # A process that begins with an arrival would have (cv² − 1) / 2 more in the long run: 50 at a cv of 10.
    counts = [len(until(even_times(cv, 1, replication), 200.0)) for replication in range(40)]
    assert agrees(counts, 200.0, T_999[39])


@pytest.mark.parametrize("cv", [0.5, 1.3, 4.0])
def test_gaps_have_the_cv_they_are_given(cv: float) -> None:
    def one(replication: int) -> float:
        times = numpy.concatenate(list(islice(even_times(cv, 2, replication), 20)))
        return float((numpy.diff(times) ** 2).mean())

    # The second moment of a gap of mean 1, which has no bias as a ratio would.
    assert agrees([one(replication) for replication in range(20)], 1 + cv**2, T_999[19])


def test_no_cv_is_a_metronome() -> None:
    assert seconds(Arrivals(cv=0.0), 4.0, 3.1) == pytest.approx(numpy.arange(1, 13) / 4)


@pytest.mark.parametrize(("log_sd", "time_constant_s", "window_s"), [(0.35, 90.0, 60.0), (0.5, 30.0, 10.0)])
def test_dispersion_of_a_poisson_process_at_a_wandering_rate(
    log_sd: float, time_constant_s: float, window_s: float
) -> None:
    rate_rps, span_s = 5.0, 12_000.0
    arrivals = Arrivals(rate_log_sd=log_sd, rate_time_constant_s=time_constant_s)

    def moments(replication: int) -> float:
        counts = numpy.bincount((seconds(arrivals, rate_rps, span_s, replication) // window_s).astype(int))
        # About the true mean: without the bias of the sample's own in correlated counts.
        return float(((counts - rate_rps * window_s) ** 2).mean()) / (rate_rps * window_s)

    # Cov(rate(0), rate(s)) = rate² (exp(σ² exp(−s/τ)) − 1), integrated over the window.
    lags = (numpy.arange(4000) + 0.5) * window_s / 4000
    covariance = numpy.expm1(log_sd**2 * numpy.exp(-lags / time_constant_s))
    integral = float(((window_s - lags) * covariance).sum()) * window_s / 4000 * 2
    expected = 1 + rate_rps * integral / window_s
    assert expected > 4  # far from Poisson
    assert agrees([moments(replication) for replication in range(40)], expected, T_999[39])


def test_the_mean_rate_is_kept_at_any_spread() -> None:
    arrivals = Arrivals(rate_log_sd=0.6, rate_time_constant_s=20.0)
    counts = [len(seconds(arrivals, 3.0, 2000.0, replication)) / 6000 for replication in range(40)]
    assert agrees(counts, 1.0, T_999[39])


def test_clients_share_the_rate_and_keep_their_own_cv() -> None:
    clients = [ClientArrivals("a", 0.0), ClientArrivals("b", 5.0), ClientArrivals("c", 1.0)]
    weights = [2.0, 1.0, 1.0]
    blocks = list(islice(superposed_times(clients, weights, 1, 0), 60))
    times = numpy.concatenate([block[0] for block in blocks])
    senders = numpy.concatenate([block[1] for block in blocks])
    assert (numpy.diff(times) >= 0).all()
    # The metronome sends every second arrival of the mean rate, at even times.
    assert times[senders == 0] == pytest.approx(2.0 * numpy.arange(1, (senders == 0).sum() + 1))
    # What each sends is what it would send alone.
    alone = numpy.concatenate(list(islice(even_times(5.0, 1, 0, "b"), 60)))
    assert times[senders == 1] == pytest.approx(4.0 * alone[: (senders == 1).sum()])
    # The count of a renewal process of cv c has a standard deviation of c √n.
    assert (senders == 2).sum() == pytest.approx(times[-1] / 4, abs=4 * math.sqrt(times[-1] / 4))
    assert (senders == 1).sum() == pytest.approx(times[-1] / 4, abs=4 * 5 * math.sqrt(times[-1] / 4))


@given(
    cvs=st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0, 12.0]), min_size=1, max_size=5),
    shares=st.lists(st.floats(0.01, 10), min_size=5, max_size=5),
    seed=st.integers(0, 100),
)
@settings(max_examples=30, deadline=None)
def test_superposed_arrivals_are_those_of_the_clients_in_order(
    cvs: list[float], shares: list[float], seed: int
) -> None:
    clients = [ClientArrivals(str(number), cv) for number, cv in enumerate(cvs)]
    weights = shares[: len(clients)]
    blocks = list(islice(superposed_times(clients, weights, seed, 0), 3))
    assert all(len(times) == len(senders) == 1024 for times, senders in blocks)
    times = numpy.concatenate([block[0] for block in blocks])
    assert (numpy.diff(times) >= 0).all()
    for number, client in enumerate(clients):
        own = times[numpy.concatenate([block[1] for block in blocks]) == number]
        scale = sum(weights) / weights[number]
        alone = scale * until(even_times(client.cv, seed, 0, client.name), times[-1] / scale * 1.001 + 1)
        assert own == pytest.approx(alone[: len(own)])
        # Nobody's arrival before the last is missing; those at the very same moment are cut by the block.
        assert len(own) >= numpy.count_nonzero(alone < times[-1] * (1 - 1e-9))


# --- what is drawn when --------------------------------------------------------------------------------------------


@given(st.floats(0, 5), st.floats(0, 2), st.floats(0.5, 5000), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_times_rise_and_come_again(cv: float, log_sd: float, time_constant_s: float, seed: int) -> None:
    arrivals = Arrivals(cv=cv, rate_log_sd=log_sd, rate_time_constant_s=time_constant_s)

    def draw(blocks: int) -> Times:
        pace = Pace(arrivals, 2.0, seed, 0)
        return numpy.concatenate([pace.seconds(block) for block in islice(even_times(cv, seed, 0), blocks)])

    three = draw(3)
    assert (numpy.diff(three) >= 0).all()
    assert (three >= 0).all()
    assert numpy.array_equal(three, draw(3))
    assert numpy.array_equal(three[:1024], draw(1))


def test_the_clock_may_be_asked_in_pieces() -> None:
    arrivals = Arrivals(rate_log_sd=0.5, rate_time_constant_s=3.0)
    times = next(even_times(1.0, 1, 0))
    whole = Pace(arrivals, 2.0, 1, 0).seconds(times)
    segments = Pace(arrivals, 2.0, 1, 0)
    found = numpy.concatenate([segments.seconds(part) for part in numpy.array_split(times, 100)])
    assert found == pytest.approx(whole, rel=1e-12)


def test_the_rate_wanders_in_seconds_whatever_the_mean_rate() -> None:
    # At ten times the rate there are ten times the requests in the same ups and downs.
    arrivals = Arrivals(cv=0.0, rate_log_sd=0.5, rate_time_constant_s=50.0)
    slow, fast = (
        numpy.bincount((seconds(arrivals, rate_rps, 2000.0) // 20).astype(int), minlength=100) / rate_rps
        for rate_rps in (10.0, 100.0)
    )
    assert slow == pytest.approx(fast, abs=0.2)
    assert fast.max() > 1.5 * fast.min()


def test_what_is_wrong_with_arrivals() -> None:
    with pytest.raises(ValueError, match="cv is -1, it must be from 0 to 100"):
        Arrivals(cv=-1)
    with pytest.raises(ValueError, match="rate_log_sd is 4, it must be from 0 to 3"):
        Arrivals(rate_log_sd=4)
    with pytest.raises(ValueError, match="rate_time_constant_s is 0, it must be above 0"):
        Arrivals(rate_time_constant_s=0)
    with pytest.raises(ValueError, match="rate_rps is inf"):
        Arrivals().check_rate(math.inf)
    with pytest.raises(ValueError, match=r"rate_time_constant_s is 0.1, it must be at least 1 at a rate of 0.01"):
        Arrivals(rate_log_sd=0.1, rate_time_constant_s=0.1).check_rate(0.01)
    Arrivals(rate_time_constant_s=0.1).check_rate(0.01)  # a steady rate has no time constant to follow
    with pytest.raises(ValueError, match="cv is nan"):
        ClientArrivals("a", math.nan)


# --- traces --------------------------------------------------------------------------------------------------------


def within_reach(found: list[float], published: float) -> bool:
    """Whether one more replication could well be ``published``: the 95 % prediction interval of a t distribution.

    What is published is itself one history of one system, so that is the question, not whether the means agree.
    """
    t = T_95[len(found) - 1]
    return abs(float(numpy.mean(found)) - published) <= t * float(numpy.std(found, ddof=1)) * math.sqrt(
        1 + 1 / len(found)
    )


def day_of_servegen(arrivals: Arrivals) -> Callable[[int], Times]:
    return lambda replication: seconds(arrivals, 9.47, 86_400.0, replication)


def test_chat_bursts_as_servegen_over_a_minute() -> None:
    # ServeGen mm-image (arXiv 2505.09999), 24 h at 9.47 requests/s: gaps of cv 1.32; variance over mean of the counts
    # 9.9 in 10 s and 33 in 60 s. The one of 4.2 in 1 s comes from single clients' bursts, which one process has not.
    arrivals = load_mix("single-image-chat").arrivals
    days = [day_of_servegen(arrivals)(replication) for replication in range(8)]
    assert numpy.mean([gap_cv(day) for day in days]) == pytest.approx(1.32, rel=0.05)
    assert within_reach([dispersion(day, 60.0, 86_400.0) for day in days], 33.0)
    assert 5.0 < numpy.mean([dispersion(day, 10.0, 86_400.0) for day in days]) < 9.9
    assert arrivals == load_mix("video").arrivals


@pytest.mark.parametrize("name", ["text-only", "azure-like"])
def test_azure_bursts(name: str) -> None:
    # Azure LMM 2025 (CC-BY 4.0): gaps of cv 1.22 in the first 170 s; over 613 minutes of 139.5 requests variance over
    # mean 19.0 of the counts of minutes.
    arrivals, rate_rps, span_s = load_mix(name).arrivals, 139.5 / 60, 613 * 60.0
    runs = [seconds(arrivals, rate_rps, span_s, replication) for replication in range(12)]
    cvs = [gap_cv(run) for run in runs]
    assert numpy.mean(cvs) == pytest.approx(1.22, abs=0.02)
    found = [dispersion(run, 60.0, span_s) for run in runs]
    assert within_reach(found, 19.0)
    # And not because it could be anything: Poisson and plain Gamma gaps of cv 2 are out of reach.
    assert not within_reach(found, 1.0)
    assert not within_reach(found, 4.0)
