"""Checks the tests by breaking protocol/: `python tools/mutants.py [--jobs N] [--only ID...] [--sample N --seed S]`.

Each mutation of tools/mutants.toml is applied to a copy of the tree, alone, and the killers run on that copy, the
cheapest first, until one fails. A mutation that no killer notices survives: either nobody can see the difference,
which its `equivalent` then explains, or a test is missing. `--sample` takes random mutations of the syntax tree
instead, for a number that nobody chose by hand; nothing explains those, so they are counted and not judged.

Exit status: 0, 1 if fewer than 95 % of the mutations without an explanation are killed, 2 for bad input.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import math
import os
import queue
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
LIST = Path(__file__).with_suffix(".toml")
DISCIPLINES = sorted(
    set((ROOT / "bufferlab" / "protocol" / "disciplines").glob("*.py"))
    - {ROOT / "bufferlab/protocol/disciplines/__init__.py"}
)
# The files that decide; the others only describe, translate or write down.
DECIDING = (
    "agreement.py",
    "allocator.py",
    "chunks.py",
    "observe/deadlock.py",
    *(f"disciplines/{path.name}" for path in DISCIPLINES),
    "encode.py",
    "encode_phases.py",
    "language.py",
    "language_phases.py",
    "rank.py",
    "status.py",
    "topology.py",
)
COPIED = ("bufferlab", "tests", "docs", "README.md", "pyproject.toml")
PASSING_SCORE = 0.95
# A broken loop may run, or collect memory, for ever. What a killer may take is processor time, which other work on the
# machine hardly changes: so many times what it takes on the original tree, and this at least.
LIMIT_S = 30.0
LIMIT_TIMES = 4
LIMIT_KIB = 4 * 1024 * 1024
# Whatever waits uses none, and is given so many times as long.
WAIT_TIMES = 20

# Plugins that no killer needs cost more time than many of the tests; finding the smallest example does too.
PROFILE = """
from hypothesis import Phase, settings

settings.register_profile(
    "mutants", derandomize=True, database=None, deadline=None, phases=(Phase.explicit, Phase.generate)
)
settings.load_profile("mutants")
"""
PROFILE_MODULE = "mutants_profile"
PYTEST = (
    *(
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        PROFILE_MODULE,
        "-o",
        "addopts=--import-mode=importlib",
    ),
    *("-p", "pytest_timeout", "--timeout=0", "-m", "not slow"),  # time is limited from outside
)


class Killer(NamedTuple):
    """A Python command line that must end with 0 on the original tree."""

    name: str
    arguments: tuple[str, ...]


RUNS_CORES = ("run", "instances", "faults", "observe", "chaos")
"""Of tests/sim what runs the cores; the rest is about links, workloads and queueing theory."""

KILLERS = (
    Killer("protocol", (*PYTEST, "tests/protocol")),
    Killer("check", ("-m", "bufferlab", "check", "--bound", "quick")),
    Killer("sim", (*PYTEST, *(f"tests/sim/test_{name}.py" for name in RUNS_CORES))),
)


class MutantsError(Exception):
    """A sentence for the user."""


class Mutation(NamedTuple):
    """One way to break one file of protocol/."""

    id: str
    file: str
    old: str
    new: str
    what: str
    equivalent: str = ""

    def apply(self, source: str) -> str:
        """The broken text. Raises MutantsError unless ``old`` occurs exactly once and ``new`` differs."""
        if (found := source.count(self.old)) != 1:
            raise MutantsError(
                f"mutation {self.id}: its old text occurs {found} times in protocol/{self.file}, not once"
            )
        if self.new == self.old:
            raise MutantsError(f"mutation {self.id} changes nothing")
        return source.replace(self.old, self.new)


class Result(NamedTuple):
    """What became of a mutation. ``killed_by``: a killer's name, with "timeout" behind it; empty for a survivor."""

    mutation: Mutation
    killed_by: str
    seconds: float


def source_of(file: str, root: Path = ROOT) -> str:
    try:
        return (root / "bufferlab" / "protocol" / file).read_text(encoding="utf-8")
    except OSError as error:
        raise MutantsError(f"bufferlab/protocol/{file} cannot be read: {error}") from error


