"""What a run ran on: versions and facts about the host. Nothing in it changes when the same host runs it again."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bufferlab.experiments.errors import UserError
from bufferlab.protocol.compiled import VARIABLE, state

PACKAGES = ("bufferlab", "numpy", "simpy", "msgspec", "pydantic", "pandas", "pyarrow", "scipy", "matplotlib")
REAL_PACKAGES = ("torch", "pyzmq", "aiohttp", "psutil")
MOONCAKE_WHEELS = ("mooncake-transfer-engine-non-cuda", "mooncake-transfer-engine", "mooncake-transfer-engine-cuda13")
INFINIBAND = Path("/sys/class/infiniband")


VERSION = re.compile(r"^Version: *(\S+) *$", re.MULTILINE)


@functools.cache
def package_version(name: str) -> str | None:
    """The installed version of a distribution, None when it is absent."""
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    # It stands near the top. ``found.version`` reads all of a package's description as if it were a mail.
    head = VERSION.search(found.read_text("METADATA") or "")
    return head.group(1) if head is not None else found.version


def describe_host() -> dict[str, Any]:
    """Facts about this machine."""
    return {
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "cpus": usable_cpus(),
        "memory_bytes": memory_bytes(),
        "rdma_devices": rdma_devices(),
    }


def describe(proof: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """The content of environment.json. ``proof``: how a measured run knows which transport it used.

    A measured run also says when it ended (``date``, UTC), which variables of the environment reached the engine
    (``passed_variables``), and the names of those that were taken out (``removed_variables``; their values may hold
    passwords).
    """
    packages = (*PACKAGES, *REAL_PACKAGES, *MOONCAKE_WHEELS) if proof is not None else PACKAGES
    if proof is not None:
        from bufferlab.real.engine.variables import passed, taken_out

        # When it ended, so that a profile that is much older can be told; a simulated run is the same on any day.
        more = {"date": datetime.now(UTC).isoformat(timespec="seconds"), **more}
        more = {"removed_variables": taken_out(), "passed_variables": passed(os.environ), **more}
    installed = {name: version for name in packages if (version := package_version(name)) is not None}
    return {
        "python": platform.python_version(),
        "packages": installed,
        **describe_code(),
        "host": describe_host(),
        "transport_proof": proof,
        **more,
    }


def versions() -> dict[str, str]:
    """Of Python and the packages that a simulated run needs, as ``StoredRun.versions`` has those of one that ran."""
    known = {name: version for name in PACKAGES if (version := package_version(name)) is not None}
    return {"python": platform.python_version(), **known}


def describe_code() -> dict[str, Any]:
    """Whether the cores run compiled, by the name of the build; where not, why."""
    found = state()
    why = {} if found.folder is not None else {"interpreted_because": found.why}
    return {"compiled": found.folder is not None, "build": found.digest, **why}


def check_compiled() -> None:
    """Raise UserError if the environment asks for compiled modules in vain, or for what there is not."""
    if (wish := os.environ.get(VARIABLE, "")) not in ("", "0", "1"):
        raise UserError(f"{VARIABLE} is {wish!r} in the environment, it must be 0 or 1")
    try:
        state()
    except ImportError as error:
        raise UserError(str(error)) from None


def usable_cpus() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int:
    """Main memory of the machine, 0 where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0


def rdma_devices() -> list[str]:
    """Names of the RDMA devices the kernel knows."""
    return sorted(path.name for path in INFINIBAND.iterdir()) if INFINIBAND.is_dir() else []


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()
