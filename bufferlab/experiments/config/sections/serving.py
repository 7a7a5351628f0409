"""The sections [encode] and [language]: the two sides, with their pools and how long their passes take."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
)

from bufferlab.experiments.config.sections.base import Duration, Section
from bufferlab.experiments.config.services import ServiceSide, load_service_profile
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


def _service_profile(side: ServiceSide) -> BeforeValidator:
    def check(value: Any) -> Any:
        if isinstance(value, str):
            load_service_profile(value, side)
        return value

    return BeforeValidator(check)


Tp = Annotated[int, Field(ge=1, le=MAX_TP)]
Instances = Annotated[int, Field(ge=1, le=MAX_INSTANCES)]
PoolBlocks = Annotated[int | str, BeforeValidator(_pool)]


class Serving(Section):
    """What the two sides have in common."""

    instances: Instances = 1
    """Serving replicas."""
    tp: Tp = 1
    """Tensor-parallel ranks of a replica."""
    pool_blocks: PoolBlocks = 256
    """Blocks of one rank, or its memory such as "4GiB"."""
    poll_interval_s: Duration = 0.001
    """How often the scheduler loop looks at its rooms."""
    base_s: Duration | None = None
    """Replaces the profile's constant part of a pass."""
    per_token_s: Duration | None = None
    """Replaces the profile's part per token; what grows with its square stays the profile's."""
    time_scale: Annotated[float | None, Field(ge=0, le=1000)] = None
    """How many times as long everything takes that the profile and the fields above say, preparing images included."""


class Encode(Serving):
    """The encode side."""

    profile: Annotated[str, _service_profile("encode")] = "instant"
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

    profile: Annotated[str, _service_profile("language")] = "instant"
    """How long prefill takes: a named profile or a TOML file."""
    batch_tokens: Annotated[int | None, Field(ge=1)] = None
    """Most tokens of one prefill pass; a request that is longer has a pass of its own. No limit when absent."""
    release: Literal["copy", "prefill"] = "copy"
    """When a delivered request gives its blocks back: when its tokens are copied out, or when its prefill is over."""
