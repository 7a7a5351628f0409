"""Where the rank processes of a run live: on this host, as children of the router, or on hosts of their own.

``real.run.ranks`` keeps account of the ranks and does not care which. ``ThisHost`` starts children and ends them for
sure; ``real.hosts.coordinator`` has the other kind, whose processes are started by somebody else, each by a
``ThisHost`` of its own (``real.hosts.agent``).
"""

from __future__ import annotations

import contextlib
import signal
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import msgspec

from bufferlab.protocol.topology import RankId
from bufferlab.real.control.addresses import listen
from bufferlab.real.control.clocks import SAME, Clock
from bufferlab.real.control.guard import Refusal
from bufferlab.real.control.spec import RankSpec
from bufferlab.real.engine.proof import sent_counters
from bufferlab.real.errors import EngineError, in_words
from bufferlab.real.hosts.processes import ForkedProcess, rank_environment, start_rank
from bufferlab.real.lastwords import cause

LOOPBACK = "127.0.0.1"

LOST_STATUS = -1000
"""Stands for the exit status of a process on a host that is gone, which nobody will ever know."""


class Process(Protocol):
    """A rank's process, wherever it runs."""

    def poll(self) -> int | None:
        """Its exit status, None while it runs."""

    def wait(self, timeout_s: float) -> int:
        """Its exit status. Raises subprocess.TimeoutExpired when it still runs after ``timeout_s``."""

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""

    def is_stopped(self) -> bool:
        """Whether it is known to stand still by a signal, as after SIGSTOP."""

    def how_it_ended(self) -> str:
        """A few words: it "ended with status 1"."""

    def last_words(self) -> str:
        """The last line it wrote to standard error, once it has ended; else how it ended."""


class Hosts(Protocol):
    """Where ranks can be started. ``router_host``: the address at which they find the router's inbox. ``token``: the
    run's, whose holders alone its ports serve; "" where they are open."""

    router_host: str
    token: str

    def address_of(self, rank_id: RankId) -> str:
        """The address at which the others reach this rank."""

    def bind_registry(self, leader: RankId, port: int = 0) -> str:
        """Open the listening socket of an encode instance's registry on its leader's host; its host:port."""

    def start(self, spec: RankSpec) -> Process:
        """Start a rank; a leader is given its registry's socket."""

    def measure_clock(self, rank_id: RankId, before: Clock | None = None) -> Clock:
        """The rank's clock against this process's, measured now; together with the measurement ``before``."""

    def sent_counters(self) -> Mapping[str, Mapping[str, int]]:
        """By host, the bytes that it has sent so far (``real.engine.proof``); without those that do not say."""

    def facts(self) -> Mapping[str, Any]:
        """By host, what is known about it beyond its address."""

    def check(self) -> None:
        """Raise EngineError if something that the hosts need has broken."""

    def refused(self) -> list[Refusal]:
        """Who came to a port of the hosts' own and did not hold the run's token."""


class LocalProcess:
    """A process of this host. ``errors``: the file that takes its standard output and error."""

    def __init__(self, spec: RankSpec, errors: Path) -> None:
        self._rank_id = spec.rank_id
        self._errors = errors
        with errors.open("wb") as sink:
            kept = () if spec.bootstrap_fd is None else (spec.bootstrap_fd,)
            self._process = start_rank(rank_environment(), sink, kept)
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it ended at once; whoever waits for it finds out why
            self._process.stdin.write(msgspec.json.encode(spec) + b"\n")
            self._process.stdin.flush()

    def poll(self) -> int | None:
        """Its exit status, None while it runs."""
        return self._process.poll()

    def wait(self, timeout_s: float | None) -> int:
        """Its exit status. Raises subprocess.TimeoutExpired when it still runs after ``timeout_s``."""
        return self._process.wait(timeout_s)

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        self._process.send_signal(number)

    def is_stopped(self) -> bool:
        """Whether the kernel says so; False where there is no /proc."""
        try:
            told = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return False
        return told.rpartition(")")[2].split()[0] in ("T", "t")  # behind the name, which is in parentheses

    def how_it_ended(self) -> str:
        """A few words."""
        status = self._process.returncode
        assert status is not None
        try:
            return f"ended with status {status} ({signal.Signals(-status).name})"
        except ValueError:
            return f"ended with status {status}"

    def last_words(self) -> str:
        """What it died of, by what it wrote to standard error; else how it ended."""
        return cause(self._errors.read_text(errors="replace")) or f"{self._rank_id} {self.how_it_ended()}"

    def close(self) -> None:
        """Close its standard input, at which it ends if it has not yet."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # what was not read is of no use any more
            self._process.stdin.close()
        if isinstance(self._process, ForkedProcess):
            self._process.close()


class ThisHost:
    """Rank processes as children of this one, reached at ``host``; ended for sure when the context is left.

    ``token``: the run's, which reaches them through their standard input, with all else that they are told.
    """

    def __init__(self, host: str = LOOPBACK, token: str = "") -> None:
        self.router_host = host
        self.token = token
        self._listeners: dict[RankId, socket.socket] = {}
        self._children: list[LocalProcess] = []

    def __enter__(self) -> ThisHost:
        self._files = tempfile.TemporaryDirectory(prefix="bufferlab-real-")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self._children:
            if child.poll() is None:
                child.send_signal(signal.SIGKILL)
                child.wait(None)
            child.close()
        for listener in self._listeners.values():
            listener.close()
        self._files.cleanup()

    def address_of(self, rank_id: RankId) -> str:
        """The address at which the others reach this rank."""
        return self.router_host

    def bind_registry(self, leader: RankId, port: int = 0) -> str:
        """Open the listening socket of an encode instance's registry; its host:port.

        Raises EngineError when it cannot listen there.
        """
        try:
            listener = listen(self.router_host, port)
        except OSError as error:
            raise EngineError(f"cannot listen at {self.router_host}:{port}: {in_words(error)}") from error
        self._listeners[leader] = listener
        return f"{self.router_host}:{listener.getsockname()[1]}"

    def start(self, spec: RankSpec) -> LocalProcess:
        """Start a rank; a leader is given its registry's socket."""
        listener = self._listeners.pop(spec.rank_id, None)
        if listener is not None:
            spec = msgspec.structs.replace(spec, bootstrap_fd=listener.fileno())
        child = LocalProcess(spec, Path(self._files.name) / f"{spec.rank_id}-{len(self._children)}.stderr")
        self._children.append(child)
        if listener is not None:
            listener.close()  # the child has its own
        return child

    def measure_clock(self, rank_id: RankId, before: Clock | None = None) -> Clock:
        """The clock of this process is that of its children."""
        return SAME

    def sent_counters(self) -> dict[str, dict[str, int]]:
        """The bytes that this host has sent so far."""
        return {self.router_host: sent_counters()}

    def facts(self) -> dict[str, Any]:
        """Nothing that this process could not find out itself."""
        return {}

    def check(self) -> None:
        """Nothing runs beside the ranks here."""

    def refused(self) -> list[Refusal]:
        """Nobody: there is no port but the ranks'."""
        return []
