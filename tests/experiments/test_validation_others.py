"""What a validation says of the others on the host: at the case, as a warning, in validation.json."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bufferlab.experiments.runs.busy import Busy
from bufferlab.experiments.runs.rundir import StoredRun
from bufferlab.experiments.runs.simulate import run_sim
from bufferlab.experiments.validation import decide, freeze, report_content, report_text, score_case
from bufferlab.experiments.validation.others import warnings_of
from bufferlab.experiments.workloads.loading import load


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run_sim(load("seed-resume", ["workload.requests=5", "workload.rate_rps=10"]), tmp_path / "run")
    return tmp_path / "run"


def met(run: Path, *shares: float, lasts_s: float = 4.0) -> None:
    """As if others had taken such shares of the processors while its replications ran."""
    path = run / "environment.json"
    environment = json.loads(path.read_text(encoding="utf-8"))
    environment["busy"] = [Busy(2, lasts_s, share, 0.0).content() for share in shares]
    path.write_text(json.dumps(environment), encoding="utf-8")


def test_what_others_took_stands_beside_what_they_took_while_the_profile_was_measured(run: Path) -> None:
    met(run, 0.50, 0.58)
    profile = replace(freeze("tcp-loopback"), busy=Busy(2, 30.0, 0.40, 0.07))
    case = score_case([run], profile)
    text = report_text([case], decide([case]), profile)
    told = "others took 54 % of the processors while these ran, 47 % while the profile was measured"
    assert f"; {told}\n" in text
    assert f"{case.name}: {told}: both hold for a host that is as busy, and for no other\n" in text
    content = report_content([case], decide([case]), profile)
    assert content["cases"][0]["busy"]["others"] == pytest.approx(0.54)
    assert content["profile"]["busy"]["stolen"] == pytest.approx(0.07)
    assert content["busy"] == warnings_of([case], profile)


@pytest.mark.parametrize(
    ("runs", "profile", "said"),
    [
        (0.54, None, "while these ran: what the prediction is off by may be the others' work"),
        (0.54, 0.03, "the host was busier than the one that is predicted, so measured times are longer"),
        (0.02, 0.60, "the host had more time than the one that is predicted, so measured times are shorter"),
        (0.04, 0.03, ""),
        (0.04, None, ""),
        (None, 0.03, ""),
        (None, 0.72, "others took 72 % of the processors while the profile was measured: it describes its host"),
    ],
)
def test_a_host_that_is_not_the_one_that_was_predicted_is_told(
    run: Path, runs: float | None, profile: float | None, said: str
) -> None:
    if runs is not None:
        met(run, runs)
    frozen = replace(freeze("tcp-loopback"), busy=None if profile is None else Busy(2, 30.0, profile, 0.0))
    found = warnings_of([score_case([run], frozen)], frozen)
    assert len(found) == bool(said)
    assert said in "".join(found)


def test_of_runs_that_are_too_short_to_tell_nothing_is_warned(run: Path) -> None:
    met(run, 0.9, lasts_s=0.1)
    profile = freeze("tcp-loopback")
    assert warnings_of([score_case([run], profile)], profile) == []
    assert StoredRun(run).busy == Busy(2, 0.1, 0.9, 0.0)
