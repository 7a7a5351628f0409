"""What the network and the memory cost: link profiles.

A profile is a TOML file, shipped in ``profiles/`` or the caller's own, with units in the names of its fields and the
source of its numbers in it.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from functools import cached_property
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import msgspec

from bufferlab.sim.host.costs import HostCosts, host_from
from bufferlab.sim.network.renamed import with_new_names
from bufferlab.sim.network.times import LinkTimes

SHARED_BY = ("rank", "instance", "nobody")
COUNTS = ("queues", "adapters")
HOST = "host"
CALIBRATION = "calibration"
"""The part of a profile's file that says how its numbers were found. The simulator has no use for it."""


LATENCIES = (
    "latency_s", "per_segment_s", "per_queue_s", "control_latency_s", "first_contact_s", "copy_latency_s",
    "submit_latency_s", "wakeup_s",
)  # fmt: skip


class LinkProfile(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """What a write, a control message and a gather copy cost between two ranks.

    A write of ``n`` segments and ``m`` bytes that has its adapters to itself takes, in seconds,

        latency_s + per_segment_s * n + per_queue_s * min(n, queues) + max(m / bandwidth, n / message_rate)

    All but the last term are spent in the thread that writes, that one on the adapters, which others may share (see
    ``sim.network.adapters``). ``bandwidth`` and ``message_rate`` are those of all ``adapters`` together for a write of
    at least ``stripe_threshold_bytes``, and those of one adapter for a smaller one. Bytes are decimal. A field at its
    default takes its term out, and ``inf`` is a valid bandwidth, rate or threshold.

    ``latency_s``: once per write, after its bytes.
    ``per_segment_s``: posting one segment, before any byte of the write moves.
    ``per_queue_s``, ``queues``: what posting takes longer for the first segment on each of so many queue pairs, over
    which the segments of a write are dealt out.
    ``bandwidth_Bps``: of one adapter, in one direction; both directions have it at once.
    ``adapters``: how many a rank, or the ranks of an instance together, have.
    ``message_rate_per_s``: segments per second that all adapters together can take.
    ``shared_by``: "rank", each rank has adapters of its own; "instance", the ranks of an instance have them together;
    "nobody", every write has them to itself, so that contention is left out.
    ``first_contact_s``: what the first write of an encode rank to a language rank takes longer, also after a restart.
    ``control_latency_s``: one control message, from send to its handling.
    ``copy_bandwidth_Bps``, ``copy_latency_s``: gathering received tokens out of their blocks, per byte and per copy.
    ``submit_latency_s``: a request, from its arrival at the router to its ranks.
    ``wakeup_s``: how much later than it was due a scheduler loop comes round, or notices that a pass is over.
    ``host``: what the software costs the processors of the one host; None gives every thread one of its own.

    Raises ValueError for a value out of range.
    """

    name: str
    bandwidth_Bps: float  # noqa: N815 - bytes, not bits: the unit's capital is the point
    latency_s: float
    per_segment_s: float
    control_latency_s: float
    copy_bandwidth_Bps: float  # noqa: N815
    per_queue_s: float = 0.0
    queues: int = 1
    message_rate_per_s: float = math.inf
    adapters: int = 1
    stripe_threshold_bytes: float = math.inf
    first_contact_s: float = 0.0
    copy_latency_s: float = 0.0
    submit_latency_s: float = 0.0
    wakeup_s: float = 0.0
    host: HostCosts | None = None
    shared_by: str = "nobody"
    description: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        for field in LATENCIES:
            if not 0 <= getattr(self, field) < math.inf:
                raise self._out_of_range(field, "at least 0 and finite")
        for field in ("bandwidth_Bps", "copy_bandwidth_Bps", "message_rate_per_s"):
            if not getattr(self, field) > 0:
                raise self._out_of_range(field, "above 0")
        if not self.stripe_threshold_bytes >= 0:
            raise self._out_of_range("stripe_threshold_bytes", "at least 0")
        for field in COUNTS:
            if not (getattr(self, field) >= 1 and getattr(self, field) % 1 == 0):
                raise self._out_of_range(field, "a whole number of at least 1")
        if self.shared_by not in SHARED_BY:
            raise ValueError(
                f"link profile {self.name}: shared_by is {self.shared_by!r}, it must be one of {', '.join(SHARED_BY)}"
            )

    def _out_of_range(self, field: str, allowed: str) -> ValueError:
        return ValueError(f"link profile {self.name}: {field} is {getattr(self, field)}, it must be {allowed}")

    @property
    def counts_segments(self) -> bool:
        """Whether the number of segments matters to the duration of a write."""
        return self.per_segment_s > 0 or self.per_queue_s > 0 or self.message_rate_per_s < math.inf

    @property
    def contended(self) -> bool:
        """Whether writes can slow each other down, so that when one ends is not known when it starts."""
        return self.shared_by != "nobody" and min(self.bandwidth_Bps, self.message_rate_per_s) < math.inf

    @cached_property
    def times(self) -> LinkTimes:
        """The durations that follow from the numbers, for whoever asks often."""
        return LinkTimes(
            latency_s=self.latency_s,
            per_segment_s=self.per_segment_s,
            per_queue_s=self.per_queue_s,
            queues=self.queues,
            bandwidth_Bps=self.bandwidth_Bps,
            message_rate_per_s=self.message_rate_per_s,
            adapters=self.adapters,
            stripe_threshold_bytes=self.stripe_threshold_bytes,
            copy_latency_s=self.copy_latency_s,
            copy_bandwidth_Bps=self.copy_bandwidth_Bps,
            counts_segments=self.counts_segments,
        )

    def write_s(self, bytes_: float, segments: float) -> float:
        """Duration of one write between ranks in contact that has the adapters to itself, seconds."""
        return self.times.write_s(bytes_, segments)

    def copy_s(self, bytes_: float) -> float:
        """Duration of a gather copy, seconds."""
        return self.times.copy_s(bytes_)

    def slowed(self, factor: float) -> LinkProfile:
        """The same link for a rank whose writes take ``factor`` times as long. Making contact takes what it took."""
        if factor == 1.0:
            return self
        return msgspec.structs.replace(
            self,
            bandwidth_Bps=self.bandwidth_Bps / factor,
            message_rate_per_s=self.message_rate_per_s / factor,
            latency_s=self.latency_s * factor,
            per_segment_s=self.per_segment_s * factor,
            per_queue_s=self.per_queue_s * factor,
        )


_TEXTS = ("shared_by", "description", "source")
_NUMBERS = tuple(field for field in LinkProfile.__struct_fields__ if field not in (*_TEXTS, "name", HOST))
_REQUIRED = tuple(
    field.name for field in msgspec.structs.fields(LinkProfile) if field.required and field.name != "name"
)


def _shipped() -> dict[str, Traversable]:
    # Through importlib.resources, so that an installed wheel has them as well as a checkout.
    found = {
        entry.name.removesuffix(".toml"): entry
        for entry in files("bufferlab.sim").joinpath("profiles").iterdir()
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
    try:
        table = with_new_names(table, host=HOST, profile=name)
    except ValueError as error:
        raise ValueError(f"link profile {name}: {error}") from None
    known = (*_NUMBERS, *_TEXTS, HOST)
    if not isinstance(table.get(CALIBRATION, {}), Mapping):
        raise ValueError(f"link profile {name}: {CALIBRATION} is {table[CALIBRATION]!r}, it must be a table")
    for field in table:
        if field not in known and field != CALIBRATION:
            raise ValueError(f"link profile {name}: unknown field {field!r}; known: {', '.join(known)}")
    for field in _REQUIRED:
        if field not in table:
            raise ValueError(f"link profile {name}: {field} is missing")
    numbers = {field: table[field] for field in _NUMBERS if field in table}
    for field, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"link profile {name}: {field} is {value!r}, it must be a number")
    for field in _TEXTS:
        if not isinstance(table.get(field, ""), str):
            raise ValueError(f"link profile {name}: {field} is {table[field]!r}, it must be a text")
    # TOML tells 4 and 4.0 apart, its writers do not. A count that is no whole number stays, and is refused.
    fields: dict[str, Any] = {
        field: int(value) if field in COUNTS and value % 1 == 0 else float(value) for field, value in numbers.items()
    }
    try:
        host = host_from(table[HOST]) if HOST in table else None
    except ValueError as error:
        raise ValueError(f"link profile {name}: {error}") from None
    return LinkProfile(name=name, host=host, **fields, **{field: table[field] for field in _TEXTS if field in table})
