"""The compiled cores: which modules they are, that no build is used but the one of these very sources, and that what
users bring along is not compiled."""

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bufferlab.experiments.commands.doctor import report_text
from bufferlab.protocol import compiled
from bufferlab.protocol.sizing import POLICIES, SizingPolicy

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
    variables = {**os.environ, "PYTHONPATH": str(cwd), compiled.VARIABLE: "", "CI": "", **environment}
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
    assert [path for path in module_files() if path.startswith("bufferlab/protocol/checker/")] == []


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
    lists_policies = {"bufferlab/protocol/sizing/__init__.py", "bufferlab/protocol/sizing/registry.py"}
    assert lists_policies < covered
    assert set(module_files()) < covered
    missed = [
        (path, names[name])
        for path in sorted(covered - lists_policies)
        for name in imported(path)
        if name in names and names[name] not in covered
    ]
    assert missed == [], "name them in READ in protocol/compiled.py"


def paths_of(package: str) -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in (ROOT / package).rglob("*.py")]


def test_what_is_named_for_the_digest_is_there() -> None:
    assert [name for name in compiled.NOT_READ if not (ROOT / name).is_dir()] == []
    assert [
        name for name in compiled.READ if not (ROOT / name).is_file() or not name.startswith(compiled.NOT_READ)
    ] == []


def test_a_policy_that_is_added_or_edited_leaves_the_build_in_use(tree: Path) -> None:
    before = compiled.digest_of(compiled.sources(tree))
    (tree / "bufferlab" / "protocol" / "sizing" / "mine.py").write_text("MARGIN = 1\n", "utf-8")
    with (tree / "bufferlab" / "protocol" / "sizing" / "fixed.py").open("a", encoding="utf-8") as file:
        file.write("# edited\n")
    assert compiled.digest_of(compiled.sources(tree)) == before
    with (tree / "bufferlab" / "protocol" / "sizing" / "base.py").open("a", encoding="utf-8") as file:
        file.write("# edited\n")
    assert compiled.digest_of(compiled.sources(tree)) != before


# --- builds, of a copy that compiles two small modules ---

