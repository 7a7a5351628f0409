"""Small configurations of every kind give what they gave: the same tables and the same summaries.

After a deliberate change: `python tools/record_regression.py`, and the commit says what changed and why.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from regression_set import Case, cases, differences, outcome_of, recorded

from bufferlab.protocol.disciplines import DISCIPLINES
from bufferlab.protocol.sizing.registry import POLICIES

CASES = cases()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_configuration_gives_what_it_gave(case: Case, tmp_path: Path) -> None:
    told = differences(outcome_of(case, tmp_path / "run"), recorded()[case.name])
    assert not told, "\n".join([case.name, *told])


def test_every_case_is_recorded_under_a_name_of_its_own() -> None:
    names = [case.name for case in CASES]
    assert sorted(names) == sorted(recorded())
    assert len(names) == len(set(names)) >= 50


def test_every_discipline_and_every_policy_is_among_them() -> None:
    told = "\n".join(setting for case in CASES for setting in case.settings)
    missing = [
        name for name in (*DISCIPLINES, *POLICIES) if f'"{name}"' not in told and name not in ("window", "fixed")
    ]
    assert not missing


def test_another_history_another_time_and_another_word_are_noticed(tmp_path: Path) -> None:
    found = outcome_of(next(case for case in CASES if case.name == "seed-resume"), tmp_path / "run")
    assert differences(found, found) == []
    for table in ("requests", "events"):
        other = {**found, table: {**found[table], "digest": "0" * 16}}
        assert any(table in line for line in differences(other, found))
        name, value = max(found[table]["times"].items(), key=lambda one: one[1])
        other = {**found, table: {**found[table], "times": {**found[table]["times"], name: value + 1e-6}}}
        assert any(name in line for line in differences(other, found))
    assert differences({**found, "summary": [*found["summary"][:-1], "another"]}, found)
