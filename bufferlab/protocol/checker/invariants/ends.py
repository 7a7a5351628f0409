"""What must hold when a run has come to rest."""

from __future__ import annotations

from bufferlab.protocol.checker.bounds import CONTAINED, Bound, Fault
from bufferlab.protocol.checker.invariants.base import (
    Hit,
    Local,
    Violation,
)
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import Side


def check_end(bound: Bound, living: list[Local], hits: tuple[Hit, ...]) -> list[Violation]:
    """What is wrong when everything has come to rest. ``living``: the ranks whose group has all of its ranks."""
    found: list[Violation] = []
    kinds = {fault for fault, _ in hits}
    ends = {local.core.rank_id: dict(local.ghost.ends) for local in living}
    instances = bound.instances or (0,) * len(bound.lengths)
    for key, tokens, instance in zip(bound.keys, bound.lengths, instances, strict=True):
        said = {
            rank_id: of_rank.get(key)
            for rank_id, of_rank in ends.items()
            if rank_id.side is Side.LANGUAGE or rank_id.instance == instance
        }
        told = ", ".join(f"{rank_id} {status.name if status else 'nothing'}" for rank_id, status in said.items())
        sides = {side: {status for rank_id, status in said.items() if rank_id.side is side} for side in Side}
        encode, language = sides[Side.ENCODE], sides[Side.LANGUAGE]
        if any(None in of_side or len(of_side) > 1 for of_side in sides.values()):
            found.append(Violation(22, f"room {key} did not end alike everywhere: {told}"))
        elif Status.Success in language and Status.Failed in encode and not kinds - CONTAINED:
            found.append(Violation(22, f"room {key} was delivered and failed on the encode side: {told}"))
        if bound.may_deadlock:
            continue
        untouched = not kinds - CONTAINED and all(
            room != key[0] for fault, room in hits if fault is not Fault.DUPLICATE
        )
        if not untouched:
            continue
        wanted = Status.Success if bound.can_succeed(tokens) else Status.Failed
        if (encode | language) != {wanted}:
            number = 18 if hits else 22
            found.append(Violation(number, f"room {key} of {tokens} tokens should have ended in {wanted.name}: {told}"))
    for local in living:
        for peer in sorted(local.core._down & ends.keys()):
            found.append(Violation(20, f"{local.core.rank_id} takes {peer} for dead for ever"))
    return found
