"""Every historic fault is found when it is put back, and the core as it is passes the very same search."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import buffer_faults  # noqa: F401 - this and the other five fill EXHIBITS
import found_faults  # noqa: F401
import guard_faults  # noqa: F401
import liveness_faults  # noqa: F401
import msgspec
import pytest
import status_faults  # noqa: F401
import topology_faults  # noqa: F401
from exhibit import EXCLUDED, EXHIBITS, MOST_STATES, Exhibit

from bufferlab.protocol.checker.explorer import Exploration, explore
from bufferlab.protocol.checker.invariants import STATEMENTS
from bufferlab.protocol.checker.schedule import from_file, replay, to_file

pytestmark = pytest.mark.interpreted  # an exhibit puts its fault into a core
BY_ID = {exhibit.id: exhibit for exhibit in EXHIBITS}
CATALOGUE = {
    f"{letter}{number}" for letter, last in (("S", 15), ("B", 18), ("T", 7), ("N", 14)) for number in range(1, last + 1)
}

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "museum.py"

every_exhibit = pytest.mark.parametrize("exhibit", EXHIBITS, ids=lambda exhibit: exhibit.id)


@cache
def with_fault(id_: str) -> Exploration:
    return BY_ID[id_].explore_fault()


@every_exhibit
def test_the_fault_is_found(exhibit: Exhibit) -> None:
    found = with_fault(exhibit.id).findings
    assert found, f"{exhibit.id} shows nowhere in {exhibit.bound}"
    assert found[0].invariant in exhibit.breaks, found[0].what


@every_exhibit
def test_the_core_passes_the_same_search(exhibit: Exhibit) -> None:
    result = exhibit.explore_core()
    assert result.findings == ()
    assert result.complete


@every_exhibit
def test_the_counterexample_replays(exhibit: Exhibit) -> None:
    (finding, *_) = with_fault(exhibit.id).findings
    with pytest.MonkeyPatch.context() as patch:
        exhibit.variant(patch)
        again, bound = from_file(to_file(finding, exhibit.bound))
        assert again == finding
        violations = {violation.invariant for violation in replay(bound, again.moves).violations}
    # That no way leads to an end is told by the whole search and not by one schedule.
    assert finding.invariant in violations or finding.what.startswith("no way leads to an end")


@pytest.mark.parametrize("id_", ["B1", "B2"])
def test_announcing_the_length_cures_the_deadlocks_as_well(id_: str) -> None:
    result = explore(msgspec.structs.replace(BY_ID[id_].bound, discipline="exact_announce"), most_states=MOST_STATES)
    assert result.complete
    assert result.findings == ()


def test_every_row_of_the_catalogue_is_shown_or_excluded() -> None:
    assert len(BY_ID) == len(EXHIBITS), "two exhibits have the same id"
    assert BY_ID.keys() | EXCLUDED.keys() >= CATALOGUE
    assert not BY_ID.keys() & EXCLUDED.keys()
    assert EXCLUDED.keys() <= CATALOGUE


@pytest.mark.parametrize("text", EXCLUDED.values(), ids=EXCLUDED)
def test_reasons_are_sentences(text: str) -> None:
    assert is_one_sentence(text)


@every_exhibit
def test_texts_are_single_sentences(exhibit: Exhibit) -> None:
    assert is_one_sentence(exhibit.wrong)
    assert is_one_sentence(exhibit.ruled_out)
    assert exhibit.bound.name.startswith(f"{exhibit.id}: ")


def is_one_sentence(text: str) -> bool:
    return text == " ".join(text.split()) and text.endswith(".") and ". " not in text and "|" not in text


def test_every_invariant_is_seen_to_break() -> None:
    first = {with_fault(exhibit.id).findings[0].invariant for exhibit in EXHIBITS}
    assert first == STATEMENTS.keys()


def load_script() -> Any:
    spec = importlib.util.spec_from_file_location("bufferlab_museum", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_has_every_text() -> None:
    page = load_script().PAGE.read_text(encoding="utf-8")
    for exhibit in EXHIBITS:
        assert f"| {exhibit.id} | **{exhibit.title}.** {exhibit.wrong} | {exhibit.ruled_out} |" in page
    for id_, reason in EXCLUDED.items():
        assert f"| {id_} | {reason} |" in page


def test_the_page_is_up_to_date() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_page_that_is_out_of_date_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = load_script()
    monkeypatch.setattr(script, "PAGE", tmp_path / "docs" / "museum.md")
    monkeypatch.setattr(script, "page", lambda: "new\n")
    assert script.main(["--check"]) == 1
    assert "out of date" in capsys.readouterr().err
    assert script.main([]) == 0
    assert script.main(["--check"]) == 0
    script.PAGE.write_text("old\n", encoding="utf-8")
    assert script.main(["--check"]) == 1


def test_one_exhibit_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert load_script().main(["--show", "B10"]) == 0
    shown = capsys.readouterr().out
    assert BY_ID["B10"].wrong in shown
    assert "FAULT: language0.0 is told that the client of room 0 went away" in shown


def test_an_unknown_exhibit_is_a_sentence_and_exit_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert load_script().main(["--show", "B99"]) == 2
    assert capsys.readouterr().err.startswith("museum: there is no exhibit B99; known: S1, S2, ")