def load(path: Path = LIST) -> list[Mutation]:
    """The curated mutations. Raises MutantsError if the list is malformed."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))["mutation"]
        mutations = [Mutation(**table) for table in tables]
    except (OSError, KeyError, TypeError, tomllib.TOMLDecodeError) as error:
        raise MutantsError(f"{path.name} is not a list of mutations: {error}") from error
    twice = [name for name, count in Counter(mutation.id for mutation in mutations).items() if count > 1]
    if twice:
        raise MutantsError(f"mutation {twice[0]} is there twice")
    return mutations


def check_all(mutations: Iterable[Mutation]) -> None:
    """Raise MutantsError for the first mutation that no longer fits its file, so that the list cannot rot."""
    for mutation in mutations:
        mutation.apply(source_of(mutation.file))


# --- random mutations ---

FLIPS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}


def variants(node: ast.AST) -> Iterator[ast.AST]:
    """What a node may be replaced by."""
    match node:
        case ast.Compare(left, [operator], comparators) if type(operator) in FLIPS:
            yield ast.Compare(left, [FLIPS[type(operator)]()], comparators)
        case ast.BoolOp(operator, values):
            yield ast.BoolOp(ast.Or() if isinstance(operator, ast.And) else ast.And(), values)
        case ast.UnaryOp(ast.Not(), operand):
            yield operand
        case ast.Constant(int(value)) if not isinstance(value, bool):
            yield ast.Constant(value + 1)
            yield ast.Constant(value - 1)
        case ast.Expr(ast.Call()) | ast.If(body=[*_, ast.Return() | ast.Continue()], orelse=[]):
            yield ast.Pass()


class Mutator(ast.NodeTransformer):
    """Replaces one node, that of number ``wanted``, and counts all that it could replace."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.count = 0
        self.what = ""

    def visit(self, node: ast.AST) -> ast.AST:
        """The node, or its replacement."""
        chosen = None
        for variant in variants(node):
            if self.count == self.wanted:
                chosen = variant
                line, new = getattr(node, "lineno", 0), ast.unparse(variant).partition("\n")[0]
                self.what = f"line {line}: `{ast.unparse(node).partition(chr(10))[0]}` becomes `{new}`"
            self.count += 1
        visited: ast.AST = self.generic_visit(node)
        return visited if chosen is None else chosen


def sample(count: int, seed: int) -> list[Mutation]:
    """Random mutations, the same for the same seed and code."""
    sites: list[tuple[str, int]] = []
    for file in DECIDING:
        counter = Mutator(-1)
        counter.visit(ast.parse(source_of(file)))
        sites += [(file, number) for number in range(counter.count)]
    mutations = []
    for file, number in random.Random(seed).sample(sites, min(count, len(sites))):
        source, mutator = source_of(file), Mutator(number)
        violations = ast.unparse(ast.fix_missing_locations(mutator.visit(ast.parse(source))))
        mutations.append(Mutation(f"{file.removesuffix('.py')}-{number}", file, source, violations, mutator.what))
    return mutations


# --- running ---


