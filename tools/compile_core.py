"""Compiles the protocol cores and the simulator's inner loop to extension modules (mypyc): about 1.8 times as fast.

    python tools/compile_core.py [--out build/compiled]

The sources stay what they are and what is tested. The folder gets a copy of protocol/ and sim/ with compiled modules
beside their sources; whoever wants the speed puts it first on the path:

    PYTHONPATH=build/compiled .venv/bin/bufferlab sim quickstart

The results are the same bytes (tests/sim/test_compiled.py). A run's environment.json says whether it was compiled, and
the command line refuses a copy that is older than its sources.

Exit status: 0, 1 if it cannot be compiled, 2 for bad input.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from experiments.runs.environment import COMPILED_MARK, sources_digest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("protocol", "sim")
CORE = (
    "agreement", "allocator", "chunks", "encode", "language", "layout", "messages", "rank", "recording", "status",
    "topology", "values",
)  # fmt: skip
CLUSTER = (
    "cluster", "dedicated", "group", "host", "meetings", "messages", "processes", "requests", "shared", "state",
    "threads", "timers", "iterations",
)  # fmt: skip
MODULES = (
    *(f"protocol/{name}.py" for name in CORE),
    "protocol/sizing/views.py",
    *(f"protocol/disciplines/{path.name}" for path in sorted((ROOT / "protocol/disciplines").glob("[a-z]*.py"))),
    *(f"protocol/emulation/{name}.py" for name in ("loop", "passes", "processors")),
    *(f"protocol/observe/{path.name}" for path in sorted((ROOT / "protocol/observe").glob("[a-z]*.py"))),
    *(f"sim/{name}.py" for name in ("clock", "fairshare", "run")),
    *(
        f"sim/cluster/{path.name}"
        for path in sorted((ROOT / "sim" / "cluster").glob("*.py"))
        if path.stem != "__init__"
    ),
    *(f"sim/network/{name}.py" for name in ("adapters", "worker")),
    "sim/host/processors.py",
)
"""What a request passes through, but for the messages and profiles: msgspec's classes are compiled already."""

SETUP = """
import sys
from mypyc.build import mypycify
from setuptools import setup

setup(name="core", packages=[], py_modules=[], ext_modules=mypycify([{modules}], opt_level="2"))
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and compile."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "compiled", metavar="DIR")
    options = parser.parse_args(arguments)
    out: Path = options.out
    if out.exists() and not (out / COMPILED_MARK).exists():
        print(f"compile_core: --out is {str(out)!r}, it must be a new folder or one made by this tool", file=sys.stderr)
        return 2
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        made = Path(folder) / "compiled"
        problem = build(made)
        if problem:
            print(f"compile_core: {problem}", file=sys.stderr)
            return 1
        shutil.rmtree(out, ignore_errors=True)
        made.rename(out)
    print(f"wrote {out}; use it with PYTHONPATH={out}")
    return 0


def build(folder: Path) -> str:
    """Make ``folder``; what went wrong, if anything did."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    # mypy reads its settings from here, and takes what is not here from the environment.
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "setup.py").write_text(SETUP.format(modules=", ".join(map(repr, MODULES))), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=folder,
        env=None,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        told = (done.stderr.strip() or done.stdout.strip()).splitlines()
        return "the compiler failed: " + (told[-1] if told else f"exit status {done.returncode}")
    for name in ("setup.py", "pyproject.toml"):
        (folder / name).unlink()
    shutil.rmtree(folder / "build", ignore_errors=True)
    (folder / COMPILED_MARK).write_text(sources_digest(ROOT) + "\n", encoding="utf-8")
    return ""


if __name__ == "__main__":
    sys.exit(main())
