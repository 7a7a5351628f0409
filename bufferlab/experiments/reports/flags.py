"""Which flags of serving systems take what is recommended: the table of docs/from-your-system.md, which names the
sources and their dates, and a line for each system with the values of one answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from bufferlab.experiments.reports.page import Fact
from bufferlab.protocol.layout import BufferLayout

TOKENS, POLICY, DISCIPLINE = "protocol.sizing.tokens", "protocol.sizing.policy", "protocol.discipline"
BLOCK, POOL, ENCODE_POOL = "protocol.block_tokens", "language.pool_blocks", "encode.pool_blocks"
WORKERS, BATCH = "encode.transfer_workers", "encode.batch_requests"
ALWAYS = (TOKENS, BLOCK, POOL)
"""What is told of every answer: a pool in blocks says nothing without them."""
MIB = 1 << 20


class Flag(NamedTuple):
    """What takes a setting in one system: ``name`` is a flag or a variable, or empty where there is none.

    ``note`` says more, or why there is none. ``unit``: in what its value is told.
    """

    name: str = ""
    note: str = ""
    unit: str = "number"

    @property
    def markdown(self) -> str:
        """As the page of the documentation has it."""
        return f"`{self.name}`{self.note}" if self.name else self.note


NOT_NEEDED, NOT_FOUND = Flag(note="not needed"), Flag(note="no flag found")
SYSTEMS = ("SGLang fork", "SGLang", "vLLM Mooncake", "TokenSpeed", "Dynamo")
FLAGS: Mapping[str, tuple[Flag, ...]] = {
    TOKENS: (
        Flag("SGLANG_EMBEDDING_DEFAULT_ALLOCATE_BUFFER_SIZE"), NOT_NEEDED, NOT_NEEDED,
        Flag("TOKENSPEED_EPD_RECV_POOL_SLOT_MB", ", as MiB", "slot MiB"), NOT_NEEDED,
    ),
    POLICY: (
        Flag(note="no flag: a change where `default_allocate_tokens` is read"), NOT_NEEDED, NOT_NEEDED,
        Flag(note="no flag"), NOT_NEEDED,
    ),
    DISCIPLINE: (
        Flag(note="no flag: a change of the code"), Flag(note="is `exact_announce`"), Flag(note="is `exact_announce`"),
        Flag(note="is `slot`"), Flag(note="none like it"),
    ),
    BLOCK: (
        Flag("SGLANG_EMBEDDING_CACHE_BLOCK_SIZE", ", both sides"), Flag(note="256 bytes, fixed"),
        Flag(note="256 bytes, fixed"), Flag(note="the slot"), Flag(note="bytes"),
    ),
    POOL: (
        Flag("SGLANG_EMBEDDING_CACHE_BUFFER_SIZE", ", language side", "blocks"),
        Flag("SGLANG_EMBEDDING_POOL_SIZE_MB", ", as MiB", "MiB"),
        Flag("consumer_buffer_pool_size", ", as bytes", "bytes"),
        Flag("TOKENSPEED_EPD_RECV_POOL_SLOTS", unit="slots"), Flag(note="the constructor's argument", unit="bytes"),
    ),
    ENCODE_POOL: (
        Flag(note="the same, encode side"), Flag(note="none: nothing is set aside there"),
        Flag("producer_buffer_pool_size"), Flag("TOKENSPEED_EPD_ENCODE_RING_SLOTS"), Flag(note="none"),
    ),
    WORKERS: (
        Flag("SGLANG_DISAGGREGATION_QUEUE_SIZE"), NOT_FOUND, Flag("transfer_max_workers"),
        Flag("TOKENSPEED_DISAGGREGATION_QUEUE_SIZE"), NOT_FOUND,
    ),
    BATCH: (NOT_FOUND, Flag("SGLANG_ENCODER_MAX_BATCH_SIZE"), NOT_FOUND, NOT_FOUND, NOT_FOUND),
}  # fmt: skip
"""By the setting, one of each of ``SYSTEMS``."""


@dataclass(frozen=True)
class Answer:
    """What is to be set: every field of the setting, its pool, and which of them are changes."""

    fields: Mapping[str, object]
    pool_bytes: int
    changed: frozenset[str]
    layout: BufferLayout

    def value(self, field: str, unit: str) -> str:
        """A setting as a flag of some unit takes it. Slots hold the tokens that are set aside, in whole MiB."""
        tokens = self.fields.get(TOKENS)
        slot = math.ceil(tokens * self.layout.bytes_per_token / MIB) if isinstance(tokens, int | float) else 0
        match unit:
            case "blocks":
                return str(self.pool_bytes // self.layout.bytes_per_block)
            case "MiB":
                return str(math.ceil(self.pool_bytes / MIB))
            case "bytes":
                return str(self.pool_bytes)
            case "slot MiB":
                return str(slot)
            case "slots":
                return str(self.pool_bytes // (slot * MIB)) if slot else ""
            case _:
                return str(self.fields.get(field, ""))


def flag_facts(answer: Answer) -> Iterator[Fact]:
    """A line for every system: its flags with their values, and what of the answer has none."""
    fixed = answer.fields.get(POLICY, "fixed") == "fixed"
    for place, system in enumerate(SYSTEMS):
        parts = []
        for field, flags in FLAGS.items():
            flag = flags[place]
            if field not in answer.changed and field not in ALWAYS:
                continue
            if field == TOKENS and not fixed:
                continue  # the policy decides
            if flag.name and answer.value(field, flag.unit):
                where = flag.note.split(", as ")[0].removeprefix(", ")
                parts.append(f"{flag.name}={answer.value(field, flag.unit)}{f' ({where})' if where else ''}")
            elif field == POOL:
                parts.append(f"{flag.note}: {answer.value(POOL, flag.unit)} bytes")
            elif field in answer.changed and flag != NOT_NEEDED:
                parts.append(f"{field.rpartition('.')[2]}: {flag.note.replace('`', '')}")
        yield Fact(system, "; ".join(parts))
