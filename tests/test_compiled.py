"""The compiled cores: which modules they are, that no build is used but the one of these very sources, and that what
users bring along is not compiled."""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from protocol import compiled
from protocol.sizing import POLICIES, SizingPolicy

ROOT = Path(__file__).resolve().parent.parent
TOOL = ROOT / "tools" / "compile_core.py"
COMPILER = next((one for one in ("cc", "gcc", "clang") if shutil.which(one)), None)

needs_compiler = pytest.mark.skipif(
    COMPILER is None
    or not Path(sysconfig.get_path("include"), "Python.h").is_file()
    or importlib.util.find_spec("mypyc") is None,
    reason="no C compiler, no Python.h or no mypy",
)


def run(*command: Any, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A Python process that finds the sources in ``cwd``, and only there."""
    variables = {**os.environ, "PYTHONPATH": str(cwd), compiled.VARIABLE: "", **environment}
    return subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, env=variables, capture_output=True, text=True, check=False, timeout=110
    )  # fmt: skip


# --- what is compiled, and what that depends on ---


def module_files() -> list[str]:
    spec = importlib.util.spec_from_file_location("compile_core", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return list(module.module_files(ROOT))


def name_of(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def test_what_is_compiled_is_there_and_is_found() -> None:
    files = module_files()
    assert len(files) > 20
    assert [path for path in files if not (ROOT / path).is_file()] == []
    assert [path for path in files if not compiled.is_listed(name_of(path))] == []
    listed = {path for path in compiled.sources() if compiled.is_listed(path.removesuffix(".py").replace("/", "."))}
    assert listed == set(files)


def test_no_policy_and_no_checker_is_compiled() -> None:
    # A compiled class has no type hints, which are a policy's options, and is no base for a user's own.
    assert [kind for kind in (SizingPolicy, *POLICIES.values()) if compiled.is_listed(kind.__module__)] == []
    assert [path for path in module_files() if path.startswith("protocol/checker/")] == []


def imported(path: str) -> Iterator[str]:
    """The modules of protocol/ and sim/ that a source names, also for type checkers alone."""
    for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_whatever_a_compiled_module_depends_on_is_in_the_digest() -> None:
    # mypyc takes constants, fields and types of other modules into the code it makes.
    covered = set(compiled.sources())
    names = {name_of(path): path for package in compiled.PACKAGES for path in paths_of(package)}
    # These two list the policies for whoever names one; what is compiled knows the base alone.
    lists_policies = {"protocol/sizing/__init__.py", "protocol/sizing/registry.py"}
    assert lists_policies < covered
    assert set(module_files()) < covered
    missed = [
        (path, names[name])
        for path in sorted(covered - lists_policies)
        for name in imported(path)
        if name in names and names[name] not in covered
    ]
    assert missed == [], "take them out of NOT_READ in protocol/compiled.py"


def paths_of(package: str) -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in (ROOT / package).rglob("*.py")]


def test_what_is_left_out_of_the_digest_is_there() -> None:
    for pattern in compiled.NOT_READ:
        assert list(ROOT.glob(pattern)), pattern


# --- builds, of a copy that compiles two small modules ---

FEW = '(\n    "protocol.chunks",\n    "protocol.disciplines.*",\n)'
ASK = "import protocol.chunks; from protocol.compiled import state; print(state())"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what is built of, with a list of few modules."""
    copy = tmp_path / "tree"
    for folder in ("protocol", "sim", "tools", "experiments"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "Makefile"):
        shutil.copy(ROOT / file, copy)
    listing = copy / "protocol" / "compiled.py"
    text = listing.read_text("utf-8")
    changed = re.sub(r"(?<=^MODULES = )\(\n(    .*\n)*\)", FEW, text, flags=re.MULTILINE)
    assert changed != text
    listing.write_text(changed, "utf-8")
    return copy


def build(tree: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run("tools/compile_core.py", *arguments, cwd=tree, **environment)


def asked(tree: Path, **environment: str) -> str:
    done = run("-c", ASK, cwd=tree, **environment)
    return (done.stdout or done.stderr.splitlines()[-1]).strip()


def builds(tree: Path) -> list[str]:
    return [path.name for path in (tree / "build" / "compiled").iterdir()]


@needs_compiler
def test_a_build_serves_its_own_sources_alone(tree: Path) -> None:
    assert asked(tree) == "interpreted: nothing has been compiled; run make compiled"
    done = build(tree)
    assert done.returncode == 0, done.stderr
    assert "compiling" in done.stdout
    assert len(builds(tree)) == 1, "and nothing unfinished is left"
    assert asked(tree, BUFFERLAB_COMPILED="1") == "compiled"
    where = "import protocol.chunks, protocol.disciplines.window as w, protocol.rank as r; print(protocol.chunks.__file__, w.__file__, r.__file__)"
    files = run("-c", where, cwd=tree).stdout.split()
    assert [Path(file).name.split(".")[-1] for file in files] == ["so", "so", "py"]

    again = build(tree)
    assert (again.returncode, "compiling" in again.stdout) == (0, False), "it is there already"

    assert asked(tree, BUFFERLAB_COMPILED="0") == "interpreted: BUFFERLAB_COMPILED is 0"

    policy, source = tree / "protocol" / "sizing" / "ewma.py", tree / "protocol" / "chunks.py"
    policy.write_text(policy.read_text("utf-8") + "\n# edited\n", "utf-8")
    source.touch()
    assert asked(tree) == "compiled", "what it does not depend on may change"

    before = source.read_text("utf-8")
    source.write_text(f"{before}\n\nEDITED = True\n", "utf-8")
    changed = "protocol/chunks.py has changed since the last build; run make compiled"
    assert asked(tree) == f"interpreted: {changed}"
    assert asked(tree, BUFFERLAB_COMPILED="1").endswith(
        f"BUFFERLAB_COMPILED is 1, but nothing compiled can be used: {changed}"
    )
    seen = "import protocol.chunks; print(protocol.chunks.EDITED)"
    assert run("-c", seen, cwd=tree).stdout.strip() == "True"
    source.write_text(before, "utf-8")
    assert asked(tree) == "compiled"

    added = tree / "protocol" / "disciplines" / "added.py"
    added.write_text('"""One more."""\n', "utf-8")
    assert (
        asked(tree) == "interpreted: protocol/disciplines/added.py has changed since the last build; run make compiled"
    )
    added.unlink()

    (library,) = (tree / "build" / "compiled").glob("*/bufferlab__mypyc*")
    whole = library.read_bytes()
    library.write_bytes(b"no library")
    assert asked(tree).startswith("interpreted: the build cannot be loaded (")
    library.write_bytes(whole)

    # As a wheel has it, where another Python has built for itself.
    (folder,) = library.parent.parent.glob("[0-9a-f]*")
    shutil.copytree(library.parent.parent, tree / "protocol" / "_compiled")
    for file in list(folder.glob("*.so")):
        file.rename(folder / file.name.replace(compiled.SUFFIX, ".cpython-399-other.so"))
    folder.rename(folder.with_name("f" * 20))
    assert asked(tree) == "compiled"
    shutil.rmtree(tree / "protocol" / "_compiled")
    assert "for another Python than this" in asked(tree)


@needs_compiler
def test_two_builds_at_once_leave_one(tree: Path) -> None:
    command = [sys.executable, "tools/compile_core.py"]
    pair = [
        subprocess.Popen(command, cwd=tree, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    for process in pair:
        said, _ = process.communicate(timeout=110)
        assert process.returncode == 0, said
    assert len(builds(tree)) == 1
    assert asked(tree) == "compiled"


@needs_compiler
@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({"CC": "false"}, "the compiler failed: error: false does not compile what mypyc wrote"),
        ({"CC": "", "PATH": "/nowhere"}, "there is no C compiler (none of cc, gcc, clang is on PATH)"),
    ],
    ids=["broken", "none"],
)
def test_without_a_working_compiler_the_sources_are_run(tree: Path, environment: dict[str, str], why: str) -> None:
    done = build(tree, **environment)
    assert (done.returncode, done.stderr.strip()) == (1, f"compile_core: not compiled: {why}")
    done = build(tree, "--or-interpreted", **environment)
    assert (done.returncode, done.stderr) == (0, "")
    told = f"compile_core: not compiled, so the sources are run as they are, several times slower: {why}"
    assert done.stdout.splitlines()[-1] == told
    assert builds(tree) == [compiled.FAILURE]
    assert asked(tree) == f"interpreted: {why}"
