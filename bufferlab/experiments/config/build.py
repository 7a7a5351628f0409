"""What a configuration means: the scenario that both drivers are given, the plan of what goes wrong, and its digest."""

from __future__ import annotations

import hashlib
import json
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bufferlab.experiments.config.sections.whole import Sections
from bufferlab.experiments.config.services import load_service_profile
from bufferlab.protocol.disciplines import DISCIPLINES
from bufferlab.protocol.emulation.scenario import Scenario, ServiceTimes, WriteFault
from bufferlab.protocol.faults import ClientAbort, Incident
from bufferlab.protocol.topology import RankId, Side

if TYPE_CHECKING:
    from bufferlab.sim.faults import FaultPlan

NAME_DIGITS = 16
"""Hexadecimal digits of a fingerprint that stand in names: 64 bits, of which two among 100,000 configurations are alike
with a probability of 3e-10. Whoever opens what has such a name compares the whole fingerprint."""


def scenario_of(sections: Sections) -> Scenario:
    """What both drivers are given."""
    encoder = load_service_profile(sections.encode.profile, "encode")
    prefill = load_service_profile(sections.language.profile, "language")
    shape = sections.model.shape
    encode_scale, language_scale = (_either(side.time_scale, 1.0) for side in (sections.encode, sections.language))
    return Scenario(
        block_tokens=sections.protocol.block_tokens,
        hidden=shape.hidden,
        deepstack_layers=shape.deepstack_layers,
        discipline=sections.protocol.discipline,
        wire=sections.protocol.wire,
        sizing=sections.protocol.sizing.policy,
        sizing_options=sections.protocol.sizing.options,
        slot_tokens=sections.protocol.sizing.tokens if DISCIPLINES[sections.protocol.discipline].has_slots else None,
        encode_instances=sections.encode.instances,
        encode_tp=sections.encode.tp,
        encode_blocks=sections.blocks(sections.encode),
        language_instances=sections.language.instances,
        language_tp=sections.language.tp,
        language_blocks=sections.blocks(sections.language),
        timeout_s=typing.cast("float | None", sections.protocol.timeout_s),
        resume_first=sections.protocol.resume_first,
        reserve_blocks=sections.protocol.reserve_blocks,
        resume_tokens=sections.protocol.resume_tokens,
        encode_batch=sections.encode.batch_requests,
        prefill_batch_tokens=sections.language.batch_tokens,
        release_after_prefill=sections.language.release == "prefill",
        transfer_workers=sections.encode.transfer_workers,
        services=ServiceTimes(
            encode_poll_interval_s=sections.encode.poll_interval_s,
            language_poll_interval_s=sections.language.poll_interval_s,
            encode_base_s=encode_scale * _either(sections.encode.base_s, encoder.encode_base_s),
            encode_per_image_s=encode_scale * encoder.encode_per_image_s,
            encode_per_token_s=encode_scale * _either(sections.encode.per_token_s, encoder.encode_per_token_s),
            encode_per_token2_s=encode_scale * encoder.encode_per_token2_s,
            prefill_base_s=language_scale * _either(sections.language.base_s, prefill.prefill_base_s),
            prefill_per_token_s=language_scale * _either(sections.language.per_token_s, prefill.prefill_per_token_s),
            prefill_per_token2_s=language_scale * prefill.prefill_per_token2_s,
            preprocess_per_token_s=encode_scale
            * _either(sections.encode.preprocess_per_token_s, encoder.preprocess_per_token_s),
            preprocess_workers=sections.encode.preprocess_workers,
        ),
        faults=tuple(WriteFault(fault.room, fault.epoch, fault.destination) for fault in sections.faults),
    )


def _either(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def fault_plan(sections: Sections, replication: int) -> FaultPlan | None:
    """The plan of one replication; None when nothing goes wrong. Raises ValueError for what cannot be planned."""
    from bufferlab.sim.faults import FaultPlan

    rates = sections.random_faults
    if not sections.incidents and not rates.happens:
        return None
    plan: dict[str, Any] = rates.model_dump(exclude_none=True)
    return FaultPlan(
        seed=sections.run.seed,
        replication=replication,
        incidents=tuple(_planned(sections, given.planned()) for given in sections.incidents),
        **plan,
    )


def _planned(sections: Sections, incident: Incident) -> Incident:
    """The same incident, with the ranks that a simulated run tells of it."""
    if isinstance(incident, ClientAbort):
        return msgspec.structs.replace(incident, ranks=_ranks_of(sections, incident.room))
    return incident


def _ranks_of(sections: Sections, room: int) -> tuple[RankId, ...]:
    """Every rank that a room is on, by the rule that spreads rooms over the instances."""
    encode, language = (room - 1) % sections.encode.instances, (room - 1) % sections.language.instances
    return (
        *(RankId(Side.ENCODE, encode, rank) for rank in range(sections.encode.tp)),
        *(RankId(Side.LANGUAGE, language, rank) for rank in range(sections.language.tp)),
    )


def fingerprint_of(tree: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """SHA-256 of a resolved configuration and the digests of its input files: no two of them have the same."""
    content = json.dumps([tree, inputs], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def digests_of(sections: Sections) -> dict[str, str]:
    """SHA-256 of every input file."""
    return {str(path): digest_of(path) for path in sections.input_files()}


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def name_digits(fingerprint: str) -> str:
    """The part of a fingerprint that names run directories and configurations."""
    return fingerprint[:NAME_DIGITS]
