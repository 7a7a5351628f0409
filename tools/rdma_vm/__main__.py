"""The command: `python -m tools.rdma_vm`. Exit status 0 passed, 1 failed, 2 bad input or impossible on this machine."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bufferlab.experiments.errors import RunFailedError, UserError
from bufferlab.experiments.files import disk_errors, free_name, require_empty_folder, write_text
from bufferlab.experiments.termination import termination_like_interrupt
from tools.rdma_vm.initramfs import ModuleMissingError
from tools.rdma_vm.machine import ROOT, MachineError, boot
from tools.rdma_vm.packages import UnavailableError, default_cache, fetch, require_host
from tools.rdma_vm.verdict import problems, table

PASSED, FAILED, IMPOSSIBLE, INTERRUPTED = 0, 1, 2, 130
DEFAULT_TESTS = "not frames_of_the_fork"  # another wire beside the same writes, in as much time again
MEMORY_MIB = (1024, 1 << 20)


def main(arguments: Sequence[str] | None = None) -> int:
    """Fetch, boot, judge, print."""
    chosen = _parser().parse_args(arguments)
    if not MEMORY_MIB[0] <= chosen.memory_mib <= MEMORY_MIB[1]:
        return _impossible(f"--memory-mib is {chosen.memory_mib}, it must be {MEMORY_MIB[0]} to {MEMORY_MIB[1]}")
    if not 10 <= chosen.limit_s <= 86_400:
        return _impossible(f"--limit-s is {chosen.limit_s:g}, it must be 10 to 86400 seconds")
    out: Path = chosen.out or free_name(ROOT / "runs" / "rdma-vm")
    try:
        require_empty_folder(out)
    except UserError as error:
        return _impossible(str(error))
    started_s = time.monotonic()
    try:
        with termination_like_interrupt():
            require_host()
            tools = fetch(chosen.cache)
            fetched_s = time.monotonic() - started_s
            print(", ".join(f"{name} {version}" for name, version in sorted(tools.versions.items())))
            print(f"tools after {fetched_s:.1f} s (cache: {chosen.cache})", flush=True)
            out.mkdir(parents=True, exist_ok=True)
            result_file = boot(
                tools,
                out.resolve(),
                tests=chosen.tests,
                memory_mib=chosen.memory_mib,
                limit_s=chosen.limit_s,
                say=lambda line: print(f"| {line}", flush=True),
            )
    except (UnavailableError, ModuleMissingError) as error:
        return _impossible(str(error))
    except MachineError as error:
        print(f"failed: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("interrupted: the virtual machine is gone", file=sys.stderr)
        return INTERRUPTED
    result = json.loads(result_file.read_text())
    wrong = problems(result)
    log = "\n".join(
        [
            table(result),
            "",
            f"boot {result['job_started_s']:.1f} s, job {result['job_ended_s'] - result['job_started_s']:.1f} s, "
            f"all {time.monotonic() - started_s:.1f} s",
            *(f"failed: {sentence}" for sentence in wrong),
            "failed" if wrong else f"passed: {len(result['cases'])} runs over rdma agree with the simulator",
        ]
    )
    print(log)
    try:
        with disk_errors(out):
            write_text(out / "report.txt", log + "\n")
    except RunFailedError as error:
        print(f"failed: {error}", file=sys.stderr)
        return FAILED
    print(f"results: {out}")
    return FAILED if wrong else PASSED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.rdma_vm",
        description="Compare simulator and real backend over Soft-RoCE in a small virtual machine.",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="a new folder [default: runs/rdma-vm]")
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        default=default_cache(),
        help="where unpacked packages are kept [default: %(default)s]",
    )
    parser.add_argument(
        "--tests",
        metavar="EXPRESSION",
        default=DEFAULT_TESTS,
        help="which tests of tests/real/test_equality.py run over rdma beside the seed scenarios, for pytest -k; "
        "'' for none [default: %(default)s]",
    )
    parser.add_argument("--memory-mib", type=int, metavar="NUMBER", default=4096, help="[default: %(default)s]")
    parser.add_argument(
        "--limit-s", type=float, metavar="SECONDS", default=1800.0, help="what the job may take [default: %(default)s]"
    )
    return parser


def _impossible(sentence: str) -> int:
    print(f"rdma_vm: {sentence}", file=sys.stderr)
    return IMPOSSIBLE


if __name__ == "__main__":
    sys.exit(main())
