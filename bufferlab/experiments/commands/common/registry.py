"""Commands register themselves, and are found by the name of their module: a new one is a new file and nothing else."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import typer
import typer.main

from bufferlab.experiments import commands

Function = TypeVar("Function", bound=Callable[..., None])


@dataclass(frozen=True)
class Command:
    """One command: its function, whose docstring and annotated parameters make its help, and what the list shows."""

    name: str
    place: int
    example: str
    note: str
    names: Mapping[str, Callable[[], Iterable[str]]]
    function: Callable[..., None]

    @property
    def summary(self) -> str:
        """What it does, as its own help begins."""
        return inspect.getdoc(self.function) or ""

    @cached_property
    def parser(self) -> Any:
        """The command as typer makes it; of no narrower type, since some versions bring their own copy of click."""
        alone = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        alone.command(self.name, epilog=f"{self.note} Example: {self.example}".strip())(self.function)
        made = typer.main.get_command(alone)
        for parameter in made.params:
            for option in self.names.keys() & set(parameter.opts):
                parameter.metavar = "|".join(self.names[option]())
        return made


_registered: dict[str, Command] = {}


def command(
    *, place: int, example: str, note: str = "", names: Mapping[str, Callable[[], Iterable[str]]] | None = None
) -> Callable[[Function], Function]:
    """Make a function the command that its module is named after.

    ``place``: where the list of commands has it, the smallest first. ``example``: a command line that its help and the
    list of commands end with. ``note``: a sentence before the example in its own help. ``names``: for options that take
    one of some names, what tells them; it is asked when the command is used.
    """

    def register(function: Function) -> Function:
        name = function.__module__.rpartition(".")[2].replace("_", "-")
        if name in _registered:
            raise ValueError(f"{function.__module__} registers a second command, a module is one command")
        _registered[name] = Command(name, place, example, note, names or {}, function)
        return function

    return register


def find_command(name: str) -> Command | None:
    """The command of this name, for which no module is imported but its own; None where there is none."""
    module = name.replace("-", "_")
    if module in _modules():
        importlib.import_module(f"{commands.__name__}.{module}")
    return _registered.get(name)


def all_commands() -> list[Command]:
    """Every command, in the order in which help lists them."""
    for module in _modules():
        importlib.import_module(f"{commands.__name__}.{module}")
    return sorted(_registered.values(), key=lambda one: (one.place, one.name))


def _modules() -> list[str]:
    """The names of the modules of commands; folders hold what commands call."""
    return [found.name for found in pkgutil.iter_modules(commands.__path__) if not found.ispkg]
