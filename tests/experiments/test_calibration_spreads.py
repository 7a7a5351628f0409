"""How durations vary: factors with the mean and the quantiles of what was seen."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bufferlab.experiments.calibration.host.spreads import FACTORS, LEAST_PER_FACTOR, spread, spreads
from bufferlab.experiments.calibration.input.runs import Observed, Write, _submits
from bufferlab.protocol.recording import Event, Record
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side
from bufferlab.sim.host.costs import SPREADS, HostCosts
from bufferlab.sim.network.link import LinkProfile
from bufferlab.sim.streams import stream

ENOUGH = FACTORS * LEAST_PER_FACTOR
PROFILE = LinkProfile(
    name="mine",
    latency_s=1e-3,
    per_segment_s=1e-4,
    bandwidth_Bps=1e9,
    control_latency_s=2e-4,
    copy_bandwidth_Bps=1e10,
    submit_latency_s=5e-4,
)


@given(st.lists(st.floats(-0.5, 50.0), min_size=FACTORS, max_size=400))
def test_factors_have_the_mean_of_what_was_seen_and_rise(ratios: list[float]) -> None:
    factors = spread(ratios)
    assert len(factors) == FACTORS
    assert list(factors) == sorted(factors)
    assert min(factors) >= 0.0
    assert np.mean(factors) == pytest.approx(np.mean(np.maximum(ratios, 0.0)), rel=1e-9, abs=1e-12)
    HostCosts(write_spread=factors)


def test_factors_have_the_quantiles_of_what_was_seen() -> None:
    ratios = stream(0, 0, "spread test").lognormal(0.0, 0.5, 20_000)
    factors = spread(ratios.tolist())
    for probability in (0.1, 0.5, 0.9):
        assert np.quantile(factors, probability) == pytest.approx(np.quantile(ratios, probability), rel=0.05)
    assert np.std(factors) == pytest.approx(np.std(ratios), rel=0.1)  # the last part's tail is one number


def test_every_kind_is_relative_to_what_the_profile_says_of_it() -> None:
    seen = Observed()
    twice = [1.0, 3.0] * ENOUGH
    seen.writes = [Write(2_000_000, 5, factor * PROFILE.write_s(2_000_000, 5), first=False) for factor in twice]
    seen.writes += [Write(2_000_000, 5, 1.0, first=True)] * 500  # making contact is another matter
    seen.copies = [(10_000, factor * PROFILE.copy_s(10_000)) for factor in twice]
    seen.control_s = [factor * 2e-4 for factor in twice]
    seen.submits_s = [factor * 5e-4 for factor in twice]
    seen.late_s = [1e-4] * ENOUGH  # the profile says 0 of it, so there is nothing to vary
    found = spreads(seen, PROFILE)
    assert set(found) == set(SPREADS) - {"wakeup_spread"}
    for factors in found.values():
        assert factors == pytest.approx([1.0] * (FACTORS // 2) + [3.0] * (FACTORS // 2))


def test_a_few_values_tell_nothing() -> None:
    seen = Observed()
    seen.control_s = [2e-4] * (ENOUGH - 1)
    assert spreads(seen, PROFILE) == {}
    seen.control_s.append(4e-4)
    assert set(spreads(seen, PROFILE)) == {"control_spread"}
    assert math.isclose(sum(spreads(seen, PROFILE)["control_spread"]) / FACTORS, (ENOUGH + 1) / ENOUGH)


def test_a_host_that_stood_still_delayed_one_request_and_not_all_that_came_meanwhile() -> None:
    late_s = {1: 0.001, 2: 0.116, 3: 0.081, 4: 0.022, 5: 0.002}  # requests 2 to 4 reach their ranks at one moment
    arrivals_s = {1: 1.0, 2: 2.0, 3: 2.035, 4: 2.094, 5: 2.2}
    records = [
        Record(arrivals_s[room] + late, rank, room, Event.SUBMITTED, Status.Bootstrapping, 0, 0, "")
        for room, late in late_s.items()
        for rank in (RankId(Side.ENCODE, 0, 0), RankId(Side.LANGUAGE, 0, 0))
    ]
    seen = Observed()
    _submits(records, arrivals_s, seen)
    assert seen.submits_s == pytest.approx([0.001, 0.116, 0.002])
