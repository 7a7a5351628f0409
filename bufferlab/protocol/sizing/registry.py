"""Policies by name: those of this package, which are found by being there, and a user's own by the place of its class.

A user's policy is ``module:Class``, a module that Python can import, or ``file.py:Class``. This is the one place where
protocol/ runs code that it does not know by name.
"""

from __future__ import annotations

import hashlib
import inspect
import pkgutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from bufferlab.protocol.naming import did_you_mean
from bufferlab.protocol.sizing.base import SizingPolicy
from bufferlab.protocol.sizing.fixed import Fixed
from bufferlab.protocol.sizing.supervised import SizingError, Supervised, described


def _found() -> list[type[SizingPolicy]]:
    """Those of this folder: the default first, then by name, and last what sees the true length."""
    names = [module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])]
    modules = [pkgutil.resolve_name(f"{__package__}.{name}") for name in names if name != "registry"]
    values = [value for module in modules for value in vars(module).values()]
    found = {value for value in values if _is_policy(value) and "name" in vars(value)}
    return sorted(found, key=lambda policy: (policy.sees_true_length, policy is not Fixed, policy.name))


POLICIES: dict[str, type[SizingPolicy]] = {}
"""By name, filled below: one file of this folder is a policy, and nothing else lists it."""

_ONCE_AT_THE_TOP = ("protocol", "sim", "real", "experiments")
"""Packages that policies of an earlier version import by these names."""

HOW_TO_NAME_ONE = "or the place of your own such as my_policies.py:MyPolicy"


def is_place(name: str) -> bool:
    """Whether ``name`` is the place of a user's class rather than a policy of this package."""
    return ":" in name


def file_of(name: str) -> Path | None:
    """The file that a policy's code comes from; None for a policy of this package, or a module without a file."""
    if not is_place(name):
        return None
    place = name.rpartition(":")[0]
    if place.endswith(".py"):
        return Path(place)
    source = getattr(sys.modules.get(place), "__file__", None)
    return Path(source) if source else None


def absolute(name: str, folder: Path) -> str:
    """The same name for a process that works elsewhere: a relative file is one of ``folder``."""
    place, colon, kind = name.rpartition(":")
    if not colon or not place.endswith(".py") or Path(place).is_absolute():
        return name
    return f"{(folder / place).resolve()}:{kind}"


def find_policy(name: str) -> type[SizingPolicy]:
    """The class called ``name``, or at that place. Raises SizingError: the end of a sentence that starts with the name.

    A file is read anew each time and run again only if it has changed, so that a session sees an edited policy.
    """
    if not is_place(name):
        if name not in POLICIES:
            raise SizingError(f"must be one of {', '.join(POLICIES)}, {HOW_TO_NAME_ONE}{did_you_mean(name, POLICIES)}")
        return POLICIES[name]
    place, _, kind_name = name.rpartition(":")
    module = _from_file(Path(place)) if place.endswith(".py") else _imported(place)
    kind = getattr(module, kind_name, None)
    if kind is None:
        own = [key for key, value in vars(module).items() if _is_policy(value) and value.__module__ == module.__name__]
        listed = f", which has {', '.join(own)}" if own else ", which has no policy"
        raise SizingError(f"must name a class, but there is no {kind_name!r} in {Path(place).name}{listed}")
    if not _is_policy(kind):
        raise SizingError(f"must name a subclass of bufferlab.protocol.sizing.SizingPolicy, which {kind_name} is not")
    if inspect.isabstract(kind):
        missing = ", ".join(sorted(kind.__abstractmethods__))
        raise SizingError(f"must name a class that can be used, but {kind_name} lacks {missing}")
    if kind.sees_true_length:
        raise SizingError(f"must name a policy that does not see the true length, as {kind_name} wants to")
    found: type[SizingPolicy] = kind
    return found


def make_policy(name: str, options: Mapping[str, Any]) -> SizingPolicy:
    """A fresh policy; one from outside is supervised. Raises ValueError in one sentence for a bad name or option."""
    try:
        kind = find_policy(name)
    except SizingError as error:
        raise SizingError(f"sizing policy {name!r} {error}") from None
    try:
        inspect.signature(kind).bind(**options)
    except TypeError as error:
        raise ValueError(f"sizing policy {name}: {error}") from None
    if not is_place(name):
        return kind(**options)
    try:
        return Supervised(kind(**options), name)
    except ValueError:
        raise
    except (Exception, SystemExit) as error:
        raise SizingError(f"sizing policy {name}: its constructor raised {described(error)}") from error


def _is_policy(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, SizingPolicy)


def _imported(name: str) -> ModuleType:
    hint = "a file is named with its suffix, as in my_policies.py:MyPolicy"
    if not all(part.isidentifier() for part in name.split(".")):
        raise SizingError(f"must name a module or a file, which {name!r} is not; {hint}")
    try:
        module: ModuleType = pkgutil.resolve_name(f"{name}:")
    except (Exception, SystemExit) as error:
        absent = error.name if isinstance(error, ModuleNotFoundError) else None
        if absent and f"{name}.".startswith(f"{absent}."):
            raise SizingError(f"must name a module that can be imported, there is no {absent!r}; {hint}") from None
        raise SizingError(f"must name a module that can be imported, {name} raised {described(error)}") from error
    return module


def _from_file(path: Path) -> ModuleType:
    try:
        source = path.read_bytes()
    except OSError as error:
        raise SizingError(f"must name a file that can be read, {path.name} cannot: {error.strerror}") from None
    digest = hashlib.sha256(b"\0".join((str(path.resolve()).encode(), source))).hexdigest()[:16]
    name = f"_sizing_policy_{path.stem}_{digest}"
    known = sys.modules.get(name)
    if known is not None:
        return known
    module = ModuleType(name)
    module.__file__ = str(path)
    # Dataclasses and type hints look their module up by its name. Nothing is cached beside the user's file: Python
    # would take an edit within the same second for the file it has compiled already.
    sys.modules[name] = module
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception | SystemExit):
            raise
        where = f" in line {error.lineno}" if isinstance(error, SyntaxError) else ""
        reason = f"{type(error).__name__} ({error.msg})" if isinstance(error, SyntaxError) else described(error)
        absent = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
        moved = f"; it is bufferlab.{absent} now" if absent in _ONCE_AT_THE_TOP else ""
        raise SizingError(
            f"must name a file that Python can run, but {path.name} raised {reason}{where}{moved}"
        ) from error
    return module


POLICIES.update((policy.name, policy) for policy in _found())
