"""Which words may stand where the cursor is: commands, options, and the values that options and arguments take."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bufferlab.experiments.commands.common.registry import all_commands, find_command
from bufferlab.experiments.commands.completing.values import Candidate, values_for

HELP = Candidate("--help", "Show this message and exit.")
VERSION = Candidate("--version", "Print the version and whether it runs compiled, and leave.")


@dataclass(frozen=True)
class Line:
    """A line up to the cursor: whole words without the program's own, and the one that is being written."""

    words: tuple[str, ...]
    current: str


def parse_line(text: str) -> Line:
    """Split a line as a shell does, also within an open quote; ``text`` begins with the name of the program."""
    mark = "\0"  # so that a blank at the end begins an empty word
    for closing in ("", "'", '"'):
        try:
            words = shlex.split(text + mark + closing)
        except ValueError:
            continue
        return Line(tuple(words[1:-1]), words[-1].removesuffix(mark))
    return Line((), "")


def complete(line: Line) -> list[Candidate]:
    """What the word at the cursor may become, in the order of help; words that do not begin as it does are left out."""
    found = _candidates(line)
    return [one for one in found if one.word.startswith(line.current)]


def _candidates(line: Line) -> list[Candidate]:
    names = [word for word in line.words if not word.startswith("-")]
    if not names:
        if line.current.startswith("-"):
            return [HELP, VERSION]
        return [Candidate(one.name, _sentence(one.summary)) for one in all_commands()]
    command = find_command(names[0])
    if command is None:
        return []
    parameters = command.parser.params
    options = {name: one for one in parameters for name in (*one.opts, *one.secondary_opts) if name.startswith("-")}
    arguments = [one for one in parameters if one.param_type_name == "argument"]
    rest = line.words[line.words.index(names[0]) + 1 :]
    given, open_option, before = _read(rest, options)
    if open_option is not None:
        return values_for(command.name, open_option, options[open_option].metavar or "", line.current)
    if line.current.startswith("--") and "=" in line.current:
        name, _, value = line.current.partition("=")
        if name not in options or _takes(options[name]) != 1:
            return []
        found = values_for(command.name, name, options[name].metavar or "", value)
        return [Candidate(f"{name}={one.word}", one.help) for one in found]
    if line.current.startswith("-"):
        return [*_options(parameters, given), HELP]
    if not arguments:
        return []
    argument = arguments[min(before, len(arguments) - 1)]
    if before >= len(arguments) and argument.nargs != -1:
        return []
    return values_for(command.name, "", argument.metavar or "", line.current)


def _read(words: Sequence[str], options: dict[str, Any]) -> tuple[set[str], str | None, int]:
    """The options among ``words``, that of them which still waits for a value, and how many arguments there are."""
    given: set[str] = set()
    waiting, missing, arguments = "", 0, 0
    for word in words:
        if missing:
            missing -= 1
            continue
        name, equals, _ = word.partition("=")
        if name in options:
            given.add(name)
            waiting, missing = name, 0 if equals else _takes(options[name])
        elif not word.startswith("-"):
            arguments += 1
    return given, waiting if missing else None, arguments


def _takes(option: Any) -> int:
    """How many words follow an option."""
    return 0 if getattr(option, "is_flag", False) else int(option.nargs)


def _options(parameters: Sequence[Any], given: set[str]) -> list[Candidate]:
    """The options that may follow; one that is there already only where it may be given several times."""
    found = []
    for one in parameters:
        names = [name for name in (*one.opts, *one.secondary_opts) if name.startswith("-")]
        if given.isdisjoint(names) or getattr(one, "multiple", False):
            found += [Candidate(name, _sentence(one.help or "")) for name in names]
    return found


def _sentence(text: str) -> str:
    """The first line of a help text, in one line."""
    return " ".join(text.split("\n\n")[0].split())
