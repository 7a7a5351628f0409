"""The fork server of ranks: a process that has imported what every rank needs, and forks one whenever it is asked to.

To import torch takes longer than most runs, so it is done once for all ranks that a process starts. Run as
``python -m real.hosts.fork_server FD MODULE``, with the socket to its launcher as descriptor FD. It first says whether
it can serve (`Warm`), then answers each `ForkCommand` with a `Forked`. Nothing but imports happens before a fork: there
is one thread, no socket of ZeroMQ and no device, and Mooncake, which starts threads, is loaded by the rank.

A forked rank is what ``python -m MODULE`` would be: its own session, streams, environment and working folder, and no
descriptor that is not its own. It ends with the server, and the server with its launcher, however that ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import importlib
import os
import select
import signal
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import msgspec

from bufferlab.real.engine.registry import engines
from bufferlab.real.interpreter import ours
from bufferlab.real.leaving import leave_after

EXIT_STATUS = struct.Struct("=i")
"""How the server writes an exit status, negative for a signal."""

HEADER = struct.Struct("=I")
"""Length of the `Surroundings` with which a rank's standard input begins."""

MOST_BYTES, MOST_DESCRIPTORS = 1 << 16, 64
ALSO = ("numpy.random",)
"""What ranks import later, each in itself otherwise."""

_PR_SET_PDEATHSIG = 1


class Warm(msgspec.Struct, frozen=True):
    """All is imported. ``unfit``: why ranks must not be forked here, "" if they can be."""

    unfit: str = ""


class ForkCommand(msgspec.Struct, frozen=True):
    """Fork a rank. With it come descriptors: its standard input, output and error, one that takes its exit status, and
    those that it is to have under the numbers ``kept``."""

    kept: tuple[int, ...] = ()


class Forked(msgspec.Struct, frozen=True):
    """The rank's process, whose pidfd comes with it; ``errno``: why there is none, 0 if there is."""

    pid: int = 0
    errno: int = 0


class Surroundings(msgspec.Struct, frozen=True):
    """What a fresh process would inherit."""

    folder: str
    environment: dict[str, str]


class Server:
    """Serves one launcher at the other end of ``control``."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._launcher = os.pidfd_open(os.getppid())
        self._children: dict[int, tuple[int, int]] = {}  # by pidfd: the pid, and what takes the exit status
        self._poll = select.poll()
        for descriptor in (self._control.fileno(), self._launcher):
            self._poll.register(descriptor, select.POLLIN)

    def serve(self) -> tuple[ForkCommand, list[int]]:
        """Fork and wait for ranks until nobody wants any more. Returns in a rank alone: what it was asked to be, and
        the descriptors that came with that."""
        serving = True
        while serving or self._children:
            for descriptor, _ in self._poll.poll():
                if descriptor == self._launcher:
                    self._end()
                elif descriptor in self._children:
                    self._take_end(descriptor)
                else:
                    message, received = self._receive()
                    if not message:  # the launcher wants no more, but what runs goes on
                        self._poll.unregister(self._control)
                        serving = False
                    elif self._fork(received):
                        return msgspec.json.decode(message, type=ForkCommand), received
        os._exit(0)

    def _receive(self) -> tuple[bytes, list[int]]:
        try:
            message, received, _, _ = socket.recv_fds(
                self._control, MOST_BYTES, MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionError:
            return b"", []
        return message, received

    def _fork(self, received: list[int]) -> bool:
        """Whether this is the rank."""
        server = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self._answer(Forked(errno=error.errno or 1))
        else:
            if pid == 0:
                _end_with(server)
                self._control.detach()  # closed with all others, by number
                return True
            pidfd = os.pidfd_open(pid)
            self._children[pidfd] = pid, os.dup(received[3])
            self._poll.register(pidfd, select.POLLIN)
            self._answer(Forked(pid), pidfd)
        for descriptor in received:
            os.close(descriptor)
        return False

    def _answer(self, answer: Forked, *descriptors: int) -> None:
        with contextlib.suppress(ConnectionError):  # the launcher is gone, as the next round finds out
            socket.send_fds(self._control, [msgspec.json.encode(answer)], descriptors)

    def _take_end(self, pidfd: int) -> None:
        pid, sink = self._children.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        _, status = os.waitpid(pid, 0)
        with contextlib.suppress(BrokenPipeError):  # nobody wants to know any more
            os.write(sink, EXIT_STATUS.pack(os.waitstatus_to_exitcode(status)))
        os.close(sink)

    def _end(self) -> NoReturn:
        """End with all ranks, those that were stopped as well."""
        for pid, _ in self._children.values():
            os.kill(pid, signal.SIGKILL)
        os._exit(0)


def become(module: str, command: ForkCommand, received: list[int]) -> Callable[[], int]:
    """Make this forked process what a fresh ``python -m module`` would be; what it is to do."""
    os.setsid()
    _take_descriptors(dict(zip((0, 1, 2, *command.kept), (*received[:3], *received[4:]), strict=True)))
    (length,) = HEADER.unpack(_read(HEADER.size))
    around = msgspec.json.decode(_read(length), type=Surroundings)
    os.environ.clear()
    os.environ.update(around.environment)
    time.tzset()
    tempfile.tempdir = None  # it is looked up once, and imports have done so
    os.chdir(around.folder)
    importlib.invalidate_caches()
    called = ours(module)
    sys.orig_argv[:] = called
    sys.argv[:] = [sys.modules[module].__file__ or module]
    _show_as(called)
    main: Callable[[], int] = sys.modules[module].main
    return main


def _take_descriptors(wanted: dict[int, int]) -> None:
    """Have the descriptors ``wanted`` (by their new numbers, the old ones) and no others."""
    above = max(*wanted, *wanted.values()) + 1
    moved = {new: fcntl.fcntl(old, fcntl.F_DUPFD_CLOEXEC, above) for new, old in wanted.items()}
    os.closerange(0, above)
    for new, old in moved.items():
        os.dup2(old, new)
    os.closerange(above, os.sysconf("SC_OPEN_MAX"))


def _read(length: int) -> bytes:
    data = b""
    while len(data) < length:
        part = os.read(0, length - len(data))
        if not part:
            os._exit(130)  # the launcher is gone
        data += part
    return data


def _end_with(server: int) -> None:
    """Be killed when the server ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:  # it has ended already
        os._exit(130)


def _show_as(command: list[str]) -> None:
    """Be listed by ps as ``command``, as far as there is room for it; nothing else hangs on that."""
    try:
        fields = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        start, end = int(fields[45]), int(fields[46])  # fields 48 and 49 of proc_pid_stat(5)
    except (OSError, IndexError, ValueError):
        return
    text = b"\0".join(map(os.fsencode, command))[: max(end - start - 1, 0)]
    if text and start:
        ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)


def _unfit() -> str:
    """Why a fork of this process would be no sound rank, "" if it would be."""
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads > 1:
        return f"it has {threads} threads, which a fork would not have"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return "it has initialised CUDA, which a fork could not use"
    return ""


def main() -> NoReturn:
    """Import, serve; in a forked rank, be that."""
    control = socket.socket(fileno=int(sys.argv[1]))
    module = sys.argv[2]
    for name in (module, *ALSO):
        importlib.import_module(name)
    engines()
    _show_as(ours("bufferlab.real.hosts.fork_server"))
    # What was imported is not looked through for garbage again, which would copy its pages in every rank.
    gc.collect()
    gc.freeze()
    server = Server(control)
    control.send(msgspec.json.encode(Warm(_unfit())))
    command, received = server.serve()
    leave_after(become(module, command, received))


if __name__ == "__main__":
    main()
