"""The section [protocol]: the rules of the transfer, and the sizing policy with its options."""

from __future__ import annotations

import inspect
import typing
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    PydanticUserError,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from bufferlab.experiments.config.problems import reason_of, shown
from bufferlab.experiments.config.sections.base import NEVER, Allowed, Section, known
from bufferlab.experiments.units import parse_duration
from bufferlab.protocol.disciplines import DEFAULT as DEFAULT_DISCIPLINE
from bufferlab.protocol.disciplines import DISCIPLINES
from bufferlab.protocol.naming import did_you_mean
from bufferlab.protocol.sizing import SizingError, find_policy
from bufferlab.protocol.sizing.places import absolute
from bufferlab.protocol.sizing.registry import POLICIES, make_policy
from bufferlab.protocol.wire.limits import EXTENDED, FORK_DISCIPLINE, SGLANG, WIRES, sglang_problem


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


class Option(NamedTuple):
    """An option of a sizing policy: a parameter of its constructor. Without a type hint anything is allowed."""

    hint: Any
    required: bool


def options_of(policy: str) -> dict[str, Option]:
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


class Sizing(Section):
    """How many tokens the language side preallocates. Options of a policy stand beside its name."""

    model_config = ConfigDict(extra="allow")

    policy: Annotated[str, BeforeValidator(_policy), Allowed("or your own as file.py:Class", lambda: POLICIES)] = (
        "fixed"
    )
    """The sizing policy: a known one, or your own as my_policies.py:MyPolicy or mypackage.mymodule:MyPolicy."""
    tokens: Annotated[int, Field(ge=1)] = 1024
    """The default allocation, a multiple of protocol.block_tokens: fixed always takes it, and a learning policy takes
    it until it has learnt. With the discipline slot it is the size of every slot, whatever the policy."""

    @model_validator(mode="after")
    def _policy_options(self) -> Self:
        accepted = options_of(self.policy)
        given = self.options
        # What is missing may be there under a misspelt name, and then that is said.
        for name in self.model_extra or {}:
            if name not in accepted:
                options = ", ".join(accepted) or "no options"
                raise ValueError(
                    f"{name} is not known to the policy {self.policy}, which has {options}"
                    f"{did_you_mean(name, dict.fromkeys((*accepted, *type(self).model_fields)))}"
                )
        for name, option in accepted.items():
            if option.required and name not in given:
                raise ValueError(f"{name} is missing, the policy {self.policy} needs it")
        for name, value in (self.model_extra or {}).items():
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
        accepted = options_of(self.policy)
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

    discipline: Annotated[str, known(DISCIPLINES)] = DEFAULT_DISCIPLINE
    """How a room acquires and returns language-side blocks. With the sglang wire alloc_then_free unless it is given."""
    wire: Annotated[str, known(WIRES)] = EXTENDED
    """The wire format between the sides: extended, or sglang, the SGLang fork's own frames, which can say less."""
    block_tokens: Annotated[int, Field(ge=1)] = 128
    """Tokens of one buffer block."""
    timeout_s: Annotated[
        float | str | None, BeforeValidator(_timeout), Allowed('more than 0, such as 20ms, or "never"')
    ] = 180.0
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
