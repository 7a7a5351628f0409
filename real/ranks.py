"""The rank processes of a measured run on this host: started, started again, and ended for sure."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import msgspec
import zmq

from protocol.topology import RankId, Side
from real.bootstrap import listen
from real.control import Inbox, Outbox
from real.engine import EngineMissing, EngineStartError
from real.orders import (
    GROUP_STATUS,
    MISSING_STATUS,
    ROUTER,
    Broken,
    Order,
    RankSpec,
    Ready,
    Route,
    order_frames,
    parse_order,
)
from real.transport import TransportProof

START_TIMEOUT_S = 90.0
EXIT_TIMEOUT_S = 20.0
POLL_S = 0.05

RANK_ENVIRONMENT = {
    # Copies of embeddings come and go; let the C library keep their pages instead of returning them to the system,
    # or every gather pays for page faults that cost more than the copy.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 33),
    "MALLOC_ARENA_MAX": "1",
    "OMP_NUM_THREADS": "1",
}


@dataclass
class Child:
    """One rank's process. ``ready``: it takes requests. ``doomed``: it has been killed, its end is no surprise."""

    rank_id: RankId
    generation: int
    process: subprocess.Popen[bytes]
    errors: Path
    ready: bool = False
    doomed: bool = False
    gone: bool = False

    @property
    def instance(self) -> tuple[Side, int]:
        return self.rank_id.side, self.rank_id.instance

    def last_words(self) -> str:
        """The last line the process wrote to standard error."""
        lines = [line for line in self.errors.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else f"{self.rank_id} ended with status {self.process.returncode}"

    def kill(self) -> None:
        """End it at once; a stopped process, too."""
        self.doomed = True
        if self.process.poll() is None:
            self.process.kill()


class Ranks:
    """The rank processes of one run, ended when the context is left. ``template``: what their specs have in common."""

    def __init__(self, template: RankSpec) -> None:
        self.scenario = template.scenario
        self.ids = [*self.scenario.encode_ids(), *self.scenario.language_ids()]
        self.children: dict[RankId, Child] = {}
        self.proofs: dict[RankId, TransportProof] = {}
        self.processes: list[Route] = []
        self._template = template
        self._earlier: list[Child] = []
        self._outboxes: dict[RankId, Outbox] = {}

    def __enter__(self) -> Ranks:
        self._files = tempfile.TemporaryDirectory(prefix="bufferlab-real-")
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._inbox = Inbox(self._context, self._template.host)
        try:
            self._launch()
            self._await_all()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        children = [*self._earlier, *self.children.values()]
        for child in children:
            if child.process.poll() is None:
                child.process.terminate()
                child.process.send_signal(signal.SIGCONT)  # one that was stopped would not hear the other
        for child in children:
            try:
                child.process.wait(EXIT_TIMEOUT_S / 4)
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
            if child.process.stdin is not None:
                with contextlib.suppress(BrokenPipeError):  # what was not read is of no use any more
                    child.process.stdin.close()
        for outbox in self._outboxes.values():
            outbox.close(discard=True)
        self._inbox.close()
        self._context.destroy(linger=0)
        self._files.cleanup()

    # --- processes ---

    def _launch(self) -> None:
        host = self._template.host
        with contextlib.ExitStack() as listeners:
            bound = [listeners.enter_context(listen(host)) for _ in range(self.scenario.encode_instances)]
            self._bootstraps = tuple(f"{host}:{listener.getsockname()[1]}" for listener in bound)
            for rank_id in self.ids:
                has_registry = rank_id.side is Side.ENCODE and rank_id.rank == 0
                self._spawn(rank_id, 0, bound[rank_id.instance].fileno() if has_registry else None)

    def start_again(self, side: Side, instance: int) -> None:
        """Start new processes under the names of an instance whose processes have all ended."""
        absent = {child.instance for child in self.children.values() if not child.ready or child.gone}
        with contextlib.ExitStack() as stack:
            fd = None
            if side is Side.ENCODE:
                host, port = self._bootstraps[instance].rsplit(":", 1)
                fd = stack.enter_context(listen(host, int(port))).fileno()
            for rank_id in self.members(side, instance):
                before = self.children[rank_id]
                before.process.wait(EXIT_TIMEOUT_S)
                self._earlier.append(before)
                if rank_id in self._outboxes:
                    self._outboxes.pop(rank_id).close(discard=True)
                has_registry = fd if rank_id.rank == 0 else None
                self._spawn(rank_id, before.generation + 1, has_registry, tuple(absent - {(side, instance)}))

    def _spawn(
        self, rank_id: RankId, generation: int, fd: int | None, absent: tuple[tuple[Side, int], ...] = ()
    ) -> None:
        spec = msgspec.structs.replace(
            self._template,
            rank_id=rank_id,
            bootstraps=self._bootstraps,
            router=Route(rank_id=ROUTER, host=self._template.host, control_port=self._inbox.port),
            generation=generation,
            absent=absent,
            bootstrap_fd=fd,
        )
        environment = {**os.environ, **RANK_ENVIRONMENT}
        # The ranks must find the same source tree, also when this process was started from elsewhere.
        root = str(Path(__file__).resolve().parents[1])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
        errors = Path(self._files.name) / f"{rank_id}-{generation}.stderr"
        with errors.open("wb") as sink:
            process = subprocess.Popen(
                [sys.executable, "-m", "real.rank"],
                stdin=subprocess.PIPE,
                stdout=sink,
                stderr=sink,
                env=environment,
                pass_fds=() if fd is None else (fd,),
                start_new_session=True,  # Ctrl-C is for the router, which then ends the ranks in order
            )
        self.children[rank_id] = Child(rank_id, generation, process, errors)
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it ended at once; whoever waits for it finds out why
            process.stdin.write(msgspec.json.encode(spec) + b"\n")
            process.stdin.flush()

    def _await_all(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not all(child.ready for child in self.children.values()):
            for order in self.receive(POLL_S):
                if isinstance(order, Ready):
                    self.note_ready(order)
                elif isinstance(order, Broken):
                    raise EngineStartError(order.reason)
            for child in self.children.values():
                status = child.process.poll()
                if status is not None and status != GROUP_STATUS:
                    raise (EngineMissing if status == MISSING_STATUS else EngineStartError)(child.last_words())
            if time.monotonic() > deadline:
                raise EngineStartError(f"the ranks were not ready after {START_TIMEOUT_S:g} s")

    def note_ready(self, ready: Ready) -> bool:
        """Whether a process takes orders from now on; not so one that has ended or been replaced meanwhile."""
        child = self.children[ready.rank_id]
        if child.generation != ready.route.generation or child.gone:
            return False
        child.ready = True
        self.proofs.setdefault(ready.rank_id, ready.proof)
        self.processes.append(ready.route)
        self._outboxes[ready.rank_id] = Outbox(self._context, ready.route.host, ready.route.control_port)
        return True

    def members(self, side: Side, instance: int) -> list[RankId]:
        """The ranks of an instance."""
        return [rank_id for rank_id in self.ids if (rank_id.side, rank_id.instance) == (side, instance)]

    def alive(self, rank_id: RankId) -> bool:
        """Whether the rank takes orders."""
        child = self.children[rank_id]
        return child.ready and not child.gone

    # --- orders ---

    def send(self, rank_id: RankId, order: Order) -> None:
        """Send an order to a rank that has been ready."""
        self._outboxes[rank_id].send(order_frames(order))

    def receive(self, timeout_s: float) -> Iterator[Order]:
        """What the ranks say; waits for the first of it, at most ``timeout_s``."""
        self._inbox.wait(timeout_s)
        for frames in self._inbox.messages():
            yield parse_order(frames)
