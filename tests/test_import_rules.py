"""DESIGN.md's folder table as a test: which folder may import what, and what only lazily.

The rules read the source with `ast`, so they also see imports inside functions, and they hold
on a machine without torch and Mooncake. Two subprocesses then show that it is so in fact.
"""

import ast
import dataclasses
import graphlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OWN = ROOT / "bufferlab"
PACKAGES = ("protocol", "sim", "real", "experiments", "api")


def base_dependencies() -> frozenset[str]:
    """The packages that every install has; each is imported under its distribution's name, with _ for -."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    names = (re.match(r"[\w.-]+", line) for line in config["project"]["dependencies"])
    return frozenset(name.group().replace("-", "_") for name in names if name)


@dataclass(frozen=True)
class Rule:
    """What one folder may import besides itself and the standard library."""

    anywhere: frozenset[str]
    inside_functions: frozenset[str] | None = frozenset()
    """More names that a function may import when it runs; None means any."""
    forbidden: frozenset[str] = frozenset()
    """What is closed to this folder whatever else is said: parts of the standard library and of ours."""


# The protocol is sans-IO: no clock, no randomness, no waiting, no wire, no import by name.
IMPURE = frozenset(
    {"asyncio", "concurrent", "ctypes", "http", "importlib", "mmap", "multiprocessing", "queue",
     "random", "sched", "secrets", "select", "selectors", "signal", "socket", "socketserver",
     "ssl", "subprocess", "threading", "time", "urllib"}
)  # fmt: skip
RULES = {
    "protocol": Rule(frozenset({"numpy", "msgspec", "mypy_extensions"}), forbidden=IMPURE),
    "sim": Rule(frozenset({"protocol", "simpy", "numpy", "scipy", "msgspec", "mypy_extensions"})),
    "real": Rule(frozenset({"protocol", "torch", "mooncake", "zmq", "aiohttp", "numpy", "msgspec", "psutil"})),
    # Whatever belongs to an extra (the real backend, optuna, dask, ...) waits inside a function.
    "experiments": Rule(base_dependencies() | {"protocol", "sim"}, None, frozenset({"api"})),
    "api": Rule(base_dependencies() | {"protocol", "sim", "experiments"}, inside_functions=frozenset({"ipywidgets"})),
}
EXEMPT = {"protocol/compiled.py": frozenset({"importlib"}), "protocol/sizing/places.py": frozenset({"importlib"})}
"""What single modules may import beyond that: the first finds the others for Python, the second finds code of users;
neither is part of the protocol."""


@dataclass(frozen=True)
class Import:
    name: str
    line: int
    lazy: bool
    """Inside a function, or read by type checkers only: not run when the module is imported."""


def _is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def imports_of(node: ast.AST, lazy: bool = False) -> Iterator[Import]:
    """Every import below a node, also by importlib.import_module("name") or __import__; ours without ``bufferlab.``."""
    for one in _imports_of(node, lazy):
        yield dataclasses.replace(one, name=one.name.removeprefix("bufferlab."))


def _imports_of(node: ast.AST, lazy: bool) -> Iterator[Import]:
    match node:
        case ast.Import(names=names):
            yield from (Import(alias.name, node.lineno, lazy) for alias in names)
        case ast.ImportFrom(module=str(module), level=0, names=names):
            # `from numpy import random` names the module numpy.random, or an attribute of numpy.
            yield from (Import(f"{module}.{alias.name}", node.lineno, lazy) for alias in names)
        case ast.Call(args=[ast.Constant(value=str(name)), *_]) if re.search(
            r"(^|\.)(import_module|__import__)$", ast.unparse(node.func)
        ):
            yield Import(name, node.lineno, lazy)
        case ast.Attribute(value=ast.Name(id="np" | "numpy"), attr="random"):
            yield Import("numpy.random", node.lineno, lazy)
    if isinstance(node, ast.If) and _is_type_checking(node.test):
        for guarded in node.body:
            yield from _imports_of(guarded, True)
        for otherwise in node.orelse:
            yield from _imports_of(otherwise, lazy)
        return
    lazy = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in ast.iter_child_nodes(node):
        yield from _imports_of(child, lazy)


def offences(root: Path, package: str) -> list[str]:
    """One line for every import of a package that its rule does not allow."""
    rule = RULES[package]
    found = []
    for path in sorted((root / package).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        for one in imports_of(tree):
            top = one.name.partition(".")[0]
            if top == package:
                allowed = True
            elif top in sys.stdlib_module_names:
                exempt = EXEMPT.get(path.relative_to(root).as_posix(), frozenset())
                allowed = top not in rule.forbidden or top in exempt
            elif package == "protocol" and one.name.startswith("numpy.random"):
                allowed = False
            else:
                allowed = top in rule.anywhere or (
                    one.lazy and (rule.inside_functions is None or top in rule.inside_functions)
                )
                allowed = allowed and top not in rule.forbidden
            if not allowed:
                where = "inside a function" if one.lazy else "at module level"
                found.append(f"{path.relative_to(root)}:{one.line} imports {one.name} {where}")
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_the_package_keeps_its_import_rule(package: str) -> None:
    modules = list((OWN / package).rglob("*.py"))
    assert len(modules) > 1, f"{package}/ has no modules, so this test would prove nothing"
    assert offences(OWN, package) == []


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("protocol", "import simpy"),
        ("protocol", "from time import monotonic"),
        ("protocol", "import os, random"),
        ("protocol", "import numpy.random"),
        ("protocol", "from numpy import random"),
        ("protocol", "import numpy as np\n\ndraw = np.random.default_rng(1)"),
        ("protocol", "def f():\n    import threading"),
        ("protocol", "async def f():\n    from bufferlab.sim.links import Link"),
        ("protocol", "try:\n    import torch\nexcept ImportError:\n    torch = None"),
        ("protocol", "module = __import__('asyncio')"),
        ("sim", "import bufferlab.real.engine.base"),
        ("sim", "def f():\n    import bufferlab.experiments"),
        ("sim", "import importlib\nimportlib.import_module('mooncake.engine')"),
        ("sim", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"),
        ("real", "import simpy"),
        ("real", "def f():\n    from bufferlab.sim import clock"),
        ("real", "import bufferlab.experiments.config.schema"),
        ("experiments", "import bufferlab.real"),
        ("experiments", "try:\n    import torch\nexcept ImportError:\n    torch = None"),
        ("experiments", "class Backend:\n    from mooncake import engine"),
        ("experiments", "import optuna"),
        ("experiments", "def f():\n    from bufferlab.api import runs"),
        ("api", "def f():\n    import bufferlab.real.run.launcher"),
    ],
)
def test_the_rule_sees_a_forbidden_import(package: str, source: str, tmp_path: Path) -> None:
    (tmp_path / package).mkdir()
    (tmp_path / package / "module.py").write_text(source, encoding="utf-8")
    assert len(offences(tmp_path, package)) == 1


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("protocol", "import enum\nimport msgspec\nimport numpy as np\nfrom . import messages"),
        ("sim", "import time\nimport simpy\nfrom bufferlab.protocol.status import Status"),
        ("real", "import time\nimport torch\nfrom mooncake import engine\nimport zmq.asyncio"),
        ("experiments", "import pandas as pd\nfrom bufferlab.sim import run"),
        ("experiments", "def f():\n    import bufferlab.real.run.launcher\n    import optuna"),
        ("experiments", "import typing\nif typing.TYPE_CHECKING:\n    from bufferlab.real import engine"),
    ],
)
def test_the_rule_lets_an_allowed_import_pass(package: str, source: str, tmp_path: Path) -> None:
    (tmp_path / package).mkdir()
    (tmp_path / package / "module.py").write_text(source, encoding="utf-8")
    assert offences(tmp_path, package) == []


# --- the order of the wings within a package -----------------------------------------------------------------------


@dataclass(frozen=True)
class Layers:
    """The contract about the wings of one package in pyproject.toml: from the upper ones to the lower ones."""

    package: str
    rows: tuple[tuple[str, ...], ...]
    exhaustive: bool = True
    """Whether every module and folder of the package stands in it."""
    siblings: frozenset[str] = frozenset()
    """Wings of one row that may import each other, as ``:`` between them says."""

    def offences(self, root: Path) -> list[str]:
        """One line for every import, lazy ones too, that goes upwards or to a wing of the same row, siblings apart."""
        heights = {wing: -number for number, row in enumerate(self.rows) for wing in row}
        found = []
        for path in sorted((root / self.package).rglob("*.py")):
            own = path.relative_to(root / self.package).with_suffix("").parts[0]
            for one in imports_of(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
                package, _, rest = one.name.partition(".")
                wing = rest.partition(".")[0]
                if package != self.package or wing == own or not {wing, own} <= heights.keys():
                    continue
                if heights[wing] > heights[own] or (heights[wing] == heights[own] and wing not in self.siblings):
                    found.append(f"{path.relative_to(root)}:{one.line} imports {one.name}")
        return found


def layers() -> list[Layers]:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found = []
    for contract in config["tool"]["importlinter"]["contracts"]:
        if contract["type"] == "layers":
            rows = tuple(tuple(re.findall(r"\w+", row)) for row in contract["layers"])
            siblings = frozenset(name for row in contract["layers"] if ":" in row for name in re.findall(r"\w+", row))
            (package,) = contract["containers"]
            found.append(Layers(package.removeprefix("bufferlab."), rows, contract.get("exhaustive", False), siblings))
    return found


@pytest.mark.parametrize("contract", layers(), ids=lambda contract: contract.package)
def test_the_wings_of_a_package_import_downwards_only(contract: Layers) -> None:
    folder = OWN / contract.package
    wings = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    named = {wing for row in contract.rows for wing in row}
    assert named <= wings | {"harness"}  # on its way to tests/
    assert not contract.exhaustive or named >= wings - {"__init__", "__main__"}
    assert contract.offences(OWN) == []


def test_the_order_of_the_wings_sees_an_import_upwards(tmp_path: Path) -> None:
    contract = Layers("real", (("bench", "drills"), ("run",), ("errors", "faults")))
    (tmp_path / "real" / "run").mkdir(parents=True)
    (tmp_path / "real" / "run" / "rank.py").write_text(
        "def f():\n    from bufferlab.real.bench import side", encoding="utf-8"
    )
    (tmp_path / "real" / "errors.py").write_text("import bufferlab.real.faults", encoding="utf-8")
    (tmp_path / "real" / "drills.py").write_text("from bufferlab.real.run import rank", encoding="utf-8")
    assert [line.partition(":")[0] for line in contract.offences(tmp_path)] == ["real/errors.py", "real/run/rank.py"]
    siblings = dataclasses.replace(contract, siblings=frozenset({"errors", "faults"}))
    assert [line.partition(":")[0] for line in siblings.offences(tmp_path)] == ["real/run/rank.py"]


@pytest.mark.parametrize(
    ("where", "source", "upward"),
    [
        ("encode", "from bufferlab.protocol.observe.deadlock import find_deadlock", True),
        ("sizing/window", "def f():\n    import bufferlab.protocol.checker.bounds", True),
        ("rank", "from bufferlab.protocol import emulation", True),
        ("wire/codec", "import bufferlab.protocol.emulation.scenario", True),
        ("observe/runlog", "from bufferlab.protocol.checker import bounds", True),
        (
            "checker/bounds",
            "from bufferlab.protocol.observe import deadlock\nfrom bufferlab.protocol import rank",
            False,
        ),
        (
            "emulation/scenario",
            "from bufferlab.protocol.wire.limits import MOST\nfrom bufferlab.protocol.encode import EncodeRank",
            False,
        ),
        ("encode", "from bufferlab.protocol.rank import RankCore", False),
    ],
)
def test_the_core_of_the_protocol_knows_no_wing(where: str, source: str, upward: bool, tmp_path: Path) -> None:
    (contract,) = (one for one in layers() if one.package == "protocol")
    path = tmp_path / "protocol" / f"{where}.py"
    path.parent.mkdir(parents=True)
    path.write_text(source, encoding="utf-8")
    assert bool(contract.offences(tmp_path)) == upward


@pytest.mark.parametrize(
    ("where", "source", "upward"),
    [
        ("config/schema", "from bufferlab.experiments.workloads.requests import make_requests", True),
        ("config/schema", "def f():\n    from bufferlab.experiments.workloads import readers", True),
        ("runs/simulate", "def f():\n    from bufferlab.experiments.figures.runs import plot_run", True),
        (
            "runs/measure",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import bufferlab.experiments.cli",
            True,
        ),
        ("calibration/here", "from bufferlab.experiments.commands import doctor", True),
        ("calibration/here", "from bufferlab.experiments.validation.frozen import freeze", True),
        ("sweeps/sweep", "import bufferlab.experiments.validation.cases", True),
        ("stats/intervals", "import importlib\nimportlib.import_module('bufferlab.experiments.config.schema')", True),
        ("text", "from bufferlab.experiments.stats.intervals import Estimate", True),
        ("errors", "from bufferlab.experiments.units import format_size", True),
        ("commands/sim", "from bufferlab.experiments.cli import app", True),
        ("validation/campaign", "from bufferlab.experiments.calibration.here import HERE", False),
        (
            "figures/runs",
            "from bufferlab.experiments.runs.rundir import StoredRun\nimport bufferlab.experiments.stats.intervals",
            False,
        ),
        (
            "runs/measure",
            "from bufferlab.experiments.runs.hosts import gathered\nfrom bufferlab.experiments.errors import UserError",
            False,
        ),
        ("cli", "def f():\n    from bufferlab.experiments.commands import sim", False),
    ],
)
def test_the_order_of_what_users_run_goes_downwards(where: str, source: str, upward: bool, tmp_path: Path) -> None:
    (contract,) = (one for one in layers() if one.package == "experiments")
    path = tmp_path / "experiments" / f"{where}.py"
    path.parent.mkdir(parents=True)
    path.write_text(source, encoding="utf-8")
    assert bool(contract.offences(tmp_path)) == upward


def circle(root: Path, package: str) -> list[str]:
    """Modules of a package that import each other in a circle, lazily too; the first that is found, or none."""
    modules = {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (root / package).rglob("*.py")
    }
    graph = {}
    for name, path in modules.items():
        asked = [one.name for one in imports_of(ast.parse(path.read_text(encoding="utf-8"), filename=str(path)))]
        graph[name] = {one if one in modules else one.rpartition(".")[0] for one in asked} & modules.keys() - {name}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def test_no_modules_of_experiments_import_each_other_in_a_circle() -> None:
    assert circle(OWN, "experiments") == []


@pytest.mark.parametrize(
    ("back", "found"),
    [
        ("def f():\n    from bufferlab.experiments.runs.summary import each", True),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import bufferlab.experiments.runs.summary", True),
        ("from bufferlab.experiments.runs.replication import Replication", False),
    ],
)
def test_a_circle_of_modules_is_seen(back: str, found: bool, tmp_path: Path) -> None:
    folder = tmp_path / "experiments" / "runs"
    folder.mkdir(parents=True)
    (folder / "summary.py").write_text("from bufferlab.experiments.runs.capacity import judge", encoding="utf-8")
    (folder / "replication.py").write_text("", encoding="utf-8")
    (folder / "capacity.py").write_text(back, encoding="utf-8")
    assert bool(circle(tmp_path, "experiments")) == found


# Stands in for a machine that has the base install only: every import of an extra fails.
BLOCKER = """
import importlib, importlib.abc, pkgutil, sys

BLOCKED = set({blocked!r})

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"blocked by the test: {{name}}", name=name)

sys.meta_path.insert(0, Blocker())
assert not BLOCKED & set(sys.modules)
"""
EXTRAS = ("torch", "mooncake", "zmq", "aiohttp", "psutil", "optuna", "SALib", "dask",
          "distributed", "ray", "submitit", "IPython", "ipywidgets", "jupytext")  # fmt: skip
IMPORT_ALL = """
import bufferlab.experiments.cli
count = 0
for package in {packages!r}:
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
            count += 1
print(count)
"""


def run_python(source: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, check=False)


def test_everything_but_real_imports_without_the_extras() -> None:
    packages = ("bufferlab.protocol", "bufferlab.sim", "bufferlab.experiments", "bufferlab.api")
    done = run_python(BLOCKER.format(blocked=EXTRAS) + "import bufferlab.real\n" + IMPORT_ALL.format(packages=packages))
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) > 0


def test_the_blocker_blocks() -> None:
    done = run_python(BLOCKER.format(blocked=EXTRAS) + "import torch.nn")
    assert "blocked by the test: torch" in done.stderr
