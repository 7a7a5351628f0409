"""Turns what pydantic finds wrong into one sentence: the setting, its value, and what is allowed."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel

from bufferlab.protocol.naming import did_you_mean, nearest

MOST_MEANT = 3
"""Settings of one name in several sections that are offered for it."""


def first_of(problems: Sequence[Any], root: type[BaseModel]) -> Any:
    """The problem to mend first: a section that is broken in itself may break others, so it is the first one.

    But what is missing may be there under a misspelt name, and then that is said.
    """
    first = problems[0]
    if first["type"] == "missing":
        *place, name = first["loc"]
        for other in problems:
            *there, unknown = other["loc"]
            is_unknown = other["type"] == "extra_forbidden" and there == place
            if is_unknown and nearest(unknown, _allowed_at(tuple(place), root)) == name:
                return other
    return first


def sentence(problem: Any, root: type[BaseModel]) -> str:
    """What is wrong, from one entry of ``ValidationError.errors()`` of the model ``root``."""
    path = [str(part) for part in problem["loc"] if not _is_branch(part)]
    name = ".".join(path)
    kind = problem["type"]
    if kind == "extra_forbidden":
        allowed = _allowed_at(problem["loc"][:-1], root)
        where = "here" if len(path) == 1 else f"in {'.'.join(path[:-1])}"
        hint = did_you_mean(path[-1], allowed)
        if not hint and len(path) == 1:
            whole = [one for one in _settings_of(root) if one.rpartition(".")[2] == name]
            hint = f" (did you mean {' or '.join(whole[:MOST_MEANT])}?)" if whole else ""
        return f"{name} is not a setting{hint}; allowed {where}: {', '.join(allowed)}"
    if kind == "missing":
        return f"{name} is missing, it must be given"
    reason = reason_of(problem)
    if kind == "value_error" and _section_at(problem["loc"], root) is not None:
        # A rule over several settings of a section names the setting itself.
        return f"{name} {reason}" if reason.startswith(("has ", "names ")) else f"{name}.{reason}" if name else reason
    return f"{name} is {shown(problem['input'])}, it {reason}"


def reason_of(problem: Any) -> str:
    """What the value must be, as the end of a sentence."""
    kind, context = problem["type"], problem.get("ctx", {})
    fixed = {
        "int_type": "must be a whole number",
        "int_from_float": "must be a whole number",
        "float_type": "must be a number",
        "bool_type": "must be true or false",
        "string_type": "must be text in quotes",
        "finite_number": "must be a finite number",
        "string_pattern_mismatch": "must be letters, digits, dots, dashes and underscores, at most 80",
        "too_short": "must not be empty",
        "model_type": "must be a table of settings",
        "model_attributes_type": "must be a table of settings",
        "tuple_type": "must be a list",
    }
    bounds = {
        "greater_than": ("gt", "must be more than"),
        "greater_than_equal": ("ge", "must be at least"),
        "less_than": ("lt", "must be less than"),
        "less_than_equal": ("le", "must be at most"),
    }
    if kind in bounds:
        key, text = bounds[kind]
        return f"{text} {context[key]}"
    if kind == "literal_error":
        return f"must be {context['expected']}"
    if kind == "value_error":
        return str(context["error"])
    if kind in fixed:
        return fixed[kind]
    text = str(problem["msg"])
    return "is not allowed: " + text[:1].lower() + text[1:]


def _is_branch(part: Any) -> bool:
    """Whether a part of a pydantic location names a member of a union rather than a setting."""
    return isinstance(part, str) and (part in {"int", "str", "float", "bool"} or "[" in part)


def _section_at(location: tuple[Any, ...], root: type[BaseModel]) -> type[BaseModel] | None:
    """The section a location names, None for a plain setting."""
    current: Any = root
    for part in location:
        if isinstance(part, int):
            continue
        if not (inspect.isclass(current) and issubclass(current, BaseModel)) or part not in current.model_fields:
            return None
        current = _model_in(current.model_fields[part].annotation)
    return current if inspect.isclass(current) and issubclass(current, BaseModel) else None


def _model_in(annotation: Any) -> Any:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return annotation
    for argument in typing.get_args(annotation):
        found = _model_in(argument)
        if found is not None:
            return found
    return None


def _settings_of(section: type[BaseModel], before: str = "") -> Iterator[str]:
    """The paths of all settings below a section, those in lists of tables left out."""
    for name, field in section.model_fields.items():
        inner = field.annotation
        if inspect.isclass(inner) and issubclass(inner, BaseModel):
            yield from _settings_of(inner, f"{before}{name}.")
        else:
            yield f"{before}{name}"


def _allowed_at(location: tuple[Any, ...], root: type[BaseModel]) -> list[str]:
    section = _section_at(location, root)
    return list(section.model_fields) if section is not None else []


def shown(value: Any) -> str:
    """A value as a sentence shows it."""
    text = repr(value) if not isinstance(value, bool) else str(value).lower()
    return text if len(text) <= 60 else text[:57] + "..."
