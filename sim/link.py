"""What the network and the memory cost: link profiles, and the transfer worker that uses one.

A profile is a TOML file, shipped in ``profiles/`` or the caller's own, with units in the names of its fields and the
source of its numbers in it.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import msgspec

from protocol.chunks import Chunk
from protocol.layout import AUX, BufferLayout


class LinkProfile(msgspec.Struct, frozen=True, kw_only=True):
    """The affine form: a write of n pieces takes latency_s + per_piece_s * n + bytes / bandwidth_Bps.

    ``control_latency_s``: one control message, from send to its handling. ``copy_bandwidth_Bps``: gathering received
    tokens out of their blocks. Bytes are decimal; ``inf`` is a valid bandwidth and means that the step costs nothing.
    Raises ValueError for a number out of range.
    """

    name: str
    bandwidth_Bps: float  # noqa: N815 - bytes, not bits: the unit's capital is the point
    latency_s: float
    per_piece_s: float
    control_latency_s: float
    copy_bandwidth_Bps: float  # noqa: N815
    form: str = "affine"
    description: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        if self.form != "affine":
            raise ValueError(f"link profile {self.name}: form is {self.form!r}, known: affine")
        for field in ("latency_s", "per_piece_s", "control_latency_s"):
            if not 0 <= getattr(self, field) < math.inf:
                raise ValueError(
                    f"link profile {self.name}: {field} is {getattr(self, field)}, it must be at least 0 and finite"
                )
        for field in ("bandwidth_Bps", "copy_bandwidth_Bps"):
            if not getattr(self, field) > 0:
                raise ValueError(f"link profile {self.name}: {field} is {getattr(self, field)}, it must be above 0")

    def write_s(self, bytes_: int, pieces: int) -> float:
        """Duration of one write, seconds."""
        return self.latency_s + self.per_piece_s * pieces + bytes_ / self.bandwidth_Bps

    def copy_s(self, bytes_: int) -> float:
        """Duration of a gather copy, seconds."""
        return bytes_ / self.copy_bandwidth_Bps

    def slowed(self, factor: float) -> LinkProfile:
        """The same link for a rank whose writes take ``factor`` times as long."""
        if factor == 1.0:
            return self
        return msgspec.structs.replace(
            self,
            bandwidth_Bps=self.bandwidth_Bps / factor,
            latency_s=self.latency_s * factor,
            per_piece_s=self.per_piece_s * factor,
        )


_TEXTS = ("form", "description", "source")
_NUMBERS = tuple(field for field in LinkProfile.__struct_fields__ if field not in (*_TEXTS, "name"))


def _shipped() -> dict[str, Traversable]:
    # Through importlib.resources, so that an installed wheel has them as well as a checkout.
    found = {
        entry.name.removesuffix(".toml"): entry
        for entry in files("sim").joinpath("profiles").iterdir()
        if entry.name.endswith(".toml")
    }
    return dict(sorted(found.items()))


def profile_names() -> list[str]:
    """Names of the shipped profiles."""
    return list(_shipped())


def load_profile(name_or_path: str | Path) -> LinkProfile:
    """A shipped profile by its name, or the caller's own by the path of its file (``.toml``, or with a folder).

    Raises ValueError: unknown name, file that cannot be read, unknown, missing or wrong field.
    """
    shipped = _shipped()
    name = str(name_or_path)
    if name in shipped:
        text = shipped[name].read_text(encoding="utf-8")
    elif isinstance(name_or_path, Path) or name.endswith(".toml") or "/" in name:
        try:
            text = Path(name_or_path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"link profile {name} cannot be read: {error}") from error
    else:
        raise ValueError(f"unknown link profile {name!r}; known: {', '.join(shipped)}, or the path of a .toml file")
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"link profile {name} is not valid TOML: {error}") from error
    return profile_from(table, name=Path(name).stem if name not in shipped else name)


def profile_from(table: Mapping[str, Any], *, name: str) -> LinkProfile:
    """The profile in a table of fields. Raises ValueError naming the first unknown, missing or wrong field."""
    known = (*_NUMBERS, *_TEXTS)
    for field in table:
        if field not in known:
            raise ValueError(f"link profile {name}: unknown field {field!r}; known: {', '.join(known)}")
    for field in _NUMBERS:
        if field not in table:
            raise ValueError(f"link profile {name}: {field} is missing")
        value = table[field]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"link profile {name}: {field} is {value!r}, it must be a number")
    for field in _TEXTS:
        if not isinstance(table.get(field, ""), str):
            raise ValueError(f"link profile {name}: {field} is {table[field]!r}, it must be a text")
    fields: dict[str, Any] = {field: float(table[field]) for field in _NUMBERS}
    return LinkProfile(name=name, **fields, **{field: table[field] for field in _TEXTS if field in table})


def count_pieces(layout: BufferLayout, chunk: Chunk, source_blocks: Sequence[int], target_blocks: Sequence[int]) -> int:
    """``len(layout.pieces(...))`` without building them.

    Every kind but aux is cut at the same places: where the next block is no neighbour on either side.
    """
    first = chunk.start_token // layout.block_tokens
    runs = 1
    for number in range(1, layout.blocks_for(chunk.tokens)):
        if (
            source_blocks[first + number] != source_blocks[first + number - 1] + 1
            or target_blocks[number] != target_blocks[number - 1] + 1
        ):
            runs += 1
    kinds = len(layout.kinds)
    return runs * (kinds - (kinds > AUX)) + (chunk.start_token == 0)


class TransferWorker:
    """The one thread of an encode rank that writes, first come, first served, one destination after another.

    Durations are known when a write is queued, so a queue is not needed: the worker is a moment at which it is free.
    """

    __slots__ = ("_layout", "_link", "busy_s", "free_s")

    def __init__(self, link: LinkProfile, layout: BufferLayout) -> None:
        self._link = link
        self._layout = layout
        self.free_s = 0.0
        self.busy_s = 0.0

    def queue(
        self, now: float, bytes_: int, chunk: Chunk, source_blocks: Sequence[int], target_blocks: Sequence[int]
    ) -> float:
        """Queue a write at time ``now`` and return when it ends, both in seconds."""
        link = self._link
        # Counting is for links that charge for pieces.
        pieces = count_pieces(self._layout, chunk, source_blocks, target_blocks) if link.per_piece_s else 0
        duration_s = link.write_s(bytes_, pieces)
        self.busy_s += duration_s
        self.free_s = max(self.free_s, now) + duration_s
        return self.free_s
