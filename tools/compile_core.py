"""Compiles the protocol cores and the simulator's inner loop to extension modules with mypyc: several times as fast.

    python tools/compile_core.py [--force | --or-interpreted]

What is compiled, and how Python finds it, stands in protocol/compiled.py. The build lies in build/compiled/, in a
folder named by a digest of its sources: nothing is done where it is there already, and a source that is edited later is
run as it is. The sources stay what they are and what is tested, and the results are the same bytes. `make setup` runs
this, and the wheel has such a build in it (tools/build_hook.py).

Needs a C compiler, Python's headers, mypy and setuptools (the extra ``compile``). Exit status: 0, 1 if it cannot be
compiled, in one sentence. With --or-interpreted that is no failure, except under CI=true, where the tests of compiled
cores would else be skipped without anybody noticing; and BUFFERLAB_COMPILED=0 leaves it out.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bufferlab.protocol.compiled import (  # noqa: E402 - found beside this folder, whatever is installed
    FAILURE,
    MODULES,
    OPTIMISATION,
    PACKAGES,
    PLACES,
    RECORD,
    SHARED,
    SUFFIX,
    VARIABLE,
    digest_of,
    sources,
)

BUILDS = PLACES[0]
KEPT = 6
"""How many builds stay: of a few branches, and for a few Pythons."""
ABANDONED_AFTER_S = 3600.0
UNFINISHED = ".unfinished-"
COMPILERS = ("cc", "gcc", "clang")
NEEDED = {"mypyc": "mypy>=2.4,<2.5", "setuptools": "setuptools>=78"}
"""By module, what brings it: the extra ``compile`` of pyproject.toml."""


class CannotCompileError(Exception):
    """Why not: the end of a sentence."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and compile."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--force", action="store_true", help="compile, although it is there already")
    parser.add_argument("--or-interpreted", action="store_true", help="it is no failure if that is impossible")
    parser.add_argument("--translate", type=Path, metavar="DIR", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.translate is not None:
        translate(options.translate)
        return 0
    if options.or_interpreted and os.environ.get(VARIABLE) == "0":
        return 0
    on_ci = os.environ.get("CI", "").lower() in {"1", "true"}
    try:
        folder = ensure(_say, force=options.force)
    except CannotCompileError as error:
        if options.or_interpreted and not on_ci:
            _say(f"not compiled, so the sources are run as they are, several times slower: {error}")
            return 0
        print(f"compile_core: not compiled: {error}", file=sys.stderr)
        return 1
    if not options.or_interpreted:
        _say(f"compiled: {folder.relative_to(ROOT)}")
    return 0


def _say(text: str) -> None:
    print(f"compile_core: {text}", flush=True)


def ensure(say: Callable[[str], None], *, force: bool = False) -> Path:
    """The build of the sources as they are now, made if it is not there. Raises CannotCompileError, and notes why."""
    digest = digest_of(sources(ROOT))
    target, failure = BUILDS / digest, BUILDS / FAILURE
    if target.is_dir() and not force:
        os.utime(target)  # it is in use, so it is not the first to go
        return target
    BUILDS.mkdir(parents=True, exist_ok=True)
    try:
        compiler = find_compiler()
        for module, package in NEEDED.items():
            if importlib.util.find_spec(module) is None:
                where = f"is not installed in {sys.prefix}; run: {sys.executable} -m pip install '{package}'"
                raise CannotCompileError(f"{package.partition('>')[0]} {where}")
        target = _build(compiler, say, replace=force)
    except CannotCompileError as error:
        failure.write_text(f"{digest} {error}\n", "utf-8")
        raise
    failure.unlink(missing_ok=True)
    _clean(target)
    return target


def _build(compiler: str, say: Callable[[str], None], *, replace: bool) -> Path:
    """Compile a copy of the sources in a folder of its own, which gets its name when it is finished."""
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=BUILDS) as name:
        work = Path(name)
        # A copy, so that whoever edits a source meanwhile does not end up with a build under the wrong digest.
        for package in PACKAGES:
            shutil.copytree(ROOT / package, work / package, ignore=shutil.ignore_patterns("__pycache__", "_compiled"))
        shutil.copy(ROOT / "pyproject.toml", work)  # mypy reads its settings from it
        # The package itself with nothing in it: else mypy reads all that the installed one names.
        (work / "bufferlab" / "__init__.py").touch()
        copied = sources(work)
        target = BUILDS / digest_of(copied)
        started_s = time.monotonic()
        say("compiling the cores, which takes about a minute")
        made = work / "made"
        made.mkdir()
        _compile(work, compiler, made)
        (made / RECORD).write_text(
            "".join(f"{hashlib.sha256(source).hexdigest()}  {path}\n" for path, source in copied.items()), "utf-8"
        )
        _put(made, target, replace=replace)
        say(f"done in {time.monotonic() - started_s:.0f} s")
    return target


