"""Which modules are compiled (mypyc), and where Python finds them: built from exactly these sources, or not at all.

A build is a folder of extension modules, named by a digest of the sources that it was made of, of the list below and of
the kind of Python. A changed source leads to another name: what was built before is then not found, and Python runs the
sources as they are. The results are the same bytes, in several times the time. ``tools/compile_core.py`` builds.

``BUFFERLAB_COMPILED=0`` runs the sources in any case; with 1 it is an error where nothing is built of them.

This is no part of the protocol: it is imported before all else of it, and stands on the standard library alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

MODULES = (
    "bufferlab.protocol.agreement",
    "bufferlab.protocol.allocator",
    "bufferlab.protocol.chunks",
    "bufferlab.protocol.disciplines.*",
    "bufferlab.protocol.emulation.loop",
    "bufferlab.protocol.emulation.passes",
    "bufferlab.protocol.emulation.processors",
    "bufferlab.protocol.emulation.requests",
    "bufferlab.protocol.encode",
    "bufferlab.protocol.language",
    "bufferlab.protocol.layout",
    "bufferlab.protocol.messages",
    "bufferlab.protocol.observe.*",
    "bufferlab.protocol.rank",
    "bufferlab.protocol.recording",
    "bufferlab.protocol.sizing.views",
    "bufferlab.protocol.status",
    "bufferlab.protocol.topology",
    "bufferlab.protocol.values",
    "bufferlab.sim.clock",
    "bufferlab.sim.cluster.*",
    "bufferlab.sim.fairshare",
    "bufferlab.sim.host.processors",
    "bufferlab.sim.host.spread",
    "bufferlab.sim.network.adapters",
    "bufferlab.sim.network.times",
    "bufferlab.sim.network.transfer",
    "bufferlab.sim.network.worker",
    "bufferlab.sim.run",
)
"""What a request passes through; ``.*``: every module of a folder, but not the folder's own ``__init__``. Policies are
not compiled: their type hints are their options."""

NOT_READ = ("bufferlab/protocol/checker/", "bufferlab/protocol/sizing/", "bufferlab/sim/chaos/")
"""Folders that none of these modules depends on, so that whoever edits them, or adds a policy, goes on with the build
there is; but for the next."""
READ = tuple(f"bufferlab/protocol/sizing/{name}.py" for name in ("__init__", "base", "registry", "supervised", "views"))
"""What these modules do depend on in such a folder: what every policy has in common."""

OPTIMISATION = "2"
"""The C compiler's level. With 1 compiling takes two thirds of the time, with 3 nothing is faster."""

VARIABLE = "BUFFERLAB_COMPILED"
SHARED = "bufferlab__mypyc"
"""The extension module that holds the code of all of them."""
SUFFIX = EXTENSION_SUFFIXES[0]
"""Names the kind of Python as well, as in ``.cpython-311-x86_64-linux-gnu.so``."""

ROOT = Path(__file__).absolute().parents[2]
PACKAGES = ("bufferlab/protocol", "bufferlab/sim")
PLACES = (ROOT / "build" / "compiled", ROOT / "bufferlab" / "protocol" / "_compiled")
"""Where builds lie: of a checkout, and within a wheel."""
RECORD = "sources.txt"
"""Stands in a build: the digest and the path of each source."""
FAILURE = "failure.txt"
"""Stands beside builds, where the last attempt made none: the digest that it was for, and why."""


class State(NamedTuple):
    """What this process runs: the modules in ``folder``, or None for the sources and why."""

    folder: Path | None
    why: str = ""

    @property
    def digest(self) -> str:
        """The name of the build; empty where there is none."""
        return "" if self.folder is None else self.folder.name

    def __str__(self) -> str:
        return f"interpreted: {self.why}" if self.folder is None else "compiled"


_state: State | None = None


def state() -> State:
    """What this process runs, decided once: when the first module that may be compiled is imported."""
    global _state
    if _state is None:
        _state = _decide()
        if _state.folder is not None:
            try:
                __import__(SHARED)
            except ImportError as error:  # built on another system, whose libraries differ
                _state = State(None, f"the build cannot be loaded ({error})")
    if _state.folder is None and os.environ.get(VARIABLE) == "1":
        raise ImportError(f"{VARIABLE} is 1, but nothing compiled can be used: {_state.why}")
    return _state


def is_listed(name: str) -> bool:
    """Whether a module is one of those that are compiled."""
    return name in MODULES or (f"{name.rpartition('.')[0]}.*" in MODULES and not name.endswith(".__init__"))


def sources(root: Path = ROOT) -> dict[str, bytes]:
    """By path below ``root``, the sources that a build depends on."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            name = path.relative_to(root).as_posix()
            if name in READ or not name.startswith(NOT_READ):
                found[name] = path.read_bytes()
    return found


def digest_of(found: dict[str, bytes]) -> str:
    """The name of the build of these sources for this kind of Python."""
    from hashlib import sha256  # takes longer to import than all else here

    whole = sha256(SUFFIX.encode())
    for name, source in found.items():
        whole.update(b"\0%s\0%d\0" % (name.encode(), len(source)))
        whole.update(source)
    return whole.hexdigest()[:20]


def _decide() -> State:
    if os.environ.get(VARIABLE) == "0":
        return State(None, f"{VARIABLE} is 0")
    found = sources()
    digest = digest_of(found)
    for place in PLACES:
        if (place / digest).is_dir():
            return State(place / digest)
    return State(None, _why_none(digest, found))


def _why_none(digest: str, found: dict[str, bytes]) -> str:
    """What keeps the builds that are there, if any, from being used."""
    from hashlib import sha256

    for failure in (place / FAILURE for place in PLACES):
        if failure.is_file():
            attempted, _, why = failure.read_text("utf-8").partition(" ")
            if attempted == digest:
                return why.strip()
    remedy = "; run make compiled" if (ROOT / "Makefile").is_file() else ""
    builds = [path.parent for place in PLACES for path in place.glob(f"*/{RECORD}")]
    if not builds:
        return f"nothing has been compiled{remedy}"
    fitting = [build for build in builds if (build / f"{SHARED}{SUFFIX}").is_file()]
    if not fitting:
        return f"what has been compiled is for another Python than this {SUFFIX.split('.')[1]}{remedy}"
    latest = max(fitting, key=lambda build: build.stat().st_mtime_ns)
    lines = (latest / RECORD).read_text("utf-8").splitlines()
    recorded = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    here = {name: sha256(source).hexdigest() for name, source in found.items()}
    names = sorted(name for name in recorded.keys() | here.keys() if recorded.get(name) != here.get(name))
    others = f" and {len(names) - 1} more" if len(names) > 1 else ""
    verb = "has" if len(names) == 1 else "have"
    return f"{names[0] if names else 'a source'}{others} {verb} changed since the last build{remedy}"


class _Finder:
    """Finds the compiled modules for Python's import; knows nothing of any other."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Where a compiled module is; None to let Python look for its source."""
        del target
        if name == SHARED:
            folder = None if _state is None else _state.folder
        elif is_listed(name) and path and path[0] == str(ROOT.joinpath(*name.split(".")[:-1])):
            folder = state().folder  # a package of this name that lies elsewhere is somebody else's
        else:
            return None
        if folder is None:
            return None
        file = str(folder / f"{name}{SUFFIX}")
        spec = ModuleSpec(name, ExtensionFileLoader(name, file), origin=file)
        spec.has_location = True
        return spec


def install() -> None:
    """Let Python's import look here first."""
    sys.meta_path.insert(0, _Finder())
