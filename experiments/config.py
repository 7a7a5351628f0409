"""The configuration of a run: what it may hold, what it means, and what is wrong with it in one sentence.

A configuration is a TOML file with the sections below. The same file drives the simulator and the real backend.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from experiments.errors import UserError
from experiments.models import MODELS, ModelShape
from experiments.problems import did_you_mean, reason_of, sentence, shown
from experiments.services import load_service_profile
from experiments.units import parse_duration, parse_size
from protocol.disciplines import DISCIPLINES
from protocol.layout import BufferLayout
from protocol.scenario import Scenario, ServiceTimes, WriteFault
from protocol.sizing import POLICIES

MAX_TP = 64
MAX_INSTANCES = 256
MAX_REAL_PROCESSES = 32
DEFAULT_REQUESTS = 1000
WORKLOAD_SOURCES = ("preset", "file", "lengths", "request")
NEVER = "never"


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


def _wire(value: Any) -> Any:
    if value == "sglang":
        raise ValueError('must be "extended" for now; the fork\'s own frames ("sglang") are not available yet')
    return value


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


def _service_profile(value: Any) -> Any:
    if isinstance(value, str):
        load_service_profile(value)
    return value


def _link_profile(value: Any) -> Any:
    if isinstance(value, str):
        from sim.link import load_profile, profile_names

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
        from experiments.workload import preset_names

        known = preset_names()
        if value not in known:
            raise ValueError(f"must be one of {', '.join(known)}{did_you_mean(value, known)}")
    return value


Duration = Annotated[float, BeforeValidator(_duration)]
Positive = Annotated[float, Field(gt=0)]
Tp = Annotated[int, Field(ge=1, le=MAX_TP)]
Instances = Annotated[int, Field(ge=1, le=MAX_INSTANCES)]
PoolBlocks = Annotated[int | str, BeforeValidator(_pool)]


def _options_of(policy: str) -> dict[str, Any]:
    """Names and types of a policy's options."""
    make = POLICIES[policy].__init__
    if make is object.__init__:
        return {}
    hints = typing.get_type_hints(make)
    parameters = list(inspect.signature(make).parameters)[1:]
    return {name: hints.get(name, Any) for name in parameters}


class Run(Section):
    """Which run this is."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")] = "run"
    """Names the run directory; letters, digits, dot, dash and underscore. Defaults to the file's name."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    """Every random draw comes from it."""
    replications: Annotated[int, Field(ge=1, le=10_000)] = 1
    """How often the run is repeated with other draws; two or more give intervals across replications."""


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
    """A CSV, Parquet or public trace file; relative to the configuration file."""
    lengths: Annotated[tuple[Annotated[int, Field(ge=1)], ...] | None, Field(strict=False, min_length=1)] = None
    """Embedding lengths in tokens, used in turn and again from the front."""
    request: Annotated[tuple[RequestSpec, ...] | None, Field(strict=False, min_length=1)] = None
    """Requests given one by one."""
    requests: Annotated[int | None, Field(ge=1)] = None
    """How many requests. Defaults to 1000 for a preset, else to all the source has."""
    rate_rps: Annotated[float | None, Field(gt=0)] = None
    """Mean arrivals a second. A preset and lengths draw Poisson arrivals with it (lengths without it arrive all at
    once); a file's own times are stretched to it."""
    text_tokens: Annotated[int, Field(ge=0)] = 0
    """With lengths: the part of every request that is text."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in WORKLOAD_SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            names = ", ".join(WORKLOAD_SOURCES)
            found = " and ".join(given) if given else "no source"
            raise ValueError(f"names {found}, it must name exactly one of {names}")
        if self.preset is not None and self.rate_rps is None:
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
        return self


class Sizing(Section):
    """How many tokens the language side preallocates. Options of a policy stand beside its name."""

    model_config = ConfigDict(extra="allow")

    policy: Annotated[str, _known(POLICIES)] = "fixed"
    """The sizing policy."""
    tokens: Annotated[int, Field(ge=1)] = 1024
    """The default allocation; what fixed always takes, a learning policy before it has learnt, slot for its slot."""

    @model_validator(mode="after")
    def _policy_options(self) -> Self:
        accepted = _options_of(self.policy)
        for name, value in (self.model_extra or {}).items():
            if name not in accepted:
                options = ", ".join(option for option in accepted if option != "tokens") or "no options"
                raise ValueError(
                    f"{name} is not known to the policy {self.policy}, which has {options}"
                    f"{did_you_mean(name, accepted)}"
                )
            try:
                TypeAdapter(accepted[name], config=ConfigDict(strict=True, allow_inf_nan=False)).validate_python(value)
            except ValidationError as error:
                raise ValueError(f"{name} is {shown(value)}, it {reason_of(error.errors()[0])}") from None
        try:
            POLICIES[self.policy](**self.options)
        except ValueError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def options(self) -> dict[str, Any]:
        """Arguments for the policy; ``tokens`` only where the policy takes it."""
        accepted = _options_of(self.policy)
        tokens = {"tokens": self.tokens} if "tokens" in accepted else {}
        return {**tokens, **(self.model_extra or {})}


class Protocol(Section):
    """The rules of the transfer."""

    discipline: Annotated[str, _known(DISCIPLINES)] = "window"
    """How a room acquires and returns language-side blocks."""
    wire: Annotated[Literal["extended"], BeforeValidator(_wire)] = "extended"
    """The message format."""
    block_tokens: Annotated[int, Field(ge=1)] = 128
    """Tokens of one buffer block."""
    timeout_s: Annotated[float | str | None, BeforeValidator(_timeout)] = 180.0
    """How long a room may stay in one waiting phase; "never" leaves a deadlock standing."""
    resume_first: bool = True
    """Whether rooms that wait for their next chunk's blocks go before new ones."""
    reserve_blocks: Annotated[int, Field(ge=0)] = 0
    """Blocks that new rooms must leave free for resumes."""
    sizing: Sizing = Sizing()
    """The default allocation."""

    @model_validator(mode="after")
    def _whole_blocks(self) -> Self:
        if self.sizing.tokens % self.block_tokens:
            raise ValueError(
                f"block_tokens is {self.block_tokens}, it must divide sizing.tokens, {self.sizing.tokens}, "
                f"without a remainder"
            )
        return self


