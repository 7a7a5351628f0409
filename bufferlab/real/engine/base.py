"""What a transport must do for a run: the contract that every engine keeps.

An engine belongs to one process. It knows memory of that process (*regions*), has a name by which peers reach it (its
*session*), and writes from its own regions into the regions of a peer. Such writes are one-sided: no code of the peer's
rank takes part, and the peer does not learn of them. When `write` has returned, the writing rank sends control messages
that say which bytes have arrived.

The registry finds engine classes by the names of their modules (``real.engine.registry``), so to add a transport is to
add one file ``real/engine/*_engine.py``. tests/real/test_engine_contract.py holds every engine to what is said here.
"""

from __future__ import annotations

import sys
import threading
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

import msgspec

from bufferlab.real.engine.proof import Traffic, TransportProof
from bufferlab.real.errors import EngineError

if TYPE_CHECKING:
    from bufferlab.real.engine.memory import Pool

Segment = tuple[int, int, int]
"""One stretch of a write: (source address here, target address at the peer, bytes)."""


class KeyMaker(Protocol):
    """Whatever derives keys from the run's token (``real.control.guard.Guard``)."""

    def key(self, purpose: str, *more: bytes) -> bytes:
        """A key of 32 bytes for one purpose."""


class WriteResult(msgspec.Struct, frozen=True):
    """How a write ended.

    ``elapsed_s``: from the call to its end; ``posted_s``: from the call until the last segment was
    handed to the engine, which may have moved many of them by then (0 when they were not all handed
    over). ``completed_bytes`` counts bytes that are known to lie in the peer's memory. ``quiet``
    says that the engine writes nothing more for this call: only then may its source and
    target blocks be used again. After a failure it is False whenever bytes may still be under way:
    the blocks stay fenced until the peer or the connection is known to be gone.
    """

    ok: bool
    elapsed_s: float
    completed_bytes: int
    quiet: bool
    failure: str = ""
    posted_s: float = 0.0


class Setting(NamedTuple):
    """An environment variable of an engine. ``value`` None: it must be absent."""

    name: str
    value: str | None
    why: str
    forced: bool = False
    """Whether a value that the user has set is replaced."""


