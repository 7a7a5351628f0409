"""Where a policy of a user's own is: ``file.py:Class``, or ``module:Class`` of a module whose file can be found.

This is the one place where protocol/ runs code that it does not know by name. What runs is what the files hold at that
moment, in whatever process: the file itself and the modules of the user's own that it imports, which are executed anew
and privately when one of them has changed. The very same files are inputs of a run (``files_of``), so that results are
never taken for those of other code. What has no file (a class that was typed into a notebook) could be neither told
apart nor loaded by another process, and is refused.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NamedTuple

from bufferlab.protocol.sizing.supervised import SizingError, described

_OWN = __name__.partition(".")[0]
_ONCE_AT_THE_TOP = ("protocol", "sim", "real", "experiments")
"""Packages that policies of an earlier version import by these names."""
_INSTALLED = {"site-packages", "dist-packages"}
"""Folders of what is installed, whose versions are recorded with a run."""

NEEDS_A_FILE = (
    "must be in a file, which every process can read and by whose content results are told apart; put it into one (in "
    "a notebook by %%writefile my_policies.py at the top of its cell) and name it as my_policies.py:"
)


class Source(NamedTuple):
    """A module of a user's own: its file, None for a folder without a file of its own; for a package, its folders."""

    file: Path | None
    folders: tuple[str, ...] | None = None


def is_place(name: str) -> bool:
    """Whether ``name`` is the place of a user's class rather than a policy of this package."""
    return ":" in name


def absolute(name: str, folder: Path) -> str:
    """The same place for a process that works elsewhere: a relative file is one of ``folder``, and a module its file.

    A module whose file cannot be found stays what it is, and is refused when its class is looked for.
    """
    place, colon, kind = name.rpartition(":")
    if not colon:
        return name
    if place.endswith(".py"):
        return name if Path(place).is_absolute() else f"{(folder / place).resolve()}:{kind}"
    file = _file_of_module(place)
    return name if file is None else f"{file}:{kind}"


def place_of(kind: type) -> str:
    """The place of a class, as a configuration names it; of one that is in no file, one that will be refused."""
    file = getattr(sys.modules.get(kind.__module__), "__file__", None) if kind.__module__ != "__main__" else None
    is_found = isinstance(file, str) and file.endswith(".py") and kind.__module__.partition(".")[0] != _OWN
    return f"{Path(str(file)).resolve() if is_found else kind.__module__}:{kind.__qualname__}"


def files_of(name: str) -> list[Path]:
    """The files that a policy's code comes from; none for a policy of this package.

    That is its own first, then the modules of the user's own that it imports, at any depth.
    """
    place = absolute(name, Path()).rpartition(":")[0]
    if place.endswith(".py"):
        return [Path(place), *(one.file for one in _imported_by(Path(place)).values() if one.file is not None)]
    source = getattr(sys.modules.get(place), "__file__", None) if place else None
    return [Path(source)] if source else []


def find_class(name: str) -> tuple[Any, ModuleType]:
    """What stands at a place, None if there is nothing, and its module. Raises SizingError: the end of a sentence."""
    place, _, kind = absolute(name, Path()).rpartition(":")
    if place == "__main__" or "<" in kind:
        raise SizingError(f"{NEEDS_A_FILE}{kind.rpartition('.')[2]}")
    module = _from_file(Path(place)) if place.endswith(".py") else _imported(place, kind)
    return getattr(module, kind, None), module


# --- modules ---


def _file_of_module(name: str) -> Path | None:
    """The source of a module that Python can import; of this package, which is known by its version, None."""
    parts = name.split(".")
    if parts[0] in (_OWN, "__main__") or not all(part.isidentifier() for part in parts):
        return None
    importlib.invalidate_caches()  # it may have been written a moment ago
    try:
        found = importlib.util.find_spec(name)
    except (Exception, SystemExit):
        return None
    return Path(found.origin) if found is not None and found.origin and found.origin.endswith(".py") else None


def _imported(name: str, kind: str) -> ModuleType:
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
    if name.partition(".")[0] != _OWN:
        raise SizingError(f"{NEEDS_A_FILE}{kind}")
    return module


# --- files ---


def _from_file(path: Path) -> ModuleType:
    """The module in a file, executed anew whenever it, or what it imports, has changed."""
    content = hashlib.sha256(str(path.resolve()).encode())
    try:
        source = path.read_bytes()
    except OSError as error:
        raise SizingError(f"must name a file that can be read, {path.name} cannot: {error.strerror}") from None
    helpers = _imported_by(path)
    for name, one in sorted(helpers.items()):
        content.update(f"\0{name}\0".encode() + (one.file.read_bytes() if one.file is not None else b""))
    name = f"_sizing_policy_{path.stem}_{hashlib.sha256(content.digest() + source).hexdigest()[:16]}"
    known = sys.modules.get(name)
    if known is not None:
        return known
    module = ModuleType(name)
    module.__file__ = str(path)
    module.__package__ = _package_of(path)[0]
    # Dataclasses and type hints look their module up by its name. Nothing is cached beside the user's file: Python
    # would take an edit within the same second for the file it has compiled already.
    sys.modules[name] = module
    try:
        with _anew(helpers):
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


