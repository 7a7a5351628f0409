"""Every setting of a configuration: key, default, unit, what is allowed, what it means, in which runs it matters.

All of it is read from the sections themselves, so nothing has to be kept in step with them.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import BeforeValidator
from pydantic.fields import FieldInfo

from bufferlab.experiments.config.sections.base import BOTH, Allowed, Known, Only, Section, duration
from bufferlab.experiments.config.sections.protocol import Sizing, options_of
from bufferlab.experiments.config.sections.whole import Sections
from bufferlab.protocol.naming import did_you_mean
from bufferlab.protocol.sizing.registry import POLICIES

NUMBERED = "N"
"""Stands in a key for the number of an entry in a list of tables."""
REQUIRED, UNSET = "must be given", "not set"

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", dict: "a table"}
_BOUNDS = (
    ("gt", "more than"),
    ("ge", "at least"),
    ("lt", "less than"),
    ("le", "at most"),
)
_UNITS = (
    ("per_token_s", "s/token"),
    ("_s", "s"),
    ("_rps", "requests/s"),
    ("_scale", "times"),
    ("tokens", "tokens"),
    ("_tokens_hint", "tokens"),
    ("lengths", "tokens"),
    ("blocks", "blocks"),
    ("requests", "requests"),
    ("concurrency", "requests"),
)


@dataclass(frozen=True)
class Setting:
    """One setting, in words."""

    key: str
    """Its path, as ``--set`` takes it; an N in it is the number of an entry in a list, counted from 0."""
    default: str
    unit: str
    """Empty where it has none."""
    allowed: str
    meaning: str
    world: str
    """Runs in which it does something: both, simulated or measured."""

    def content(self) -> dict[str, str]:
        """The same as a dictionary."""
        return asdict(self)


@dataclass(frozen=True)
class Table:
    """The settings of one section, or of the entries of a list in one."""

    name: str
    heading: str
    """As a configuration file writes it."""
    what: str
    settings: tuple[Setting, ...]


def tables() -> list[Table]:
    """All sections, in the order of a configuration."""
    return [table for name, field in Sections.model_fields.items() for table in _tables(name, field)]


def settings() -> list[Setting]:
    """All settings."""
    return [one for table in tables() for one in table.settings]


def matching(words: str) -> list[Setting]:
    """Settings that have ``words`` in their key, those first whose last name it is. Raises ValueError for none."""
    every = settings()
    wanted = words.strip().lower()
    found = [one for one in every if wanted in one.key.lower()]
    if not found:
        names = [one.key for one in every] + [one.key.rpartition(".")[2] for one in every]
        raise ValueError(f"is in no setting's name{did_you_mean(words, dict.fromkeys(names))}")
    return sorted(found, key=lambda one: (one.key != wanted, one.key.rpartition(".")[2] != wanted))


def _options_of_policies(prefix: str) -> Iterator[Setting]:
    """What stands beside ``protocol.sizing.policy``, but for ``tokens``, which is a setting of its own."""
    hints: dict[str, Any] = {}
    defaults: dict[str, dict[str, list[str]]] = {}
    for policy, made in POLICIES.items():
        parameters = inspect.signature(made.__init__).parameters
        for name, option in options_of(policy).items():
            default = parameters[name].default
            said = REQUIRED if option.required else _said(default)
            hints.setdefault(name, option.hint)
            defaults.setdefault(name, {}).setdefault(said, []).append(policy)
    for name, told in defaults.items():
        if name == "tokens":
            continue
        key = f"{prefix}.{name}"
        whose = [policy for policies in told.values() for policy in policies]
        default = " or ".join(
            said if len(told) == 1 else f"{said} ({', '.join(policies)})" for said, policies in told.items()
        )
        kinds, marks = _parts(hints[name], [])
        listed = " and ".join(filter(None, [", ".join(whose[:-1]), whose[-1]]))
        meaning = f"An option of the policy {listed}: docs/policies.md says what it does."
        yield Setting(key, default, _unit(name, kinds), _allowed(kinds, marks), meaning, BOTH)


def _tables(path: str, field: FieldInfo) -> Iterator[Table]:
    section = _section_in(field.annotation)
    assert section is not None
    is_list = not inspect.isclass(field.annotation)
    heading = f"[[{path}]]" if is_list else f"[{path}]"
    prefix = f"{path}.{NUMBERED}" if is_list else path
    explained = section.explained()
    own: list[Setting] = []
    inner: list[Table] = []
    for name, one in section.model_fields.items():
        if _section_in(one.annotation) is None:
            own.append(_setting(f"{prefix}.{name}", one, explained[name], section.world))
        else:
            inner += _tables(f"{prefix}.{name}", one)
    if section is Sizing:
        own += _options_of_policies(prefix)
    yield Table(path, heading, inspect.cleandoc(section.__doc__ or ""), tuple(own))
    yield from inner


def _setting(key: str, field: FieldInfo, meaning: str, world: str) -> Setting:
    name = key.rpartition(".")[2]
    kinds, marks = _parts(field.annotation, [])
    marks = [*field.metadata, *marks]
    only = next((mark.world for mark in marks if isinstance(mark, Only)), world)
    return Setting(key, _default(field), _unit(name, kinds), _allowed(kinds, marks), " ".join(meaning.split()), only)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return REQUIRED
    value = field.get_default(call_default_factory=True)
    return UNSET if value is None else _said(value)


def _said(value: Any) -> str:
    """A value as a configuration file has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if value is None:
        return UNSET
    return f'"{value}"' if isinstance(value, str) else str(value)


