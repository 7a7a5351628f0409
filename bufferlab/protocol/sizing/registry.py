"""Policies by name: those of this package, which are found by being there, and a user's own by the place of its class.

A user's policy is ``file.py:Class``, or ``module:Class`` of a module that Python can import (``places``).
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from bufferlab.protocol.naming import did_you_mean
from bufferlab.protocol.sizing.base import SizingPolicy
from bufferlab.protocol.sizing.fixed import Fixed
from bufferlab.protocol.sizing.places import find_class, is_place
from bufferlab.protocol.sizing.supervised import SizingError, Supervised, described


def _found() -> list[type[SizingPolicy]]:
    """Those of this folder: the default first, then by name, and last what sees the true length."""
    names = [module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])]
    modules = [pkgutil.resolve_name(f"{__package__}.{name}") for name in names if name != "registry"]
    values = [value for module in modules for value in vars(module).values()]
    found = {value for value in values if _is_policy(value) and "name" in vars(value)}
    return sorted(found, key=lambda policy: (policy.sees_true_length, policy is not Fixed, policy.name))


HOW_TO_NAME_ONE = "or the place of your own such as my_policies.py:MyPolicy"


def find_policy(name: str) -> type[SizingPolicy]:
    """The class called ``name``, or at that place. Raises SizingError: the end of a sentence that starts with the name.

    A file is read anew each time and run again only if it has changed, so that a session sees an edited policy.
    """
    if not is_place(name):
        if name not in POLICIES:
            raise SizingError(f"must be one of {', '.join(POLICIES)}, {HOW_TO_NAME_ONE}{did_you_mean(name, POLICIES)}")
        return POLICIES[name]
    kind, module = find_class(name)
    kind_name = name.rpartition(":")[2]
    if kind is None:
        own = [key for key, value in vars(module).items() if _is_policy(value) and value.__module__ == module.__name__]
        listed = f", which has {', '.join(own)}" if own else ", which has no policy"
        raise SizingError(f"must name a class, but there is no {kind_name!r} in {_file_name(module)}{listed}")
    if not _is_policy(kind):
        raise SizingError(f"must name a subclass of bufferlab.protocol.sizing.SizingPolicy, which {kind_name} is not")
    if inspect.isabstract(kind):
        missing = ", ".join(sorted(kind.__abstractmethods__))
        raise SizingError(f"must name a class that can be used, but {kind_name} lacks {missing}")
    if kind.sees_true_length:
        raise SizingError(f"must name a policy that does not see the true length, as {kind_name} wants to")
    found: type[SizingPolicy] = kind
    return found


def make_policy(name: str, options: Mapping[str, Any], *, alone: bool = False) -> SizingPolicy:
    """A fresh policy; one from outside is supervised, with a second copy where its rank is ``alone`` in its group.

    Raises ValueError in one sentence for a bad name or option.
    """
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
        return Supervised(kind(**options), name, kind(**options) if alone else None)
    except ValueError:
        raise
    except (Exception, SystemExit) as error:
        raise SizingError(f"sizing policy {name}: its constructor raised {described(error)}") from error


def _is_policy(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, SizingPolicy)


def _file_name(module: ModuleType) -> str:
    path = Path(module.__file__ or module.__name__)
    return path.parent.name if path.name == "__init__.py" else path.name


POLICIES: Mapping[str, type[SizingPolicy]] = MappingProxyType({policy.name: policy for policy in _found()})
"""By name: one file of this folder is a policy, and nothing else lists it. Nothing can be added while a program runs:
another process would not have it, and results would not tell which code it was."""