class TransferEngine(ABC):
    """An engine of this process, which peers reach at ``host``.

    **Registration.** Only registered memory is written from or to. A source outside of it is refused with EngineError
    before anything is sent. A target outside of the peer's regions fails the write, and no byte of that segment is
    placed anywhere; other segments of the same write may be placed. Regions never overlap; whoever registers memory
    keeps it alive until it is withdrawn.

    **What a result says.** ``ok``: every byte lies in the peer's memory, where a thread of the peer that learns of it
    afterwards finds it. The peer may conclude nothing from bytes alone, since segments arrive in any order and a
    segment in parts. ``quiet``: source and target may be used again. A write that is ok is quiet; one that failed with
    bytes under way is not, and then up to ``late_write_s`` may pass, with the peer running, before the last of them has
    landed. A source that is changed before its write is quiet may arrive torn.

    **Failure.** `write` and `connect` return within their time limit, whatever the peer does: one that has died fails a
    write within about a second, one that hangs (stopped, or cut off) within a few. A failure is a sentence in the
    result and never spoils writes to other peers for longer than that. Whether a failed peer is tried again is the
    caller's decision; every call tries anew.

    **Restart.** A process that takes a dead one's place has another session. A write to the old session fails and never
    lands in the new process's memory, if the engine can tell the two apart (``knows_restarted_peers``).

    **Proof.** When the constructor has returned, ``proof`` says which transport runs and how that is known. An engine
    that cannot tell, or runs another transport than the one asked for, does not start: EngineError.

    All methods may be called from several threads.

    ``transport``: one of ``transports``; ``device``: names of adapters, comma-separated, empty for all, only for
    transports in ``device_transports``; ``guard``: makes the run's keys, None where ports are open.
    """

    transports: ClassVar[Mapping[str, str]]
    """The transports that this class runs, each with one sentence for users."""

    called: ClassVar[str]
    """The name of what moves the bytes, for use in sentences."""

    resembles_networks: ClassVar[bool] = True
    """Whether its measurements say something about other transports, and published figures of networks about it. If
    not, a link profile of this engine is made from its own measurements alone."""

    device_transports: ClassVar[frozenset[str]] = frozenset()
    """The transports for which an adapter can be named."""

    late_write_s: ClassVar[float] = 5.0
    """How long after a failed write its bytes may still land in a peer that runs."""

    knows_restarted_peers: ClassVar[bool] = False
    """Whether a write to a dead process can be told from one to another process at the same address."""

    serves_strangers: ClassVar[bool] = True
    """Whether whoever reaches its port can write to registered memory, also without the run's token."""

    needs_mooncake: ClassVar[bool] = False
    """Whether Mooncake must import here."""

    no_gpu_memory: ClassVar[str] = ""
    """Why a GPU's memory cannot be used where ``takes_gpu_memory`` says so, with what mends it."""

    session: str
    """The name by which peers reach this engine; the same text in every process, host:port or more."""

    proof: TransportProof

    def __init__(
        self, host: str = "127.0.0.1", transport: str = "", device: str = "", guard: KeyMaker | None = None
    ) -> None:
        transport = transport or next(iter(self.transports))
        if transport not in self.transports:
            raise EngineError(f"transport is {transport!r}, it must be one of {', '.join(self.transports)}")
        self.host = host
        self.transport = transport
        self.device = device
        self.guard = guard
        # (first address, address after the last byte), sorted; regions never overlap.
        self._regions: list[tuple[int, int]] = []
        self._regions_lock = threading.Lock()

    # --- what this class can do here ---

    @classmethod
    def require(cls) -> None:
        """Raise EngineMissing, with the command that mends it, where engines of this class cannot be made."""
        return

    @classmethod
    def takes_gpu_memory(cls) -> bool:
        """Whether memory on a GPU can be registered. Raises EngineMissing where that cannot be known."""
        return False

    @classmethod
    def settings(cls, transport: str) -> tuple[Setting, ...]:
        """The environment that an engine of this transport is started with, and why."""
        del transport
        return ()

    # --- memory ---

    def register(self, pool: Pool) -> None:
        """Make the pool's memory known to the engine, one region per kind, and mark the pool.

        Raises EngineError naming kind and size when a region is refused, after taking back the
        pool's other regions.
        """
        if pool.device != "cpu" and not self.takes_gpu_memory():
            raise EngineError(f"the pool lies on {pool.device}, but {self.no_gpu_memory}")
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

        Raises EngineError with ``name`` and size when the region is empty, overlaps another one or is refused
        otherwise.
        """
        if size_bytes < 1:
            raise EngineError(f"the engine refused to register {name}, {size_bytes} bytes: there is nothing in it")
        end = base + size_bytes
        with self._regions_lock:
            reason = "it overlaps registered memory"
            if not any(first < end and base < last for first, last in self._regions):
                reason = self._register(base, size_bytes)
            if reason:
                raise EngineError(f"the engine refused to register {name}, {size_bytes} bytes: {reason}")
            # Replaced and never changed in place: whoever checks an address reads the list without the lock.
            self._regions = sorted([*self._regions, (base, end)])

    def unregister_region(self, base: int) -> None:
        """Withdraw the region that starts at ``base``. No write from or to it may be in flight."""
        with self._regions_lock:
            self._unregister(base)
            self._regions = [region for region in self._regions if region[0] != base]

    def _register(self, base: int, size_bytes: int) -> str:
        """Register the region with the library below; return why it refuses, or "". The lock of the regions is held."""
        del base, size_bytes
        return ""

    def _unregister(self, base: int) -> None:
        """Withdraw the region from the library below. The lock of the regions is held."""
        del base

    def _covers(self, address: int, length: int) -> bool:
        """Whether the bytes from ``address`` on lie in one region."""
        regions = self._regions
        index = bisect_right(regions, (address, sys.maxsize)) - 1
        return length >= 0 and index >= 0 and address + length <= regions[index][1]

    def _check_segments(self, segments: Sequence[Segment]) -> None:
        """Raise EngineError when a source is not in registered memory or a target is no address at all."""
        for source, target, length in segments:
            if not self._covers(source, length):
                raise EngineError(f"source memory of {length} bytes at {source:#x} is not registered with the engine")
            if not 0 <= target < 1 << 64:
                raise EngineError(f"target {target:#x} is no address")

    # --- peers ---

    @abstractmethod
    def connect(self, session: str) -> bool:
        """Make the first contact with a peer, within about 2 s; True when it answered.

        `write` does this if nobody has done it before. It is better done when the peer registers, as it is surely
        alive then.
        """

    @abstractmethod
    def write(self, session: str, segments: Sequence[Segment], timeout_s: float = 30.0) -> WriteResult:
        """Copy every segment into the memory of the peer with this session.

        Blocks until all segments are done, a segment has failed and the others have ended, or ``timeout_s`` has passed.
        Raises EngineError, before anything is sent, when a source is not in registered memory or a target is no address
        at all.
        """

    # --- what became of it ---

    def traffic(self) -> Traffic | None:
        """What the engine itself has counted so far; None where it has no counters of its own."""
        return None

    def strangers(self) -> Mapping[str, int]:
        """By address, how often somebody came who did not hold the run's token; empty where nobody is turned away."""
        return {}

    def close(self) -> None:
        """End the engine, if it can end before its process does: peers find nobody from then on."""
        return


def failed(session: str, reason: str, *, elapsed_s: float, quiet: bool, completed_bytes: int = 0) -> WriteResult:
    """The result of a write that did not succeed."""
    return WriteResult(
        ok=False,
        elapsed_s=elapsed_s,
        completed_bytes=completed_bytes,
        quiet=quiet,
        failure=f"write to {session}: {reason}",
    )