def _unit(name: str, kinds: Sequence[Any]) -> str:
    if kinds == [float] and name.endswith(_UNITS[-2][0]):  # a share of the requests
        return ""
    return next((unit for ending, unit in _UNITS if name.endswith(ending)), "")


def _allowed(kinds: Sequence[Any], marks: Sequence[Any]) -> str:
    marked = next((mark for mark in marks if isinstance(mark, Allowed)), Allowed())
    checks = [mark.func for mark in marks if isinstance(mark, BeforeValidator)]
    names: list[str] = [one for kind in kinds if typing.get_origin(kind) is typing.Literal for one in kind.__args__]
    names += [name for check in checks if isinstance(check, Known) for name in check.names]
    names += marked.names() if marked.names is not None else ()
    if names:
        return ", ".join([*names, *filter(None, [marked.text])])
    if marked.text:
        return marked.text
    bounds = [f"{words} {_said(getattr(mark, at))}" for mark in marks for at, words in _BOUNDS if hasattr(mark, at)]
    if duration in checks:
        return f"a duration such as 20ms, {' and '.join(bounds or ['at least 0'])}"
    words = " or ".join(_WORDS[kind] for kind in kinds if kind in _WORDS)
    if tuple in kinds:
        words = f"a list of {words.removeprefix('a ')}s"
    return ", ".join(filter(None, [words, " and ".join(bounds)]))


def _parts(annotation: Any, marks: list[Any]) -> tuple[list[Any], list[Any]]:
    """The plain types in an annotation, None left out, and all that it is annotated with."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        inner, *own = typing.get_args(annotation)
        return _parts(inner, [*marks, *_unfolded(own)])
    if origin in (typing.Union, types.UnionType, tuple):
        kinds: list[Any] = [tuple] if origin is tuple else []
        for one in typing.get_args(annotation):
            if one in (type(None), Ellipsis):
                continue
            more, marks = _parts(one, marks)
            kinds += more
        return kinds, marks
    return [dict if origin is dict else annotation], marks


def _unfolded(marks: Sequence[Any]) -> list[Any]:
    """A ``Field(ge=1)`` as the bounds that it stands for."""
    return [inner for mark in marks for inner in (mark.metadata if isinstance(mark, FieldInfo) else [mark])]


def _section_in(annotation: Any) -> type[Section] | None:
    if inspect.isclass(annotation) and issubclass(annotation, Section):
        return annotation
    return next(filter(None, map(_section_in, typing.get_args(annotation))), None)
