"""Which engines there are: every module of this package whose name ends with ``_engine`` brings one.

The modules import nothing heavy, so they are all looked at, once, whoever asks.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from bufferlab.real import engine as package
from bufferlab.real.engine.base import KeyMaker, TransferEngine
from bufferlab.real.errors import EngineError

_SUFFIX = "_engine"


@cache
def engines() -> dict[str, type[TransferEngine]]:
    """The class that runs each transport, by the transport's name."""
    found: dict[str, type[TransferEngine]] = {}
    for one in pkgutil.iter_modules(package.__path__):
        if not one.name.endswith(_SUFFIX):
            continue
        module = importlib.import_module(f"{package.__name__}.{one.name}")
        for member in vars(module).values():
            if not isinstance(member, type) or not issubclass(member, TransferEngine):
                continue
            if member.__module__ != module.__name__:
                continue  # imported there, or the base
            for transport in member.transports:
                if transport in found:
                    raise TypeError(f"{member.__name__} and {found[transport].__name__} both run {transport!r}")
                found[transport] = member
    return found


def transports() -> tuple[str, ...]:
    """The names of all transports."""
    return tuple(engines())


def only_with_devices() -> str:
    """Which transports have devices, as the end of a sentence about one that has none."""
    having = with_devices()
    return f"only {' and '.join(having)} {'has' if len(having) == 1 else 'have'} devices"


def with_devices() -> tuple[str, ...]:
    """The names of the transports for which an adapter can be named."""
    return tuple(name for name, engine in engines().items() if name in engine.device_transports)


def engine_class(transport: str) -> type[TransferEngine]:
    """The class that runs a transport. Raises EngineError for a name that none has."""
    try:
        return engines()[transport]
    except KeyError:
        raise EngineError(f"transport is {transport!r}, it must be one of {', '.join(transports())}") from None


def start_engine(
    transport: str, *, host: str = "127.0.0.1", device: str = "", guard: KeyMaker | None = None
) -> TransferEngine:
    """A started engine of this process. Raises EngineMissing or EngineError where there is none to be had."""
    return engine_class(transport)(host, transport, device, guard)
