"""The section [workload]: what is asked of the system."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    model_validator,
)

from bufferlab.experiments.config.inputs import client_files, config_beside
from bufferlab.experiments.config.problems import shown
from bufferlab.experiments.config.sections.base import Allowed, Duration, Section, duration, known
from bufferlab.protocol.naming import did_you_mean

DEFAULT_REQUESTS = 1000
MAX_CONCURRENCY = 1_000_000
MOST_RPS = 1e6
"""No service has more requests a second."""
WORKLOAD_SOURCES = ("preset", "file", "lengths", "request")
WORKLOAD_ORDERS = ("random", "alternating", "sorted-runs")
HINTS = ("exact", "none")


def _presets() -> list[str]:
    from bufferlab.sim.workload import mix_names

    return list(mix_names())


def _preset(value: Any) -> Any:
    if isinstance(value, str):
        from bufferlab.sim.workload import mix_names

        known = mix_names()
        if value not in known:
            raise ValueError(f"must be one of {', '.join(known)}{did_you_mean(value, known)}")
    return value


def _hint(value: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and value not in HINTS and not number:
        raise ValueError("must be exact, none, or a relative error such as 0.2")
    return value


class RequestSpec(Section):
    """One request given by hand, in ``[[workload.request]]``."""

    total_tokens: Annotated[int, Field(ge=1)]
    """Length of the whole embedding, text included."""
    arrival_s: Duration = 0.0
    """When it arrives, counted from the run's start."""
    text_tokens: Annotated[int, Field(ge=0)] = 0
    """The part of it that is text, which the language side knows."""
    images: Annotated[int, Field(ge=0)] = 0
    """Images or videos in it."""
    image_tokens_hint: Annotated[int, Field(ge=0)] = 0
    """What a router that looks at the image sizes would guess; 0 for no guess."""
    client: str = ""
    """Who sent it; policies that learn per client use it."""

    @model_validator(mode="after")
    def _text_fits(self) -> Self:
        if self.text_tokens > self.total_tokens:
            raise ValueError(f"text_tokens is {self.text_tokens}, it must be at most total_tokens, {self.total_tokens}")
        return self


