"""A rank on a host of its own: joins a coordinator, starts the rank's process when told to, and ends with the run.

The rank itself is the same process as everywhere (``real.run.rank``), started here as a child
(``real.hosts.places.ThisHost``). This process stays beside it: it holds the connection to the coordinator, answers for
the host's clock and counters, and lets the rank's process end when the coordinator is gone.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec

from bufferlab.protocol.topology import RankId, Side
from bufferlab.real.control.guard import Guard
from bufferlab.real.engine.proof import sent_counters
from bufferlab.real.errors import EngineError, EngineStartError
from bufferlab.real.hosts.joining import (
    TO_RANK,
    Ask,
    BindRegistry,
    Bound,
    ConnectionLost,
    Count,
    Counted,
    Ended,
    Gone,
    Join,
    Launch,
    Leave,
    Line,
    NotOfThisRun,
    Refuse,
    Signal,
    Tell,
    Welcome,
    sources_digest,
)
from bufferlab.real.hosts.places import LocalProcess, ThisHost
from bufferlab.real.hosts.processes import warm_up
from bufferlab.real.threads import ThreadBrokeError, ThreadFailures

RETRY_S = 0.2


class RankAgent:
    """One rank's place in a run. ``device``: the RDMA adapter of this rank in place of the run's, "" for the run's."""

    def __init__(self, line: Line, rank_id: RankId, here: ThisHost, device: str = "") -> None:
        self.rank_id = rank_id
        self._line = line
        self._here = here
        self._device = device
        self._process: LocalProcess | None = None
        self._reporter: threading.Thread | None = None
        self._failures = ThreadFailures()

    def take_part(self) -> None:
        """Do what the coordinator says until the run is over.

        Raises EngineError when the run was not carried through, this rank ended badly or the coordinator is gone.
        """
        try:
            failure = self._obey()
        except ConnectionLost as lost:
            try:
                self._failures.check()
            except ThreadBrokeError as broke:
                raise EngineError(f"{self.rank_id} cannot go on: {broke}") from broke
            raise EngineError(f"{self.rank_id} ends because the coordinator is gone: {lost}") from None
        except KeyboardInterrupt:
            with contextlib.suppress(ConnectionLost):
                self._line.send(Gone("was interrupted"))
            raise
        finally:
            self._end_process()
        if failure:
            raise EngineError(f"the run was not carried through: {failure}")
        if self._process is not None and self._process.poll():
            raise EngineError(self._process.last_words())

    def _end_process(self) -> None:
        """The rank's process ends with its place, and whoever reports its end is done with its files."""
        if self._process is not None and self._reporter is not None:
            if self._process.poll() is None:
                self._process.send_signal(signal.SIGKILL)
            self._reporter.join()

    def _obey(self) -> str:
        while True:
            match self._line.receive(TO_RANK):
                case Ask(sent_s):
                    self._line.send(Tell(sent_s, time.monotonic()))
                case BindRegistry():
                    address = self._here.bind_registry(self.rank_id)
                    self._line.send(Bound(int(address.rpartition(":")[2])))
                case Count():
                    self._line.send(Counted(sent_counters()))
                case Launch(spec):
                    spec = msgspec.structs.replace(spec, token=self._here.token)
                    if self._device:
                        spec = msgspec.structs.replace(spec, device=self._device)
                    self._process = self._here.start(spec)
                    self._reporter = threading.Thread(target=self._report_end, args=(self._process,), daemon=True)
                    self._reporter.start()
                case Signal(number) if self._process is not None:
                    self._process.send_signal(number)
                case Leave(failure):
                    return failure
                case other:
                    raise ConnectionLost(f"it sent a {type(other).__name__} out of place")

    def _report_end(self, process: LocalProcess) -> None:
        try:
            status = process.wait(None)
            with contextlib.suppress(ConnectionLost):  # the main thread finds that out
                self._line.send(Ended(status, process.last_words()))
        except Exception as error:
            # Nobody would hear of the process's end: the main thread leaves, and says why.
            self._failures.add("reporter", error)
            self._line.close()


def take_part(
    coordinator: tuple[str, int],
    side: Side,
    number: int,
    *,
    host: str,
    device: str = "",
    config: dict[str, Any] | None = None,
    facts: dict[str, Any] | None = None,
    wait_s: float,
    token: Callable[[], str] | None = None,
) -> None:
    """Be one rank of the run that ``coordinator`` (address and port) holds, reached at ``host``, until it is over.

    ``number`` counts over the instances of its side. ``config``: must be the run's if it is given. ``wait_s``: how long
    the coordinator may take to be there. ``token``: the run's, read once the coordinator is there, which may make it;
    without one the coordinator's port is taken to be open.
    Raises EngineStartError when it is not, or does not take this rank, and EngineError when the run is broken off.
    """
    warm_up()
    with contextlib.closing(Line(_connect(coordinator, wait_s))) as line:
        held = ""

        def guard() -> Guard:
            nonlocal held
            assert token is not None
            held = token()
            return Guard(held)

        join = Join(
            side=side, number=number, host=host, sources=sources_digest(), device=device, config=config,
            facts=facts or {},
        )  # fmt: skip
        try:
            if token is not None:
                line.agree(guard, is_server=False)
            line.send(join)
            answer = line.receive(TO_RANK)
        except NotOfThisRun:
            raise EngineStartError(f"the coordinator at {':'.join(map(str, coordinator))} has another token") from None
        except ConnectionLost as lost:
            raise EngineStartError(
                f"{':'.join(map(str, coordinator))} is no coordinator of this version: {lost}"
            ) from None
        if isinstance(answer, Refuse):
            raise EngineStartError(f"the coordinator refuses {side.value} rank {number}: {answer.reason}")
        assert isinstance(answer, Welcome)
        with ThisHost(host, held) as here:
            RankAgent(line, answer.rank_id, here, device).take_part()


def _connect(coordinator: tuple[str, int], wait_s: float) -> socket.socket:
    deadline_s = time.monotonic() + wait_s
    while True:
        left_s = deadline_s - time.monotonic()
        try:
            return socket.create_connection(coordinator, max(left_s, RETRY_S))
        except OSError as error:
            if left_s <= RETRY_S:
                raise EngineStartError(
                    f"no coordinator is at {coordinator[0]}:{coordinator[1]} after {wait_s:g} s "
                    f"({error.strerror or error})"
                ) from None
        time.sleep(RETRY_S)