def find_compiler() -> str:
    """The command of a C compiler. Raises CannotCompileError if there is none, or none of Python's headers."""
    command = os.environ.get("CC") or sysconfig.get_config_var("CC") or ""
    found = next((one for one in (command, *COMPILERS) if one and shutil.which(shlex.split(one)[0])), None)
    if found is None:
        raise CannotCompileError(f"there is no C compiler (none of {', '.join(COMPILERS)} is on PATH)")
    headers = Path(sysconfig.get_path("include"))
    if not (headers / "Python.h").is_file():
        raise CannotCompileError(f"{headers} has no Python.h, which comes with python3-dev on Debian and Ubuntu")
    return found


def _compile(work: Path, compiler: str, made: Path) -> None:
    """Run ``translate`` in the folder of the copy, in a process of its own: mypyc leaves that when it is unhappy."""
    done = subprocess.run(
        [sys.executable, "-P", str(Path(__file__).resolve()), "--translate", str(made)],
        cwd=work,
        env={**os.environ, "CC": compiler},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        told = [line for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
        wrong = next((line for line in told if "error:" in line), told[-1] if told else f"status {done.returncode}")
        raise CannotCompileError(f"the compiler failed: {wrong.strip()}")


def translate(made: Path) -> None:
    """Compile the modules of the working folder to extension modules in ``made``: to C, to objects, to libraries."""
    from setuptools._distutils.ccompiler import new_compiler
    from setuptools._distutils.errors import CompileError, DistutilsExecError, LinkError
    from setuptools._distutils.sysconfig import customize_compiler

    from mypyc.build import mypycify  # isort: skip - takes the distutils that are imported by then

    # No flag of ours takes assertions out: they are part of what the protocol checks.
    extensions: Any = mypycify(
        ["--cache-dir", os.devnull, *module_files(Path.cwd())],
        opt_level=OPTIMISATION,
        debug_level="0",
        multi_file=True,
        target_dir="c",
        group_name=SHARED.removesuffix("__mypyc"),
    )
    compiler: Any = new_compiler()
    customize_compiler(compiler)
    headers = [sysconfig.get_path("include"), sysconfig.get_path("platinclude")]

    def compiled(job: tuple[Any, str]) -> list[str]:
        extension, source = job
        flags = [flag for flag in extension.extra_compile_args if flag != "-Werror"]
        if compiler.compiler_type == "unix":
            flags.append("-fvisibility=hidden")  # calls from one module to another are direct then
        objects: list[str] = compiler.compile(
            [source], output_dir="o", include_dirs=[*extension.include_dirs, *headers], extra_postargs=flags
        )
        return objects

    jobs = [(extension, source) for extension in extensions for source in extension.sources]
    jobs.sort(key=lambda job: -Path(job[1]).stat().st_size)  # the longest first, so that no core waits at the end
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = dict(zip(((one.name, source) for one, source in jobs), pool.map(compiled, jobs), strict=True))
        for extension in extensions:
            parts = [part for source in extension.sources for part in objects[extension.name, source]]
            compiler.link_shared_object(parts, str(made / f"{extension.name}{SUFFIX}"))
    except (CompileError, DistutilsExecError, LinkError):  # it has said itself what is wrong
        sys.exit(f"error: {shlex.join(compiler.compiler_so[:1])} does not compile what mypyc wrote")


def module_files(root: Path) -> Iterator[str]:
    """The paths below ``root`` of the modules that are compiled."""
    for name in MODULES:
        package = name.removesuffix(".*").replace(".", "/")
        if package == name.replace(".", "/"):
            yield f"{package}.py"
        else:
            found = sorted((root / package).glob("*.py"))
            yield from (f"{package}/{path.name}" for path in found if path.stem != "__init__")


def _put(made: Path, target: Path, *, replace: bool) -> None:
    """Give a finished build its name. If another process was quicker, its build is as good."""
    if replace and target.exists():
        target.rename(made.parent / "old")
    try:
        made.rename(target)
    except OSError:
        if not target.is_dir():
            raise


def _clean(latest: Path) -> None:
    """Remove the builds that were not used for longest, and what an ended process left unfinished."""
    folders = [path for path in BUILDS.iterdir() if path.is_dir() and path != latest]
    aged = sorted((path.stat().st_mtime, path) for path in folders)
    builds = [path for _, path in aged if not path.name.startswith(UNFINISHED)]
    old = time.time() - ABANDONED_AFTER_S
    left = [path for changed_s, path in aged if path.name.startswith(UNFINISHED) and changed_s < old]
    for path in (*left, *builds[: max(0, len(builds) - KEPT + 1)]):
        shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
