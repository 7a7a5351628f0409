"""docs/events.md names the events that there are, and its formulas give the figures that it is about."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
import pytest

import bufferlab as bl
from bufferlab.protocol.disciplines import DISCIPLINES
from bufferlab.protocol.recording import Event, Record

PAGE = (Path(__file__).resolve().parent.parent.parent / "docs" / "events.md").read_text(encoding="utf-8")
SIDES = {"both": {"encode", "language"}, "encode": {"encode"}, "language": {"language"}}
CASES: dict[str, dict[str, Any]] = {
    "fixed": {"protocol.sizing.tokens": 512},
    "fixed, enough for nearly all": {"protocol.sizing.tokens": 16384},
    "quantile": {"protocol.sizing.policy": "quantile", "protocol.sizing.warmup": 8},
    "ewma_margin, which resumes often": {"protocol.sizing.policy": "ewma_margin", "protocol.sizing.margin": 0.0},
    "small resumes": {"protocol.sizing.tokens": 256, "protocol.resume_tokens": 512},
    "two ranks": {"protocol.sizing.tokens": 512, "language.tp": 2, "encode.tp": 2},
    "after a warm-up": {"protocol.sizing.tokens": 512, "run.warmup_requests": 15},
    "blocks kept for the prefill": {
        "language.release": "prefill", "language.profile": "h100-qwen2.5-vl-7b", "protocol.sizing.tokens": 512,
    },
}  # fmt: skip
SMALL: dict[str, Any] = {"workload.requests": 60, "run.replications": 2, "protocol.timeout_s": 20.0}


def rows_of(head: str) -> list[list[str]]:
    """The cells of the table that begins with this column."""
    table = PAGE.partition(f"\n| {head} |")[2].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table]


@pytest.fixture(scope="module")
def formulas() -> dict[str, Callable[[bl.Run], float]]:
    made: dict[str, Any] = {}
    exec(re.findall(r"(?ms)^```python\n(.*?)^```", PAGE)[0], made)
    return made


def test_the_page_names_the_events_and_columns_that_there_are() -> None:
    assert [row[0].strip("`") for row in rows_of("event")] == [event.value for event in Event]
    columns = [name for row in rows_of("column") for name in re.findall(r"`(\w+)`", row[0])]
    run = bl.simulate("seed-resume")
    assert columns == list(run.events.columns)
    assert set(columns) - {"replication", "side", "instance", "rank"} == set(Record._fields) - {"rank_id"}


@pytest.mark.parametrize("discipline", DISCIPLINES)
@pytest.mark.parametrize("case", CASES)
def test_its_formulas_give_the_figures(
    formulas: dict[str, Callable[[bl.Run], float]], case: str, discipline: str
) -> None:
    run = bl.simulate("ustudy", {**SMALL, **CASES[case], "protocol.discipline": discipline}, seed=5)
    summary = run.summary["value"]
    assert formulas["wasted_fraction"](run) == pytest.approx(summary["language_pool.wasted_fraction"], rel=1e-9)
    assert formulas["resume_rate"](run) == pytest.approx(summary["resume.rate"], rel=1e-9)


def test_rows_are_what_the_table_says() -> None:
    """Who records an event, and what its tokens are."""
    mpl.use("agg")
    run = bl.simulate("ustudy", {**SMALL, "protocol.sizing.tokens": 512, "protocol.discipline": "window"}, seed=5)
    events = run.events
    said = {row[0].strip("`"): SIDES[row[1]] for row in rows_of("event")}
    for event, sides in events.groupby("event")["side"].unique().items():
        assert set(sides) == said[str(event)]
    total = events.join(run.requests.set_index(["replication", "room"])["total_tokens"], on=["replication", "room"])
    for event in ("encode_started", "encoded", "delivered"):
        rows = total[total["event"] == event]
        assert (rows["tokens"] == rows["total_tokens"]).all()
    assert (events[events["event"].isin(["submitted", "offered"])]["tokens"] == 0).all()
    allocated = events[events["event"] == "allocated"]
    assert (allocated["tokens"] % run.config.protocol.block_tokens == 0).all()
    key = ["replication", "room"]
    chunks = events[events["event"] == "chunk_received"].groupby(key)["tokens"].agg(["size", "max"])
    resumes = events[events["event"] == "resumed"].groupby(key).size().reindex(chunks.index, fill_value=0)
    assert (resumes == chunks["size"] - 1).all()
    assert resumes.sum() > 0
    requests = run.requests.set_index(key).sort_index()
    pd.testing.assert_series_equal(requests["chunks"], chunks["size"], check_names=False, check_dtype=False)
    assert (requests["total_tokens"] == chunks["max"]).all()
    first = allocated.groupby(key)["tokens"].first()
    assert (requests["first_allocation_tokens"] == first).all()
    last = events[events["event"] == "delivered"].groupby(key)["time_s"].max()
    assert (requests["delivered_s"] == last).all()


def test_the_formula_of_the_encode_side_gives_its_figure() -> None:
    run = bl.simulate("ustudy", {**SMALL, "protocol.block_tokens": 512}, seed=5)
    key = ["replication", "room"]
    ends = run.events[(run.events["side"] == "encode") & run.events["event"].isin(["encode_started", "released"])]
    times = ends.pivot_table(index=[*key, "instance", "rank"], columns="event", values="time_s")
    seconds = times["released"] - times["encode_started"]
    total = seconds.reset_index(["instance", "rank"]).join(run.requests.set_index(key))["total_tokens"].to_numpy()
    sums = (
        pd.DataFrame({"held": -(-total // 512) * 512 * seconds, "useful": total * seconds}).groupby("replication").sum()
    )
    expected = run.summary.loc["encode_pool.wasted_fraction", "value"]
    assert (1 - sums["useful"] / sums["held"]).mean() == pytest.approx(expected, rel=1e-9)
