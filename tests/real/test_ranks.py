"""What becomes of a run whose ranks do not get ready, with processes that are played."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("zmq", reason="needs pyzmq")

from protocol.topology import RankId, Side
from real.errors import EngineError, EngineMissing, EngineStartError
from real.run import ranks as real_ranks
from real.run.orders import MISSING_STATUS
from real.run.ranks import Child, Ranks


def starting(monkeypatch: pytest.MonkeyPatch, *statuses: int | None, ready: int = 0) -> Callable[[], None]:
    """Wait for language ranks whose processes ended so, of which the first ``ready`` take requests."""
    monkeypatch.setattr(real_ranks, "START_TIMEOUT_S", 0.05)
    ranks = Ranks.__new__(Ranks)
    ranks.children = {}
    for number, status in enumerate(statuses):
        process: Any = SimpleNamespace(poll=lambda status=status: status, last_words=lambda: "its last words")
        rank_id = RankId(Side.LANGUAGE, number, 0)
        ranks.children[rank_id] = Child(rank_id, 0, process, ready=number < ready)
    monkeypatch.setattr(ranks, "receive", lambda timeout_s: iter(()))
    return ranks._await_all


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (-signal.SIGKILL, EngineError),
        (-signal.SIGTERM, EngineError),
        (1, EngineStartError),
        (MISSING_STATUS, EngineMissing),
    ],
)
def test_a_rank_that_is_killed_while_it_starts_breaks_the_run_and_is_no_mistake_of_the_users(
    status: int, kind: type[EngineError], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EngineError, match="its last words") as raised:
        starting(monkeypatch, None, status)()
    assert raised.type is kind


def test_ranks_that_are_not_ready_in_time_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    told = r"after 0\.05 s these ranks were not ready: language1\.0, language2\.0$"
    with pytest.raises(EngineStartError, match=told):
        starting(monkeypatch, None, None, None, ready=1)()
