"""Starts ranks by forking this process, which has their modules loaded already.

In emulation a Python process needs a minute to import torch, each rank anew. A forked rank is a process of its own like
any other and runs the same ``real.run.rank.main``; only its imports are inherited. Mooncake is left out: it is loaded
in the rank, since its threads would not survive a fork.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Collection, Mapping, Sequence
from types import SimpleNamespace
from typing import IO, Any

POLL_S = 0.02


class ForkedRank:
    """What a local process uses of ``subprocess.Popen``, for ``python -m real.run.rank`` only."""

    def __init__(
        self,
        args: Sequence[str],
        *,
        stdin: int,
        stdout: IO[bytes],
        stderr: IO[bytes],
        env: Mapping[str, str],
        pass_fds: Collection[int],
        start_new_session: bool,
    ) -> None:
        if list(args[1:]) != ["-m", "real.run.rank"] or stdin != subprocess.PIPE or not start_new_session:
            raise RuntimeError(f"a rank is started by {list(args)} in a way that a fork does not imitate")
        self.args = args
        self.returncode: int | None = None
        orders, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _be_a_rank(orders, stdout.fileno(), stderr.fileno(), env, pass_fds)
        os.close(orders)
        self.stdin: IO[bytes] | None = os.fdopen(writer, "wb")

    def poll(self) -> int | None:
        """The exit status, negative for a signal, or None while the process runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; raises subprocess.TimeoutExpired after ``timeout`` seconds."""
        deadline = time.monotonic() + (float("inf") if timeout is None else timeout)
        while (status := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            time.sleep(POLL_S)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


def fork_ranks() -> None:
    """From now on the ranks of this process's runs are forked."""
    import real.hosts.places
    import real.run.launcher
    import real.run.rank

    places: Any = real.hosts.places
    places.subprocess = SimpleNamespace(**{**vars(subprocess), "Popen": ForkedRank})


def _be_a_rank(orders: int, output: int, errors: int, env: Mapping[str, str], kept: Collection[int]) -> None:
    """Become what a fresh ``python -m real.run.rank`` would be. Does not return."""
    status = 1
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        for source, target in ((orders, 0), (output, 1), (errors, 2)):
            os.dup2(source, target)
        # The others' pipes too: a rank ends when nobody holds the other end of its own any more.
        keep = sorted({0, 1, 2, *kept})
        for first, last in zip(keep, [*keep[1:], os.sysconf("SC_OPEN_MAX")], strict=True):
            os.closerange(first + 1, last)
        sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        os.environ.clear()
        os.environ.update(env)
        from real.run.rank import main

        status = main()
    except BaseException:  # what the interpreter would print, and nothing of the parent's stack runs
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
