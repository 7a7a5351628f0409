"""Service-time profiles: how long preparing an image, encoding it and a prefill take.

The shipped ones are called DEVICE-MODEL and are computed from the kernel fits in ``profiles/kernels.toml``, which says
where its numbers come from: a fit, times a device's slowdown where the fit is another device's, times the overhead of
launches and scheduling. Preparing images is the host's work and takes neither factor. ``instant`` takes no time at all.

A user's own profile is a TOML file with any of the fields in ``PROFILE_FIELDS``, in seconds, and its ``source``.
"""

from __future__ import annotations

import math
import tomllib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import msgspec

from bufferlab.protocol.emulation.scenario import ServiceTimes
from bufferlab.protocol.naming import did_you_mean

INSTANT = "instant"

ENCODE_FIELDS = (
    "encode_base_s",
    "encode_per_image_s",
    "encode_per_token_s",
    "encode_per_token2_s",
    "preprocess_per_token_s",
)
PREFILL_FIELDS = ("prefill_base_s", "prefill_per_token_s", "prefill_per_token2_s")
PROFILE_FIELDS = ENCODE_FIELDS + PREFILL_FIELDS
SETTINGS = {
    "encode_poll_interval_s": "encode.poll_interval_s",
    "language_poll_interval_s": "language.poll_interval_s",
    "preprocess_workers": "encode.preprocess_workers",
}
"""Fields of ``ServiceTimes`` that a configuration has and a profile has not."""

TEXTS = ("source", "description")

ServiceSide = Literal["encode", "language"]


class Fit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Milliseconds for k thousand tokens: constant_ms + linear_ms · k + quadratic_ms · k²."""

    constant_ms: float
    linear_ms: float
    quadratic_ms: float

    def milliseconds(self, tokens: int) -> float:
        """The fitted time of the kernels alone."""
        thousands = tokens / 1000
        return self.constant_ms + (self.linear_ms + self.quadratic_ms * thousands) * thousands


class Vision(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A vision encoder: fits for one image by device. The H100's stands in where a device has none."""

    description: str
    pixels_per_token: int
    h100: Fit
    h200: Fit | None = None
    a100: Fit | None = None
    h20: Fit | None = None


class Language(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A language model: fits for the prefill of one request by device, as for ``Vision``."""

    h100: Fit
    h200: Fit | None = None
    a100: Fit | None = None
    h20: Fit | None = None


class ModelParts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which fits a model uses; ``language`` is empty for a model whose prefill nobody has fitted."""

    vision: str
    language: str = ""


class Kernels(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The data file: fits, and the factors that make service times of them."""

    source: str
    overhead_factor: float
    preprocess_ms_per_megapixel: float
    slowdown: dict[str, float]
    vision: dict[str, Vision]
    language: dict[str, Language]
    models: dict[str, ModelParts]

    def fit(self, part: Vision | Language, device: str) -> tuple[Fit, float]:
        """The fit for ``device`` and the factor that it takes."""
        own: Fit | None = getattr(part, device)
        return (part.h100, self.overhead_factor * self.slowdown[device]) if own is None else (own, self.overhead_factor)


@cache
def kernels() -> Kernels:
    """The shipped data file."""
    text = (files("bufferlab.experiments.config") / "profiles" / "kernels.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text), Kernels)


@cache
def service_profiles() -> dict[str, ServiceTimes]:
    """All shipped profiles by name, ``instant`` first."""
    data = kernels()
    profiles = {INSTANT: ServiceTimes()}
    for device in data.slowdown:
        for model, parts in data.models.items():
            profiles[f"{device}-{model}"] = _profile(data, device, parts)
    return profiles


def profile_names(side: ServiceSide) -> list[str]:
    """The shipped profiles that say how long ``side`` takes: without a prefill fit a model has none for language."""
    return [
        name
        for name, profile in service_profiles().items()
        if side == "encode" or name == INSTANT or profile.prefill_per_token_s
    ]


def load_service_profile(name: str, side: ServiceSide) -> ServiceTimes:
    """The profile called ``name``, or read from the TOML file of that name, for one side.

    Fields that a file leaves out are 0. Raises ValueError: the end of a sentence that begins with the name.
    """
    if name in profile_names(side):
        return service_profiles()[name]
    if name in service_profiles():
        raise ValueError(f"must have prefill times, of which there is no fit: one of {_choices(side)}")
    path = Path(name)
    if path.suffix != ".toml":
        raise ValueError(f"must be one of {_choices(side)}{did_you_mean(name, profile_names(side))}")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise ValueError("must be a file that can be read") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"must be TOML ({error})") from None
    for field, value in table.items():
        if field in SETTINGS:
            raise ValueError(f"must not hold {field!r}, which is the setting {SETTINGS[field]}")
        if field in TEXTS:
            if not isinstance(value, str):
                raise ValueError(f"must hold text as its {field}, but it is {value!r}")
        elif field not in PROFILE_FIELDS:
            raise ValueError(f"must not hold {field!r}, only {', '.join(PROFILE_FIELDS + TEXTS)}")
        elif isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise ValueError(f"must hold seconds of at least 0, but {field} is {value!r}")
    given: dict[str, Any] = {field: float(table[field]) for field in PROFILE_FIELDS if field in table}
    return ServiceTimes(**given)


def _choices(side: ServiceSide) -> str:
    data = kernels()
    models = [model for model, parts in data.models.items() if side == "encode" or parts.language]
    return f"{INSTANT}, {{{','.join(data.slowdown)}}}-{{{','.join(models)}}}, or a .toml file"


def _profile(data: Kernels, device: str, parts: ModelParts) -> ServiceTimes:
    vision = data.vision[parts.vision]
    image, factor = data.fit(vision, device)
    profile = ServiceTimes(
        encode_per_image_s=factor * image.constant_ms / 1e3,
        encode_per_token_s=factor * image.linear_ms / 1e6,
        encode_per_token2_s=factor * image.quadratic_ms / 1e9,
        preprocess_per_token_s=data.preprocess_ms_per_megapixel / 1e3 * vision.pixels_per_token / 1e6,
    )
    if not parts.language:
        return profile
    prefill, factor = data.fit(data.language[parts.language], device)
    return msgspec.structs.replace(
        profile,
        prefill_base_s=factor * prefill.constant_ms / 1e3,
        prefill_per_token_s=factor * prefill.linear_ms / 1e6,
        prefill_per_token2_s=factor * prefill.quadratic_ms / 1e9,
    )
