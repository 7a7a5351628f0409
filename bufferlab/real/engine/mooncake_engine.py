"""One Mooncake transfer engine: registered memory and one-sided writes to a peer, over tcp or RDMA.

The engine's own calls leave traps open that this module closes: the transport is forced and
proved (see `bufferlab.real.engine.mooncake_start`), sources are checked to be registered (tcp would send any memory),
batches stay below the number of segments that the engine survives, every wait is bounded, and a
failed write says whether the engine may still be writing.

Mooncake is imported when a `MooncakeEngine` is made, so this module imports without it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from bufferlab.real.engine.base import KeyMaker, Segment, Setting, TransferEngine, WriteResult, failed
from bufferlab.real.engine.mooncake_start import PIP, identify, import_mooncake, settings, start
from bufferlab.real.engine.proof import prove

# The engine takes 2048 segments in flight per peer. One more and it does not reject them cleanly:
# a segment may stay unfinished for ever, and every later write to that peer fails. Half leaves room.
SEGMENTS_IN_FLIGHT = 1024
# One check costs the engine's io thread time on a small machine, one late check costs latency.
# Measured: 128 × 1 MiB takes 53-67 ms with sleeps of 30-100 µs, 68-91 ms with the spinning calls.
POLL_SLEEP_S = 50e-6
# Below this a write ends sooner than a sleep, which takes 110 µs and more: spin for a moment.
# Measured: 64 µs for one 4 KiB segment, as fast as the synchronous call; 115-150 µs with sleeps.
SPIN_BYTES = 128 << 10
SPIN_SEGMENTS = 8
SPIN_S = 300e-6
# A peer that hangs at first contact blocks the engine's call, and the engine's lock with it, for
# 60 s that no setting shortens. Nobody waits longer than this for a first contact.
FIRST_CONTACT_S = 2.0
# What transfer_submit_write returns when it could not open the peer: -1, also seen as unsigned, or
# 0; a good handle is an address.
_NO_HANDLE = (0, -1, 2**64 - 1)
_OVERLAP = -7


class MooncakeEngine(TransferEngine):
    """A transfer engine of Mooncake, listening on ``host`` at a port of its own choice.

    ``log`` is what it wrote while it started. Mooncake's ports know no token: whoever reaches them can
    read and write registered memory, so ``guard`` is not used. It cannot be ended before its process.

    Raises EngineMissing when Mooncake does not import and EngineError when the engine does not
    start or runs another transport than the one asked for.
    """

    transports: ClassVar[Mapping[str, str]] = {
        "tcp": "Mooncake's Transfer Engine over TCP",
        "rdma": "Mooncake's Transfer Engine over RDMA",
    }
    called: ClassVar[str] = "Mooncake"
    device_transports: ClassVar[frozenset[str]] = frozenset({"rdma"})
    # A connection without progress for 2 s is given up, and one whose peer does not answer for 2 s more (`settings`).
    late_write_s: ClassVar[float] = 5.0
    needs_mooncake: ClassVar[bool] = True
    no_gpu_memory: ClassVar[str] = (
        "the installed Mooncake wheel cannot use GPU memory; run: "
        f"{PIP} uninstall -y mooncake-transfer-engine-non-cuda && {PIP} install 'mooncake-transfer-engine>=0.3.13'"
    )

    def __init__(
        self, host: str = "127.0.0.1", transport: str = "", device: str = "", guard: KeyMaker | None = None
    ) -> None:
        super().__init__(host, transport, device, guard)
        self._engine, self.log = start(host, self.transport, device)
        rpc_port = int(self._engine.get_rpc_port())
        self.session = f"{host}:{rpc_port}"
        self.proof = prove(self.transport, *identify(self.log, rpc_port))
        self._lock = threading.Lock()
        self._slots: dict[str, threading.Semaphore] = {}
        self._contacts: dict[str, _Contact] = {}
        self._opening = threading.Lock()

    @classmethod
    def require(cls) -> None:
        """Raise EngineMissing, with the command that mends it, where Mooncake does not import."""
        import_mooncake()

    @classmethod
    def takes_gpu_memory(cls) -> bool:
        """Whether the installed wheel is one for CUDA. Raises EngineMissing when Mooncake cannot be imported."""
        return bool(import_mooncake().SUPPORT_CUDA)

    @classmethod
    def settings(cls, transport: str) -> tuple[Setting, ...]:
        """The environment an engine of this transport is started with, and why."""
        return settings(transport)

    def _register(self, base: int, size_bytes: int) -> str:
        code = self._engine.register_memory(base, size_bytes)
        if not code:
            return ""
        return "it overlaps registered memory" if code == _OVERLAP else f"code {code}"

    def _unregister(self, base: int) -> None:
        self._engine.unregister_memory(base)

    def connect(self, session: str) -> bool:
        """Make the first contact with a peer, which costs 1 to 7 ms; True when it answered.

        `write` does it when nobody has. Better call it when the peer registers, when it is surely
        alive: a first contact with a hung peer holds up all writes of this engine for 60 s (they
        fail meanwhile, within 2 s each).
        """
        return not self._connect(session, FIRST_CONTACT_S)

    def write(self, session: str, segments: Sequence[Segment], timeout_s: float = 30.0) -> WriteResult:
        """Copy every (source address, target address, bytes) into the memory of ``session``.

        Blocks until all segments are done, a segment has failed and the others have ended, or
        ``timeout_s`` has passed. A segment outside the peer's registered memory fails within a
        millisecond; a peer that died or hangs fails after 1 to 2 s. Other segments of a failed
        write may have been written. Raises EngineError, before anything is sent, when a source is
        not in registered memory or a target is no address at all.
        """
        started = time.perf_counter()
        self._check_segments(segments)
        if segments and (reason := self._connect(session, min(timeout_s, FIRST_CONTACT_S))):
            return failed(session, reason, elapsed_s=time.perf_counter() - started, quiet=True)
        transfer = _Transfer(self._engine, session, self._slots_of(session), segments, started + timeout_s)
        transfer.run()
        return WriteResult(
            ok=not transfer.failure,
            elapsed_s=time.perf_counter() - started,
            completed_bytes=transfer.completed_bytes,
            quiet=not transfer.uncertain,
            failure=transfer.failure and f"write to {session}: {transfer.failure}",
            posted_s=max(transfer.posted_at - started, 0.0),
        )

    def _connect(self, session: str, timeout_s: float) -> str:
        """Empty when the peer is known and the engine is free, else why it is not."""
        with self._lock:
            contact = self._contacts.get(session)
            if contact is None or contact.failed:
                contact = _Contact(self._engine, session, self._opening)
                self._contacts[session] = contact
        if not contact.answered(timeout_s):
            return "the peer cannot be reached"
        if not self._opening.acquire(timeout=timeout_s):
            return "the engine is held up by its first contact with a hung peer"
        self._opening.release()
        return ""

    def _slots_of(self, session: str) -> threading.Semaphore:
        with self._lock:
            if session not in self._slots:
                self._slots[session] = threading.Semaphore(SEGMENTS_IN_FLIGHT)
            return self._slots[session]


class _Contact:
    """The first contact with a peer, in a thread that may hang alone."""

    def __init__(self, engine: Any, session: str, opening: threading.Lock) -> None:
        self.failed = False
        """Whether it has ended without an answer, so that another one makes sense."""
        self._ended = threading.Event()

        def contact() -> None:
            # Nothing to write: this only opens the peer's segment. Such a segment ends at once.
            with opening:
                handle = engine.transfer_submit_write(session, 0, 0, 0)
                self.failed = handle in _NO_HANDLE or engine.transfer_check_status(handle) != 1
            self._ended.set()

        # A daemon, since it cannot be interrupted and must not hold up the end of the process.
        threading.Thread(target=contact, name=f"contact {session}", daemon=True).start()

    def answered(self, timeout_s: float) -> bool:
        """Whether the peer has answered within ``timeout_s`` from now."""
        return self._ended.wait(timeout_s) and not self.failed


class _Transfer:
    """The segments of one write on their way: submitted in order, awaited in order."""

    def __init__(
        self,
        engine: Any,
        session: str,
        slots: threading.Semaphore,
        segments: Sequence[Segment],
        deadline: float,
    ) -> None:
        self.completed_bytes = 0
        self.failure = ""
        self.uncertain = False
        """Whether a segment that was sent ended without success: its bytes may still land."""
        self._engine = engine
        self._session = session
        self._slots = slots
        self._segments = segments
        self._deadline = deadline
        self._submitted = 0
        self.posted_at = 0.0
        """When the last segment was handed over, on the clock of ``time.perf_counter``; 0 until then."""
        self._pending: deque[tuple[int, int]] = deque()  # (handle, bytes)
        small = len(segments) <= SPIN_SEGMENTS and sum(segment[2] for segment in segments) <= SPIN_BYTES
        self._spin_until = time.perf_counter() + SPIN_S if small else 0.0

    def run(self) -> None:
        while True:
            self._submit()
            if not self._pending:
                return
            handle, length = self._pending[0]
            status = self._engine.transfer_check_status(handle)
            if status == 0:
                now = time.perf_counter()
                if now > self._deadline:
                    # Their slots stay taken: the engine still holds the segments.
                    self._fail(f"{len(self._pending)} segments unfinished at the time limit")
                    self.uncertain = True
                    return
                if now > self._spin_until:
                    time.sleep(POLL_SLEEP_S)
                continue
            self._pending.popleft()
            self._slots.release()
            if status == 1:
                self.completed_bytes += length
            else:
                self._fail(f"the engine reports status {status} for a segment of {length} bytes")
                self.uncertain = True

    def _submit(self) -> None:
        """Hand over segments while there are slots; wait for a slot only with nothing in flight."""
        while self._submitted < len(self._segments) and not self.failure:
            if not self._slots.acquire(blocking=False):
                if self._pending:
                    return
                rest_s = self._deadline - time.perf_counter()
                if not self._slots.acquire(timeout=max(rest_s, 0.0)):
                    self._fail(f"{SEGMENTS_IN_FLIGHT} earlier segments are still unfinished")
                    return
            source, target, length = self._segments[self._submitted]
            handle = self._engine.transfer_submit_write(self._session, source, target, length)
            if handle in _NO_HANDLE:
                self._slots.release()
                self._fail("the peer cannot be reached")
                return
            self._submitted += 1
            self._pending.append((handle, length))
            if self._submitted == len(self._segments):
                self.posted_at = time.perf_counter()

    def _fail(self, reason: str) -> None:
        # The first reason is the cause, what follows is consequence.
        self.failure = self.failure or reason
