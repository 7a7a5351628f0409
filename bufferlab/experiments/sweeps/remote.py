"""What a worker of a cluster does: says what it has, and runs packs, telling what ends while they go on.

A pack runs in the process it was given to or nowhere: if that process is lost, the scheduler may offer the pack to the
one that takes its address, which turns it down, as some of the pack has ended and been told by then.
"""

from __future__ import annotations

import pickle
import time
import uuid
import warnings
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bufferlab import experiments, protocol, sim
from bufferlab.experiments.config.build import digest_of
from bufferlab.experiments.starting import collect_seldom
from bufferlab.experiments.sweeps.carrying import run_pack
from bufferlab.experiments.sweeps.folder import digest_of_folders
from bufferlab.protocol.compiled import state
from bufferlab.protocol.naming import Renamed

PROCESS = uuid.uuid4().hex
"""Names this process: an address may be somebody else's later on."""
PACK_S = 6.0
"""So long that a scheduler has little to do, and that a pack that ends sooner than expected still lasts five."""
TOLD_EVERY_S = 0.5
MOST_BYTES = 32_768
"""What is told at once: the scheduler keeps the last thousand such messages, some 30 MB, until the client has left."""


@dataclass(frozen=True)
class Has:
    """What a process runs and sees."""

    process: str
    code: str
    build: str
    """The name of the compiled build; empty where the cores are interpreted."""
    interpreted_because: str
    inputs: dict[str, str]
    """The digest of each input file, or why it cannot be read."""


@dataclass(frozen=True)
class Told:
    """What a worker tells of a pack; ``turned_down`` if it has another process by now."""

    run: str
    number: int
    ended: tuple[bytes, ...] = ()
    """Each an ``Ended``."""
    is_over: bool = False
    turned_down: bool = False


def what_it_has(inputs: Iterable[str]) -> Has:
    """Of this process."""
    found = state()
    return Has(
        PROCESS,
        whole_code_digest(),
        found.digest,
        found.why,
        {path: _content(path) for path in inputs},
    )


def whole_code_digest() -> str:
    """SHA-256 of all code and data that runs may need, and of NumPy's version, which draws the numbers."""
    packages = [Path(str(package.__file__)).parent for package in (protocol, sim, experiments)]
    return digest_of_folders(packages, left_out="_compiled")


def _content(path: str) -> str:
    try:
        return digest_of(Path(path))
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def run_remote(call: bytes, *, process: str, topic: str, run: str, number: int, careful: bool) -> None:
    """Run a pack in this process if it is the one it was given to."""
    from distributed import get_worker

    worker = get_worker()

    def tell(**what: Any) -> None:
        worker.log_event(topic, {"bufferlab": pickle.dumps(Told(run, number, **what))})

    if process != PROCESS:
        tell(turned_down=True)
        return
    collect_seldom()
    warnings.simplefilter("ignore", Renamed)  # the process that checked the configuration has said so already
    tell()  # that it has begun
    ended: list[bytes] = []
    size, told_s = 0, time.perf_counter()
    for one in run_pack(call, PACK_S):
        ended.append(zlib.compress(pickle.dumps(one), 1))
        size += len(ended[-1])
        if careful or size > MOST_BYTES or time.perf_counter() - told_s > TOLD_EVERY_S:
            tell(ended=tuple(ended))
            ended.clear()
            size, told_s = 0, time.perf_counter()
    tell(ended=tuple(ended), is_over=True)