FEW = '(\n    "bufferlab.protocol.chunks",\n    "bufferlab.protocol.disciplines.*",\n)'
ASK = "import bufferlab.protocol.chunks; from bufferlab.protocol.compiled import state; print(state())"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what is built of, with a list of few modules."""
    copy = tmp_path / "tree"
    for folder in ("bufferlab", "tools"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", "_compiled"))
    for file in ("pyproject.toml", "Makefile", "LICENSE", "README.md"):
        shutil.copy(ROOT / file, copy)
    listing = copy / "bufferlab" / "protocol" / "compiled.py"
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
    where = (
        "from bufferlab.protocol import chunks, rank; from bufferlab.protocol.disciplines import window; "
        "print(chunks.__file__, window.__file__, rank.__file__)"
    )
    files = run("-c", where, cwd=tree).stdout.split()
    assert [Path(file).name.split(".")[-1] for file in files] == ["so", "so", "py"]

    again = build(tree)
    assert (again.returncode, "compiling" in again.stdout) == (0, False), "it is there already"

    assert asked(tree, BUFFERLAB_COMPILED="0") == "interpreted: BUFFERLAB_COMPILED is 0"

    policy, source = (
        tree / "bufferlab" / "protocol" / "sizing" / "ewma.py",
        tree / "bufferlab" / "protocol" / "chunks.py",
    )
    policy.write_text(policy.read_text("utf-8") + "\n# edited\n", "utf-8")
    source.touch()
    assert asked(tree) == "compiled", "what it does not depend on may change"

    before = source.read_text("utf-8")
    source.write_text(f"{before}\n\nEDITED = True\n", "utf-8")
    changed = "bufferlab/protocol/chunks.py has changed since the last build; run make compiled"
    assert asked(tree) == f"interpreted: {changed}"
    assert asked(tree, BUFFERLAB_COMPILED="1").endswith(
        f"BUFFERLAB_COMPILED is 1, but nothing compiled can be used: {changed}"
    )
    seen = "from bufferlab.protocol import chunks; print(chunks.EDITED)"
    assert run("-c", seen, cwd=tree).stdout.strip() == "True"
    source.write_text(before, "utf-8")
    assert asked(tree) == "compiled"

    added = tree / "bufferlab" / "protocol" / "disciplines" / "added.py"
    added.write_text('"""One more."""\n', "utf-8")
    assert (
        asked(tree)
        == "interpreted: bufferlab/protocol/disciplines/added.py has changed since the last build; run make compiled"
    )
    added.unlink()

    (library,) = (tree / "build" / "compiled").glob("*/bufferlab__mypyc*")
    whole = library.read_bytes()
    library.write_bytes(b"no library")
    assert asked(tree).startswith("interpreted: the build cannot be loaded (")
    library.write_bytes(whole)

    # As a wheel has it, where another Python has built for itself.
    (folder,) = library.parent.parent.glob("[0-9a-f]*")
    shutil.copytree(library.parent.parent, tree / "bufferlab" / "protocol" / "_compiled")
    for file in list(folder.glob("*.so")):
        file.rename(folder / file.name.replace(compiled.SUFFIX, ".cpython-399-other.so"))
    folder.rename(folder.with_name("f" * 20))
    assert asked(tree) == "compiled"
    shutil.rmtree(tree / "bufferlab" / "protocol" / "_compiled")
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
    done = build(tree, "--or-interpreted", **environment, CI="true")
    assert (done.returncode, done.stderr.strip()) == (1, f"compile_core: not compiled: {why}")


# --- the wheel ---


def wheel(tree: Path, into: Path, **environment: str) -> Path:
    """A wheel of the copy, unpacked as pip would."""
    pytest.importorskip("hatchling", reason="hatchling is not installed (it is part of the dev extra)")
    done = run("-m", "hatchling", "build", "-t", "wheel", "-d", into, cwd=tree, **environment)
    assert done.returncode == 0, done.stderr
    (file,) = into.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        archive.extractall(into / "site")
    return file


@needs_compiler
def test_a_wheel_has_the_compiled_modules_for_its_platform(tree: Path, tmp_path: Path) -> None:
    file = wheel(tree, tmp_path / "wheel")
    assert not file.name.endswith("-none-any.whl")
    site = tmp_path / "wheel" / "site"
    assert "Root-Is-Purelib: false" in next(site.glob("*.dist-info/WHEEL")).read_text("utf-8")
    assert asked(site, BUFFERLAB_COMPILED="1") == "compiled"
    (site / "bufferlab" / "protocol" / "chunks.py").write_text("raise SystemExit('edited')\n", "utf-8")
    assert asked(site) == "edited", "an edited source is run there, too"


def test_a_wheel_made_without_a_compiler_is_a_pure_one_and_says_why(tree: Path, tmp_path: Path) -> None:
    file = wheel(tree, tmp_path / "wheel", CC="", PATH="/nowhere")
    assert file.name.endswith("-none-any.whl")
    why = "there is no C compiler (none of cc, gcc, clang is on PATH)"
    assert asked(tmp_path / "wheel" / "site") == f"interpreted: {why}"


# --- this tree's own build ---

POLICY = """
from bufferlab.protocol.sizing import Fixed, RequestView, SizingPolicy


class Mine(SizingPolicy):
    def __init__(self, tokens: int = 512, share: float = 0.5) -> None:
        if share > 1:
            raise ValueError(f"share is {share}, it must be at most 1")
        self.tokens, self.share = tokens, share

    def first_tokens(self, view: RequestView) -> int:
        return max(1, int(self.tokens * self.share))


