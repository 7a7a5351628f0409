"""What a measured run can do: its limits on this host, and what cannot be made to go wrong in one."""

from __future__ import annotations

from bufferlab.experiments.config.sections.whole import Sections
from bufferlab.experiments.errors import UserError
from bufferlab.protocol.faults import KINDS, RATES

MAX_REAL_PROCESSES = 32


def check_measurable(sections: Sections, memory_bytes: int | None) -> None:
    """Raise UserError if a real run cannot do it, or not on this host with ``memory_bytes`` for its pools.

    None: its ranks are on several hosts.
    """
    _check_incidents(sections, one_host=memory_bytes is not None)
    if memory_bytes is None:
        return
    sides = (sections.encode, sections.language)
    processes = sum(side.instances * side.tp for side in sides)
    if processes > MAX_REAL_PROCESSES:
        raise UserError(
            f"encode and language have {processes} ranks together (instances times tp), a real run has at most "
            f"{MAX_REAL_PROCESSES} processes on one host"
        )
    pools = sum(side.instances * side.tp * sections.blocks(side) for side in sides) * sections.layout.bytes_per_block
    if pools > memory_bytes:
        raise UserError(
            f"the pools of all ranks take {pools / 2**30:.1f} GiB, a real run here has at most "
            f"{memory_bytes / 2**30:.1f} GiB for them; lower encode.pool_blocks or language.pool_blocks"
        )


def _check_incidents(sections: Sections, *, one_host: bool) -> None:
    """Raise UserError for what cannot be made to go wrong in a measured run, or not where its ranks are elsewhere."""
    for number, given in enumerate(sections.incidents):
        kind = KINDS[given.kind]
        if kind.not_measured:
            raise UserError(f"incidents.{number}.kind is {given.kind!r}, which {kind.not_measured}")
        if kind.of_processes and not one_host:
            raise UserError(
                f"incidents.{number}.kind is {given.kind!r}, which needs all ranks on this host: a process on "
                f"another one cannot be ended or stopped from here"
            )
    for name, of in RATES.items():
        rate = getattr(sections.random_faults, name)
        if rate > 0 and of.not_measured:
            raise UserError(f"random_faults.{name} is {rate}, it must be 0 for a measured run, {of.not_measured}")
