"""One Mooncake transfer engine: registered memory and one-sided writes to a peer.

The engine's own calls leave traps open that this module closes: the transport is forced and
proved (see `real.engine.transport`), sources are checked to be registered (tcp would send any memory),
batches stay below the number of pieces that the engine survives, every wait is bounded, and a
failed write says whether the engine may still be writing.

Mooncake is imported when an `Engine` is made, so this module imports without it.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from real.engine.transport import (
    TRANSPORTS,
    ProofError,
    TransportProof,
    captured_stderr,
    identify,
    prove,
)
from real.engine.variables import clean_here, set_by_us
from real.errors import EngineError, EngineMissing

if TYPE_CHECKING:
    from real.engine.memory import Pool

SYSTEM_LIBRARIES_COMMAND = "apt-get install libibverbs1 librdmacm1 libnuma1 liburing2 libcurl4"
WHEEL_COMMAND = "pip install 'bufferlab[real-cpu]'"

# The engine takes 2048 pieces in flight per peer. One more and it does not reject them cleanly:
# a piece may stay unfinished for ever, and every later write to that peer fails. Half leaves room.
PIECES_IN_FLIGHT = 1024
# One check costs the engine's io thread time on a small machine, one late check costs latency.
# Measured: 128 × 1 MiB takes 53-67 ms with sleeps of 30-100 µs, 68-91 ms with the spinning calls.
POLL_SLEEP_S = 50e-6
# Below this a write ends sooner than a sleep, which takes 110 µs and more: spin for a moment.
# Measured: 64 µs for one 4 KiB piece, as fast as the synchronous call; 115-150 µs with sleeps.
SPIN_BYTES = 128 << 10
SPIN_PIECES = 8
SPIN_S = 300e-6
# A peer that hangs at first contact blocks the engine's call, and the engine's lock with it, for
# 60 s that no setting shortens. Nobody waits longer than this for a first contact.
FIRST_CONTACT_S = 2.0
# What transfer_submit_write returns when it could not open the peer: -1, also seen as unsigned, or
# 0; a good handle is an address.
_NO_HANDLE = (0, -1, 2**64 - 1)
_OVERLAP = -7


class WriteResult(msgspec.Struct, frozen=True):
    """How a write ended.

    ``elapsed_s``: from the call to its end; ``posted_s``: from the call until the last piece was
    handed to the engine, which may have moved many of them by then (0 when they were not all handed
    over). ``completed_bytes`` counts pieces that are known to lie in the peer's memory. ``quiet``
    tells that the engine is known to write nothing more for this call: only then may its source and
    target blocks be used again. After a failure it is False unless nothing was in flight, since
    bytes that the operating system took can still land; the blocks stay fenced until the peer or
    the connection is known to be gone.
    """

    ok: bool
    elapsed_s: float
    completed_bytes: int
    quiet: bool
    failure: str = ""
    posted_s: float = 0.0


class Setting(NamedTuple):
    """An environment variable of the engine. ``value`` None: it must be absent."""

    name: str
    value: str | None
    why: str
    forced: bool = False
    """Whether a value that the user has set is replaced."""


_SETTINGS = (
    Setting("MC_TCP_SLICE_SIZE", str(4 << 20), "10-20 % more throughput than the default 64 KiB"),
    # When blocks may be used again after a failed write hangs on these two.
    Setting("MC_TCP_PROGRESS_TIMEOUT_SEC", "2", "a hung peer fails a write after 2 s, not 30 s", True),
    Setting("MC_TCP_STATUS_TIMEOUT_SEC", "2", "the same while waiting for the peer's answer", True),
    Setting("MC_HANDSHAKE_CONNECT_TIMEOUT", "2", "a host that does not answer at all", True),
    Setting("MC_LOG_LEVEL", "INFO", "the lines that name the transport; put back after the start", True),
    Setting("MC_USE_TENT", None, "replaces the engine by another one with other behaviour", True),
)
_TRANSPORT_SETTINGS = {
    "tcp": (
        Setting("MC_FORCE_TCP", "1", "with an RDMA adapter present, tcp would run RDMA", True),
        Setting("MC_FORCE_HCA", None, "any value, 0 as well, forces RDMA", True),
    ),
    "rdma": (
        Setting("MC_FORCE_HCA", "1", "without an adapter rdma would silently run tcp", True),
        Setting("MC_FORCE_TCP", None, "it would win over the adapter", True),
    ),
}


def settings(transport: str) -> tuple[Setting, ...]:
    """The environment an engine of this transport is started with, and why."""
    return _SETTINGS + _TRANSPORT_SETTINGS[transport]


def import_mooncake() -> Any:
    """The module ``mooncake.engine``. Raises EngineMissing with the command that mends it.

    What would make it abort or behave otherwise is taken out of this process's environment first.
    """
    clean_here()
    try:
        import mooncake.engine as module
    except ModuleNotFoundError as error:
        raise EngineMissing(f"Mooncake is not installed ({error}); run: {WHEEL_COMMAND}") from error
    except ImportError as error:
        # Most often a shared library: "libibverbs.so.1: cannot open shared object file".
        library = "cannot open shared object file" in str(error)
        command = SYSTEM_LIBRARIES_COMMAND if library else "bufferlab doctor, which says what mends it"
        raise EngineMissing(f"Mooncake does not load ({error}); run: {command}") from error
    return module


# Starting an engine changes the environment and file descriptor 2, which belong to the process.
_start_lock = threading.Lock()


class Engine:
    """A transfer engine of this process, listening on ``host`` at a port of its own choice.

    ``transport``: "tcp" or "rdma"; ``device``: names of RDMA adapters, comma-separated, empty for
    all. ``proof`` says which transport runs and how we know, ``log`` is what the engine wrote
    while it started. Methods may be called from several threads.

    Raises EngineMissing when Mooncake does not import and EngineError when the engine does not
    start or runs another transport than the one asked for.
    """

    def __init__(self, host: str = "127.0.0.1", transport: str = "tcp", device: str = "") -> None:
        if transport not in TRANSPORTS:
            raise EngineError(f"transport is {transport!r}, it must be one of {', '.join(TRANSPORTS)}")
        self.host = host
        self.transport = transport
        with _start_lock:
            self._engine, self.log = _start(host, transport, device)
        rpc_port = int(self._engine.get_rpc_port())
        self.session = f"{host}:{rpc_port}"
        actual, evidence = identify(self.log, rpc_port)
        try:
            self.proof: TransportProof = prove(transport, actual, evidence)
        except ProofError as error:
            raise EngineError(str(error)) from error
        # (first address, address after the last byte), sorted; regions never overlap.
        self._regions: list[tuple[int, int]] = []
        self._lock = threading.Lock()
        self._slots: dict[str, threading.Semaphore] = {}
        self._contacts: dict[str, _Contact] = {}
        self._opening = threading.Lock()

    def register(self, pool: Pool) -> None:
        """Make the pool's memory known to the engine, one region per kind, and mark the pool.

        Raises EngineError naming kind and size when a region is refused, after taking back the
        pool's other regions.
        """
        if pool.device != "cpu" and not import_mooncake().SUPPORT_CUDA:
            raise EngineError(
                f"the installed Mooncake wheel cannot use memory on {pool.device}; run: "
                "pip uninstall mooncake-transfer-engine-non-cuda && "
                "pip install 'bufferlab[real-cuda12]'"
            )
        done: list[int] = []
        for kind, base, size in zip(pool.layout.kinds, pool.bases, pool.sizes_bytes, strict=True):
            try:
                self.register_region(base, size, kind.name)
            except EngineError:
                for other in done:
                    self.unregister_region(other)
                raise
            done.append(base)
        pool.registered = True

    def unregister(self, pool: Pool) -> None:
        """Withdraw the pool's regions. No write from or to it may be in flight."""
        for base in pool.bases:
            self.unregister_region(base)
        pool.registered = False

    def register_region(self, base: int, size_bytes: int, name: str) -> None:
        """Make ``size_bytes`` from address ``base`` on known to the engine; the caller keeps the memory alive.

        Raises EngineError with ``name`` and size when the engine refuses.
        """
        code = self._engine.register_memory(base, size_bytes)
        if code:
            reason = "it overlaps registered memory" if code == _OVERLAP else f"code {code}"
            raise EngineError(f"the engine refused to register {name}, {size_bytes} bytes: {reason}")
        with self._lock:
            insort(self._regions, (base, base + size_bytes))

    def unregister_region(self, base: int) -> None:
        """Withdraw the region that starts at ``base``. No write from or to it may be in flight."""
        self._engine.unregister_memory(base)
        with self._lock:
            self._regions = [region for region in self._regions if region[0] != base]

    def connect(self, session: str) -> bool:
        """Make the first contact with a peer, which costs 1 to 7 ms; True when it answered.

        `write` does it when nobody has. Better call it when the peer registers, when it is surely
        alive: a first contact with a hung peer holds up all writes of this engine for 60 s (they
        fail meanwhile, within 2 s each).
        """
        return not self._connect(session, FIRST_CONTACT_S)

    def write(self, session: str, pieces: Sequence[tuple[int, int, int]], timeout_s: float = 30.0) -> WriteResult:
        """Copy every (source address, target address, bytes) into the memory of ``session``.

        Blocks until all pieces are done, a piece has failed and the others have ended, or
        ``timeout_s`` has passed. A piece outside the peer's registered memory fails within a
        millisecond; a peer that died or hangs fails after 1 to 2 s. Other pieces of a failed
        write may have been written. Raises EngineError, before anything is sent, when a source is
        not in registered memory or a target is no address at all.
        """
        started = time.perf_counter()
        for source, target, length in pieces:
            self._require_registered(source, length)
            if not 0 <= target < 1 << 64:
                raise EngineError(f"target {target:#x} is no address")
        if pieces and (failure := self._connect(session, min(timeout_s, FIRST_CONTACT_S))):
            return WriteResult(
                ok=False,
                elapsed_s=time.perf_counter() - started,
                completed_bytes=0,
                quiet=True,
                failure=f"write to {session}: {failure}",
            )
        transfer = _Transfer(self._engine, session, self._slots_of(session), pieces, started + timeout_s)
        transfer.run()
        return WriteResult(
            ok=not transfer.failure,
            elapsed_s=time.perf_counter() - started,
            completed_bytes=transfer.completed_bytes,
            quiet=not transfer.uncertain,
            failure=transfer.failure and f"write to {session}: {transfer.failure}",
            posted_s=max(transfer.posted_at - started, 0.0),
        )

    def _require_registered(self, source: int, length: int) -> None:
        regions = self._regions
        index = bisect_right(regions, (source, sys.maxsize)) - 1
        if length < 0 or index < 0 or source + length > regions[index][1]:
            raise EngineError(f"source memory of {length} bytes at {source:#x} is not registered with the engine")

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
                self._slots[session] = threading.Semaphore(PIECES_IN_FLIGHT)
            return self._slots[session]