def _package_of(path: Path) -> tuple[str, Path]:
    """The package that a file is part of, and the folder from which that is imported."""
    names: list[str] = []
    folder = path.resolve().parent
    while (folder / "__init__.py").is_file():
        names.insert(0, folder.name)
        folder = folder.parent
    return ".".join(names), folder


# --- what a file imports ---


def _imported_by(path: Path) -> dict[str, Source]:
    """The modules of the user's own that a file imports at any depth, by their names."""
    package, folder = _package_of(path)
    found: dict[str, Source] = {}
    waiting = [(path, package)]
    while waiting:
        file, around = waiting.pop()
        for name in _names_in(file, around):
            for whole in _with_parents(name):
                if whole in found:
                    continue
                source = _source_of(whole, str(folder), found)
                if source is None:
                    break
                found[whole] = source
                if source.file is not None:
                    waiting.append((source.file, whole if source.folders is not None else whole.rpartition(".")[0]))
    return found


def _with_parents(name: str) -> Iterator[str]:
    parts = name.split(".")
    yield from (".".join(parts[: count + 1]) for count in range(len(parts)))


_names: dict[bytes, tuple[tuple[int, str, tuple[str, ...]], ...]] = {}
"""Imports of a source by its digest, so that each is read once: how many dots, what module, which names of it."""


def _names_in(file: Path, package: str) -> Iterator[str]:
    """Whatever may be a module in the imports of a file; nothing for one that is no Python, which running it says."""
    import ast

    try:
        source = file.read_bytes()
    except OSError:
        return
    digest = hashlib.sha256(source).digest()
    if digest not in _names:
        try:
            nodes = list(ast.walk(ast.parse(source)))
        except (SyntaxError, ValueError):
            nodes = []
        _names[digest] = tuple(
            (node.level, node.module or "", tuple(one.name for one in node.names))
            if isinstance(node, ast.ImportFrom)
            else (0, one.name, ())
            for node in nodes
            if isinstance(node, ast.Import | ast.ImportFrom)
            for one in node.names[: None if isinstance(node, ast.Import) else 1]
        )
    for level, module, names in _names[digest]:
        above = package.split(".")[: len(package.split(".")) - level + 1] if level and package else []
        if level and not above:
            continue  # which running it says
        base = ".".join([*above, *([module] if module else [])])
        yield base
        yield from (f"{base}.{name}" for name in names if name != "*")


def _source_of(name: str, folder: str, known: dict[str, Source]) -> Source | None:
    """The file of a module, looked for beside the policy first; None for what is not the user's own."""
    above, _, _ = name.rpartition(".")
    if not above and (name in sys.stdlib_module_names or name in (_OWN, "__main__") or _is_installed(name)):
        return None
    if above and (above not in known or known[above].folders is None):
        return None
    path: Sequence[str] | None = None if not above else known[above].folders
    spec = _spec_of(name, [folder] if not above else path) or (None if above else _spec_of(name, None))
    if spec is None:
        return None
    folders = None if spec.submodule_search_locations is None else tuple(spec.submodule_search_locations)
    file = Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    if (file is None and folders is None) or _INSTALLED & {*(file.parts if file else ()), *_parts(folders)}:
        return None
    return Source(file, folders)


def _is_installed(name: str) -> bool:
    """Whether a module that is imported already was installed, which saves looking for it."""
    file = getattr(sys.modules.get(name), "__file__", None)
    return isinstance(file, str) and not _INSTALLED.isdisjoint(Path(file).parts)


def _parts(folders: Sequence[str] | None) -> Iterator[str]:
    for folder in folders or ():
        yield from Path(folder).parts


def _spec_of(name: str, path: Sequence[str] | None) -> ModuleSpec | None:
    for finder in sys.meta_path:
        if isinstance(finder, _Finder):
            continue
        try:
            found = finder.find_spec(name, path, None)
        except (AttributeError, ImportError):
            continue
        if found is not None:
            return found
    return None


class _Loader(SourceFileLoader):
    """Reads the source and no bytecode, which an edit within the same second would not make stale."""

    def get_code(self, fullname: str) -> CodeType:
        """The code of the module."""
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)  # type: ignore[no-any-return, unused-ignore]


class _Finder:
    """Finds these modules before anybody else does."""

    def __init__(self, sources: dict[str, Source]) -> None:
        self._sources = sources

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        """Where a module is; None for any other."""
        source = self._sources.get(name)
        if source is None:
            return None
        folders = None if source.folders is None else list(source.folders)
        if source.file is not None:
            loader = _Loader(name, str(source.file))
            return importlib.util.spec_from_file_location(
                name, source.file, loader=loader, submodule_search_locations=folders
            )
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = folders
        return spec


@contextmanager
def _anew(sources: dict[str, Source]) -> Iterator[None]:
    """Within it these modules are imported from what their files hold now; then everybody else's are back."""
    finder = _Finder(sources)
    others = {name: sys.modules.pop(name) for name in sources if name in sys.modules}
    sys.meta_path.insert(0, finder)  # type: ignore[arg-type, unused-ignore]
    try:
        yield
    finally:
        sys.meta_path.remove(finder)  # type: ignore[arg-type, unused-ignore]
        for name in sources:
            sys.modules.pop(name, None)
        sys.modules.update(others)
