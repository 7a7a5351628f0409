"""bufferlab check: what it explores, reports, saves and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bufferlab.experiments.commands.checking import deadlocks, searches
from bufferlab.protocol.checker.suites import GridCase
from bufferlab.protocol.language import LanguageRank, LanguageRoom
from bufferlab.protocol.language_phases import LanguagePhase

SMALL = ("--bound", "quick", "--only", "3 tokens, one of", "--jobs", "1")


def test_a_suite_that_holds(bufferlab: Any, folder: Path) -> None:
    ended = bufferlab("check", *SMALL)
    assert ended.status == 0, ended.err
    assert "all 27 invariants hold in every reachable state of every configuration" in ended.out
    assert list(folder.iterdir()) == [], "there is nothing to save"


def test_the_json_of_the_contract(bufferlab: Any) -> None:
    ended = bufferlab("check", *SMALL, "--json")
    report = json.loads(ended.out)
    assert ended.status == 0
    assert report["violations"] == []
    assert report["invariants"] == 27
    assert report["configurations"] == report["complete"] == len(report["results"]) > 0
    assert report["states"] == sum(one["states"] for one in report["results"]) > 1000


def test_two_jobs_find_what_one_finds(bufferlab: Any) -> None:
    def results(jobs: int) -> list[dict[str, Any]]:
        report = json.loads(bufferlab("check", *SMALL[:-1], jobs, "--json").out)
        return [{**one, "wall_s": 0} for one in report["results"]]

    assert results(1) == results(2)


def test_a_deadlock_is_printed_saved_and_replays(bufferlab: Any, folder: Path) -> None:
    arguments = ("check", "--bound", "quick", "--discipline", "alloc_then_free", "--only", "first parts", "--jobs", 1)
    ended = bufferlab(*arguments)
    assert ended.status == 1
    assert "invariant 21, no deadlock" in ended.out
    assert "  6  language0 holds an iteration" in ended.out
    (saved,) = (folder / "runs" / "check").iterdir()
    assert f"bufferlab check --replay {saved.relative_to(folder)}" in ended.out
    again = bufferlab("check", "--replay", saved)
    assert again.status == 1
    assert "invariant 21, no deadlock, is violated: nothing can happen any more" in again.out
    report = json.loads(bufferlab("check", "--replay", saved, "--json").out)
    assert [one["invariant"] for one in report["violations"]] == [21]


def test_a_schedule_that_the_core_does_not_go_along_with_any_more(bufferlab: Any, folder: Path) -> None:
    bufferlab("check", "--bound", "quick", "--discipline", "alloc_then_free", "--only", "first parts", "--jobs", 1)
    (saved,) = (folder / "runs" / "check").iterdir()
    data = json.loads(saved.read_text(encoding="utf-8"))
    del data["moves"][1]
    saved.write_text(json.dumps(data), encoding="utf-8")
    ended = bufferlab("check", "--replay", saved)
    assert ended.status == 0
    assert "the core does not go along with this schedule: move 2" in ended.out


@pytest.mark.interpreted
def test_a_broken_core_is_found(bufferlab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    original = LanguageRank._conclude_failed

    def no_fence(self: LanguageRank, room: LanguageRoom, reason: str, now: float, actions: list[Any]) -> None:
        room.landing = self._landings[LanguagePhase.AWAITING_RESUME]
        original(self, room, reason, now, actions)

    monkeypatch.setattr(LanguageRank, "_conclude_failed", no_fence)
    report = json.loads(bufferlab("check", *SMALL, "--json").out)
    assert 2 in {violation["invariant"] for violation in report["violations"]}
    moves = [violation["moves"] for violation in report["violations"]]
    assert moves == sorted(moves), "the smallest comes first"
    assert all(Path(violation["file"]).is_file() for violation in report["violations"])
    ended = bufferlab("check", "--random", 40, "--jobs", 1)
    assert ended.status == 1
    assert "replay: bufferlab check --random 1 --seed" in ended.out


@pytest.mark.parametrize("budget", [("--states", 100), ("--budget-s", 0.001)])
def test_a_budget_cuts_the_search_short_and_says_so(bufferlab: Any, budget: tuple[object, ...]) -> None:
    ended = bufferlab("check", *SMALL, *budget)
    assert ended.status == 0
    assert "cut short by the budget" in ended.out
    assert "hold in every state explored so far" in ended.out
    report = json.loads(bufferlab("check", *SMALL, *budget, "--json").out)
    assert report["complete"] < report["configurations"]


def test_the_list(bufferlab: Any) -> None:
    ended = bufferlab("check", "--list")
    assert "a room number used again" in ended.out
    assert "S13" in ended.out
    listed = json.loads(bufferlab("check", "--list", "--json").out)
    assert len(listed["configurations"]) > 80


def test_every_configuration_has_a_line_when_asked(bufferlab: Any) -> None:
    ended = bufferlab("check", *SMALL, "--verbose")
    assert ended.out.count("3 tokens, one of") == len(searches.chosen_bounds("quick", None, "3 tokens, one of"))


def test_random_faults(bufferlab: Any) -> None:
    ended = bufferlab("check", "--random", 6, "--seed", 100, "--jobs", 1)
    assert ended.status == 0
    assert "6 seeds from 100 on" in ended.out
    report = json.loads(bufferlab("check", "--random", 6, "--seed", 100, "--jobs", 2, "--json").out)
    assert report["violations"] == []
    assert sum(report["faults"].values()) > 0


def test_the_grid_counts_deadlocks(bufferlab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [GridCase((1, 2), 1, 2, 3), GridCase((2, 2), 1, 2, 4), GridCase((1, 1), 1, 6, 6)]
    monkeypatch.setattr(deadlocks, "grid", lambda most: iter(cases))
    ended = bufferlab("check", "--grid", 2, "--jobs", 1, "--json")
    report = json.loads(ended.out)
    assert ended.status == 0
    assert report["configurations"] == 3
    assert report["one_oversized"] == 1
    rows = report["rows"]
    assert rows["alloc_then_free"]["deadlock"] >= 1
    assert [rows[name]["deadlock"] for name in ("window", "window, new rooms first", "exact_announce")] == [0, 0, 0]
    assert "alloc_then_free, new rooms first" in bufferlab("check", "--grid", 2, "--jobs", 1).out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--bound", "huge"), "--bound is 'huge', it must be one of quick, standard, deep"),
        (("--discipline", "windo"), "--discipline is 'windo' (did you mean window?)"),
        (("--only", "no such"), "--only is 'no such', it must be a part of the name of a configuration"),
        (("--jobs", "0"), "--jobs is 0, it must be more than 0"),
        (("--states", "-5"), "--states is -5, it must be more than 0"),
        (("--budget-s", "nan"), "--budget-s is nan, it must be more than 0"),
        (("--random", "0"), "--random is 0, it must be more than 0"),
        (("--seed", "-1"), "--seed is -1, it must be at least 0"),
        (("--grid", "5"), "--grid is 5, it must be 2, 3 or 4"),
        (("--grid", "2", "--random", "5"), "only one of --grid, --random and --replay may be given"),
        (("--replay", "missing.json"), "--replay is 'missing.json', which cannot be read"),
    ],
)
def test_bad_input(bufferlab: Any, folder: Path, arguments: tuple[str, ...], says: str) -> None:
    ended = bufferlab("check", *arguments)
    assert ended.status == 2
    assert says in ended.err
    assert ended.err.count("\n") == 1
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": "other"}', '{"schema": "bufferlab-schedule/1"}', "3"])
def test_a_file_that_is_no_schedule(bufferlab: Any, folder: Path, content: str) -> None:
    path = folder / "schedule.json"
    path.write_text(content, encoding="utf-8")
    ended = bufferlab("check", "--replay", path)
    assert ended.status == 2
    assert "it must be a schedule that check has saved" in ended.err
