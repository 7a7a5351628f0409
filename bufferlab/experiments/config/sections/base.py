"""What all sections have in common, and the types that several of them use."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from types import FunctionType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
)

from bufferlab.experiments.units import parse_duration
from bufferlab.protocol.naming import did_you_mean

if TYPE_CHECKING:
    from pydantic import GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

NEVER = "never"
BOTH, SIMULATED, MEASURED = "both", "simulated", "measured"
"""Which runs a setting does something in."""


@dataclass(frozen=True)
class Allowed:
    """Of a setting: what it may be, for its reference, where its type and its bounds do not say it."""

    text: str = ""
    names: Callable[[], Iterable[str]] | None = None
    """Asked when the reference is wanted, since some names are in files."""


@dataclass(frozen=True)
class Only:
    """Of a setting: that it does something in one kind of runs only."""

    world: str


class Section(BaseModel):
    """Base of all sections: frozen, strict, no unknown settings, no NaN."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)
    world: ClassVar[str] = BOTH
    """In which runs its settings do something, but for those that say otherwise."""

    def __dir__(self) -> list[str]:
        """The settings and what is ours; pydantic's own names, which are many, only where somebody knows them."""
        return [*type(self).model_fields, *(self.model_extra or {}), *own_names(type(self))]

    @classmethod
    def explained(cls) -> dict[str, str]:
        """What every setting is: its description, or the docstring below it.

        Those are read from the sources, and only here: pydantic would read them whenever a section is defined, which
        is a good part of the start of a short command.
        """
        found: dict[str, str] = {}
        for section in reversed(cls.__mro__):
            if issubclass(section, Section):
                found |= _docstrings_of(section)
        described = {name: field.description for name, field in cls.model_fields.items() if field.description}
        return {name: text for name, text in (found | described).items() if name in cls.model_fields}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The JSON schema, in which every setting is explained."""
        schema = handler(core_schema)
        properties = handler.resolve_ref_schema(schema)["properties"]
        for name, text in cls.explained().items():
            properties[name].setdefault("description", text)
        return schema


def own_names(section: type[Section]) -> list[str]:
    """Public methods and properties of a section that are ours."""
    ours = (one for one in section.__mro__ if one.__module__.partition(".")[0] == __name__.partition(".")[0])
    kinds = (FunctionType, classmethod, property)
    members = {name for one in ours for name, member in vars(one).items() if isinstance(member, kinds)}
    return sorted(name for name in members if not name.startswith(("_", "model_")))


def _docstrings_of(section: type[Section]) -> dict[str, str]:
    """The docstrings below the settings of a class, by its module's source; none where that is not there."""
    try:
        module = ast.parse(inspect.getsource(sys.modules[section.__module__]))
    except OSError:
        return {}
    classes = {one.name: one.body for one in module.body if isinstance(one, ast.ClassDef)}
    found = {}
    for setting, below in pairwise(classes.get(section.__name__, [])):
        match setting, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = inspect.cleandoc(text)
    return found


def duration(value: Any) -> float:
    """Seconds, or a text such as 20ms."""
    return parse_duration(value)


class Known:
    """Refuses what is not among these names; whoever lists what a setting may be asks it for them."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)

    def __call__(self, value: Any) -> Any:
        """The value. Raises ValueError for one that is not known."""
        if value not in self.names:
            raise ValueError(f"must be one of {', '.join(self.names)}{did_you_mean(value, self.names)}")
        return value


def known(names: Iterable[str]) -> BeforeValidator:
    """Refuses what is not among these names."""
    return BeforeValidator(Known(names))


Duration = Annotated[float, BeforeValidator(duration)]
Share = Annotated[float, Field(ge=0, le=1)]
