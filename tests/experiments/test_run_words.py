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


def test_shares_differ_by_percentage_points() -> None:
    from bufferlab.experiments.reports.readings import BESIDE, interval_text, value_text

    change = {"value": -0.542, "low": -0.61, "high": -0.474}
    assert value_text(change, "share", signed=True) == f"−54.2{BESIDE}pp"
    assert interval_text(change, "share", signed=True).endswith(f"{BESIDE}pp")
    assert value_text({**change, "value": 0.542}, "share").endswith(f"{BESIDE}%")
    # What a prediction is off by is in percent of what was measured.
    assert value_text(change, "relative", signed=True) == f"−54.2{BESIDE}%"


def test_names_leave_out_what_all_share_and_never_end_in_one_more() -> None:
    from bufferlab.experiments.reports.wording import names_of
    from bufferlab.experiments.sweeps.grid import telling_fields

    assert names_of([str(one) for one in range(1, 8)], 6) == "1, 2, 3, 4, 5, 6 and 7"
    assert names_of([str(one) for one in range(1, 9)], 6) == "1, 2, 3, 4, 5, 6 and 2 more"
    settings = [{"rate": 20, "tokens": 1}, {"rate": 20, "tokens": 2}, {"rate": 20}]
    assert telling_fields(["rate", "tokens"], settings) == ["tokens"]


def test_the_table_of_a_sweep_has_its_waste_and_only_fields_that_differ(tmp_path: Path) -> None:
    grid = {"protocol.sizing.tokens": [512, 2048], "workload.requests": [30]}
    sweep = bl.sweep("quickstart", grid, replications=1, jobs=1, out=tmp_path / "s")
    html = sweep._repr_html_()
    assert "held but empty" in html
    assert "workload.requests</th>" not in html
    assert "protocol.sizing.tokens</th>" in html
