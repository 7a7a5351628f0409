"""Exceptions that end a thread of a process, for its main thread: a process with a dead thread cannot go on in silence.

Threads that do a process's work (writers, verifier, heartbeat, registry, first contacts) hand results to the main
thread and nothing else. If one of them raises, its results would just stay out, and whoever waits for them would find
no reason. So the interpreter's hook for such exceptions keeps them, whichever thread it was, and the main thread raises
the first one when it looks.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable


class ThreadBrokeError(RuntimeError):
    """A thread of this process ended with an exception; the message names both."""


class ThreadFailures:
    """What ended threads of this process, since ``catch_all``. ``wake`` is called in the thread that ends."""

    def __init__(self) -> None:
        self.wake: Callable[[], None] | None = None
        self._failures: deque[tuple[str, BaseException]] = deque()

    def catch_all(self) -> None:
        """Keep the exceptions of all threads from now on."""

        def keep(ended: threading.ExceptHookArgs) -> None:
            threading.__excepthook__(ended)  # the whole story is for standard error
            self.add("a thread" if ended.thread is None else ended.thread.name, ended.exc_value or ended.exc_type())

        threading.excepthook = keep

    def add(self, thread: str, error: BaseException) -> None:
        """``thread`` cannot go on. For callbacks that no thread dies of."""
        self._failures.append((thread, error))
        if self.wake is not None:
            self.wake()

    def check(self) -> None:
        """Raise ThreadBrokeError for the first thread that failed."""
        if self._failures:
            name, error = self._failures[0]
            said = " ".join(str(error).split()) or "it does not say why"
            raise ThreadBrokeError(f"its {name!r} thread ended with {type(error).__name__}: {said}") from error


FAILURES = ThreadFailures()
"""Those of this process."""
