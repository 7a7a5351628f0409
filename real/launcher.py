"""Runs a scenario for real: starts one process per rank on this host, hands out the requests, collects the account.

The launching process is the router. It never touches the data; it sends every request to all ranks of its two
instances at its arrival time and waits until each of them has concluded it.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import msgspec
import zmq

from protocol.recording import Event, Record
from protocol.scenario import Request, Scenario
from protocol.topology import RankId, Side
from real.bootstrap import listen, register_and_find
from real.control import Inbox, Outbox
from real.engine import EngineError, EngineMissing, EngineStartError
from real.orders import (
    MISSING_STATUS,
    ROUTER,
    Broken,
    Concluded,
    Order,
    PeerGone,
    RankSpec,
    Ready,
    Report,
    Route,
    Start,
    Stop,
    Submit,
    order_frames,
    parse_order,
)
from real.transport import TransportProof, sent_counters, with_traffic

START_TIMEOUT_S = 90.0
EXIT_TIMEOUT_S = 20.0
POLL_S = 0.05
LEAD_S = 0.05
"""Time between the order to start and time zero, so that every rank knows the zero before the first request."""

RANK_ENVIRONMENT = {
    # Copies of embeddings come and go; let the C library keep their pages instead of returning them to the system,
    # or every gather pays for page faults that cost more than the copy.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 33),
    "MALLOC_ARENA_MAX": "1",
    "OMP_NUM_THREADS": "1",
}


@dataclass
class RealOutcome:
    """What a measured run leaves. ``records`` are merged over all ranks, in order of time."""

    records: list[Record]
    proof: TransportProof
    verified_rooms: int
    verified_bytes: int
    mismatches: list[str]
    rooms_left: int
    blocks_lost: int
    end_s: float
    deadlock: bool


@dataclass
class _Child:
    """One rank's process."""

    rank_id: RankId
    process: subprocess.Popen[bytes]
    errors: Path
    gone: bool = False

    def last_words(self) -> str:
        """The last line the process wrote to standard error."""
        lines = [line for line in self.errors.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else f"{self.rank_id} ended with status {self.process.returncode}"


def run_real(
    scenario: Scenario,
    requests: Sequence[Request],
    *,
    transport: str = "tcp",
    device: str = "",
    verify: bool = True,
    progress: Callable[[int], None] | None = None,
) -> RealOutcome:
    """Run ``requests`` (sorted by arrival) on this host and return what happened.

    Raises EngineMissing or EngineStartError when the ranks cannot start, and EngineError when one breaks in the run.
    No process is left behind, whatever happens.
    """
    longest_tokens = max((request.total_tokens for request in requests), default=1)
    with _Ranks(scenario, transport, device, verify, longest_tokens) as ranks:
        return ranks.run(requests, progress)


@dataclass
class _Ranks:
    """The rank processes of one run, ended when the context is left."""

    scenario: Scenario
    transport: str
    device: str
    verify: bool
    longest_tokens: int
    host: str = "127.0.0.1"
    children: dict[RankId, _Child] = field(default_factory=dict)
    proofs: dict[RankId, TransportProof] = field(default_factory=dict)
    reports: dict[RankId, Report] = field(default_factory=dict)

    def __enter__(self) -> _Ranks:
        self._files = tempfile.TemporaryDirectory(prefix="bufferlab-real-")
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._inbox = Inbox(self._context, self.host)
        self._outboxes: dict[RankId, Outbox] = {}
        try:
            self._launch()
            self._meet()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self.children.values():
            if child.process.poll() is None:
                child.process.terminate()
        for child in self.children.values():
            try:
                child.process.wait(EXIT_TIMEOUT_S / 4)
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
            if child.process.stdin is not None:
                child.process.stdin.close()
        for outbox in self._outboxes.values():
            outbox.close()
        self._inbox.close()
        self._context.destroy(linger=0)
        self._files.cleanup()

    # --- start ---

    def _launch(self) -> None:
        listener = listen(self.host)
        self._bootstrap = f"{self.host}:{listener.getsockname()[1]}"
        environment = {**os.environ, **RANK_ENVIRONMENT}
        # The ranks must find the same source tree, also when this process was started from elsewhere.
        root = str(Path(__file__).resolve().parents[1])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
        with listener:
            for rank_id in self._all_ranks():
                hosts_registry = rank_id == RankId(Side.ENCODE, 0, 0)
                fd = listener.fileno() if hosts_registry else None
                spec = RankSpec(
                    rank_id=rank_id,
                    scenario=self.scenario,
                    bootstrap=self._bootstrap,
                    host=self.host,
                    transport=self.transport,
                    device=self.device,
                    verify=self.verify,
                    longest_tokens=self.longest_tokens,
                    bootstrap_fd=fd,
                )
                self.children[rank_id] = self._spawn(spec, environment)

    def _spawn(self, spec: RankSpec, environment: dict[str, str]) -> _Child:
        errors = Path(self._files.name) / f"{spec.rank_id}.stderr"
        with errors.open("wb") as sink:
            process = subprocess.Popen(
                [sys.executable, "-m", "real.rank"],
                stdin=subprocess.PIPE,
                stdout=sink,
                stderr=sink,
                env=environment,
                pass_fds=() if spec.bootstrap_fd is None else (spec.bootstrap_fd,),
                start_new_session=True,  # Ctrl-C is for the router, which then ends the ranks in order
            )
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it ended at once; _check_children says why
            process.stdin.write(msgspec.json.encode(spec) + b"\n")
            process.stdin.flush()
        return _Child(spec.rank_id, process, errors)

    def _meet(self) -> None:
        own = Route(rank_id=ROUTER, host=self.host, control_port=self._inbox.port)
        found: dict[RankId, Route] = {}
        failure: list[BaseException] = []
        give_up = threading.Event()

        def register() -> None:
            try:
                found.update(register_and_find(self._bootstrap, own, self._all_ranks(), START_TIMEOUT_S, give_up))
            except Exception as error:  # handed to the waiting thread below
                failure.append(error)

        # In a thread of its own: a notebook has an event loop running in this one, and a rank that dies while it
        # starts must be noticed meanwhile.
        meeting = threading.Thread(target=register, daemon=True)
        meeting.start()
        try:
            while meeting.is_alive():
                meeting.join(POLL_S)
                self._check_start()
        finally:
            give_up.set()
        if failure:
            raise EngineStartError(str(failure[0])) from failure[0]
        for rank_id in self._all_ranks():
            route = found[rank_id]
            self._outboxes[rank_id] = Outbox(self._context, route.host, route.control_port)
        deadline = time.monotonic() + START_TIMEOUT_S
        while len(self.proofs) < len(self.children):
            for order in self._receive(POLL_S):
                if isinstance(order, Ready):
                    self.proofs[order.rank_id] = order.proof
                elif isinstance(order, Broken):
                    raise EngineStartError(order.reason)
            self._check_start()
            if time.monotonic() > deadline:
                raise EngineStartError(f"the ranks were not ready after {START_TIMEOUT_S:g} s")

    def _check_start(self) -> None:
        for child in self.children.values():
            status = child.process.poll()
            if status is not None:
                raise (EngineMissing if status == MISSING_STATUS else EngineStartError)(child.last_words())

    def _all_ranks(self) -> list[RankId]:
        return [*self.scenario.encode_ids(), *self.scenario.language_ids()]

    # --- run ---

    def run(self, requests: Sequence[Request], progress: Callable[[int], None] | None) -> RealOutcome:
        """Hand out the requests at their times, wait for the end, collect."""
        counters = sent_counters()
        zero_s = time.monotonic() + LEAD_S
        for outbox in self._outboxes.values():
            outbox.send(order_frames(Start(zero_s)))
        waiting: dict[tuple[int, int], set[RankId]] = {}
        done = 0
        next_request = 0
        last_news_s = time.monotonic()
        patience_s = START_TIMEOUT_S + (self.scenario.timeout_s or 0.0)
        while next_request < len(requests) or waiting:
            now = time.monotonic()
            while next_request < len(requests) and requests[next_request].arrival_s <= now - zero_s:
                request = requests[next_request]
                waiting[request.room, request.incarnation] = self._submit(request)
                next_request += 1
                last_news_s = now
            wait_s = POLL_S
            if next_request < len(requests):
                wait_s = min(wait_s, zero_s + requests[next_request].arrival_s - now)
            for order in self._receive(wait_s):
                last_news_s = time.monotonic()
                if isinstance(order, Broken):
                    raise EngineError(f"{order.rank_id} broke: {order.reason}")
                if isinstance(order, Concluded):
                    done += self._note_concluded(waiting, (order.room, order.incarnation), order.rank_id, progress)
            for gone in self._newly_gone():
                for key in list(waiting):
                    done += self._note_concluded(waiting, key, gone, progress)
            if time.monotonic() - last_news_s > patience_s:
                raise EngineError(f"nothing happened for {patience_s:g} s with {len(waiting)} requests unfinished")
        end_s = time.monotonic() - zero_s
        self._collect()
        return self._outcome(end_s, counters)

    def _submit(self, request: Request) -> set[RankId]:
        encode_frames = order_frames(Submit(self.scenario.encode_request(request)))
        language_frames = order_frames(Submit(self.scenario.language_request(request)))
        members = set()
        for rank_id in self._all_ranks():
            on_encode = rank_id.side is Side.ENCODE
            instance = request.encode_instance if on_encode else request.language_instance
            if rank_id.instance != instance or self.children[rank_id].gone:
                continue
            members.add(rank_id)
            self._outboxes[rank_id].send(encode_frames if on_encode else language_frames)
        return members

    @staticmethod
    def _note_concluded(
        waiting: dict[tuple[int, int], set[RankId]],
        key: tuple[int, int],
        rank_id: RankId,
        progress: Callable[[int], None] | None,
    ) -> int:
        left = waiting.get(key)
        if left is None:
            return 0
        left.discard(rank_id)
        if left:
            return 0
        del waiting[key]
        if progress is not None:
            progress(1)
        return 1

    def _newly_gone(self) -> Iterator[RankId]:
        for child in self.children.values():
            if child.gone or child.process.poll() is None:
                continue
            child.gone = True
            for rank_id, outbox in self._outboxes.items():
                if rank_id.side is not child.rank_id.side and not self.children[rank_id].gone:
                    outbox.send(order_frames(PeerGone(child.rank_id)))
            yield child.rank_id

    def _collect(self) -> None:
        """Stop the language side first: the encode side must still answer its last cancellations."""
        for side in (Side.LANGUAGE, Side.ENCODE):
            members = [rank for rank in self._all_ranks() if rank.side is side and not self.children[rank].gone]
            for rank_id in members:
                self._outboxes[rank_id].send(order_frames(Stop()))
            deadline = time.monotonic() + EXIT_TIMEOUT_S
            while not all(rank_id in self.reports for rank_id in members):
                for order in self._receive(POLL_S):
                    if isinstance(order, Report):
                        self.reports[order.rank_id] = order
                    elif isinstance(order, Broken):
                        raise EngineError(f"{order.rank_id} broke while it stopped: {order.reason}")
                if time.monotonic() > deadline:
                    missing = ", ".join(str(rank) for rank in members if rank not in self.reports)
                    raise EngineError(f"no report from {missing} within {EXIT_TIMEOUT_S:g} s")
        for child in self.children.values():
            if not child.gone:
                child.process.wait(EXIT_TIMEOUT_S)

    def _receive(self, timeout_s: float) -> Iterator[Order]:
        self._inbox.wait(timeout_s)
        for frames in self._inbox.messages():
            yield parse_order(frames)

    def _outcome(self, end_s: float, counters: dict[str, int]) -> RealOutcome:
        reports = list(self.reports.values())
        records = list(heapq.merge(*(report.unpacked() for report in reports), key=lambda record: record.time_s))
        written = sum(record.bytes for record in records if record.event is Event.WRITE_DONE)
        proof = with_traffic(self.proofs[min(self.proofs)], counters, sent_counters(), written)
        return RealOutcome(
            records=records,
            proof=proof,
            verified_rooms=sum(report.verified_rooms for report in reports),
            verified_bytes=sum(report.verified_bytes for report in reports),
            mismatches=[difference for report in reports for difference in report.differences],
            rooms_left=sum(report.rooms_left for report in reports),
            blocks_lost=sum(report.blocks_lost for report in reports),
            end_s=end_s,
            deadlock=stood_still(records, self.scenario.timeout_s),
        )


def stood_still(records: Sequence[Record], timeout_s: float | None) -> bool:
    """Whether rooms timed out in a waiting phase after nothing at all had moved for (nearly) the whole timeout.

    That is how a deadlock shows from outside: under mere overload something always moves.
    """
    if timeout_s is None:
        return False
    last_move_s = 0.0
    for record in records:
        if record.event is Event.FAILED and "timed out while waiting" in record.detail:
            if record.time_s - last_move_s >= 0.9 * timeout_s:
                return True
        elif record.event is not Event.SUBMITTED:
            last_move_s = record.time_s
    return False
