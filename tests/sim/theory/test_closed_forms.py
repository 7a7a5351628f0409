"""The simulator against closed forms of queueing theory, and what else follows from them.

The cases are in ``queue_cases``; the same results make the table of docs/verification.md.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import queue_cases as cases
import queue_drivers as drivers
import queue_formulas as formulas
from hypothesis import given, settings
from hypothesis import strategies as st
from queue_estimates import estimate

from bufferlab.protocol.emulation.loop import LoopGrid
from bufferlab.protocol.emulation.processors import Processors
from bufferlab.sim.network.transfer import TransferWorker

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "verification.md"
TOOL = ROOT / "tools" / "verification_table.py"

every_case = pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=case.id, marks=pytest.mark.slow if case.slow else ()) for case in cases.CASES],
)


@every_case
def test_the_simulator_meets_the_closed_form_as_the_page_shows(case: cases.Case) -> None:
    """In one test, since a case takes seconds and parallel tests share no results."""
    result = cases.result_of(case.id)
    assert cases.shortcomings(case, result) == []
    assert result.simulated >= 1, "the simulator itself, not a part of it, serves the requests"
    found = cases.row(case, result)
    assert found in PAGE.read_text(encoding="utf-8"), f"run python tools/verification_table.py; the row is {found}"


def test_the_cases_are_told_apart_and_enough() -> None:
    assert len({case.id for case in cases.CASES}) == len(cases.CASES)
    default = [case for case in cases.CASES if not case.slow]
    assert len({case.formula for case in default}) >= 12
    assert max(case.precision for case in default if case.id != "mm1k-loss") <= 0.05


def load_tool() -> Any:
    spec = importlib.util.spec_from_file_location("bufferlab_verification_table", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tool_prints_rows_and_refuses_what_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    tool = load_tool()
    assert tool.main(["--only", "flow"]) == 0
    assert cases.row(by_id("flow-shop"), cases.result_of("flow-shop")) in capsys.readouterr().out
    assert tool.main(["--only", "nothing"]) == 2
    assert "no id begins with 'nothing'; known: mm1-encoder, " in capsys.readouterr().err


def test_the_tool_tells_that_the_page_is_out_of_date_or_has_no_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tool = load_tool()
    monkeypatch.setattr(cases, "CASES", [by_id("chunks")])
    monkeypatch.setattr(tool, "PAGE", tmp_path / "page.md")
    tool.PAGE.write_text(f"before\n{tool.BEGIN}old\n{tool.END}\nafter\n", encoding="utf-8")
    assert tool.main(["--check"]) == 1
    assert "page.md is out of date" in capsys.readouterr().err
    assert tool.main([]) == 0
    assert tool.main(["--check"]) == 0
    text = tool.PAGE.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    tool.PAGE.write_text("nothing", encoding="utf-8")
    assert tool.main([]) == 2
    assert tool.PAGE.read_text(encoding="utf-8") == "nothing"


# --- the checks can fail -------------------------------------------------------------------------------------------


def by_id(id_: str) -> cases.Case:
    return next(case for case in cases.CASES if case.id == id_)


def test_a_wrong_theory_and_a_wide_interval_are_noticed() -> None:
    case = by_id("mm1-encoder")
    right = cases.result_of(case.id)
    for theory in (0.94 * right.value, 1.06 * right.value):
        assert any("misses" in one for one in cases.shortcomings(case, right._replace(theory=theory)))
    assert any("too wide" in one for one in cases.shortcomings(case, right._replace(half=0.06 * right.theory)))
    assert any("recursion" in one for one in cases.shortcomings(case, right._replace(difference=1e-6)))
    exact = by_id("flow-shop")
    assert cases.shortcomings(exact, cases.result_of(exact.id)._replace(value=252.250001)) != []


def longer(give: Callable[..., float]) -> Callable[..., float]:
    """Work that takes a thousandth longer than it should."""
    return lambda self, now, lasts_s: give(self, now, 1.001 * lasts_s)


def later(next_s: Callable[..., float]) -> Callable[..., float]:
    """A loop whose iterations come a twentieth of its period late."""
    return lambda self, now: next_s(self, now) + 0.05 * self.period_s


def slower(queue: Callable[..., float]) -> Callable[..., float]:
    """Writes that begin a little too late."""
    return lambda self, now, *rest: queue(self, now + 1e-3, *rest)


@pytest.mark.interpreted
@pytest.mark.parametrize(
    ("id_", "where", "name", "fault"),
    [
        ("mmc-processors", Processors, "give", longer),
        ("polling", LoopGrid, "next_s", later),
        ("flow-shop", TransferWorker, "queue", slower),
        ("chunks", TransferWorker, "queue", slower),
    ],
)
def test_a_fault_in_the_simulator_is_noticed(
    monkeypatch: pytest.MonkeyPatch, id_: str, where: type, name: str, fault: Callable[[Any], Any]
) -> None:
    monkeypatch.setattr(where, name, fault(getattr(where, name)))
    if id_ == "mmc-processors":  # the first of its two steps is enough
        draws = drivers.draws_of("fault", 0)
        found, expected = cases.preprocessing(4, drivers.poisson(draws, 3.8, 50), draws.exponential(1.0, 50), draws)
        assert numpy.abs(found - expected).max() > 1e-4
    else:
        case = by_id(id_)
        assert cases.shortcomings(case, case.find()) != []


# --- what follows --------------------------------------------------------------------------------------------------


def test_no_first_allocation_is_cheaper_than_the_newsvendors() -> None:
    # Paired, over the same lengths. The neighbours of the best order cost hardly more, so look a little further.
    best = cases.newsvendor_order()
    orders = [best, best - 4, best + 5, 1, 2 * best]
    costs, _ = cases.newsvendor_costs(orders, number=150, replications=12)
    for column, order in enumerate(orders[1:], 1):
        more = estimate((costs[:, column] - costs[:, 0]).tolist())
        expected = formulas.newsvendor_cost(
            cases.MEAN_BLOCKS, order, cases.MISSING_S, cases.SUPERFLUOUS_S
        ) - formulas.newsvendor_cost(cases.MEAN_BLOCKS, best, cases.MISSING_S, cases.SUPERFLUOUS_S)
        assert more.mean - more.half > 0, f"{order} blocks cost no more than {best}: {more}"
        assert abs(more.mean - expected) <= more.half


@given(
    tokens=st.integers(1, 300),
    block=st.integers(1, 64),
    bandwidth=st.floats(10.0, 1e9),
    latency_s=st.floats(0, 1),
    control_s=st.floats(0, 1),
)
@settings(max_examples=60, deadline=None)
def test_a_transfer_in_chunks_takes_what_arithmetic_says(
    tokens: int, block: int, bandwidth: float, latency_s: float, control_s: float
) -> None:
    found = cases.chunked(tokens=tokens, block=block, bandwidth=bandwidth, latency_s=latency_s, control_s=control_s)
    bytes_ = tokens * drivers.TOKEN_BYTES + drivers.AUX_BYTES
    chunks = math.ceil(tokens / block)
    expected = formulas.chunked_transfer_s(bytes_, chunks, bandwidth, latency_s, control_s)
    assert found == pytest.approx(expected, rel=1e-12)


STAGES = st.tuples(*[st.floats(0.01, 10.0)] * 4)


@given(
    jobs=st.integers(1, 30),
    stages_s=STAGES.filter(lambda stages: stages[3] <= stages[1])
    | STAGES.map(lambda stages: (stages[0], stages[1], 0.0, stages[3])),
)
@settings(max_examples=40, deadline=None)
def test_equal_requests_leave_a_pipeline_at_the_pace_of_its_slowest_stage(
    jobs: int, stages_s: tuple[float, float, float, float]
) -> None:
    assert cases.flow_shop(jobs, stages_s) == pytest.approx(formulas.flow_shop_s(stages_s, jobs), rel=1e-9)


def test_a_prefill_that_is_longer_than_an_encoder_pass_holds_up_the_next_write() -> None:
    # The second request is encoded at 7 s, while the language loop prefills the first one from 5 to 8 s and makes no
    # offer. Its write begins at 8 s instead, and its own prefill at 9 s: 12 s, where separate stages would take 11 s.
    assert formulas.flow_shop_s((3.0, 1.0, 1.0, 3.0), 2) == 11.0
    assert cases.flow_shop(2, (3.0, 1.0, 1.0, 3.0)) == 12.0
