"""The configuration of a run: what it may hold, what it means, and what is wrong with it in one sentence.

A configuration is a TOML file with the sections below. The same file drives the simulator and the real backend.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Self

from msgspec import structs
from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    PydanticUserError,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from experiments.config.incidents import NEEDS, check_incidents, check_real_incidents, parse_instance, parse_rank
from experiments.config.inputs import client_files, config_beside
from experiments.config.models import MODELS, ModelShape
from experiments.config.problems import first_of, reason_of, sentence, shown
from experiments.config.services import ServiceSide, load_service_profile
from experiments.errors import UserError
from experiments.units import parse_duration, parse_size
from protocol.disciplines import DISCIPLINES
from protocol.emulation.scenario import Scenario, ServiceTimes, WriteFault
from protocol.layout import BufferLayout
from protocol.naming import did_you_mean
from protocol.sizing import SizingError, find_policy
from protocol.sizing.registry import absolute, file_of, make_policy
from protocol.wire.limits import EXTENDED, FORK_DISCIPLINE, SGLANG, WIRES, sglang_problem

if TYPE_CHECKING:
    from sim.network.link import LinkProfile

MAX_TP = 64
MAX_INSTANCES = 256
MAX_REAL_PROCESSES = 32
DEFAULT_REQUESTS = 1000
MAX_CONCURRENCY = 1_000_000
MOST_RPS = 1e6
"""No service has more requests a second."""
WORKLOAD_SOURCES = ("preset", "file", "lengths", "request")
WORKLOAD_ORDERS = ("random", "alternating", "sorted-runs")
HINTS = ("exact", "none")
NEVER = "never"
NAME_DIGITS = 16
"""Hexadecimal digits of a fingerprint that stand in names: 64 bits, of which two among 100,000 cells are alike with a
probability of 3e-10. Whoever opens what has such a name compares the whole fingerprint."""


class Section(BaseModel):
    """Base of all sections: frozen, strict, no unknown settings, no NaN."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


def _duration(value: Any) -> float:
    return parse_duration(value)


def _timeout(value: Any) -> float | None:
    if value is None or value == NEVER:
        return None
    try:
        seconds = parse_duration(value)
    except ValueError as error:
        raise ValueError(f'{error}, or "{NEVER}"') from None
    if seconds == 0:
        raise ValueError(f'must be more than 0, or "{NEVER}"')
    return seconds


def _known(names: Iterable[str]) -> BeforeValidator:
    known = tuple(names)

    def check(value: Any) -> Any:
        if value not in known:
            raise ValueError(f"must be one of {', '.join(known)}{did_you_mean(value, known)}")
        return value

    return BeforeValidator(check)


def _parsed_by(parse: Callable[[str], object]) -> BeforeValidator:
    def check(value: Any) -> Any:
        if isinstance(value, str):
            parse(value)
        return value

    return BeforeValidator(check)


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


def _policy(value: Any) -> Any:
    """A policy's name; the place of a user's own with its file made absolute, for other processes and folders."""
    if not isinstance(value, str):
        return value
    name = absolute(value, Path())
    try:
        find_policy(name)
    except SizingError as error:
        raise ValueError(str(error)) from None
    return name


def _link_profile(value: Any) -> Any:
    if isinstance(value, str):
        from sim.network.link import load_profile, profile_names

        known = profile_names()
        if value not in known and "/" not in value and not value.endswith(".toml"):
            raise ValueError(f"must be one of {', '.join(known)}, or a .toml file{did_you_mean(value, known)}")
        try:
            load_profile(value)
        except (ValueError, OSError) as error:
            raise ValueError(f"must be a good profile: {error}") from None
    return value


def _preset(value: Any) -> Any:
    if isinstance(value, str):
        from sim.workload import mix_names

        known = mix_names()
        if value not in known:
            raise ValueError(f"must be one of {', '.join(known)}{did_you_mean(value, known)}")
    return value


