"""An exception in any thread of a process reaches its main thread."""

from __future__ import annotations

import threading

import pytest

from bufferlab.real.threads import ThreadBrokeError, ThreadFailures


@pytest.fixture
def failures(monkeypatch: pytest.MonkeyPatch) -> ThreadFailures:
    """Those of this process, caught; pytest's own hook comes back afterwards."""
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(threading, "__excepthook__", lambda _: None)
    caught = ThreadFailures()
    caught.catch_all()
    return caught


def break_a_thread(error: Exception, name: str) -> None:
    def run() -> None:
        raise error

    thread = threading.Thread(target=run, name=name)
    thread.start()
    thread.join()


def test_the_first_thread_that_breaks_is_named_and_its_process_woken(failures: ThreadFailures) -> None:
    failures.check()
    woken: list[bool] = []
    failures.wake = lambda: woken.append(True)
    break_a_thread(MemoryError("no\nmore"), "writer 0")
    break_a_thread(OSError(), "verifier")
    assert woken == [True, True]
    for _ in range(2):
        with pytest.raises(ThreadBrokeError, match=r"its 'writer 0' thread ended with MemoryError: no more$"):
            failures.check()


def test_a_verifier_that_broke_holds_nobody_up(failures: ThreadFailures, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="needs torch")
    from bufferlab.protocol.emulation.scenario import Scenario
    from bufferlab.protocol.layout import BufferLayout
    from bufferlab.real.engine import verifier as verifying

    layout: BufferLayout = Scenario(block_tokens=8, hidden=32).layout
    monkeypatch.setattr(verifying, "FAILURES", failures)
    monkeypatch.setattr(verifying, "LOOK_S", 0.01)
    monkeypatch.setattr(verifying, "MAX_BACKLOG", 2)

    def fail(*_: object) -> None:
        raise ValueError("cannot compare")

    monkeypatch.setattr(verifying, "room_content", fail)
    verifier = verifying.Verifier(layout)
    with pytest.raises(ThreadBrokeError, match="its 'verifier' thread ended with ValueError: cannot compare"):
        for room in range(10):
            verifier.check(room, 0, 8, [])