class Workload(Section):
    """What is asked of the system. Exactly one of preset, file, lengths, request names the source."""

    preset: Annotated[str | None, BeforeValidator(_preset), Allowed(names=_presets)] = None
    """A built-in workload model."""
    file: str | None = None
    """A CSV, Parquet or public trace file, a run directory or a folder of ServeGen clients; relative to the
    configuration file."""
    lengths: Annotated[tuple[Annotated[int, Field(ge=1)], ...] | None, Field(strict=False, min_length=1)] = None
    """Embedding lengths in tokens, used in turn and again from the front."""
    request: Annotated[tuple[RequestSpec, ...] | None, Field(strict=False, min_length=1)] = None
    """Requests given one by one."""
    loop: Literal["open", "closed"] = "open"
    """open: requests come at their times; closed: in their order, each as soon as an earlier one is concluded."""
    concurrency: Annotated[int | None, Field(ge=1, le=MAX_CONCURRENCY)] = None
    """In a closed loop: how many requests are under way at a time."""
    requests: Annotated[int | None, Field(ge=1)] = None
    """How many requests. Defaults to 1000 for a preset or a file of lengths, else to all the source has."""
    rate_rps: Annotated[float | None, Field(gt=0, le=MOST_RPS)] = None
    """Mean arrivals a second. A preset, a file of lengths and lengths draw arrivals with it (lengths without it arrive
    all at once); a trace's own times are stretched to it; every ServeGen client's rate is scaled to it."""
    rate_scale: Annotated[float | None, Field(gt=0)] = None
    """In place of rate_rps: how many times its own rate the source has. A trace's times are divided by it; a preset's
    own rate is that of the data it was fitted to."""
    length_scale: Annotated[float | None, Field(gt=0, le=100)] = None
    """How many times as many tokens every image has, text left as it is; without text_tokens that is all of a request.
    The requests are the same ones otherwise."""
    image_scale: Annotated[float | None, Field(gt=0, le=100)] = None
    """How many times as many images of the same size every request has, and with them image tokens."""
    text_tokens: Annotated[int, Field(ge=0)] = 0
    """With lengths: the part of every request that is text."""
    options: Annotated[dict[str, Any], Field(default_factory=dict)]
    """What the preset or the kind of file lets one choose, such as variant = "native"."""
    cv: Annotated[float | None, Field(ge=0, le=100)] = None
    """Coefficient of variation of the gaps between arrivals at a steady rate: 1 is Poisson, 0 a metronome, more is
    bursty. Replaces the preset's own (1 for lengths), and that of every client where clients arrive on their own."""
    rate_log_sd: Annotated[float | None, Field(ge=0, le=3)] = None
    """Standard deviation of the logarithm of the arrival rate, which wanders. Replaces the preset's own (else 0)."""
    rate_time_constant_s: Annotated[float | None, BeforeValidator(duration), Field(gt=0)] = None
    """How long the arrival rate remembers where it was. Replaces the preset's own (else 600 s)."""
    order: Annotated[str | None, known(WORKLOAD_ORDERS)] = None
    """Requests of a preset come at random, or small and large ones alternating, or in sorted-runs of 32."""
    repeat_probability: Annotated[float | None, Field(ge=0, lt=1)] = None
    """How often a client's next request has about the length of its last (within a factor of two). 0 by default, where
    a client's past tells nothing but what is common to all its requests."""
    hint: Annotated[str | float | None, BeforeValidator(_hint), Allowed("exact, none, or a number from 0 to 3")] = None
    """What the language side is told about a preset's image tokens: exact, none, or the relative error of a guess."""
    service_log_sd: Annotated[float, Field(ge=0, le=3)] = 0.0
    """Standard deviation of the logarithm of a random factor on each request's encode and prefill times. 0.15 to 0.25
    is a common assumption for GPUs."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in WORKLOAD_SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            names = ", ".join(WORKLOAD_SOURCES)
            found = " and ".join(given) if given else "no source"
            raise ValueError(f"names {found}, it must name exactly one of {names}")
        if (self.loop == "closed") is (self.concurrency is None):
            raise ValueError(
                "has a closed loop but no concurrency, it must say how many requests are under way at a time"
                if self.concurrency is None
                else f"concurrency is {self.concurrency}, it is only allowed with loop = 'closed'"
            )
        self._check_rate_scale()
        if self.preset is not None and self.rate_rps is None and self.rate_scale is None and self.loop == "open":
            raise ValueError("has a preset but no rate_rps, it must say how many requests arrive a second")
        if self.request is not None and self.rate_rps is not None:
            raise ValueError("has rate_rps, which is not allowed beside [[workload.request]]: each has its arrival_s")
        if self.request is not None and self.requests not in (None, len(self.request)):
            raise ValueError(f"requests is {self.requests}, but {len(self.request)} are listed")
        if self.text_tokens and (self.lengths is None or self.text_tokens > min(self.lengths)):
            raise ValueError(
                f"text_tokens is {self.text_tokens}, it must be at most the shortest of lengths"
                if self.lengths
                else f"text_tokens is {self.text_tokens}, it is only allowed beside lengths"
            )
        self._check_draws()
        return self

    def _check_rate_scale(self) -> None:
        """Raise ValueError where there is no rate to multiply."""
        if self.rate_scale is None:
            return
        if self.rate_rps is not None:
            raise ValueError(
                f"has rate_rps {self.rate_rps:g} and rate_scale {self.rate_scale:g}, it must have only one"
            )
        without = {
            "closed": "in a closed loop, where requests come as others end",
            "lengths": "beside lengths, which have no rate of their own; give rate_rps",
            "request": "beside [[workload.request]]: each has its arrival_s",
        }
        source = "closed" if self.loop == "closed" else "lengths" if self.lengths is not None else "request"
        if self.loop == "closed" or self.lengths is not None or self.request is not None:
            raise ValueError(f"rate_scale is {self.rate_scale:g}, which is not allowed {without[source]}")

    def _check_draws(self) -> None:
        """Raise ValueError for a setting that the source has no use for, or a wrong option of the preset."""
        drawn = self.preset is not None or self.file is not None
        arriving = drawn or (self.lengths is not None and self.rate_rps is not None)
        for name, useful, where in (
            ("cv", arriving, "a preset, a file of lengths, or lengths with rate_rps"),
            ("rate_log_sd", arriving, "a preset, a file of lengths, or lengths with rate_rps"),
            ("rate_time_constant_s", arriving, "a preset, a file of lengths, or lengths with rate_rps"),
            ("order", drawn, "a preset or a file of lengths"),
            ("repeat_probability", drawn, "a preset or a file of lengths"),
            ("hint", drawn, "a preset or a file of lengths"),
        ):
            if getattr(self, name) is not None and not useful:
                raise ValueError(f"{name} is {shown(getattr(self, name))}, it is only allowed beside {where}")
        if isinstance(self.hint, float | int) and not 0 <= self.hint <= 3:
            raise ValueError(f"hint is {self.hint}, it must be exact, none, or a relative error from 0 to 3")
        if self.options and not drawn:
            raise ValueError(f"options is {shown(self.options)}, it is only allowed beside a preset or a file")
        if not arriving:
            return
        from bufferlab.sim.workload import Arrivals, Variation, check_options, load_mix

        own, rate_rps = Arrivals(), self.rate_rps
        if self.preset is not None:
            try:
                check_options(self.preset, self.options)
            except ValueError as error:
                raise ValueError(f"options.{error}") from None
            mix = load_mix(self.preset, self.options)
            own = mix.arrivals
            if self.rate_scale is not None:
                if mix.rate_rps is None:
                    raise ValueError(
                        f"rate_scale is {self.rate_scale:g}, but the preset {self.preset} has no rate of its own; "
                        f"give rate_rps"
                    )
                rate_rps = mix.rate_rps * self.rate_scale
        varied = Variation(
            cv=self.cv, rate_log_sd=self.rate_log_sd, rate_time_constant_s=self.rate_time_constant_s
        ).arrivals_from(own)
        if rate_rps is not None:
            varied.check_rate(rate_rps)

    def input_files(self) -> list[str]:
        """The files this depends on; a folder of clients is all of its files."""
        if self.file is None:
            return []
        if Path(self.file).is_dir():
            # A folder without clients is named as it is, so that it is refused.
            return [str(path) for path in client_files(Path(self.file))] or [self.file]
        config = config_beside(Path(self.file))
        return [self.file] if config is None else [self.file, str(config)]