class Halved(Fixed):
    def first_tokens(self, view: RequestView) -> int:
        return max(1, super().first_tokens(view) // 2)
"""


@pytest.fixture
def built() -> None:
    """Skip where there is no build of this very tree."""
    if not (compiled.PLACES[0] / compiled.digest_of(compiled.sources())).is_dir():
        assert not os.environ.get("CI"), "make test builds it"
        pytest.skip("these sources are not compiled: make compiled")


def simulated(folder: Path, *settings: str, **environment: str) -> subprocess.CompletedProcess[str]:
    every = [part for setting in ("workload.requests=20", *settings) for part in ("--set", setting)]
    command = ("-m", "bufferlab", "sim", "quickstart", "--no-plots", "--json", *every)
    return run(*command, cwd=folder, PYTHONPATH=str(ROOT), **environment)


@pytest.mark.usefixtures("built")
def test_a_users_policy_keeps_its_options_beside_compiled_cores(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(POLICY, "utf-8")
    mine = "protocol.sizing.policy=mine.py:Mine"
    for refused, sentence in (
        ("share=many", "share is 'many', it must be a number"),
        ("share=2", "share is 2, it must be at most 1"),
        ("part=0.5", "part is not known to the policy"),
    ):
        done = simulated(tmp_path, mine, f"protocol.sizing.{refused}", BUFFERLAB_COMPILED="1")
        assert (done.returncode, sentence in done.stderr) == (2, True), done.stderr
    figures = {}
    for policy, settings in {
        "mine.py:Mine": ("protocol.sizing.tokens=1024", "protocol.sizing.share=0.25"),
        "mine.py:Halved": ("protocol.sizing.tokens=512",),
        "fixed": ("protocol.sizing.tokens=256",),
    }.items():
        done = simulated(tmp_path, f"protocol.sizing.policy={policy}", *settings, BUFFERLAB_COMPILED="1")
        assert done.returncode == 0, done.stderr
        figures[policy] = json.loads(done.stdout)["latency_s"]
    assert figures["mine.py:Mine"] == figures["mine.py:Halved"] == figures["fixed"]


@pytest.mark.usefixtures("built")
def test_a_run_says_whether_it_was_compiled_and_is_the_same(tmp_path: Path) -> None:
    digest = compiled.digest_of(compiled.sources())
    for value, expected in {
        "1": {"compiled": True, "build": digest},
        "0": {"compiled": False, "build": "", "interpreted_because": "BUFFERLAB_COMPILED is 0"},
    }.items():
        done = run(
            *("-m", "bufferlab", "sim", "faults", "--no-plots", "--set", "workload.requests=60", "--out", value),
            cwd=tmp_path, PYTHONPATH=str(ROOT), BUFFERLAB_COMPILED=value,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said = json.loads((tmp_path / value / "environment.json").read_text("utf-8"))
        assert {name: said[name] for name in expected} == expected
        assert ("interpreted_because" in said) == (value == "0")
    for name in ("events.parquet", "requests.parquet"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "0" / name).read_bytes(), name


@pytest.mark.usefixtures("built")
def test_a_sweeps_workers_run_what_the_command_runs(tmp_path: Path) -> None:
    """Whoever started the command decides, by what its processes inherit."""
    code = """
import sys
from joblib import Parallel, delayed
from bufferlab.experiments.runs.environment import describe_code
print(describe_code() == Parallel(2)(delayed(describe_code)() for _ in range(2))[0], describe_code()["compiled"])
"""
    (tmp_path / "ask.py").write_text(code, "utf-8")
    for value, expected in (("1", "True True"), ("0", "True False")):
        done = run(tmp_path / "ask.py", cwd=tmp_path, PYTHONPATH=str(ROOT), BUFFERLAB_COMPILED=value)
        assert done.stdout.strip() == expected, done.stderr


@pytest.mark.parametrize(
    ("value", "status", "said"),
    [("0", 0, "(interpreted: BUFFERLAB_COMPILED is 0)"), ("yes", 2, "BUFFERLAB_COMPILED is 'yes' in the environment, it must be 0 or 1.")],
)  # fmt: skip
def test_the_command_says_what_it_runs(value: str, status: int, said: str, tmp_path: Path) -> None:
    done = run("-m", "bufferlab", "--version", cwd=tmp_path, PYTHONPATH=str(ROOT), BUFFERLAB_COMPILED=value)
    assert (done.returncode, said in done.stdout + done.stderr) == (status, True)


def test_the_doctor_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    works = {"works": True, "reason": ""}
    found: dict[str, Any] = {
        "python": "3", "packages": {}, "mooncake_wheels": {}, "system_libraries": {}, "rdma_devices": [],
        "host": {"cpu": "", "cpus": 1, "memory_bytes": 0}, "simulator": works, "mooncake_imports": works,
        "transports": {}, "removed_variables": [], "passed_variables": {}, "real": works, "mend": [],
    }  # fmt: skip
    assert "cores: compiled" in report_text({**found, "compiled": True})
    assert "cores: interpreted: so" in report_text({**found, "compiled": False, "interpreted_because": "so"})
