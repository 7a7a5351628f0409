"""The sections [link] and [model]: the network between the sides, and the model, which sets the bytes of a token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from msgspec import structs
from pydantic import (
    BeforeValidator,
    Field,
    model_validator,
)

from bufferlab.experiments.config.models import MODELS, ModelShape
from bufferlab.experiments.config.sections.base import SIMULATED, Allowed, Section, known
from bufferlab.protocol.naming import did_you_mean

if TYPE_CHECKING:
    from bufferlab.sim.network.link import LinkProfile

SCALED_LATENCIES = ("latency_s", "per_segment_s", "per_queue_s", "control_latency_s")


def _link_profile(value: Any) -> Any:
    if isinstance(value, str):
        from bufferlab.sim.network.link import load_profile, profile_names

        known = profile_names()
        if value not in known and "/" not in value and not value.endswith(".toml"):
            raise ValueError(f"must be one of {', '.join(known)}, or a .toml file{did_you_mean(value, known)}")
        try:
            load_profile(value)
        except (ValueError, OSError) as error:
            raise ValueError(f"must be a good profile: {error}") from None
    return value


def _profile_names() -> list[str]:
    from bufferlab.sim.network.link import profile_names

    return profile_names()


class Link(Section):
    """The network between the sides; the real backend has its own."""

    world: ClassVar[str] = SIMULATED

    profile: Annotated[str, BeforeValidator(_link_profile), Allowed("or a .toml file", _profile_names)] = "tcp-loopback"
    """A named link profile or a profile file."""
    bandwidth_scale: Annotated[float, Field(gt=0, le=1000)] | None = None
    """How many times the profile's bandwidth of an adapter a simulated link has: what if the profile is wrong?"""
    latency_scale: Annotated[float, Field(ge=0, le=1000)] | None = None
    """How many times the profile's latencies of a write, a segment, a queue and a control message it has."""
    processors: Annotated[float, Field(gt=0, allow_inf_nan=True), Allowed("more than 0, or inf")] | None = None
    """Processors of the host of all processes, in place of the number in the profile's [host]; inf for enough."""

    @model_validator(mode="after")
    def _has_a_host(self) -> Self:
        if self.processors is not None and self.load().host is None:
            raise ValueError(
                f"processors is {self.processors:g}, but link.profile is {self.profile!r}, which has no [host]; it "
                f"must be a profile that says what the software costs the processors"
            )
        return self

    def load(self) -> LinkProfile:
        """The profile, scaled; its host has as many processors as ``processors`` asks for."""
        from bufferlab.sim.network.link import load_profile

        profile = load_profile(self.profile)
        if self.bandwidth_scale is not None:
            profile = structs.replace(profile, bandwidth_Bps=profile.bandwidth_Bps * self.bandwidth_scale)
        if self.latency_scale is not None:
            scaled = {name: getattr(profile, name) * self.latency_scale for name in SCALED_LATENCIES}
            profile = structs.replace(profile, **scaled)
        if self.processors is None or profile.host is None:
            return profile
        return structs.replace(profile, host=structs.replace(profile.host, processors=self.processors))


class Model(Section):
    """What is served, which sets the bytes of a token."""

    name: Annotated[str, known(MODELS)] | None = None
    """A known model; qwen2.5-vl-7b when nothing is given."""
    hidden: Annotated[int | None, Field(ge=1, le=1 << 20)] = None
    """For any other model: the width of an embedding row in bf16 elements."""
    deepstack_layers: Annotated[int | None, Field(ge=0, le=64)] = None
    """For any other model: rows that deepstack adds per token."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.name is not None and (self.hidden is not None or self.deepstack_layers is not None):
            raise ValueError(f"has name {self.name!r} and sizes, it must have either name or hidden")
        if self.hidden is None and self.deepstack_layers is not None:
            raise ValueError("has deepstack_layers without hidden, it must have both or name")
        return self

    @property
    def shape(self) -> ModelShape:
        """Its sizes."""
        if self.hidden is not None:
            return ModelShape(self.hidden, self.deepstack_layers or 0)
        return MODELS[self.name or "qwen2.5-vl-7b"]