def _hint(value: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and value not in HINTS and not number:
        raise ValueError("must be exact, none, or a relative error such as 0.2")
    return value


Duration = Annotated[float, BeforeValidator(_duration)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Tp = Annotated[int, Field(ge=1, le=MAX_TP)]
Instances = Annotated[int, Field(ge=1, le=MAX_INSTANCES)]
PoolBlocks = Annotated[int | str, BeforeValidator(_pool)]


class Option(NamedTuple):
    """An option of a sizing policy: a parameter of its constructor. Without a type hint anything is allowed."""

    hint: Any
    required: bool


def _options_of(policy: str) -> dict[str, Option]:
    """A policy's options by name. Raises ValueError for type hints that mean nothing."""
    make = find_policy(policy).__init__
    if make is object.__init__:
        return {}
    try:
        hints = typing.get_type_hints(make)
    except Exception as error:  # whatever evaluating a user's annotation raises
        raise ValueError(f"has policy {policy}, whose type hints cannot be read: {error}") from None
    parameters = list(inspect.signature(make).parameters.values())[1:]
    return {
        one.name: Option(hints.get(one.name, Any), one.default is one.empty)
        for one in parameters
        if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
    }


class Run(Section):
    """Which run this is."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")] = "run"
    """Names the run directory; letters, digits, dot, dash and underscore. Defaults to the file's name."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    """Every random draw comes from it."""
    replications: Annotated[int, Field(ge=1, le=10_000)] = 1
    """How often the run is repeated with other draws; two or more give intervals across replications."""
    warmup_requests: Annotated[int, Field(ge=0)] = 0
    """How many first requests are left out of the figures, because they met an empty system."""


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

    preset: Annotated[str | None, BeforeValidator(_preset)] = None
    """A built-in workload model."""
    file: str | None = None
    """A CSV, Parquet or public trace file, a run directory or a folder of ServeGen clients; relative to the
    configuration file."""
    lengths: Annotated[tuple[Annotated[int, Field(ge=1)], ...] | None, Field(strict=False, min_length=1)] = None
    """Embedding lengths in tokens, used in turn and again from the front."""
    request: Annotated[tuple[RequestSpec, ...] | None, Field(strict=False, min_length=1)] = None
    """Requests given one by one."""
    loop: Literal["open", "closed"] = "open"
    """Whether requests come at their times, or in their order, each as soon as an earlier one is concluded."""
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
    text_tokens: Annotated[int, Field(ge=0)] = 0
    """With lengths: the part of every request that is text."""
    options: dict[str, Any] = {}
    """What the preset or the kind of file lets one choose, such as variant = "native"."""
    cv: Annotated[float | None, Field(ge=0, le=100)] = None
    """Coefficient of variation of the gaps between arrivals at a steady rate: 1 is Poisson, 0 a metronome, more bursts.
    Replaces the preset's own (1 for lengths); that of every client where clients arrive on their own."""
    rate_log_sd: Annotated[float | None, Field(ge=0, le=3)] = None
    """Standard deviation of the logarithm of the arrival rate, which wanders. Replaces the preset's own (else 0)."""
    rate_time_constant_s: Annotated[float | None, BeforeValidator(_duration), Field(gt=0)] = None
    """How long the arrival rate remembers where it was. Replaces the preset's own (else 600 s)."""
    order: Annotated[str | None, _known(WORKLOAD_ORDERS)] = None
    """Requests of a preset come at random, or small and large ones alternating, or in sorted-runs of 32."""
    repeat_probability: Annotated[float | None, Field(ge=0, lt=1)] = None
    """How often a client's next request has about the length of its last (within a factor of two). 0 by default, where
    a client's past tells nothing but what is common to all its requests."""
    hint: Annotated[str | float | None, BeforeValidator(_hint)] = None
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
        from sim.workload import Arrivals, Variation, check_options, load_mix

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


class Sizing(Section):
    """How many tokens the language side preallocates. Options of a policy stand beside its name."""

    model_config = ConfigDict(extra="allow")

    policy: Annotated[str, BeforeValidator(_policy)] = "fixed"
    """The sizing policy: a known one, or your own as my_policies.py:MyPolicy or mypackage.mymodule:MyPolicy."""
    tokens: Annotated[int, Field(ge=1)] = 1024
    """The default allocation; what fixed always takes, a learning policy before it has learnt. With the discipline slot
    the size of every slot, whatever the policy."""

    @model_validator(mode="after")
    def _policy_options(self) -> Self:
        accepted = _options_of(self.policy)
        given = self.options
        for name, option in accepted.items():
            if option.required and name not in given:
                raise ValueError(f"{name} is missing, the policy {self.policy} needs it")
        for name, value in (self.model_extra or {}).items():
            if name not in accepted:
                options = ", ".join(option for option in accepted if option != "tokens") or "no options"
                raise ValueError(
                    f"{name} is not known to the policy {self.policy}, which has {options}"
                    f"{did_you_mean(name, accepted)}"
                )
            try:
                _check_type(accepted[name].hint, value)
            except ValidationError as error:
                raise ValueError(f"{name} is {shown(value)}, it {reason_of(error.errors()[0])}") from None
        try:
            make_policy(self.policy, given)
        except SizingError as error:
            raise ValueError(f"has a policy that cannot be made: {error}") from None
        return self

    @property
    def options(self) -> dict[str, Any]:
        """Arguments for the policy; ``tokens`` only where the policy takes it."""
        accepted = _options_of(self.policy)
        tokens = {"tokens": self.tokens} if "tokens" in accepted else {}
        return {**tokens, **(self.model_extra or {})}


def _check_type(hint: Any, value: Any) -> None:
    """Raises ValidationError for a value that does not fit ``hint``; a class of the user's own is taken as it is."""
    try:
        adapter = TypeAdapter(hint, config=ConfigDict(strict=True, allow_inf_nan=False))
    except PydanticUserError:
        return
    adapter.validate_python(value)


class Protocol(Section):
    """The rules of the transfer."""

    discipline: Annotated[str, _known(DISCIPLINES)] = "window"
    """How a room acquires and returns language-side blocks. With the sglang wire alloc_then_free unless it is given."""
    wire: Annotated[str, _known(WIRES)] = EXTENDED
    """What the sides say to each other: extended, or the SGLang fork's own frames, sglang, which can say less."""
    block_tokens: Annotated[int, Field(ge=1)] = 128
    """Tokens of one buffer block."""
    timeout_s: Annotated[float | str | None, BeforeValidator(_timeout)] = 180.0
    """How long a room may stay in one waiting phase; "never" leaves a deadlock standing."""
    resume_first: bool = True
    """Whether rooms that wait for their next chunk's blocks go before new ones."""
    reserve_blocks: Annotated[int, Field(ge=0)] = 0
    """Blocks that new rooms must leave free for resumes."""
    resume_tokens: Annotated[int | None, Field(ge=1)] = None
    """Most tokens that a resume asks for at once; all that is missing when absent."""
    sizing: Sizing = Sizing()
    """The default allocation."""

    @model_validator(mode="before")
    @classmethod
    def _discipline_of_the_wire(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("wire") == SGLANG:
            return {"discipline": FORK_DISCIPLINE, **data}
        return data

    @model_validator(mode="after")
    def _within_the_wire(self) -> Self:
        if self.wire == SGLANG:
            timeout_s = typing.cast("float | None", self.timeout_s)
            name, problem = sglang_problem(
                discipline=self.discipline, resume_tokens=self.resume_tokens, timeout_s=timeout_s
            )
            if name:
                value = NEVER if name == "timeout_s" else getattr(self, name)
                raise ValueError(f"{name} is {shown(value)}, it {problem}")
        return self

    @model_validator(mode="after")
    def _whole_blocks(self) -> Self:
        if self.sizing.tokens % self.block_tokens:
            raise ValueError(
                f"block_tokens is {self.block_tokens}, it must divide sizing.tokens, {self.sizing.tokens}, "
                f"without a remainder"
            )
        return self


class Serving(Section):
    """What the two sides have in common."""

    instances: Instances = 1
    """Serving replicas."""
    tp: Tp = 1
    """Tensor-parallel ranks of a replica."""
    pool_blocks: PoolBlocks = 256
    """Blocks of one rank, or its memory such as "4GiB"."""
    turn_s: Duration = 0.001
    """How often the scheduler loop looks at its rooms."""
    base_s: Duration | None = None
    """Replaces the profile's constant part of a pass."""
    per_token_s: Duration | None = None
    """Replaces the profile's part per token; what grows with its square stays the profile's."""


class Encode(Serving):
    """The encode side."""

    profile: Annotated[str, _service_profile("encode")] = "instant"
    """How long the encoder's passes take: a named profile or a TOML file."""
    preprocess_per_token_s: Duration | None = None
    """Replaces the time the profile takes to prepare an image, per token of it; 0 when that is done elsewhere."""
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
    """Most tokens of one prefill pass, but for a longer request, which has its own; no limit when absent."""
    release: Literal["copy", "prefill"] = "copy"
    """When a delivered request gives its blocks back: when its tokens are copied out, or when its prefill is over."""


class Link(Section):
    """The network between the sides; the real backend has its own."""

    profile: Annotated[str, BeforeValidator(_link_profile)] = "tcp-loopback"
    """A named link profile or a profile file."""
    processors: Annotated[float, Field(gt=0)] | None = None
    """Of the host that all processes are on, in place of those that the profile's [host] has; inf for enough."""

    @model_validator(mode="after")
    def _has_a_host(self) -> Self:
        if self.processors is not None and self.load().host is None:
            raise ValueError(
                f"processors is {self.processors:g}, but link.profile is {self.profile!r}, which has no [host]; it "
                f"must be a profile that says what the software costs the processors"
            )
        return self

    def load(self) -> LinkProfile:
        """The profile, on a host with as many processors as are asked for."""
        from sim.network.link import load_profile

        profile = load_profile(self.profile)
        if self.processors is None or profile.host is None:
            return profile
        return structs.replace(profile, host=structs.replace(profile.host, processors=self.processors))


class Model(Section):
    """What is served, which sets the bytes of a token."""

    name: Annotated[str, _known(MODELS)] | None = None
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


class Fault(Section):
    """A write that fails: chunk ``epoch`` of room ``room``, to every destination or to one language rank."""

    room: Annotated[int, Field(ge=1)]
    """The request's number, counted from 1 in order of arrival."""
    epoch: Annotated[int, Field(ge=0)] = 0
    """The chunk's number, counted from 0."""
    destination: Annotated[int | None, Field(ge=0)] = None
    """The language rank whose write fails; all of them when absent."""


class Incident(Section):
    """Something that goes wrong at a time: which settings there are depends on its kind."""

    kind: Annotated[str, _known(NEEDS)]
    """death of a rank, restart of an instance, hang of a rank, slow rank, abort by a client, false-alarm."""
    time_s: Duration | None = None
    """When, counted from the run's start. A slow rank is slow from the start."""
    rank: Annotated[str, _parsed_by(parse_rank)] | None = None
    """Whose, such as language0.1."""
    observer: Annotated[str, _parsed_by(parse_rank)] | None = None
    """The rank that takes ``rank`` for dead in a false alarm."""
    instance: Annotated[str, _parsed_by(parse_instance)] | None = None
    """The instance that restarts, such as language0."""
    lasts_s: Duration | None = None
    """How long the hang or the false alarm lasts, or until new processes are there after a restart."""
    factor: Annotated[float | None, Field(ge=1)] = None
    """How many times longer the turns and writes of a slow rank take."""
    room: Annotated[int | None, Field(ge=1)] = None
    """The request that is aborted, counted from 1 in order of arrival."""

    @model_validator(mode="after")
    def _of_its_kind(self) -> Self:
        needed = NEEDS[self.kind]
        for name in type(self).model_fields:
            if name != "kind" and (getattr(self, name) is None) is (name in needed):
                wrong = "is missing" if name in needed else "is not allowed"
                raise ValueError(f"{name} {wrong}: a {self.kind} has {', '.join(needed)}")
        return self


class RandomFaults(Section):
    """What goes wrong by chance; in a measured run only failed writes. Rates are shares of all messages, writes or
    requests."""

    lost_messages: Share = 0.0
    """Control messages that never arrive."""
    doubled_messages: Share = 0.0
    """Control messages that arrive twice, the second one late."""
    late_messages: Share = 0.0
    """Control messages that arrive up to most_delay_s late."""
    most_delay_s: Duration = 0.1
    """The longest delay of a late message."""
    failed_writes: Share = 0.0
    """Writes that fail."""
    late_writes: Share = 0.0
    """Writes that are given up, although their bytes land up to most_late_s later."""
    most_late_s: Duration = 0.1
    """The longest time that bytes land after their write was given up."""
    late_requests: Share = 0.0
    """Requests that reach a rank up to most_request_delay_s late."""
    most_request_delay_s: Duration = 0.1
    """The longest delay of a request."""
    until_s: Duration | None = None
    """When the rates end; never when absent."""
    heartbeat_s: Duration = 5.0
    """How often a rank asks its peers whether they live."""
    heartbeat_failures: Annotated[int, Field(ge=1)] = 2
    """Heartbeats in a row that must fail before a peer is taken for dead."""

    @property
    def happens(self) -> bool:
        """Whether any rate is above 0."""
        return any(
            getattr(self, name) > 0
            for name in (
                *("lost_messages", "doubled_messages", "late_messages", "failed_writes", "late_writes"),
                "late_requests",
            )
        )


class Slo(Section):
    """What the service promises; how many requests it is kept to is a figure of every run."""

    ttft_s: Annotated[Duration | None, Field(gt=0, validation_alias=AliasChoices("ttft_s", "ttft"))] = None
    """The longest time from a request's arrival to the end of its prefill."""
    latency_s: Annotated[Duration | None, Field(gt=0, validation_alias=AliasChoices("latency_s", "latency"))] = None
    """The longest time from a request's arrival to the delivery of its embedding."""


class Real(Section):
    """What only the real backend needs."""

    transport: Literal["tcp", "rdma"] = "tcp"
    """What Mooncake is asked to use; a run in which it used something else stops."""
    device: str = ""
    """The network device, for rdma."""
    memory: Literal["auto", "host", "gpu"] = "auto"
    """Where block memory lies: "auto" takes a GPU where torch and the installed Mooncake wheel can both use one."""
    verify: bool = True
    """Whether every delivered byte is compared with what was sent; that takes processor time beside the run."""


class Config(Section):
    """A whole run."""

    run: Run = Run()
    workload: Workload
    protocol: Protocol = Protocol()
    encode: Encode = Encode()
    language: Language = Language()
    link: Link = Link()
    model: Model = Model()
    faults: Annotated[tuple[Fault, ...], Field(strict=False)] = ()
    incidents: Annotated[tuple[Incident, ...], Field(strict=False)] = ()
    random_faults: RandomFaults = RandomFaults()
    slo: Slo = Slo()
    real: Real = Real()

    _set_aside: tuple[str, ...] = PrivateAttr(default=())

    @property
    def set_aside(self) -> tuple[str, ...]:
        """Settings that do not apply to the workload file given in their place, as ``key = value``."""
        return self._set_aside

    def having_set_aside(self, settings: tuple[str, ...]) -> Self:
        """The same configuration, which remembers what was left out of it."""
        made = self.model_copy()
        made._set_aside = settings
        return made

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for side, section in (("encode", self.encode), ("language", self.language)):
            if self.blocks(section) < 1:
                raise ValueError(
                    f"{side}.pool_blocks is {section.pool_blocks!r}, it must hold at least one block of "
                    f"{self.layout.bytes_per_block} bytes"
                )
        if self.protocol.reserve_blocks >= self.blocks(self.language):
            raise ValueError(
                f"protocol.reserve_blocks is {self.protocol.reserve_blocks}, it must be less than "
                f"language.pool_blocks, {self.blocks(self.language)}"
            )
        usable = self.blocks(self.language) - self.protocol.reserve_blocks
        needed = self.protocol.sizing.tokens // self.protocol.block_tokens
        if needed > usable:
            reserve = f" less a reserve of {self.protocol.reserve_blocks}" if self.protocol.reserve_blocks else ""
            raise ValueError(
                f"language.pool_blocks is {self.language.pool_blocks!r}{reserve}, it must be at least {needed}: one "
                f"default allocation of {self.protocol.sizing.tokens} tokens in blocks of {self.protocol.block_tokens}"
            )
        for number, fault in enumerate(self.faults):
            if fault.destination is not None and fault.destination >= self.language.tp:
                raise ValueError(
                    f"faults.{number}.destination is {fault.destination}, it must be less than language.tp, "
                    f"{self.language.tp}"
                )
        check_incidents(self)
        if self.protocol.wire == SGLANG and (self.incidents or self.random_faults.happens):
            where = "incidents" if self.incidents else "random_faults"
            raise ValueError(
                f"{where} is given, which the sglang wire does not allow: the simulator's control messages are the "
                f"extended ones, and would tell of it what those frames cannot"
            )
        return self

    @property
    def layout(self) -> BufferLayout:
        """The buffer layout of both sides."""
        return BufferLayout(self.protocol.block_tokens, *self.model.shape)

    def blocks(self, section: Serving) -> int:
        """Blocks of one rank's pool, converted where the configuration gives memory."""
        pool = section.pool_blocks
        return pool if isinstance(pool, int) else parse_size(pool) // self.layout.bytes_per_block

    def resolved(self) -> Config:
        """The same configuration with every default and conversion written out; resolving again changes nothing."""
        tree = self.tree()
        for name, section in (("encode", self.encode), ("language", self.language)):
            tree[name]["pool_blocks"] = self.blocks(section)
        workload = tree["workload"]
        if "requests" not in workload and self.workload.file is None:
            workload["requests"] = len(self.workload.lengths or self.workload.request or ()) or DEFAULT_REQUESTS
        if self.model == Model():
            tree["model"] = {"name": "qwen2.5-vl-7b"}
        return parse(tree)

    def tree(self) -> dict[str, Any]:
        """Plain dictionaries that ``parse`` turns into this configuration again."""
        tree = self.model_dump(mode="json", exclude_none=True)
        tree["protocol"].setdefault("timeout_s", NEVER)
        for name in ("faults", "incidents", "slo"):
            if not tree[name]:
                del tree[name]
        return tree

    @property
    def disturbed(self) -> bool:
        """Whether anything is made to go wrong."""
        return bool(self.faults or self.incidents) or self.random_faults.happens

    def input_files(self) -> list[Path]:
        """Files the run depends on beside the configuration."""
        policy = file_of(self.protocol.sizing.policy)
        names = [*self.workload.input_files(), self.encode.profile, self.language.profile, self.link.profile, policy]
        return [path for path in sorted({Path(name) for name in names if name}) if path.is_absolute()]

    def input_digests(self) -> dict[str, str]:
        """SHA-256 of every input file."""
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in self.input_files()}

    def fingerprint(self) -> str:
        """SHA-256 of this configuration and the content of its input files: no two of them have the same."""
        content = json.dumps([self.resolved().tree(), self.input_digests()], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def digest(self) -> str:
        """The part of the fingerprint that names run directories and cells."""
        return self.fingerprint()[:NAME_DIGITS]

    def scenario(self) -> Scenario:
        """What both drivers are given."""
        encoder = load_service_profile(self.encode.profile, "encode")
        prefill = load_service_profile(self.language.profile, "language")
        shape = self.model.shape
        return Scenario(
            block_tokens=self.protocol.block_tokens,
            hidden=shape.hidden,
            deepstack_layers=shape.deepstack_layers,
            discipline=self.protocol.discipline,
            wire=self.protocol.wire,
            sizing=self.protocol.sizing.policy,
            sizing_options=self.protocol.sizing.options,
            slot_tokens=self.protocol.sizing.tokens if self.protocol.discipline == "slot" else None,
            encode_instances=self.encode.instances,
            encode_tp=self.encode.tp,
            encode_blocks=self.blocks(self.encode),
            language_instances=self.language.instances,
            language_tp=self.language.tp,
            language_blocks=self.blocks(self.language),
            timeout_s=typing.cast("float | None", self.protocol.timeout_s),
            resume_first=self.protocol.resume_first,
            reserve_blocks=self.protocol.reserve_blocks,
            resume_tokens=self.protocol.resume_tokens,
            encode_batch=self.encode.batch_requests,
            prefill_batch_tokens=self.language.batch_tokens,
            release_after_prefill=self.language.release == "prefill",
            transfer_workers=self.encode.transfer_workers,
            services=ServiceTimes(
                encode_turn_s=self.encode.turn_s,
                language_turn_s=self.language.turn_s,
                encode_base_s=_either(self.encode.base_s, encoder.encode_base_s),
                encode_per_image_s=encoder.encode_per_image_s,
                encode_per_token_s=_either(self.encode.per_token_s, encoder.encode_per_token_s),
                encode_per_token2_s=encoder.encode_per_token2_s,
                prefill_base_s=_either(self.language.base_s, prefill.prefill_base_s),
                prefill_per_token_s=_either(self.language.per_token_s, prefill.prefill_per_token_s),
                prefill_per_token2_s=prefill.prefill_per_token2_s,
                preprocess_per_token_s=_either(self.encode.preprocess_per_token_s, encoder.preprocess_per_token_s),
                preprocess_workers=self.encode.preprocess_workers,
            ),
            faults=tuple(WriteFault(fault.room, fault.epoch, fault.destination) for fault in self.faults),
        )

    def check_real(self, memory_bytes: int | None) -> None:
        """Raise UserError if a real run cannot do it, or not on this host with ``memory_bytes`` for its pools.

        None: its ranks are on several hosts.
        """
        check_real_incidents(self, one_host=memory_bytes is not None)
        if memory_bytes is None:
            return
        sides = (self.encode, self.language)
        processes = sum(side.instances * side.tp for side in sides)
        if processes > MAX_REAL_PROCESSES:
            raise UserError(
                f"encode and language have {processes} ranks together (instances times tp), a real run has at most "
                f"{MAX_REAL_PROCESSES} processes on one host"
            )
        pools = sum(side.instances * side.tp * self.blocks(side) for side in sides) * self.layout.bytes_per_block
        if pools > memory_bytes:
            raise UserError(
                f"the pools of all ranks take {pools / 2**30:.1f} GiB, a real run here has at most "
                f"{memory_bytes / 2**30:.1f} GiB for them; lower encode.pool_blocks or language.pool_blocks"
            )


def _either(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def parse(tree: Mapping[str, Any]) -> Config:
    """The configuration in ``tree``. Raises UserError: one sentence with the field, its value and what is allowed."""
    try:
        return Config.model_validate(dict(tree))
    except ValidationError as error:
        raise UserError(sentence(first_of(error.errors(), Config), Config)) from None