class Runner:
    """Runs killers in copies of the tree. ``limit_s``: the least that each may take, in seconds of processor time."""

    def __init__(self, killers: Sequence[Killer], limit_s: float = LIMIT_S) -> None:
        self.killers = killers
        self.limit_s = limit_s
        self._limits_s: dict[str, float] = {}
        self._live: set[subprocess.Popen[str]] = set()

    def copy_tree(self, target: Path) -> Path:
        """Copy what the killers need into ``target``."""
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, target / name)
        (target / f"{PROFILE_MODULE}.py").write_text(PROFILE, encoding="utf-8")
        return target

    def run(self, tree: Path, arguments: Iterable[str], limit_s: float | None = None) -> tuple[int | None, str]:
        """Run Python on a tree: its exit status, None if it was stopped for the time it took, and its output.

        ``limit_s``: how much processor time each of its processes may take; None for any.
        """
        environment = os.environ | {
            "PYTHONPATH": str(tree),  # before the editable installation
            "BUFFERLAB_COMPILED": "0",  # what is broken is the sources
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "OPENBLAS_NUM_THREADS": "1",  # its buffers would count against the limit of memory
        }
        for name in ("PYTEST_ADDOPTS", "PYTHONSAFEPATH"):
            environment.pop(name, None)
        limits = f"ulimit -v {LIMIT_KIB}"
        if limit_s is not None:
            limits += f"; ulimit -S -t {math.ceil(limit_s)}"
        limited = ("sh", "-c", f'{{ {limits}; }} 2>/dev/null; exec "$0" "$@"', sys.executable, *arguments)
        process = subprocess.Popen(
            limited, cwd=tree, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
        self._live.add(process)
        try:
            output, _ = process.communicate(timeout=None if limit_s is None else WAIT_TIMES * limit_s)
        except subprocess.TimeoutExpired:
            self._stop(process)
            return None, process.communicate()[0]
        finally:
            self._live.discard(process)
        return (None if process.returncode == -signal.SIGXCPU else process.returncode), output

    @staticmethod
    def _stop(process: subprocess.Popen[str]) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def stop(self) -> None:
        """End every killer that runs."""
        for process in list(self._live):
            self._stop(process)

    def check_original(self, tree: Path) -> None:
        """Find out what every killer takes on the original tree.

        Raises MutantsError unless the copy is what Python imports and all of them pass on it.
        """
        _, output = self.run(tree, ("-c", "from bufferlab import protocol; print(protocol.__file__)"))
        if Path(output.strip()).resolve() != (tree / "bufferlab" / "protocol" / "__init__.py").resolve():
            raise MutantsError(f"the killers would import {output.strip()} and not the copy in {tree}")
        for killer in self.killers:
            before_s = _children_s()
            code, output = self.run(tree, killer.arguments)
            if code != 0:
                raise MutantsError(
                    f"the original tree does not pass {killer.name}, so nothing can be learned:\n{output}"
                )
            self._limits_s[killer.name] = max(self.limit_s, LIMIT_TIMES * (_children_s() - before_s))

    def try_mutation(self, tree: Path, mutation: Mutation) -> Result:
        """Break the tree, let the killers look for it until one finds it, and mend the tree."""
        started = time.monotonic()
        path = tree / "bufferlab" / "protocol" / mutation.file
        original = path.read_text(encoding="utf-8")
        killed_by = ""
        self._write(path, mutation.apply(original))
        try:
            for killer in self.killers:
                code, _ = self.run(tree, killer.arguments, self._limits_s[killer.name])
                if code != 0:
                    killed_by = killer.name + (" timeout" if code is None else "")
                    break
        finally:
            self._write(path, original)
        return Result(mutation, killed_by, time.monotonic() - started)

    @staticmethod
    def _write(path: Path, text: str) -> None:
        path.write_text(text, encoding="utf-8")
        # Two versions may have the same size and second, which is all that compiled files are checked by.
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
            compiled.unlink()

    def try_all(self, mutations: Sequence[Mutation], jobs: int) -> list[Result]:
        """Try every mutation, ``jobs`` at a time, and report the progress on stderr."""
        results: dict[str, Result] = {}
        with tempfile.TemporaryDirectory(prefix="mutants-") as folder, ThreadPoolExecutor(jobs) as pool:
            try:
                trees: queue.SimpleQueue[Path] = queue.SimpleQueue()
                for number in range(min(jobs, len(mutations))):
                    trees.put(self.copy_tree(Path(folder, str(number)).resolve()))
                first = trees.get()
                self.check_original(first)
                trees.put(first)

                def work(mutation: Mutation) -> Result:
                    tree = trees.get()
                    try:
                        return self.try_mutation(tree, mutation)
                    finally:
                        trees.put(tree)

                for done in as_completed([pool.submit(work, mutation) for mutation in mutations]):
                    result = done.result()
                    results[result.mutation.id] = result
                    outcome = f"killed by {result.killed_by}" if result.killed_by else "SURVIVED"
                    count = f"[{len(results)}/{len(mutations)}]"
                    print(f"{count} {result.mutation.id}: {outcome}, {result.seconds:.1f} s", file=sys.stderr)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self.stop()
                raise
        return [results[mutation.id] for mutation in mutations]


def _children_s() -> float:
    """Processor time of all processes that this one has waited for, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


# --- reporting ---


class Score(NamedTuple):
    """How many mutations were killed: of all, and of those that no explanation excuses."""

    killed: int
    all: int
    counted: int

    @property
    def of_all(self) -> float:
        """The share of all mutations."""
        return self.killed / self.all

    @property
    def of_counted(self) -> float:
        """The share without survivors that are explained; 1 if nothing is left to count."""
        return self.killed / self.counted if self.counted else 1.0


def score(results: Sequence[Result]) -> Score:
    killed = sum(bool(result.killed_by) for result in results)
    explained = sum(not result.killed_by and bool(result.mutation.equivalent) for result in results)
    return Score(killed, len(results), len(results) - explained)


def as_json(results: Sequence[Result]) -> str:
    total = score(results)
    rows: list[dict[str, Any]] = [
        {
            **{name: getattr(result.mutation, name) for name in ("id", "file", "what", "equivalent")},
            "killed_by": result.killed_by or None,
            "seconds": round(result.seconds, 1),
        }
        for result in results
    ]
    shares = {"score_of_all": total.of_all, "score": total.of_counted}
    return json.dumps({"mutations": rows, **total._asdict(), **shares}, indent=2)


def as_text(results: Sequence[Result], survivors_only: bool) -> str:
    shown = [result for result in results if not (survivors_only and result.killed_by)]
    rows = [("id", "file", "what", "killed by", "seconds")]
    for mutation, killed_by, seconds in shown:
        rows.append((mutation.id, mutation.file, mutation.what, killed_by or "nothing", f"{seconds:.1f}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.append("")
    for mutation, killed_by, _ in results:
        if not killed_by:
            lines.append(f"survived: {mutation.id}, {mutation.equivalent or 'which nothing explains'}")
        elif mutation.equivalent:
            lines.append(f"no longer true: {mutation.id} is explained as equivalent, but {killed_by} kills it")
    total = score(results)
    lines.append(f"{total.killed} of {total.all} killed ({total.of_all:.1%})")
    if total.counted < total.all:
        excused = total.all - total.counted
        lines.append(f"{total.killed} of {total.counted} without the {excused} explained ({total.of_counted:.1%})")
    return "\n".join(lines)


def chosen_from(everything: Sequence[Any], names: Sequence[str], what: str, key: str) -> list[Any]:
    known = {getattr(one, key): one for one in everything}
    for name in names:
        if name not in known:
            raise MutantsError(f"there is no {what} {name}; known: {', '.join(known)}")
    return [known[name] for name in names] if names else list(everything)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Break protocol/ in small ways and see which tests notice.")
    parser.add_argument("--only", nargs="+", metavar="ID", default=[], help="only these mutations")
    parser.add_argument("--killers", nargs="+", metavar="NAME", default=[], help="only these killers")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many at a time (default: all cores)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--survivors-only", action="store_true", help="leave the killed ones out of the table")
    parser.add_argument("--sample", type=int, metavar="N", help="N random mutations instead of the curated ones")
    parser.add_argument("--seed", type=int, default=0, help="which random ones (default: 0)")
    options = parser.parse_args(arguments)
    for name in ("jobs", "sample"):
        if (number := getattr(options, name)) is not None and number < 1:
            raise MutantsError(f"--{name} is {number}, it must be at least 1")
    mutations = sample(options.sample, options.seed) if options.sample else load()
    check_all(mutations)
    mutations = chosen_from(mutations, options.only, "mutation", "id")
    runner = Runner(chosen_from(KILLERS, options.killers, "killer", "name"))
    results = runner.try_all(mutations, options.jobs)
    print(as_json(results) if options.json else as_text(results, options.survivors_only))
    return 0 if options.sample or score(results).of_counted >= PASSING_SCORE else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the copies are removed then too
    try:
        sys.exit(main(sys.argv[1:]))
    except MutantsError as error:
        print(f"mutants: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