class _Contact:
    """The first contact with a peer, in a thread that may hang alone."""

    def __init__(self, engine: Any, session: str, opening: threading.Lock) -> None:
        self.failed = False
        """Whether it has ended without an answer, so that another one makes sense."""
        self._ended = threading.Event()

        def contact() -> None:
            # Nothing to write: this only opens the peer's segment. Such a piece ends at once.
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
    """The pieces of one write on their way: submitted in order, awaited in order."""

    def __init__(
        self,
        engine: Any,
        session: str,
        slots: threading.Semaphore,
        pieces: Sequence[tuple[int, int, int]],
        deadline: float,
    ) -> None:
        self.completed_bytes = 0
        self.failure = ""
        self.uncertain = False
        """Whether a piece that was sent ended without success: its bytes may still land."""
        self._engine = engine
        self._session = session
        self._slots = slots
        self._pieces = pieces
        self._deadline = deadline
        self._submitted = 0
        self.posted_at = 0.0
        """When the last piece was handed over, on the clock of ``time.perf_counter``; 0 until then."""
        self._pending: deque[tuple[int, int]] = deque()  # (handle, bytes)
        small = len(pieces) <= SPIN_PIECES and sum(piece[2] for piece in pieces) <= SPIN_BYTES
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
                    # Their slots stay taken: the engine still holds the pieces.
                    self._fail(f"{len(self._pending)} pieces unfinished at the time limit")
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
                self._fail(f"the engine reports status {status} for a piece of {length} bytes")
                self.uncertain = True

    def _submit(self) -> None:
        """Hand over pieces while there are slots; wait for a slot only with nothing in flight."""
        while self._submitted < len(self._pieces) and not self.failure:
            if not self._slots.acquire(blocking=False):
                if self._pending:
                    return
                rest_s = self._deadline - time.perf_counter()
                if not self._slots.acquire(timeout=max(rest_s, 0.0)):
                    self._fail(f"{PIECES_IN_FLIGHT} earlier pieces are still unfinished")
                    return
            source, target, length = self._pieces[self._submitted]
            handle = self._engine.transfer_submit_write(self._session, source, target, length)
            if handle in _NO_HANDLE:
                self._slots.release()
                self._fail("the peer cannot be reached")
                return
            self._submitted += 1
            self._pending.append((handle, length))
            if self._submitted == len(self._pieces):
                self.posted_at = time.perf_counter()

    def _fail(self, reason: str) -> None:
        # The first reason is the cause, what follows is consequence.
        self.failure = self.failure or reason


