"""Whether the sections of a configuration fit each other; each is right by itself before that is asked."""

from __future__ import annotations

from bufferlab.experiments.config.build import fault_plan
from bufferlab.experiments.config.sections.whole import Sections
from bufferlab.protocol.lifecycle import Instance
from bufferlab.protocol.topology import RankId, Side
from bufferlab.protocol.wire.limits import SGLANG


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
    for number, given in enumerate(sections.incidents):
        incident = given.planned()
        for name, type_ in incident.settings().items():
            value = getattr(incident, name)
            if type_ is RankId:
                section = sections.encode if value.side is Side.ENCODE else sections.language
                if value.instance >= section.instances or value.rank >= section.tp:
                    raise ValueError(
                        f"incidents.{number}.{name} is {str(value)!r}, it must be one of the {section.instances} "
                        f"instances with {section.tp} ranks of the {value.side.value} side, counted from 0"
                    )
            elif type_ == Instance:
                side, instance = value
                section = sections.encode if side is Side.ENCODE else sections.language
                if instance >= section.instances:
                    raise ValueError(
                        f"incidents.{number}.{name} is '{side.value}{instance}', it must be one of the "
                        f"{section.instances} instances of the {side.value} side, counted from 0"
                    )
        for wrong in incident.misnamed():
            raise ValueError(f"incidents.{number}.{wrong.setting} is {str(wrong.value)!r}, it {wrong.must}")
    if sections.incidents or sections.random_faults.happens:
        fault_plan(sections, 0)  # for what the plan itself refuses
