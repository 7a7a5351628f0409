"""What is wrong, in the words of whoever calls functions: ``out`` and ``force=True`` where the command has options, and
a run by its name where that lies in a folder that nobody chose."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ParamSpec, TypeVar

from bufferlab.experiments.config.problems import shown
from bufferlab.experiments.errors import RunFailedError, UserError
from bufferlab.protocol.naming import did_you_mean

P = ParamSpec("P")
R = TypeVar("R")

_UNTOUCHED = re.compile(r"""('[^']*'|"[^"]*"|\bbufferlab [a-z-]+[^,;]*)""")
"""What is quoted, and whole commands."""
_PHRASES = (
    (re.compile(r"without --no-events"), "with events=True"),
    (re.compile(r"quickstart --set workload\.file=(\S+)"), r"bl.load('quickstart', {'workload.file': '\1'})"),
    (re.compile(r"--set is"), "an override is"),
    (re.compile(r"--set gives"), "overrides give"),
    (re.compile(r"--set"), "overrides"),
    (re.compile(r"--(force|timeline)\b"), r"\1=True"),
    (re.compile(r"--no-(events|plots)\b"), r"\1=False"),
)  # fmt: skip
_OPTION = re.compile(r"(?<![\w-])--([a-z][a-z-]*)")
_ARGUMENT = re.compile(r"\b(?:CONFIG|RUN|SWEEP)\b(?= is )")


def in_python(text: str, first: str = "config", names: Iterable[tuple[str, str]] = ()) -> str:
    """A sentence of a command as a function says it.

    ``first``: what its first argument is called; ``names``: folders, and what to call the results in them.
    """
    for folder, name in names:
        shown_as = re.escape(repr(folder))
        text = re.sub(rf"(\b(RUN|SWEEP) is )?{shown_as}(, (which|it)\b)?", name, text)
    for pattern, said in _PHRASES:
        text = pattern.sub(said, text)
    parts = _UNTOUCHED.split(text)
    parts[::2] = [_ARGUMENT.sub(first, _OPTION.sub(lambda one: one[1].replace("-", "_"), part)) for part in parts[::2]]
    return "".join(parts)


def spoken(function: Callable[P, R]) -> Callable[P, R]:
    """The same function, whose errors speak of its arguments."""
    parameters = [name for name in inspect.signature(function).parameters if name != "self"]

    @functools.wraps(function)
    def said(*arguments: P.args, **named: P.kwargs) -> R:
        try:
            return function(*arguments, **named)
        except (UserError, RunFailedError) as error:
            results = _named_results([*arguments, *named.values()])
            error.args = (in_python(str(error), next(iter(parameters), ""), results), *error.args[1:])
            raise

    return said


def _named_results(values: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Folders of results that nobody chose, and what the results are called."""
    for value in values:
        owner = getattr(value, "_owner", value)
        place = getattr(owner, "_place", None)
        if place is not None and place.is_temporary:
            yield str(owner._place.path), owner._called()


def must_be(name: str, value: Any, kinds: type | tuple[type, ...], what: str) -> None:
    """Raise UserError for an argument of another kind."""
    if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is int):
        raise UserError(f"{name} is {shown(value)}, it must be {what}")


def one_of(name: str, value: Any, allowed: Iterable[str], more: str = "") -> None:
    """Raise UserError for an argument that is none of these names."""
    names = list(allowed)
    if value not in names:
        listed = ", ".join(names) if len(names) <= MOST_NAMES else f"{', '.join(names[:MOST_NAMES])}, …"
        raise UserError(f"{name} is {shown(value)}{did_you_mean(value, names)}, it must be one of {listed}{more}")


MOST_NAMES = 40
