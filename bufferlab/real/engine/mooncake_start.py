"""How Mooncake is imported and started: the environment it needs, what it says meanwhile, and what that proves.

Mooncake takes a protocol name and ignores it: without an RDMA adapter "rdma" silently runs tcp,
with one "tcp" runs RDMA, and both return 0 and move correct data. So the transport is forced by the
environment, and the engine is observed while it starts: its log, the sockets and devices it opened.

Mooncake is imported when one is started, so this module imports without it.
"""

from __future__ import annotations

import ctypes
import os
import re
import shlex
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bufferlab.real.engine.base import Setting
from bufferlab.real.engine.variables import clean_here, set_by_us
from bufferlab.real.errors import EngineError, EngineMissing

_LISTENING = "0A"  # TCP_LISTEN in /proc/net/tcp
SYSTEM_LIBRARIES_COMMAND = "apt-get install libibverbs1 librdmacm1 libnuma1 liburing2 libcurl4"
PIP = f"{shlex.quote(sys.executable)} -m pip"
WHEEL_COMMAND = f"{PIP} install 'mooncake-transfer-engine-non-cuda>=0.3.13'"

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


def start(host: str, transport: str, device: str) -> tuple[Any, str]:
    """A started TransferEngine and what it logged meanwhile."""
    with _start_lock:
        return _start(host, transport, device)


def _start(host: str, transport: str, device: str) -> tuple[Any, str]:
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


class CapturedLog:
    """What was written to file descriptor 2; ``text`` is complete when the capture has ended."""

    text: str = ""


@contextmanager
def captured_stderr() -> Iterator[CapturedLog]:
    """Catch what native code writes to stderr (glog does not go through Python's sys.stderr).

    The descriptor belongs to the whole process: lines that other threads write meanwhile are
    caught as well. The caller decides what of ``text`` to replay. The descriptor is restored also
    when the block raises.
    """
    captured = CapturedLog()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        saved = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield captured
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            captured.text = file.read().decode(errors="replace")


def identify(log: str, rpc_port: int) -> tuple[str, list[str]]:
    """("tcp", "rdma" or "unknown", evidence) of an engine that has just started in this process.

    ``log``: what it wrote while starting; ``rpc_port``: its port for handshakes. Two independent
    observations are made, since the log is silent where somebody lowered its level or sent it to a
    file. They must not contradict each other: if they do, the answer is "unknown".
    """
    found: set[str] = set()
    evidence: list[str] = []
    for line in log.splitlines():
        if "TcpTransport: listen on port" in line:
            found.add("tcp")
        elif match := re.search(r"installTransport, type=(\w+)", line):
            found.add(match[1])
        else:
            continue
        evidence.append(f"engine log: {line.split('] ', 1)[-1].strip()}")
    if verbs := _open_verbs_devices():
        found.add("rdma")
        evidence.append(f"the process holds {', '.join(verbs)} open")
    elif ports := _listening_ports() - {rpc_port}:
        # Over RDMA the engine listens for handshakes only; a second port is tcp's data port.
        # Not conclusive alone, the port may be another library's.
        named = ", ".join(str(port) for port in sorted(ports))
        evidence.append(f"no RDMA device is open; beside the handshake port {rpc_port} the process listens on {named}")
        found = found or {"tcp"}
    return (found.pop() if len(found) == 1 else "unknown"), evidence


def _open_descriptors() -> list[str]:
    links: list[str] = []
    try:
        for descriptor in Path("/proc/self/fd").iterdir():
            try:
                links.append(str(descriptor.readlink()))
            except OSError:
                continue  # closed meanwhile
    except OSError:
        return []
    return links


def _open_verbs_devices() -> list[str]:
    return sorted({link for link in _open_descriptors() if "/infiniband/uverbs" in link})


def _listening_ports() -> set[int]:
    inodes = {link[8:-1] for link in _open_descriptors() if link.startswith("socket:[")}
    ports: set[int] = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            if fields[3] == _LISTENING and fields[9] in inodes:
                ports.add(int(fields[1].rsplit(":", 1)[1], 16))
    return ports