def _start(host: str, transport: str, device: str) -> tuple[Any, str]:
    """A started TransferEngine and what it logged meanwhile."""
    clean_here()
    wanted_level = os.environ.get("MC_LOG_LEVEL")
    for setting in settings(transport):
        if setting.forced or setting.name not in os.environ:
            set_by_us(setting.name, setting.value)
    module = import_mooncake()
    with captured_stderr() as captured:
        _set_log_level(module, "INFO")
        engine = module.TransferEngine()
        # The protocol argument is ignored by the engine; the settings above decide.
        filtered = device if transport == "rdma" else ""
        code = engine.initialize(host, "P2PHANDSHAKE", transport, filtered)
    _set_log_level(module, wanted_level or "WARNING")
    set_by_us("MC_LOG_LEVEL", wanted_level)
    if wanted_level is not None:
        sys.stderr.write(captured.text)
    if code:
        errors = [line for line in captured.text.splitlines() if line.startswith("E")]
        reason = "; ".join(line.split("] ", 1)[-1] for line in errors) or "it does not say why"
        raise EngineError(f"Mooncake does not start with transport {transport} on {host} (code {code}): {reason}")
    return engine, captured.text


def _set_log_level(module: Any, name: str) -> None:
    """Set glog's threshold, which the engine reads from its environment only once per process."""
    level = {"TRACE": 0, "INFO": 0, "ERROR": 2}.get(name, 1)
    try:
        ctypes.c_int.in_dll(ctypes.CDLL(module.__file__), "_ZN3fLI17FLAGS_minloglevelE").value = level
    except (OSError, ValueError):
        return  # another build of the wheel: it says more than is wanted, nothing else
