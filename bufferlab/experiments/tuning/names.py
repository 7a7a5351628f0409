"""What fields and settings are called in tables and pictures, and which fields have a column there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bufferlab.experiments.sweeps.grid import plain

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
    where it is a number of blocks in some and a size in others, which nobody can compare: the column of its memory says
    the same of all in one unit.
    """
    names = dict.fromkeys(name for one in settings for name in one["fields"])
    values = {name: [one["fields"].get(name) for one in settings] for name in names}
    mixed = len({isinstance(value, str) for value in values.get(POOL, ())}) > 1
    left_out = {"encode.pool_blocks", *([POOL] if mixed else [])}
    return [name for name in names if name not in left_out and len({plain(value) for value in values[name]}) > 1]
