"""Which transport really carries the data, and how we know.

An engine says what it runs and by which observations that is known (``prove``). During a run that is held against byte
counters: those of the operating system (``sent_counters``), and the engine's own where it has any (`Traffic`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from bufferlab.real.errors import EngineError

_TCP_COUNTERS = Path("/sys/class/net")
_RDMA_COUNTERS = Path("/sys/class/infiniband")
# The unit of port_xmit_data is four bytes, by the InfiniBand specification.
_RDMA_WORD_BYTES = 4


class ProofError(EngineError):
    """The transport that runs is not the one that was asked for, or nobody can tell."""


class TransportProof(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was asked for, what runs, and the observations that say so, one sentence each.

    ``refuted``: why the engine's word does not hold after all, found out in the run; whoever has made the run keeps
    what it did and tells this beside it.
    """

    requested: str
    actual: str
    evidence: list[str]
    refuted: str = ""


class Traffic(msgspec.Struct, frozen=True):
    """What an engine has counted itself: payload bytes that it sent to peers and that these have acknowledged, and
    payload bytes that it placed in its own process's registered memory."""

    sent_bytes: int = 0
    placed_bytes: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.sent_bytes + other.sent_bytes, self.placed_bytes + other.placed_bytes)


def prove(requested: str, actual: str, evidence: Sequence[str] = ()) -> TransportProof:
    """The proof that ``requested`` runs. Raises ProofError, with the evidence, when it does not."""
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
    same interfaces. It is refuted when rdma is claimed, no RDMA counter moved and a network
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
    claims_rdma = proof.requested == "rdma"
    if claims_rdma:
        sentence = f"{rdma_name} rose by {rdma_rise}, {tcp_name} by {tcp_rise}"
    else:
        sentence = f"{tcp_name} rose by {tcp_rise} bytes"
        if not carried_by_tcp:
            sentence += ", less than that"
    evidence = [*proof.evidence, f"{where}while {written_bytes} bytes were written, {sentence}"]
    if claims_rdma and carried_by_tcp and not rdma_rise:
        refuted = proof.refuted or f"the data of an rdma engine went over tcp ({evidence[-1]})"
        return msgspec.structs.replace(proof, actual="tcp", evidence=evidence, refuted=refuted)
    return msgspec.structs.replace(proof, evidence=evidence)


def with_own_traffic(proof: TransportProof, counted: Sequence[Traffic], ranks: int) -> TransportProof:
    """The proof with what the engines of a run counted themselves; of ``ranks`` in all, some may have given none."""
    whole = sum(counted, Traffic())
    sentence = (
        f"by their own counters the {proof.requested} engines of {len(counted)} of {ranks} ranks sent "
        f"{whole.sent_bytes} bytes that were acknowledged, and placed {whole.placed_bytes}"
    )
    return msgspec.structs.replace(proof, evidence=[*proof.evidence, sentence])


def _add(counters: dict[str, int], name: str, path: Path, unit: int = 1) -> None:
    try:
        counters[name] = unit * int(path.read_text())
    except (OSError, ValueError):
        return
