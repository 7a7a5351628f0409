"""What becomes of a run whose ranks do not get ready, with processes that are played."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("zmq", reason="needs pyzmq")

from bufferlab.protocol.topology import RankId, Side
from bufferlab.real.errors import EngineError, EngineMissing, EngineStartError
from bufferlab.real.run import ranks as real_ranks
from bufferlab.real.run.commands import GROUP_STATUS, MISSING_STATUS
from bufferlab.real.run.ranks import Child, Ranks


def starting(
    monkeypatch: pytest.MonkeyPatch, *statuses: int | None, ready: int = 0, tp: int = 1, later: int | None = None
) -> Callable[[], None]:
    """Wait for language ranks whose processes ended so, of which the first ``ready`` take requests.

    ``tp``: how many of them are an instance. ``later``: how the last one ends after a few looks.
    """
    monkeypatch.setattr(real_ranks, "START_TIMEOUT_S", 0.05)
    ranks = Ranks.__new__(Ranks)
    ranks.children = {}
    for number, status in enumerate(statuses):
        told: Any = itertools.repeat(status)
        if later is not None and number == len(statuses) - 1:
            told = itertools.chain([None] * 5, itertools.repeat(later))
        process: Any = SimpleNamespace(poll=lambda told=told: next(told), last_words=lambda: "its last words")
        rank_id = RankId(Side.LANGUAGE, number // tp, number % tp)
        ranks.children[rank_id] = Child(rank_id, 0, process, ready=number < ready)
    ranks.ids = list(ranks.children)
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


@pytest.mark.parametrize("tp", [1, 2])
def test_ranks_that_leave_while_they_start_are_noticed_at_once(tp: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose status says that another one had ended, and none has: a user's sizing policy may end its process so."""
    wait = starting(monkeypatch, *[GROUP_STATUS] * tp, None, tp=tp)
    monkeypatch.setattr(real_ranks, "START_TIMEOUT_S", 1000.0)
    monkeypatch.setattr(real_ranks, "CAUSE_S", 1000.0)
    told = f"language0.0 ended with status {GROUP_STATUS} while it started, .*: {'; '.join(['its last words'] * tp)}$"
    with pytest.raises(EngineStartError, match=told):
        wait()


def test_one_that_leaves_while_the_others_of_its_instance_start_on_is_noticed_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wait = starting(monkeypatch, None, GROUP_STATUS, tp=2)
    monkeypatch.setattr(real_ranks, "START_TIMEOUT_S", 1000.0)
    monkeypatch.setattr(real_ranks, "CAUSE_S", 0.05)
    with pytest.raises(EngineStartError, match=rf"language0\.1 ended with status {GROUP_STATUS} while it started"):
        wait()


@pytest.mark.parametrize(("status", "kind"), [(-signal.SIGKILL, EngineError), (1, EngineStartError)])
def test_the_reason_for_which_others_leave_is_waited_for(
    status: int, kind: type[EngineError], monkeypatch: pytest.MonkeyPatch
) -> None:
    wait = starting(monkeypatch, GROUP_STATUS, GROUP_STATUS, None, tp=3, later=status)
    monkeypatch.setattr(real_ranks, "START_TIMEOUT_S", 1000.0)
    with pytest.raises(EngineError, match=r"^its last words$") as raised:
        wait()
    assert raised.type is kind
