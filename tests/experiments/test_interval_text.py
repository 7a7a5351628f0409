"""How a value and its interval are written: half of it only where the value is its middle."""

import pytest

from bufferlab.experiments.reports.readings import BESIDE
from bufferlab.experiments.reports.wording import sure_sentence
from bufferlab.experiments.stats.intervals import Estimate
from bufferlab.experiments.sweeps import text as sweeps
from bufferlab.experiments.text import is_lopsided


def estimate(value: float | None, low: float | None = None, high: float | None = None) -> Estimate:
    return {"value": value, "low": low, "high": high}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (estimate(0.0265, -0.0243, 0.0773), "+26.5 ms ± 50.8 ms"),
        (estimate(0.0265, 0.0065, 0.108), "+26.5 ms (+6.5 ms .. +108 ms)"),  # of a file: of the ratio
        (estimate(-0.05, -0.2, 0.0), "-50 ms (-200 ms .. +0 µs)"),
        (estimate(-0.05), "-50 ms"),
        (estimate(0.0, 0.0, 0.0), "+0 µs ± 0 µs"),  # the same in every replication
        (estimate(None), "-"),
    ],
)
def test_a_sweep_writes_half_of_an_interval_only_around_its_value(found: Estimate, said: str) -> None:
    assert sweeps._change(found) == said


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (estimate(0.9, 0.875, 0.925), "90.0 ± 2.5 %"),
        (estimate(0.99, 0.95, 1.0), "99.0 (95.0 .. 100.0) %"),  # cut off at 1
        (estimate(0.5), "50.0 %"),
        (estimate(None), "-"),
    ],
)
def test_a_share_whose_interval_is_cut_off_has_both_ends(found: Estimate, said: str) -> None:
    assert sweeps._share(found) == said


def test_what_has_no_interval_is_not_lopsided() -> None:
    assert not is_lopsided(estimate(None))
    assert not is_lopsided(estimate(1.0))
    assert not is_lopsided(estimate(2.0, 1.0, 3.0))
    assert is_lopsided(estimate(2.0, 1.0, 4.0))


def test_a_page_says_half_of_an_interval_only_around_its_value() -> None:
    around = sure_sentence(estimate(0.2, 0.19, 0.21), "p99 latency", 10, 300, "independent")
    assert around.startswith("The p99 latency is known to ± 5 %: a t interval")
    lopsided = sure_sentence(estimate(0.2, 0.1, 0.4), "p99 latency", 20, 300, "resampled", file=True)
    assert lopsided.startswith(
        f"The 95 % interval of the p99 latency is 100{BESIDE}…{BESIDE}400{BESIDE}ms: its value is the file's own"
    )
