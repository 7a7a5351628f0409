"""Judges what came out of the virtual machine: equal histories, and packets that only RDMA can have carried.

The guest only reports; whether its report proves anything is decided here, from the counters themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SENT, RECEIVED = "sent_pkts", "rcvd_pkts"
PACKET_BYTES = 4096
"""The most payload that one packet carries: the largest RoCE packet that fits into the dummy device's frames."""


def problems(result: Mapping[str, Any]) -> list[str]:
    """One sentence for everything that keeps ``result`` (see `guest`) from passing; empty if it passes."""
    found = []
    cases = result["cases"]
    if not cases:
        found.append("no case was run")
    for case in cases:
        found += [f"{case['name']}: {sentence}" for sentence in _problems_of(case)]
    status = result["tests_status"]
    if status not in (None, 0):
        found.append(f"the equality tests ended with status {status}")
    return found


def _problems_of(case: Mapping[str, Any]) -> list[str]:
    found = list(case["differences"])
    if case["transport"] != "rdma":
        found.append(f"the transport that ran is {case['transport']}, not rdma")
    if case["compared"] == 0:
        found.append("nothing was compared")
    written = case["written_bytes"]
    if written == 0:
        found.append("nothing was written")
    sent, received = rise(case, SENT), rise(case, RECEIVED)
    # Every payload byte fits into a packet of at most PACKET_BYTES, so fewer packets cannot have carried them.
    needed = -(-written // PACKET_BYTES)
    for name, packets in ((SENT, sent), (RECEIVED, received)):
        if packets < max(needed, 1):
            found.append(f"{name} rose by {packets}, {written} bytes need {needed} packets at least")
    # Only what is larger than all control traffic can be told from it.
    if written >= 1 << 20 and case["loopback_bytes"] >= written:
        found.append(f"the loopback interface sent {case['loopback_bytes']} bytes, as many as were written")
    return found


def rise(case: Mapping[str, Any], counter: str) -> int:
    """How much a counter of the RDMA port rose during the case; 0 for one that is absent."""
    before, after = case["port_before"], case["port_after"]
    if counter not in before or counter not in after:
        return 0
    return int(after[counter]) - int(before[counter])


def table(result: Mapping[str, Any]) -> str:
    """The cases, one a line, and under them every port counter before the first and after the last."""
    rows = [("case", "compared", "written bytes", SENT, RECEIVED, "lo bytes", "seconds")]
    for case in result["cases"]:
        rows.append(
            (
                case["name"],
                str(case["compared"]),
                f"{case['written_bytes']:,}",
                f"{rise(case, SENT):,}",
                f"{rise(case, RECEIVED):,}",
                f"{case['loopback_bytes']:,}",
                f"{case['wall_s']:.1f}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            text.ljust(width) if number == 0 else text.rjust(width)
            for number, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    before, after = result["port_before"], result["port_after"]
    lines += ["", f"counters of port 1 of {result['device']} ({result['kernel']}), before and after"]
    lines += [f"  {name:<24} {before.get(name, 0):>12,} {after[name]:>12,}" for name in sorted(after)]
    return "\n".join(lines)
