"""The values of an option or argument, by what its help calls them: settings, names that are known, files.

So a new command has its values completed when it uses the words of the others.
"""

from __future__ import annotations

import os
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

CHOICES = re.compile(r"[a-z][\w-]*(\|[a-z][\w-]*)+")
"""``local|dask``."""
LISTED = "…"


class Candidate(NamedTuple):
    """A word that may stand at the cursor, and what it is in a sentence. One that ends with = or / goes on."""

    word: str
    help: str = ""


def values_for(command: str, option: str, metavar: str, current: str) -> list[Candidate]:
    """What may stand for ``metavar``, the value of ``option`` ("" for an argument) of a command."""
    named = _BY_OPTION.get((command, option)) or _BY_OPTION.get(("", option))
    if named is not None:
        return named(current)
    if CHOICES.fullmatch(metavar):
        return [Candidate(one) for one in metavar.split("|")]
    found: list[Candidate] = []
    for part in metavar.removesuffix(LISTED).removesuffix(",").split("|"):
        kind = part.rpartition(".")[0] or part if part.endswith((".html", ".toml")) else part
        found += _BY_METAVAR[kind](current) if kind in _BY_METAVAR else []
    return list(dict.fromkeys(found))


# --- files ---


def files(current: str) -> list[Candidate]:
    """The files and folders that the word may name; hidden ones when it says so."""
    return _entries(current, lambda _: True)


def folders(current: str) -> list[Candidate]:
    """The folders that the word may name."""
    return _entries(current, os.DirEntry.is_dir)


def _entries(current: str, wanted: Callable[[os.DirEntry[str]], bool]) -> list[Candidate]:
    shown, slash, begun = current.rpartition("/")
    where = Path(shown + slash).expanduser() if slash else Path()
    try:
        with os.scandir(where) as entries:
            found = [
                (one.name, one.is_dir())
                for one in entries
                if one.name.startswith(begun) and (begun or not one.name.startswith(".")) and wanted(one)
            ]
    except OSError:
        return []
    return [Candidate(f"{shown}{slash}{name}{'/' if folder else ''}") for name, folder in sorted(found)]


# --- names ---


def _names(names: Callable[[], Iterable[str]]) -> Callable[[str], list[Candidate]]:
    return lambda _: [Candidate(one) for one in names()]


def examples(_: str = "") -> list[Candidate]:
    """The shipped configurations."""
    from bufferlab.experiments.config.shipped import example_names, example_title

    return [Candidate(one, example_title(one)) for one in example_names()]


def _links() -> list[str]:
    from bufferlab.sim.network.link import profile_names

    return profile_names()


def _presets() -> list[str]:
    from bufferlab.sim.workload.mix import mix_names

    return mix_names()


def _policies() -> list[str]:
    from bufferlab.protocol.sizing.registry import POLICIES

    return sorted(POLICIES)


def _disciplines() -> list[str]:
    from bufferlab.protocol.disciplines import DISCIPLINES

    return list(DISCIPLINES)


def _transports() -> list[str]:
    from bufferlab.experiments.options import transport_names

    return list(transport_names())


def _services(side: str) -> Callable[[], list[str]]:
    def names() -> list[str]:
        from bufferlab.experiments.config.services import profile_names

        return profile_names("encode" if side == "encode" else "language")

    return names


def _models() -> list[str]:
    from bufferlab.experiments.config.models import MODELS

    return list(MODELS)


def _gpus() -> list[str]:
    from bufferlab.experiments.config.services import kernels

    return list(kernels().slowdown)


def _figures(end: str) -> Callable[[str], list[Candidate]]:
    def made(_: str) -> list[Candidate]:
        from bufferlab.experiments.tuning.question import QUANTITIES, STATISTICS

        return [Candidate(f"{quantity}_{one}{end}") for quantity in QUANTITIES for one in STATISTICS]

    return made


def _what_ifs(current: str) -> list[Candidate]:
    from bufferlab.experiments.tuning.words import WORDS

    before = re.match(r"(?:.*[,+])?", current)
    start = before[0] if before is not None else ""
    return [Candidate(f"{start}{word}=") for word in WORDS]


# --- settings ---


