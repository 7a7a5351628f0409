"""docs/checking.md says what the checker says."""

from __future__ import annotations

from pathlib import Path

from bufferlab.protocol.checker.bounds import Bound
from bufferlab.protocol.checker.explorer import explore
from bufferlab.protocol.checker.invariants import STATEMENTS
from bufferlab.protocol.checker.schedule import replay

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "checking.md").read_text(encoding="utf-8")


def test_every_invariant_is_listed() -> None:
    for number, (name, statement) in STATEMENTS.items():
        assert f"| {number} | {name} | {statement} |" in PAGE


def test_the_deadlock_is_the_one_that_is_found() -> None:
    bound = Bound(
        name="hold and wait", lengths=(3, 3), discipline="alloc_then_free", encode_blocks=4, language_blocks=2
    )
    (finding,) = explore(bound).findings
    assert "\n".join(replay(bound, finding.moves).lines) in PAGE