class Encode(Section):
    """The encode side."""

    instances: Instances = 1
    """Serving replicas."""
    tp: Tp = 1
    """Tensor-parallel ranks of a replica."""
    pool_blocks: PoolBlocks = 256
    """Blocks of one rank, or its memory such as "4GiB"."""
    profile: Annotated[str, BeforeValidator(_service_profile)] = "instant"
    """How long the encoder's passes take: a named profile or a TOML file."""
    turn_s: Duration = 0.001
    """How often the scheduler loop looks at its rooms."""
    base_s: Duration | None = None
    """Replaces the profile's constant part of a pass."""
    per_token_s: Duration | None = None
    """Replaces the profile's part per token."""


class Language(Encode):
    """The language side; its profile says how long prefill takes."""


class Link(Section):
    """The network between the sides; the real backend has its own."""

    profile: Annotated[str, BeforeValidator(_link_profile)] = "tcp-loopback"
    """A named link profile or a profile file."""


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


class Real(Section):
    """What only the real backend needs."""

    transport: Literal["tcp", "rdma"] = "tcp"
    """What Mooncake is asked to use; a run in which it used something else stops."""
    device: str = ""
    """The network device, for rdma."""


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
    real: Real = Real()

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
        return self

    @property
    def layout(self) -> BufferLayout:
        """The buffer layout of both sides."""
        return BufferLayout(self.protocol.block_tokens, *self.model.shape)

    def blocks(self, section: Encode) -> int:
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
        if not tree["faults"]:
            del tree["faults"]
        return tree

    def input_files(self) -> list[Path]:
        """Files the run depends on beside the configuration."""
        names = [self.workload.file, self.encode.profile, self.language.profile, self.link.profile]
        return [path for path in sorted({Path(name) for name in names if name}) if path.is_absolute()]

    def input_digests(self) -> dict[str, str]:
        """SHA-256 of every input file."""
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in self.input_files()}

    def digest(self) -> str:
        """Eight hexadecimal digits that name this configuration and the content of its input files."""
        content = json.dumps([self.resolved().tree(), self.input_digests()], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:8]

    def scenario(self) -> Scenario:
        """What both drivers are given."""
        encoder = load_service_profile(self.encode.profile)
        prefill = load_service_profile(self.language.profile)
        shape = self.model.shape
        return Scenario(
            block_tokens=self.protocol.block_tokens,
            hidden=shape.hidden,
            deepstack_layers=shape.deepstack_layers,
            discipline=self.protocol.discipline,
            sizing=self.protocol.sizing.policy,
            sizing_options=self.protocol.sizing.options,
            encode_instances=self.encode.instances,
            encode_tp=self.encode.tp,
            encode_blocks=self.blocks(self.encode),
            language_instances=self.language.instances,
            language_tp=self.language.tp,
            language_blocks=self.blocks(self.language),
            timeout_s=typing.cast("float | None", self.protocol.timeout_s),
            resume_first=self.protocol.resume_first,
            reserve_blocks=self.protocol.reserve_blocks,
            services=ServiceTimes(
                encode_turn_s=self.encode.turn_s,
                language_turn_s=self.language.turn_s,
                encode_base_s=_either(self.encode.base_s, encoder.encode_base_s),
                encode_per_token_s=_either(self.encode.per_token_s, encoder.encode_per_token_s),
                prefill_base_s=_either(self.language.base_s, prefill.prefill_base_s),
                prefill_per_token_s=_either(self.language.per_token_s, prefill.prefill_per_token_s),
            ),
            faults=tuple(WriteFault(fault.room, fault.epoch, fault.destination) for fault in self.faults),
        )

    def check_real(self, memory_bytes: int) -> None:
        """Raise UserError if this host cannot carry the run: too many processes, or pools beyond ``memory_bytes``."""
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
        # A section that is broken in itself may break others; the first problem is the one to mend first.
        raise UserError(sentence(error.errors()[0], Config)) from None