def settings(current: str) -> list[Candidate]:
    """``KEY.PATH=`` of every setting; behind the = its values, where they have names, several with a comma."""
    key, equals, value = current.partition("=")
    leaves = _leaves()
    if not equals:
        return [Candidate(f"{name}=", text) for name, (text, _) in leaves.items()]
    _, annotation = leaves.get(key, ("", None))
    before, comma, last = value.rpartition(",")
    return [Candidate(f"{key}={before}{comma}{one.word}") for one in _values_of(key, annotation, last)]


def keys() -> list[Candidate]:
    """Every setting by its key, options of policies and settings in lists as well."""
    from bufferlab.experiments.config import reference

    return [Candidate(one.key, one.meaning) for one in reference.settings()]


def _leaves() -> dict[str, tuple[str, Any]]:
    """Every setting that has a place of its own: what it is, and its type. Those of lists have numbers before them."""
    from bufferlab.experiments.config.sections.base import Section
    from bufferlab.experiments.config.sections.whole import Sections

    def walk(section: type[Section], path: str) -> typing.Iterator[tuple[str, tuple[str, Any]]]:
        explained = section.explained()
        for name, field in section.model_fields.items():
            kind = field.annotation
            if isinstance(kind, type) and issubclass(kind, Section):
                yield from walk(kind, f"{path}{name}.")
            elif path:
                text = " ".join(explained.get(name, "").split())
                yield f"{path}{name}", (text, (kind, *field.metadata))

    return dict(walk(Sections, ""))


def _values_of(key: str, annotation: Any, current: str) -> list[Candidate]:
    if key in _BY_SETTING:
        return _BY_SETTING[key](current)
    if annotation is None:
        return []
    return [Candidate(one) for one in dict.fromkeys(_choices(annotation))]


def _choices(annotation: Any) -> typing.Iterator[str]:
    """The names in a type: of a literal, of what ``known`` lets through, and of a truth value."""
    from bufferlab.experiments.config.sections.base import Known

    parts: tuple[Any, ...] = annotation if isinstance(annotation, tuple) else (annotation,)
    for part in parts:
        allowed = getattr(part, "func", None)
        if isinstance(allowed, Known):
            yield from allowed.names
        elif part is bool:
            yield from ("true", "false")
        elif typing.get_origin(part) is typing.Literal:
            yield from map(str, typing.get_args(part))
        else:
            yield from _choices(tuple(typing.get_args(part)))


_BY_SETTING: Mapping[str, Callable[[str], list[Candidate]]] = {
    "workload.file": files,
    "workload.preset": _names(_presets),
    "protocol.sizing.policy": _names(_policies),
    "encode.profile": lambda current: [*_names(_services("encode"))(current), *files(current)],
    "language.profile": lambda current: [*_names(_services("language"))(current), *files(current)],
    "link.profile": lambda current: [*_names(_links)(current), *files(current)],
    "real.transport": _names(_transports),
}
_BY_OPTION: Mapping[tuple[str, str], Callable[[str], list[Candidate]]] = {
    ("", "--baseline"): settings,
    ("tune", "--model"): _names(_models),
    ("tune", "--gpu"): _names(_gpus),
    ("tune", "--link"): lambda current: [*_names(_links)(current), *files(current)],
    ("check", "--discipline"): _names(_disciplines),
    ("examples", "--show"): examples,
    ("examples", "--write"): examples,
    ("settings", ""): lambda _: keys(),
    ("workload", ""): lambda current: [*_names(_presets)(current), *files(current)],
}
_BY_METAVAR: Mapping[str, Callable[[str], list[Candidate]]] = {
    "CONFIG": lambda current: [*examples(), *files(current)],
    "TRAFFIC": files,
    "MEASUREMENTS": files,
    "FILE": files,
    "PATH": files,
    "DIR": folders,
    "RUN": folders,
    "PROFILE": lambda current: [*_names(_links)(current), *files(current)],
    "KEY.PATH=VALUE": settings,
    "FIELD=VALUE": settings,
    "FIGURE": _figures(""),
    "FIGURE=TIME": _figures("="),
    "WORD=VALUE": _what_ifs,
}
