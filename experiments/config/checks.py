"""Whether the sections of a configuration fit each other; each is right by itself before that is asked."""

from __future__ import annotations

from experiments.config.build import fault_plan
from experiments.config.incidents import parse_instance, parse_rank
from experiments.config.sections.whole import Sections
from protocol.topology import Side
from protocol.wire.limits import SGLANG


def check_fit(sections: Sections) -> None:
    """Raise ValueError for two settings that cannot be together: a sentence that begins with one of them."""
    for side, section in (("encode", sections.encode), ("language", sections.language)):
        if sections.blocks(section) < 1:
            raise ValueError(
                f"{side}.pool_blocks is {section.pool_blocks!r}, it must hold at least one block of "
                f"{sections.layout.bytes_per_block} bytes"
            )
    if sections.protocol.reserve_blocks >= sections.blocks(sections.language):
        raise ValueError(
            f"protocol.reserve_blocks is {sections.protocol.reserve_blocks}, it must be less than "
            f"language.pool_blocks, {sections.blocks(sections.language)}"
        )
    usable = sections.blocks(sections.language) - sections.protocol.reserve_blocks
    needed = sections.protocol.sizing.tokens // sections.protocol.block_tokens
    if needed > usable:
        reserve = f" less a reserve of {sections.protocol.reserve_blocks}" if sections.protocol.reserve_blocks else ""
        raise ValueError(
            f"language.pool_blocks is {sections.language.pool_blocks!r}{reserve}, it must be at least {needed}: one "
            f"default allocation of {sections.protocol.sizing.tokens} tokens in blocks of "
            f"{sections.protocol.block_tokens}"
        )
    for number, fault in enumerate(sections.faults):
        if fault.destination is not None and fault.destination >= sections.language.tp:
            raise ValueError(
                f"faults.{number}.destination is {fault.destination}, it must be less than language.tp, "
                f"{sections.language.tp}"
            )
    _check_incidents(sections)
    if sections.protocol.wire == SGLANG and (sections.incidents or sections.random_faults.happens):
        where = "incidents" if sections.incidents else "random_faults"
        raise ValueError(
            f"{where} is given, which the sglang wire does not allow: the simulator's control messages are the "
            f"extended ones, and would tell of it what those frames cannot"
        )


def _check_incidents(sections: Sections) -> None:
    """Raise ValueError for an incident of a rank or an instance that is not there."""
    for number, incident in enumerate(sections.incidents):
        for name in ("rank", "observer"):
            text = getattr(incident, name)
            if text is None:
                continue
            rank = parse_rank(text)
            section = sections.encode if rank.side is Side.ENCODE else sections.language
            if rank.instance >= section.instances or rank.rank >= section.tp:
                raise ValueError(
                    f"incidents.{number}.{name} is {text!r}, it must be one of the {section.instances} instances with "
                    f"{section.tp} ranks of the {rank.side.value} side, counted from 0"
                )
        if (
            incident.kind == "false-alarm"
            and parse_rank(str(incident.observer)).side is parse_rank(str(incident.rank)).side
        ):
            raise ValueError(f"incidents.{number}.observer is {incident.observer!r}, it must be of the other side")
        if incident.instance is not None:
            side, instance = parse_instance(incident.instance)
            section = sections.encode if side is Side.ENCODE else sections.language
            if instance >= section.instances:
                raise ValueError(
                    f"incidents.{number}.instance is {incident.instance!r}, it must be one of the {section.instances} "
                    f"instances of the {side.value} side, counted from 0"
                )
    if sections.incidents or sections.random_faults.happens:
        fault_plan(sections, 0)  # for what the plan itself refuses
