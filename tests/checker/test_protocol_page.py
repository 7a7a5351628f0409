"""docs/protocol.md shows the tables of phases as they are, and the messages that two cores exchange."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from bufferlab.protocol.encode_phases import ENCODE_PHASES, EncodePhase, EncodeStep
from bufferlab.protocol.language_phases import LANGUAGE_PHASES
from bufferlab.protocol.phases import Timer, in_words

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "protocol_page.py"


def load_script() -> Any:
    spec = importlib.util.spec_from_file_location("bufferlab_protocol_page", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert load_script().main(["--check"]) == 0, capsys.readouterr().err


def test_the_page_has_every_phase_and_every_step() -> None:
    page = load_script().PAGE.read_text(encoding="utf-8")
    for table in (ENCODE_PHASES, LANGUAGE_PHASES):
        for phase, row in table.items():
            assert f"| {in_words(phase)} | {row.what.format(epoch='n')} |" in page
            for step, to in row.steps.items():
                assert f"{in_words(step)} → {in_words(to)}" in page


def test_a_change_of_a_table_makes_the_page_out_of_date(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = load_script()
    row = ENCODE_PHASES[EncodePhase.ENCODING]
    for changed in (
        row._replace(timer=Timer.NONE),
        row._replace(what="thinking"),
        row._replace(takes=("Encoded",)),
        row._replace(steps={**row.steps, EncodeStep.ALL_RANKS_DONE: EncodePhase.ENDED}),
    ):
        monkeypatch.setattr(script, "ENCODE_PHASES", {**ENCODE_PHASES, EncodePhase.ENCODING: changed})
        assert script.main(["--check"]) == 1
        assert "out of date" in capsys.readouterr().err


def test_a_page_without_its_marks_is_a_sentence_and_exit_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = load_script()
    monkeypatch.setattr(script, "PAGE", tmp_path / "protocol.md")
    script.PAGE.write_text("nothing\n", encoding="utf-8")
    assert script.main([]) == 2
    assert "must have the marks of 'encode diagram' once" in capsys.readouterr().err


def test_the_resumed_transfer_resumes_and_ends() -> None:
    shown = load_script().sequence()
    assert "Offer for chunk 0 (4 tokens from 0 on)" in shown
    assert "Offer for chunk 1 (a resume: 4 tokens from 4 on)" in shown
    assert "Transferring, 4 of 6 tokens" in shown
    assert "Success, 6 of 6 tokens" in shown
    assert "deliver 6 tokens" in shown
    assert shown.count("ended") == 2
