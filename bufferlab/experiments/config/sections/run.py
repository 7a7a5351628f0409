"""The sections [run], [slo] and [real]: the run, what the service promises in it, and what the real backend needs."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AliasChoices,
    BeforeValidator,
    Field,
)

from bufferlab.experiments.config.sections.base import MEASURED, Allowed, Duration, Section
from bufferlab.protocol.naming import did_you_mean


def _transport(value: Any) -> Any:
    """The name of a registered engine's transport."""
    from bufferlab.real.engine.registry import transports

    known = transports()
    if value not in known:
        raise ValueError(f"must be one of {', '.join(known)}{did_you_mean(value, known)}")
    return value


def _transports() -> list[str]:
    from bufferlab.real.engine.registry import transports

    return list(transports())


class Run(Section):
    """Which run this is."""

    name: Annotated[
        str,
        Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$"),
        Allowed("at most 80 characters, the first a letter or digit"),
    ] = "run"
    """Names the run directory; letters, digits, dot, dash and underscore. Defaults to the file's name."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    """Every random draw comes from it."""
    replications: Annotated[int, Field(ge=1, le=10_000)] = 1
    """How often the run is repeated with other draws; two or more give intervals across replications. Of a file that is
    simulated the others are resamples of it, and 20 the default."""
    warmup_requests: Annotated[int, Field(ge=0)] = 0
    """How many first requests are left out of the figures, because they met an empty system."""


class Slo(Section):
    """What the service promises. Every run says for how many requests the promise was kept."""

    ttft_s: Annotated[Duration | None, Field(gt=0, validation_alias=AliasChoices("ttft_s", "ttft"))] = None
    """The longest time from a request's arrival to the end of its prefill."""
    latency_s: Annotated[Duration | None, Field(gt=0, validation_alias=AliasChoices("latency_s", "latency"))] = None
    """The longest time from a request's arrival to the delivery of its embedding."""


class Real(Section):
    """What only the real backend needs."""

    world: ClassVar[str] = MEASURED

    transport: Annotated[str, BeforeValidator(_transport), Allowed(names=_transports)] = "tcp"
    """What carries the data, one of the transports in docs/real.md; a run in which another one ran fails."""
    device: str = ""
    """The network device, for rdma."""
    memory: Literal["auto", "host", "gpu"] = "auto"
    """Where block memory lies: "auto" takes a GPU where torch and the installed Mooncake wheel can both use one."""
    verify: bool = True
    """Whether every delivered byte is compared with what was sent; that takes processor time beside the run."""
