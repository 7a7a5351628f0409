"""What fields and settings are called in tables, pictures and sentences, and which fields have a column there.

A pool has one notation wherever people read it, its memory: a number of blocks says nothing by itself, and the same
memory is another number in other blocks. A pool that was given as a size is told as that size; what is left of it when
it is rounded down to whole blocks is no other size to anybody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bufferlab.experiments.sweeps.grid import plain
from bufferlab.experiments.units import BYTES, format_size, parse_size

POOL = "language.pool_blocks"
SHORT_NAMES = {
    "protocol.sizing.policy": "policy",
    "protocol.sizing.tokens": "tokens",
    "protocol.discipline": "discipline",
    "protocol.block_tokens": "block",
    "language.pool_blocks": "pool",
    "encode.transfer_workers": "workers",
}


def short_change(name: str) -> str:
    """A field as a table names it."""
    return SHORT_NAMES.get(name, name)


def varied_fields(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The fields in which settings differ, as settings[] of tune.json has them.

    The pool of the encode side is left out, since it always has the memory of today's. So is that of the language side
    where it is a size in some: the column of its memory says the same of all in one unit.
    """
    names = dict.fromkeys(name for one in settings for name in one["fields"])
    values = {name: [one["fields"].get(name) for one in settings] for name in names}
    sizes = any(isinstance(value, str) for value in values.get(POOL, ()))
    left_out = {"encode.pool_blocks", *([POOL] if sizes else [])}
    return [name for name in names if name not in left_out and len({plain(value) for value in values[name]}) > 1]


def size_text(bytes_: float) -> str:
    """As ``format_size``, but what is a block short of a whole unit is called that."""
    for name in ("GiB", "MiB"):
        if 0.995 <= bytes_ / BYTES[name] < 1:
            return f"1 {name}"
    return format_size(bytes_)


def memory_text(one: Mapping[str, Any]) -> str:
    """The pool of a language rank in a setting of tune.json: the size that was given, else what it takes."""
    pool = one["fields"].get(POOL)
    return size_text(parse_size(pool) if isinstance(pool, str) else one["memory_bytes"])


def same_memory(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether the pools of two settings are alike: in larger blocks one may be a block smaller."""
    if memory_text(one) == memory_text(other):
        return True
    sizes = one["memory_bytes"], other["memory_bytes"]
    return max(sizes) - min(sizes) < 0.01 * max(sizes)


def field_text(name: str, one: Mapping[str, Any]) -> str:
    """A field of a setting in a sentence."""
    if name == POOL:
        pool = one["fields"][POOL]
        return f"a pool of {memory_text(one)}" + ("" if isinstance(pool, str) else f" ({plain(pool)} blocks)")
    return f"{name} = {plain(one['fields'][name])}"


def setting_text(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """A setting by what is otherwise in it than in another one, with its memory; empty where nothing is."""
    named = [
        field_text(name, one)
        for name, value in one["fields"].items()
        if name != POOL and other["fields"].get(name) != value and name != "encode.pool_blocks"
    ]
    if POOL in one["fields"] and not same_memory(one, other):
        named.append(field_text(POOL, one))
    return ", ".join(named)
