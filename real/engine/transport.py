"""Which transport really carries the data, and how we know.

Mooncake takes a protocol name and ignores it: without an RDMA adapter "rdma" silently runs tcp,
with one "tcp" runs RDMA, and both return 0 and move correct data. So the engine is observed while
it starts (its log, the sockets and devices it opened), and byte counters of the operating system
are compared before and after a transfer.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

TRANSPORTS = ("tcp", "rdma")
_TCP_COUNTERS = Path("/sys/class/net")
_RDMA_COUNTERS = Path("/sys/class/infiniband")
_LISTENING = "0A"  # TCP_LISTEN in /proc/net/tcp
# The unit of port_xmit_data is four bytes, by the InfiniBand specification.
_RDMA_WORD_BYTES = 4


class ProofError(RuntimeError):
    """The transport that runs is not the one that was asked for, or nobody can tell."""


class TransportProof(msgspec.Struct, frozen=True):
    """What was asked for, what runs, and the observations that say so, one sentence each."""

    requested: str
    actual: str
    evidence: list[str]


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


def prove(requested: str, actual: str, evidence: Sequence[str] = ()) -> TransportProof:
    """The proof that ``requested`` runs. Raises ProofError, with the evidence, when it does not."""
    if requested not in TRANSPORTS:
        raise ProofError(f"transport is {requested!r}, it must be one of {', '.join(TRANSPORTS)}")
    if requested != actual:
        why = "; ".join(evidence) or "nothing was observed"
        raise ProofError(f"transport {requested} was asked for, but the engine runs {actual} ({why})")
    return TransportProof(requested=requested, actual=actual, evidence=list(evidence))


def sent_counters() -> dict[str, int]:
    """Bytes this host has sent so far: "tcp:lo", "tcp:eth0", …, "rdma:mlx5_0/1", ….

    Software RDMA has no byte counter; its packets are counted as "packets:rxe0/1". Counters that
    cannot be read are left out, so the result may be empty (outside Linux it is).
    """
    counters: dict[str, int] = {}
    for path in _TCP_COUNTERS.glob("*/statistics/tx_bytes"):
        _add(counters, f"tcp:{path.parent.parent.name}", path)
    for port in _RDMA_COUNTERS.glob("*/ports/*"):
        name = f"{port.parent.parent.name}/{port.name}"
        _add(counters, f"rdma:{name}", port / "counters/port_xmit_data", _RDMA_WORD_BYTES)
        if f"rdma:{name}" not in counters:
            _add(counters, f"packets:{name}", port / "hw_counters/sent_pkts")
    return counters


def with_traffic(
    proof: TransportProof,
    before: Mapping[str, int],
    after: Mapping[str, int],
    written_bytes: int,
    where: str = "",
) -> TransportProof:
    """The proof with what the counters saw while ``written_bytes`` were written to a peer.

    ``where`` is put before the sentence. Give at least a few megabytes: other processes use the
    same interfaces. Raises ProofError when rdma is claimed, no RDMA counter moved and a network
    interface sent all the bytes. Counters are a lower bound only: some adapters do not count
    traffic to themselves.
    """
    rises = {name: after[name] - value for name, value in before.items() if name in after}

    def most(*kinds: str) -> tuple[str, int]:
        of_kind = [(rise, name) for name, rise in rises.items() if name.split(":")[0] in kinds]
        rise, name = max(of_kind, default=(0, "no counter"))
        return name, rise

    tcp_name, tcp_rise = most("tcp")
    rdma_name, rdma_rise = most("rdma", "packets")
    carried_by_tcp = tcp_rise >= written_bytes > 0
    if proof.actual == "rdma":
        sentence = f"{rdma_name} rose by {rdma_rise}, {tcp_name} by {tcp_rise}"
    else:
        sentence = f"{tcp_name} rose by {tcp_rise} bytes"
        if not carried_by_tcp:
            sentence += ", less than that"
    evidence = [*proof.evidence, f"{where}while {written_bytes} bytes were written, {sentence}"]
    if proof.actual == "rdma" and carried_by_tcp and not rdma_rise:
        raise ProofError(f"the data of an rdma engine went over tcp ({evidence[-1]})")
    return TransportProof(requested=proof.requested, actual=proof.actual, evidence=evidence)


def _add(counters: dict[str, int], name: str, path: Path, unit: int = 1) -> None:
    try:
        counters[name] = unit * int(path.read_text())
    except (OSError, ValueError):
        return


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
