"""What a run's figures are said to be: means over replications, those of one run, or those of a file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import bufferlab as bl
from bufferlab.experiments.figures.text import summary_text

SMALL = {"workload.requests": 40, "protocol.sizing.tokens": 2048}


def words(html: str) -> str:
    """The text of a page's part."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html)).replace("\u00a0", " ")


def test_several_replications_have_means_and_are_said_to() -> None:
    run = bl.simulate("quickstart", SMALL, replications=3)
    assert "values are means over 3 replications, so a p50 is the mean of their medians" in summary_text(run.content)
    assert "where there is no interval" not in summary_text(run.content)
    told = words(run._repr_html_())
    assert re.search(r"Of one replication, on average over 3 of them, the median latency is \S+ m?s and the p99", told)
    assert "Half of" not in told


def test_one_run_has_its_own_median_and_says_once_why_intervals_are_missing() -> None:
    run = bl.simulate("quickstart", SMALL, replications=1)
    told = summary_text(run.content)
    assert told.count("where there is no interval, one run of 40 requests does not tell it: --replications 10") == 1
    assert "means over" not in told
    assert re.search(r"Half of them were delivered within \S+ m?s", words(run._repr_html_()))


def test_a_file_has_its_own_median_however_often_it_is_resampled(tmp_path: Path) -> None:
    rows = "".join(f"{0.25 * number + 0.01 * (number % 3)},900,100,1\n" for number in range(400))
    (tmp_path / "t.csv").write_text(f"arrival_s,image_tokens,text_tokens,images\n{rows}")
    given = {"workload.file": str(tmp_path / "t.csv"), "protocol.sizing.tokens": 2048}
    run = bl.simulate("quickstart", given, replications=4)
    assert run.content["replication_kind"] == "resampled"
    assert "means over" not in summary_text(run.content)
    assert "Half of them were delivered within" in words(run._repr_html_())


def test_a_sweep_says_so_too(tmp_path: Path) -> None:
    from bufferlab.experiments.sweeps.text import sweep_text

    sweep = bl.sweep("quickstart", {"protocol.sizing.tokens": [512, 2048]}, replications=2, jobs=1,
                     workload={"requests": 30}, out=tmp_path / "s")  # fmt: skip
    assert "values are means over 2 replications: a p99 is the mean of theirs" in sweep_text(sweep.content)


@pytest.mark.parametrize("name", ["ecdf", "tail"])
def test_the_curve_of_a_run_is_that_of_all_its_requests(name: str) -> None:
    run = bl.simulate("quickstart", SMALL, replications=4)
    times_s, shares = getattr(run.plot, name)().get_lines()[0].get_data()
    latencies = (run.requests["delivered_s"] - run.requests["arrival_s"]).dropna()
    within = [(latencies <= time).mean() for time in times_s]  # replications serve as many requests each
    known = shares / 100 if name == "ecdf" else 1 - shares / 100
    assert known[1:] == pytest.approx(within[1:], abs=1e-6)
    assert times_s[-1] == latencies.max()
