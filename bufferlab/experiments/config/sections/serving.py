"""The sections [encode] and [language]: the two sides, with their pools and how long their passes take."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
)

from bufferlab.experiments.config.sections.base import Allowed, Duration, Section
from bufferlab.experiments.config.services import ServiceSide, load_service_profile, profile_names
from bufferlab.experiments.units import parse_size

MAX_TP = 64
MAX_INSTANCES = 256


def _pool(value: Any) -> Any:
    """Blocks as a number, or as memory per rank such as "4GiB"; the latter is checked here and converted later."""
    if isinstance(value, str):
        try:
            parse_size(value)
        except ValueError:
            raise ValueError("must be a number of blocks or the memory of one rank such as 4GiB") from None
    elif not isinstance(value, bool) and isinstance(value, int) and value < 1:
        raise ValueError("must be at least 1")
    return value


def _profiles(side: ServiceSide) -> Allowed:
    return Allowed("or a .toml file", lambda: _grouped(profile_names(side)))


def _grouped(names: list[str]) -> list[str]:
    """The names of profiles, those of the same models on several devices in one."""
    models: dict[str, list[str]] = {}
    for name in names:
        device, dash, model = name.partition("-")
        models.setdefault(dash + model, []).append(device)
    same: dict[tuple[str, ...], list[str]] = {}
    for model, devices in models.items():
        same.setdefault(tuple(devices), []).append(model)
    return [
        f"{devices[0]}{found[0]}" if len(devices) * len(found) == 1
        else f"DEVICE-MODEL (DEVICE is {', '.join(devices)}; MODEL is {', '.join(one[1:] for one in found)})"
        for devices, found in same.items()
    ]  # fmt: skip


def _service_profile(side: ServiceSide) -> BeforeValidator:
    def check(value: Any) -> Any:
        if isinstance(value, str):
            load_service_profile(value, side)
        return value

    return BeforeValidator(check)


Tp = Annotated[int, Field(ge=1, le=MAX_TP)]
Instances = Annotated[int, Field(ge=1, le=MAX_INSTANCES)]
PoolBlocks = Annotated[int | str, BeforeValidator(_pool), Allowed("blocks, at least 1, or memory such as 4GiB")]


class Serving(Section):
    """What the two sides have in common."""

    instances: Instances = 1
    """Serving replicas."""
    tp: Tp = 1
    """Tensor-parallel ranks of a replica."""
    pool_blocks: PoolBlocks = 256
    """Blocks of one rank, or its memory such as "4GiB"."""
    poll_interval_s: Annotated[Duration, Field(ge=0, le=1)] = 0.001
    """How often the scheduler loop looks at its rooms."""
    base_s: Duration | None = None
    """Replaces the profile's constant part of a pass."""
    per_token_s: Duration | None = None
    """Replaces the profile's part per token; what grows with its square stays the profile's."""
    time_scale: Annotated[float | None, Field(ge=0, le=1000)] = None
    """How many times as long everything takes that the profile and the fields above say, preparing images included."""


class Encode(Serving):
    """The encode side."""

    profile: Annotated[str, _service_profile("encode"), _profiles("encode")] = "instant"
    """How long the encoder's passes take: a named profile or a TOML file."""
    preprocess_per_token_s: Duration | None = None
    """Replaces the profile's time to prepare an image, per token of it; 0 when images are prepared elsewhere."""
    preprocess_workers: Annotated[int, Field(ge=1, le=1024)] = 8
    """Processors of an instance that prepare images, one request each at a time."""
    batch_requests: Annotated[int | None, Field(ge=1)] = None
    """Most requests of one encoder pass; no limit when absent."""
    transfer_workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Threads of a rank that write. All writes to one language instance are one thread's."""


class Language(Serving):
    """The language side."""

    profile: Annotated[str, _service_profile("language"), _profiles("language")] = "instant"
    """How long prefill takes: a named profile or a TOML file."""
    batch_tokens: Annotated[int | None, Field(ge=1)] = None
    """Most tokens of one prefill pass; a request that is longer has a pass of its own. No limit when absent."""
    release: Literal["copy", "prefill"] = "copy"
    """When a delivered request gives its blocks back: when its tokens are copied out, or when its prefill is over."""
