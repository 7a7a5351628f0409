"""Which environment variables reach the engine, gloo and torch: those on a list here, and what our own code sets.

A machine on which something else was deployed is full of variables that libraries read at their start: a log folder
that is gone makes Mooncake abort when it is imported, another address family lets no rank reach another, a longer
time-out breaks the rule by which blocks are used again. Whatever belongs to one of these libraries and is not on the
list is taken out, and named.

Nothing here imports more than the standard library.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping, MutableMapping
from typing import NamedTuple


class Passed(NamedTuple):
    """Variables that are let through, and why."""

    names: tuple[str, ...]
    why: str


PASSED = (
    Passed(("MC_LOG_LEVEL",), "how much the engine tells; INFO also shows what it told while it started"),
    Passed(("MC_TCP_SLICE_SIZE",), "bytes of a write over tcp that the engine moves at a time; ours is 4194304"),
    Passed(("MC_WORKERS_PER_CTX",), "threads of the engine for each RDMA adapter"),
    Passed(
        ("MC_GID_INDEX", "NCCL_IB_GID_INDEX", "MC_IB_PORT", "MC_IB_TC", "MC_IB_SL", "MC_PKEY_INDEX", "MC_MTU"),
        "how this network's RDMA must be addressed, which only its operator knows",
    ),
    Passed(("GLOO_SOCKET_IFNAME",), "the interface between the ranks of an instance, where several lead to a host"),
    Passed(("TORCH_HOME", "TORCH_SPEC", "TORCH_INDEX"), "no run reads them: torch's cache, and those of `make setup`"),
)
"""docs/real.md has this table; a test holds the page to it."""

FAMILIES = (
    r"(MC|MOONCAKE|GLOG|FLAGS|YLT)_.*",  # the engine and what it is linked with
    r"(GLOO|NCCL|TORCH|PYTORCH|C10D)_.*",
    r"MASTER_(ADDR|PORT)|WORLD_SIZE|RANK|(LOCAL|GROUP|ROLE)_(RANK|WORLD_SIZE)",  # of a launcher such as torchrun
    r"(OMP|GOMP|KMP|MKL|OPENBLAS|GOTO|BLIS|VECLIB|NUMEXPR)_.*",
    r"(IBV|RDMAV|MLX4|MLX5|UCX|FI|EFA)_.*",  # drivers and libraries below RDMA
    r"MALLOC_.*|GLIBC_TUNABLES",
    r"(HTTP|HTTPS|FTP|ALL|NO|SOCKS)_PROXY",  # in any case: ranks find each other over HTTP
)
_FAMILY = re.compile("|".join(FAMILIES))
_ANY_CASE = re.compile(FAMILIES[-1], re.IGNORECASE)
_LOUD = re.compile("|".join(FAMILIES[:2]))
ALLOWED = frozenset(name for passed in PASSED for name in passed.names)

NUMBERS = {
    "MC_TCP_SLICE_SIZE": (1, 2**31 - 1),
    "MC_WORKERS_PER_CTX": (1, 1024),
    "MC_GID_INDEX": (0, 255),
    "NCCL_IB_GID_INDEX": (-1, 255),
    "MC_IB_PORT": (1, 254),
    "MC_IB_TC": (-1, 255),
    "MC_IB_SL": (-1, 15),
    "MC_PKEY_INDEX": (0, 65535),
}
"""The least and the most that a variable on the list may be; libraries take what is no number for 0, in silence."""
CHOICES = {"MC_LOG_LEVEL": ("TRACE", "INFO", "WARNING", "ERROR"), "MC_MTU": ("512", "1024", "2048", "4096")}
INTERFACES = "GLOO_SOCKET_IFNAME"

OURS = "BUFFERLAB_SET"
"""Names the variables that our own code has set, with their values, for the processes that inherit them."""

_taken_out: set[str] = set()
_ours: set[str] = set()


def foreign(environment: Mapping[str, str]) -> list[str]:
    """Names of the variables that somebody else set and that must not reach the engine, gloo or torch."""
    ours = _marked(environment)
    return sorted(name for name in environment if name not in ALLOWED and _belongs(name) and name not in ours)


def passed(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables on the list that somebody else has set."""
    return {name: environment[name] for name in sorted(ALLOWED & environment.keys() - _marked(environment))}


def useless(environment: Mapping[str, str]) -> str:
    """What is wrong with a variable that is let through, in a sentence that begins with it; empty if nothing is.

    A library that cannot use its value dies in the middle of a start, or goes on with another one and says nothing.
    """
    for name, value in passed(environment).items():
        if name in NUMBERS:
            least, most = NUMBERS[name]
            if not re.fullmatch(r"[+-]?\d+", value, re.ASCII) or not least <= int(value) <= most:
                return f"{name} is {value!r} in the environment, it must be a whole number from {least} to {most}"
        elif name in CHOICES and value not in CHOICES[name]:
            return f"{name} is {value!r} in the environment, it must be one of {', '.join(CHOICES[name])}"
        elif name == INTERFACES:
            known = [interface for _, interface in socket.if_nameindex()]
            if any(one not in known for one in value.split(",")):
                return (
                    f"{name} is {value!r} in the environment, it must be an interface of this host: {', '.join(known)}"
                )
    return ""


def cleaned(environment: Mapping[str, str]) -> dict[str, str]:
    """The same without those that must not be there and without our own, for a process to be started."""
    out = {*foreign(environment), *_marked(environment), OURS}
    return {name: value for name, value in environment.items() if name not in out}


def clean_here(environment: MutableMapping[str, str] = os.environ) -> list[str]:
    """Take them out of this process's environment, before a library reads it; the names of those that were there.

    What the engine is started with later (``real.engine.mooncake_start.settings``) is ours and stays. What a process
    before this one set for its own engine goes as well, but is nobody's mistake and is not named.
    """
    names = [name for name in foreign(environment) if name not in _ours]
    for name in {*names, *_marked(environment)} - _ours:
        del environment[name]
    _mark(environment)
    _taken_out.update(names)
    return names


def taken_out() -> list[str]:
    """Names of all that ``clean_here`` has taken out of this process's environment so far."""
    return sorted(_taken_out)


def set_by_us(name: str, value: str | None) -> None:
    """Set a variable of the engine's, or take it out for None; ``clean_here`` leaves it alone from now on."""
    if value is None:
        os.environ.pop(name, None)
        _ours.discard(name)
    else:
        os.environ[name] = value
        _ours.add(name)
    _mark(os.environ)


def _mark(environment: MutableMapping[str, str]) -> None:
    """Say in the environment itself which of its variables are ours: whoever inherits it cannot know otherwise."""
    ours = [f"{name}={environment[name]}" for name in sorted(_ours) if name in environment]
    if ours:
        environment[OURS] = " ".join(ours)
    else:
        environment.pop(OURS, None)


def _marked(environment: Mapping[str, str]) -> set[str]:
    """The variables that our own code has set and nobody has changed since."""
    settings = (one.partition("=") for one in environment.get(OURS, "").split())
    return {name for name, _, value in settings if environment.get(name) == value}


def notice(names: list[str]) -> str:
    """A line about those of ``names`` that somebody may have meant for the engine; empty if there are none."""
    meant = [name for name in names if _LOUD.fullmatch(name)]
    if not meant:
        return ""
    return f"left out of the engine's environment: {', '.join(meant)} (docs/real.md lists the variables that reach it)"


def _belongs(name: str) -> bool:
    return _FAMILY.fullmatch(name) is not None or _ANY_CASE.fullmatch(name) is not None
