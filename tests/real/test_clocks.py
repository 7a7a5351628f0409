"""The arithmetic of other hosts' clocks, on synthetic clocks whose truth is known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bufferlab.real.control.clocks import SAME, Clock, Offset, RoundTrip, best_offset

ROUNDING_S = 1e-9
"""Clocks below show up to a million seconds, where neighbouring floats are 1.2e-10 s apart."""

times_s = st.floats(0.0, 1e6)
offsets_s = st.floats(-1e6, 1e6)
delays_s = st.floats(1e-6, 1.0)


@st.composite
def trips_to(draw: st.DrawFn, offset_s: float) -> list[RoundTrip]:
    """Round trips to a clock that is ``offset_s`` ahead; the two ways of a trip may take very different times."""
    trips = []
    for sent_s, there_s, back_s in draw(st.lists(st.tuples(times_s, delays_s, delays_s), min_size=1, max_size=8)):
        trips.append(RoundTrip(sent_s, sent_s + there_s + offset_s, sent_s + there_s + back_s))
    return trips


@given(st.data(), offsets_s)
def test_the_true_offset_is_within_the_uncertainty(data: st.DataObject, true_s: float) -> None:
    found = best_offset(data.draw(trips_to(true_s)))
    assert abs(found.offset_s - true_s) <= found.uncertainty_s + ROUNDING_S


@given(st.data(), offsets_s)
def test_the_quickest_round_trip_decides(data: st.DataObject, true_s: float) -> None:
    trips = data.draw(trips_to(true_s))
    assert best_offset(trips).uncertainty_s == min(trip.received_s - trip.sent_s for trip in trips) / 2
    assert best_offset(reversed(trips)).uncertainty_s == best_offset(trips).uncertainty_s


@given(times_s, delays_s, offsets_s)
def test_equal_ways_give_the_offset_itself(sent_s: float, way_s: float, true_s: float) -> None:
    found = best_offset([RoundTrip(sent_s, sent_s + way_s + true_s, sent_s + 2 * way_s)])
    assert found.offset_s == pytest.approx(true_s, abs=2 * ROUNDING_S)
    assert found.uncertainty_s == pytest.approx(way_s, abs=2 * ROUNDING_S)


def test_the_uncertainty_is_reached_and_not_only_an_upper_bound() -> None:
    """All of a trip on one way: a smaller uncertainty would be wrong."""
    assert best_offset([RoundTrip(10.0, 15.0, 11.0)]) == Offset(10.5, 4.5, 0.5)  # answered at once: offset 5
    assert best_offset([RoundTrip(10.0, 16.0, 11.0)]) == Offset(10.5, 5.5, 0.5)  # asked at once: offset 5


def test_what_is_no_round_trip_is_refused() -> None:
    with pytest.raises(ValueError, match="ends before it begins"):
        best_offset([RoundTrip(2.0, 0.0, 1.0)])
    with pytest.raises(ValueError, match="empty"):
        best_offset([])


@given(
    true_s=offsets_s,
    drift=st.floats(-1e-3, 1e-3),
    begin_s=st.floats(0.0, 1e5),
    lasts_s=st.floats(1.0, 1e5),
    share=st.floats(0.0, 1.0),
    ways_s=st.tuples(*[st.floats(1e-6, 1e-2)] * 4),
)
def test_a_steady_drift_is_taken_out(
    true_s: float, drift: float, begin_s: float, lasts_s: float, share: float, ways_s: tuple[float, ...]
) -> None:
    """Between two measurements a time is off by no more than they are, however far the clocks drift apart."""

    def shows_s(router_s: float) -> float:
        return true_s + router_s + drift * (router_s - begin_s)

    def measured(at_s: float, there_s: float, back_s: float) -> Offset:
        return best_offset([RoundTrip(at_s, shows_s(at_s + there_s), at_s + there_s + back_s)])

    clock = Clock(measured(begin_s, *ways_s[:2]), measured(begin_s + lasts_s, *ways_s[2:]))
    first_s, last_s = clock.before.at_s, clock.after.at_s if clock.after else 0.0
    moment_s = first_s + share * (last_s - first_s)
    # The clock also drifts within a round trip, a thousandth of it at most here.
    allowed_s = clock.uncertainty_s * (1 + 2e-3) + 3 * ROUNDING_S
    # What is off in the host's seconds is so many of the router's, as fast as the clocks were found to run.
    assert abs(clock.router_s(shows_s(moment_s)) - moment_s) <= allowed_s / (1 + clock.drift)
    assert abs(clock.host_s(moment_s) - shows_s(moment_s)) <= allowed_s


@given(offsets_s, st.floats(-1e-3, 1e-3), times_s, st.floats(1.0, 1e5), times_s)
def test_there_and_back(offset_s: float, drift: float, at_s: float, lasts_s: float, moment_s: float) -> None:
    clock = Clock(Offset(at_s, offset_s, 0.1), Offset(at_s + lasts_s, offset_s + drift * lasts_s, 0.2))
    assert clock.router_s(clock.host_s(moment_s)) == pytest.approx(moment_s, abs=5 * ROUNDING_S)
    assert clock.uncertainty_s == 0.2


@given(st.floats(0.0, 1e9))
def test_on_one_host_nothing_changes(moment_s: float) -> None:
    assert SAME.host_s(moment_s) == SAME.router_s(moment_s) == moment_s
    assert (SAME.drift, SAME.uncertainty_s) == (0.0, 0.0)


def test_one_measurement_knows_no_drift() -> None:
    clock = Clock(Offset(100.0, 7.0, 0.1))
    assert (clock.drift, clock.host_s(1100.0), clock.router_s(1107.0)) == (0.0, 1107.0, 1100.0)
    same_moment = Clock(Offset(100.0, 7.0, 0.1), Offset(100.0, 8.0, 0.3))
    assert (same_moment.drift, same_moment.uncertainty_s) == (0.0, 0.3)
