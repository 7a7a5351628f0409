"""Starts the processes of ranks: forked from a server that has their imports already, or each anew.

Both are the same process to whoever starts it. The fork server (``real.hosts.fork_server``) is started with the first
rank and serves until this process ends; another one does where ranks are to start from something else than it did
(`conditions`). It needs Linux with pidfds, and a torch that starts no threads when it is imported: elsewhere every rank
is started anew.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Protocol, TypeVar

import msgspec

from bufferlab.real.engine.variables import cleaned
from bufferlab.real.hosts.fork_server import EXIT_STATUS, HEADER, MOST_BYTES, ForkCommand, Forked, Surroundings, Warm
from bufferlab.real.interpreter import our_environment, ours

RANK, FORK_SERVER = "bufferlab.real.run.rank", "bufferlab.real.hosts.fork_server"
WARM_TIMEOUT_S = 90.0
ANSWER_TIMEOUT_S = 20.0

MOST_SERVERS = 2
"""How many are kept: one for what is usual, and one for what is tried beside it."""

RANK_ENVIRONMENT = {
    # Copies of embeddings come and go; let the C library keep their pages instead of returning them to the system,
    # or every gather pays for page faults that cost more than the copy.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 33),
    "MALLOC_ARENA_MAX": "1",
    "OMP_NUM_THREADS": "1",
}

LATE = re.compile(r"(MC|BUFFERLAB|GLOO|NCCL|PYTEST)_.*|CUDA_VISIBLE_DEVICES|TMPDIR|COLUMNS|LINES|PWD|OLDPWD|SHLVL|_")
"""Variables that nothing reads before a rank is forked. Any other that changes takes another server: the C library, the
loader, Python and torch read theirs once, at their start."""

Answer = TypeVar("Answer", Warm, Forked)


class Running(Protocol):
    """A started process, as far as ``subprocess.Popen`` shows it."""

    pid: int
    returncode: int | None
    stdin: IO[bytes] | None

    def poll(self) -> int | None:
        """Its exit status, None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status. Raises subprocess.TimeoutExpired when it still runs after ``timeout`` seconds."""

    def send_signal(self, sig: int) -> None:
        """Send it a signal, unless it has ended."""


class ForkedProcess:
    """A child of the fork server. ``status``: the pipe that its exit status comes through."""

    def __init__(self, pid: int, pidfd: int, status: int, stdin: IO[bytes]) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.stdin: IO[bytes] | None = stdin
        self._pidfd = pidfd
        self._status = status
        self._lock = threading.Lock()
        self._is_closed = False

    def poll(self) -> int | None:
        """Its exit status, None while it runs."""
        return self._collect(0)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status. Raises subprocess.TimeoutExpired when it still runs after ``timeout`` seconds."""
        status = self._collect(None if timeout is None else max(timeout, 0.0))
        if status is None:
            raise subprocess.TimeoutExpired(f"{RANK} (process {self.pid})", timeout or 0.0)
        return status

    def send_signal(self, sig: int) -> None:
        """Send it a signal, unless it has ended."""
        with self._lock:
            if not self._is_closed:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._pidfd, sig)

    def close(self) -> None:
        """Let go of it; nothing is known of it any more that is not known already."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                os.close(self._pidfd)
                os.close(self._status)

    def _collect(self, timeout_s: float | None) -> int | None:
        if self.returncode is not None or self._is_closed:
            return self.returncode
        poll = select.poll()
        poll.register(self._status, select.POLLIN)
        if not poll.poll(None if timeout_s is None else 1000 * timeout_s):
            return None
        with self._lock:
            self._take_status()
        return self.returncode

    def _take_status(self) -> None:
        if self.returncode is None and not self._is_closed:
            told = os.read(self._status, EXIT_STATUS.size)
            # A server that could not tell has ended before it, and taken it along.
            self.returncode = EXIT_STATUS.unpack(told)[0] if told else -signal.SIGKILL


class ServerGoneError(Exception):
    """A fork server cannot serve. ``unfit``: nor could another one."""

    def __init__(self, why: str, *, unfit: bool = False) -> None:
        super().__init__(why)
        self.unfit = unfit


class ForkServer:
    """One fork server. It imports while this process goes on; the first fork waits for that."""

    def __init__(self, environment: Mapping[str, str], patience_s: float) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._is_warm = False
        self._warm_until_s = time.monotonic() + patience_s
        with theirs:
            self._process = subprocess.Popen(
                ours(FORK_SERVER, str(theirs.fileno()), RANK),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # what fails here fails again in a rank that is started anew, and is told
                env=environment,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )

    def fork(self, folder: str, environment: Mapping[str, str], sink: IO[bytes], kept: Sequence[int]) -> ForkedProcess:
        """A rank. Raises ServerGoneError, after which there must be no other call but ``retire`` and ``end``, and
        OSError where no process can be had."""
        self._await_warm()
        with contextlib.ExitStack() as unless_forked, contextlib.ExitStack() as always:
            stdin, writer = os.pipe()
            always.callback(os.close, stdin)
            commands = unless_forked.enter_context(os.fdopen(writer, "wb"))
            status, told = os.pipe()
            always.callback(os.close, told)
            unless_forked.callback(os.close, status)
            try:
                self._control.settimeout(ANSWER_TIMEOUT_S)
                descriptors = [stdin, sink.fileno(), sink.fileno(), told, *kept]
                socket.send_fds(self._control, [msgspec.json.encode(ForkCommand(tuple(kept)))], descriptors)
                answer, pidfds = self._receive(Forked)
            except OSError as error:
                raise ServerGoneError(str(error)) from error
            if answer.errno:
                raise OSError(answer.errno, os.strerror(answer.errno))
            unless_forked.pop_all()
        process = ForkedProcess(answer.pid, pidfds[0], status, commands)
        around = msgspec.json.encode(Surroundings(folder, dict(environment)))
        with contextlib.suppress(BrokenPipeError):  # it ended at once; whoever waits for it finds out why
            commands.write(HEADER.pack(len(around)) + around)
            commands.flush()
        return process

    def retire(self) -> None:
        """No more ranks are wanted: it ends when those it has have ended."""
        self._control.close()
        threading.Thread(target=self._process.wait, name="fork server's end", daemon=True).start()

    def has_ended(self) -> bool:
        """Whether its process has."""
        return self._process.poll() is not None

    def end(self) -> None:
        """End it now, and whatever rank it may still have."""
        self._control.close()
        self._process.kill()  # its ranks are killed with it
        self._process.wait()

    def forget(self) -> None:
        """It is another process's: this one was forked from that."""
        self._control.close()
        self._process.returncode = 0

    def _await_warm(self) -> None:
        if self._is_warm:
            return
        self._control.settimeout(max(self._warm_until_s - time.monotonic(), 0.001))
        try:
            answer, _ = self._receive(Warm)
        except OSError as error:
            raise ServerGoneError(str(error), unfit=True) from error
        if answer.unfit:
            raise ServerGoneError(answer.unfit, unfit=True)
        self._is_warm = True

    def _receive(self, kind: type[Answer]) -> tuple[Answer, list[int]]:
        message, descriptors, _, _ = socket.recv_fds(self._control, MOST_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
        if not message:
            raise ConnectionResetError("it has ended")
        return msgspec.json.decode(message, type=kind), descriptors


class ForkServers:
    """The fork servers of this process: those of the conditions that ranks last started under, and those before them
    that still have ranks."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._lock = threading.Lock()
        self._patience_s = WARM_TIMEOUT_S
        self._servers: dict[object, ForkServer] = {}  # by conditions, the last one used at the end
        self._unfit: set[object] = set()
        self._retired: list[ForkServer] = []

    def warm_up(self, environment: Mapping[str, str], patience_s: float) -> None:
        """Let the imports begin that ranks in this environment need; does not wait for them."""
        if can_fork():
            with self._lock:
                self._patience_s = patience_s
                self._server_for(conditions(environment), environment)

    def _server_for(self, now: object, environment: Mapping[str, str]) -> ForkServer | None:
        if now in self._unfit:
            return None
        server = self._servers.pop(now, None) or ForkServer(environment, self._patience_s)
        self._servers[now] = server
        while len(self._servers) > MOST_SERVERS:
            self._retire(next(iter(self._servers)))
        return server

    def fork(self, environment: Mapping[str, str], sink: IO[bytes], kept: Sequence[int]) -> ForkedProcess | None:
        """A forked rank; None where it must be started anew."""
        if not can_fork():
            return None
        try:
            folder = str(Path.cwd())
        except FileNotFoundError:  # removed meanwhile: a fork has no way there
            return None
        now = conditions(environment)
        with self._lock:
            for _ in range(2):
                if (server := self._server_for(now, environment)) is None:
                    return None
                try:
                    return server.fork(folder, environment, sink, kept)
                except ServerGoneError as gone:
                    if gone.unfit:
                        self._unfit.add(now)
                    self._retire(now)
                except OSError:
                    raise
                except BaseException:  # Ctrl-C: the answer that was waited for may come yet
                    self._retire(now)
                    raise
            return None

    def _retire(self, which: object) -> None:
        server = self._servers.pop(which)
        server.retire()
        self._retired = [*(one for one in self._retired if not one.has_ended()), server]

    def end(self) -> None:
        """End them all."""
        for server in (*self._servers.values(), *self._retired):
            server.end()
        self._servers, self._retired = {}, []

    def forget(self) -> None:
        """They are the children of the process that this one was forked from."""
        for server in (*self._servers.values(), *self._retired):
            server.forget()
        self._clear()


SERVERS = ForkServers()
"""Those of this process."""

atexit.register(SERVERS.end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=SERVERS.forget)


@cache
def can_fork() -> bool:
    """Whether this system has what a fork server needs, and lets it be used."""
    if sys.platform != "linux" or not hasattr(os, "pidfd_open") or not hasattr(signal, "pidfd_send_signal"):
        return False
    try:
        pidfd = os.pidfd_open(os.getpid())
    except OSError:  # an older kernel, or a container that does not let it through
        return False
    try:
        signal.pidfd_send_signal(pidfd, 0)
    except OSError:
        return False
    finally:
        os.close(pidfd)
    return True


def conditions(environment: Mapping[str, str]) -> object:
    """All that a process has from its start and a fork of the server would have as the server does."""
    limits = tuple(resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_"))
    own = frozenset((name, value) for name, value in environment.items() if LATE.fullmatch(name) is None)
    return sys.executable, limits, frozenset(os.sched_getaffinity(0)), os.getpriority(os.PRIO_PROCESS, 0), own


def rank_environment() -> dict[str, str]:
    """The environment that ranks have which this process starts now."""
    return our_environment({**cleaned(os.environ), **RANK_ENVIRONMENT})


def warm_up(patience_s: float = WARM_TIMEOUT_S) -> None:
    """Let the imports begin that ranks need; who calls this has something else to do until it starts some.

    ``patience_s``: how long the first rank waits for them, here and with servers to come, before it is started anew.
    """
    SERVERS.warm_up(rank_environment(), patience_s)


def start_rank(environment: Mapping[str, str], sink: IO[bytes], kept: Sequence[int] = ()) -> Running:
    """The process of a rank, in a session of its own (Ctrl-C is for the router, which then ends the ranks in order).

    ``sink`` takes its standard output and error; it keeps the descriptors ``kept`` under their numbers.
    """
    forked = SERVERS.fork(environment, sink, kept)
    if forked is not None:
        return forked
    return subprocess.Popen(
        ours(RANK),
        stdin=subprocess.PIPE,
        stdout=sink,
        stderr=sink,
        env=environment,
        pass_fds=tuple(kept),
        start_new_session=True,
    )
