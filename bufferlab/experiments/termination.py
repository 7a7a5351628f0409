"""SIGTERM, with which batch systems, containers and ``timeout`` end a process, taken for Ctrl-C: leave in order."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Termination:
    """``came``: whether the process was told to end by SIGTERM."""

    def __init__(self) -> None:
        self.came = False

    def take(self, _number: int, _frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt in the main thread, once: what cleans up then is not disturbed by another one."""
        if not self.came:
            self.came = True
            raise KeyboardInterrupt


@contextmanager
def termination_like_interrupt() -> Iterator[Termination]:
    """Within it SIGTERM raises KeyboardInterrupt, unless somebody has set another handler for it."""
    termination = Termination()
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield termination
        return
    signal.signal(signal.SIGTERM, termination.take)
    try:
        yield termination
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
