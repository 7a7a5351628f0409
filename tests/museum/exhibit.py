"""What an exhibit of the museum is: a historic fault, put back into the core by a small patch, and where it shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from bufferlab.protocol.checker.bounds import Bound
from bufferlab.protocol.checker.explorer import Exploration, explore

MOST_STATES = 300_000
"""No exhibit needs more: a historic fault shows within a few thousand states."""

Variant = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Exhibit:
    """A fault of the original system.

    ``id``: its row in the hazard catalogue. ``wrong`` and ``ruled_out``: one line each, what goes wrong and how the
    design makes it impossible. ``variant`` puts the fault back, ``bound`` is the smallest configuration that shows it,
    ``breaks`` the invariants of which the first counterexample breaks one.
    """

    id: str
    title: str
    wrong: str
    ruled_out: str
    bound: Bound
    breaks: frozenset[int]
    variant: Variant
    cure: dict[str, Any] = field(default_factory=dict)
    """Fields of the bound that differ for the core as it is: another discipline, where that is what was wrong."""

    def explore_fault(self) -> Exploration:
        """Search the patched core up to the first counterexample."""
        with pytest.MonkeyPatch.context() as patch:
            self.variant(patch)
            return explore(self.bound, most_states=MOST_STATES)

    def explore_core(self) -> Exploration:
        """Search the core as it is, all of it."""
        return explore(msgspec.structs.replace(self.bound, **self.cure), most_states=MOST_STATES)


EXHIBITS: list[Exhibit] = []

EXCLUDED: dict[str, str] = {
    "N1": "A Python module that cannot be loaded and a field too many: nothing that a protocol could rule out.",
    "N7": "Threads that start before their object is complete belong to bufferlab/real/, the cores have none.",
    "N10": "A blocking look-up costs time, and the explored world has none.",
    "N11": "An address that is not parsed: the cores know ranks by their numbers.",
    "N12": "A cache entry of the language model that is released twice lies outside of the protocol.",
    "N13": "Memory that is not registered shows as failed writes, which N3 and the bounds with faults have.",
    "N14": "One queue for all writes costs time, and the explored world has none.",
}
"""Rows of the hazard catalogue that cannot be shown here, each with its reason."""


def exhibit(
    id_: str,
    title: str,
    *,
    wrong: str,
    ruled_out: str,
    bound: Bound,
    breaks: set[int],
    cure: dict[str, Any] | None = None,
) -> Callable[[Variant], Variant]:
    """Register the decorated patch as an exhibit."""

    def register(variant: Variant) -> Variant:
        EXHIBITS.append(Exhibit(id_, title, wrong, ruled_out, bound, frozenset(breaks), variant, cure or {}))
        return variant

    return register
