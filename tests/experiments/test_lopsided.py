"""Where replications differ so much that the interval of their mean is not to be trusted, that is said."""

from __future__ import annotations

import numpy as np
import pytest

import bufferlab as bl
from bufferlab.experiments.figures.text import summary_text
from bufferlab.experiments.runs.capacity import Evidence, judge
from bufferlab.experiments.stats.intervals import across_replications, lopsided_mean


@pytest.mark.parametrize(("sigma", "number", "least", "most"), [
    (0.1, 5, 0.0, 0.01), (0.3, 10, 0.0, 0.05), (0.3, 20, 0.0, 0.01), (0.8, 10, 0.85, 1.0), (1.3, 20, 0.97, 1.0),
    (1.3, 10, 0.97, 1.0),
])  # fmt: skip
def test_intervals_that_miss_the_truth_come_with_the_warning(
    sigma: float, number: int, least: float, most: float
) -> None:
    """Lognormal replications, whose mean is known. In 2,000 trials a share of 8 % has a standard error of 0.6 %, so that
    the bounds are four of them away from what 20,000 trials gave: a true criterion fails in under 1 of 1,000 runs."""
    rng = np.random.default_rng(7)
    truth, warned, silent = np.exp(sigma**2 / 2), 0, 0
    for values in np.exp(sigma * rng.normal(size=(2000, number))).tolist():
        found = across_replications(values)
        assert found["low"] is not None
        assert found["high"] is not None
        warns = lopsided_mean(found, number)
        warned += warns
        silent += not warns and not found["low"] <= truth <= found["high"]
    assert least <= warned / 2000 <= most
    assert silent / 2000 < 0.10


def test_too_few_replications_and_none_at_all_warn_of_nothing() -> None:
    wide = across_replications([1.0, 100.0, 1.0])
    assert not lopsided_mean(wide, 3)
    assert not lopsided_mean({"value": None, "low": None, "high": None}, 10)
    assert lopsided_mean(across_replications([1.0, 100.0, 1.0, 1.0, 1.0]), 5)


def test_a_run_says_so_on_the_terminal_and_in_a_notebook() -> None:
    bursty = {"workload.preset": "azure-like", "workload.rate_rps": 6, "workload.requests": 300}
    run = bl.simulate("quickstart", bursty, replications=6)
    assert lopsided_mean(run.content["latency_s"]["mean"], 6)
    told = "he replications differ so much that intervals hold the truth less often than they say"
    assert told in summary_text(run.content)
    assert told in run._repr_html_()
    steady = bl.simulate("quickstart", {"workload.requests": 100}, replications=6)
    assert not lopsided_mean(steady.content["latency_s"]["mean"], 6)
    assert told not in summary_text(steady.content)
    assert told not in steady._repr_html_()


def evidence(over: bool) -> Evidence:
    stretch = {"stretches": 1, "share": 0.3, "begin_s": 1.0, "end_s": 2.0, "paused": False, "stage": "prefill",
               "busy": 1.0, "offered_rps": 9.0, "served_rps": 7.0}  # fmt: skip
    return Evidence(8.0, 8.0, 0.0, 0.1, {"prefill": 0.5}, {}, closed=False, disturbed=False, requests=100,
                    over=stretch if over else None)  # fmt: skip


def judged(over: int, number: int) -> str:
    busy = ("preprocessing", "language_pool", "encode_pool", "encoder", "writers", "adapters")
    found = [evidence(place < over) for place in range(number)]
    found = [one._replace(busy={**dict.fromkeys(busy), "prefill": 0.5}) for one in found]
    return str(judge(found)["sentence"])


def test_within_capacity_says_how_many_replications_were_over_it() -> None:
    assert judged(0, 10).startswith("within capacity")
    assert "replication" not in judged(0, 10)
    assert judged(1, 10).endswith("; 1 replication of 10 was over capacity in a part of the run")
    assert judged(3, 10).endswith("; 3 replications of 10 were over capacity in a part of the run")
    assert judged(6, 10).startswith("over capacity")
