"""Runs many small requests over Mooncake and watches what every process holds: memory, open files, threads.

    python tools/soak.py [--requests N] [--concurrency N] [--seed N] [--json]

One encode rank and two language ranks on this host, in a closed loop. Lengths are 1 to 6 blocks of 16 tokens with a
default of 2 blocks, so about two thirds of the requests are resumed, and all of them are compared byte by byte. Every
0.5 s each process is looked at. What it holds should be the same after the first tenth of the requests, when all
buffers have been needed once, and at the end: the table says how much its own memory (private pages) grew between, by
the straight line through the samples, and how its open files and threads changed.

The router's own growth is its record of the run: when each request was concluded, and by whom. What ranks record lies
in a temporary file until the end.

Exit status: 0; 1 when a request failed, an embedding differed, a block was lost, a rank grew by more than --max-growth
bytes a request or by a file or a thread; 2 for bad input; 130 when interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bufferlab.experiments.progress import bar
from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.real.errors import EngineError
from bufferlab.real.hosts.processes import FORK_SERVER, RANK
from bufferlab.real.run.launcher import run_real
from bufferlab.real.run.outcome import RealOutcome

BLOCK_TOKENS, MOST_BLOCKS, DEFAULT_BLOCKS = 16, 6, 2
EVERY_S = 0.5
SETTLED = 0.1
"""Part of the requests after which everything has been used once."""

ROUTER = "router"


class Sample(NamedTuple):
    """What a process held when ``requests`` were done. ``memory_bytes``: pages that are its own."""

    requests: int
    memory_bytes: int
    files: int
    threads: int


class Watcher:
    """Looks at this process and its children every now and then, in a thread of its own."""

    def __init__(self) -> None:
        self.done = 0
        self.samples: dict[int, list[Sample]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        own = psutil.Process()
        while not self._stop.wait(EVERY_S):
            for process in (own, *own.children(recursive=True)):
                try:
                    if process != own and not is_rank(process):  # what the ranks are forked from
                        continue
                    with process.oneshot():
                        sample = Sample(
                            self.done, process.memory_full_info().uss, process.num_fds(), process.num_threads()
                        )
                except psutil.NoSuchProcess:
                    continue  # it has ended since it was listed
                self.samples.setdefault(process.pid, []).append(sample)


def is_rank(process: psutil.Process) -> bool:
    """Whether it is a rank, and not the server that forks them."""
    command = process.cmdline()
    return RANK in command and FORK_SERVER not in command


def growth(samples: Sequence[Sample], requests: int) -> dict[str, Any]:
    """How a process changed from the first tenth of the run on; memory by the straight line of least squares."""
    settled = [one for one in samples if SETTLED * requests <= one.requests < requests]
    if len(settled) < 3:
        raise ValueError(f"the run was too short: {len(settled)} samples")
    slope, start = np.polyfit([one.requests for one in settled], [one.memory_bytes for one in settled], 1)
    return {
        "memory_bytes": round(start + slope * settled[0].requests),
        "growth_bytes_per_request": float(slope),
        "files": [settled[0].files, settled[-1].files],
        "threads": [settled[0].threads, settled[-1].threads],
        "samples": len(settled),
    }


def draw(requests: int, seed: int) -> list[Request]:
    """Requests of 1 to 6 blocks; their times do not count."""
    lengths = random.Random(seed)
    most = BLOCK_TOKENS * MOST_BLOCKS
    return [Request(room, 0.0, lengths.randint(1, most), text_tokens=0, images=1) for room in range(requests)]


def soak(requests: int, concurrency: int, seed: int) -> tuple[RealOutcome, dict[str, dict[str, Any]], float]:
    """Run; return the outcome, how each process changed, and how long it took in seconds."""
    scenario = Scenario(
        block_tokens=BLOCK_TOKENS,
        hidden=256,
        sizing_options={"tokens": BLOCK_TOKENS * DEFAULT_BLOCKS},
        encode_blocks=256,
        language_tp=2,
        language_blocks=256,
    )
    watcher = Watcher()
    began_s = time.monotonic()
    with bar("soak", requests, "requests") as shown:

        def progress(more: int) -> None:
            shown.add(more)
            watcher.done += more

        try:
            outcome = run_real(scenario, draw(requests, seed), concurrency=concurrency, progress=progress)
        finally:
            watcher.close()
    wall_s = time.monotonic() - began_s
    names = {os.getpid(): ROUTER}
    # Ranks are started in order, encode before language, and so are their numbers.
    ranks = [*scenario.encode_ids(), *scenario.language_ids()]
    children = [pid for pid in watcher.samples if pid != os.getpid()]
    names.update(zip(sorted(children), map(str, ranks), strict=True))
    return outcome, {name: growth(watcher.samples[pid], requests) for pid, name in names.items()}, wall_s


def problems(
    outcome: RealOutcome, processes: dict[str, dict[str, Any]], requests: int, ranks: int, max_growth_bytes: float
) -> list[str]:
    """What is not as it should be, one sentence each."""
    found = [f"embedding differs: {one}" for one in outcome.mismatches]
    found += [*outcome.faults, *outcome.violations]
    if len(outcome.succeeded_rooms) != requests:
        found.append(f"{requests - len(outcome.succeeded_rooms)} of {requests} requests did not succeed")
    if outcome.verified_rooms != ranks * requests:
        found.append(f"{outcome.verified_rooms} embeddings were compared, not {ranks * requests}")
    if outcome.rooms_left or outcome.blocks_lost:
        found.append(f"{outcome.rooms_left} rooms were left and {outcome.blocks_lost} blocks lost")
    for name, process in processes.items():
        if name != ROUTER and process["growth_bytes_per_request"] > max_growth_bytes:
            found.append(f"{name} grew by {process['growth_bytes_per_request']:.1f} bytes a request")
        for what in ("files", "threads"):
            first, last = process[what]
            if last > first:
                found.append(f"{name} had {first} {what} and has {last}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, judge."""
    parser = argparse.ArgumentParser(prog="soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--concurrency", type=int, default=32, help="requests under way at a time")
    parser.add_argument("--seed", type=int, default=0, help="of the lengths")
    parser.add_argument("--max-growth", type=float, default=20.0, help="bytes a request that a rank may grow by")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout and nothing else there")
    chosen = parser.parse_args(arguments)
    for name, least in (("requests", 1000), ("concurrency", 1)):
        if getattr(chosen, name) < least:
            print(f"soak: --{name} is {getattr(chosen, name)}, it must be at least {least}.", file=sys.stderr)
            return 2
    try:
        outcome, processes, wall_s = soak(chosen.requests, chosen.concurrency, chosen.seed)
    except (EngineError, ValueError) as error:
        print(f"soak: {error}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("soak: interrupted", file=sys.stderr)
        return 130
    found = problems(outcome, processes, chosen.requests, 2, chosen.max_growth)
    result = {
        "requests": chosen.requests,
        "succeeded": len(outcome.succeeded_rooms),
        "embeddings_compared": outcome.verified_rooms,
        "bytes_compared": outcome.verified_bytes,
        "mismatches": len(outcome.mismatches),
        "wall_s": wall_s,
        "requests_per_s": chosen.requests / wall_s,
        "processes": processes,
        "problems": found,
    }
    print(json.dumps(result, indent=2) if chosen.json else text(result))
    return 1 if found else 0


def text(result: dict[str, Any]) -> str:
    """The same for people."""
    lines = [
        f"{result['succeeded']:,} of {result['requests']:,} requests succeeded in {result['wall_s']:.0f} s "
        f"({result['requests_per_s']:.0f}/s); {result['embeddings_compared']:,} embeddings with "
        f"{result['bytes_compared']:,} bytes compared, {result['mismatches']} differ",
        "",
        f"{'process':<12}{'memory':>12}{'growth a request':>18}{'files':>12}{'threads':>12}{'samples':>9}",
    ]
    for name, one in result["processes"].items():
        files, threads = ("{} → {}".format(*one[what]) for what in ("files", "threads"))
        lines.append(
            f"{name:<12}{one['memory_bytes'] / 2**20:>8.1f} MiB{one['growth_bytes_per_request']:>16.1f} B"
            f"{files:>12}{threads:>12}{one['samples']:>9}"
        )
    return "\n".join([*lines, *(f"PROBLEM: {one}" for one in result["problems"])])


if __name__ == "__main__":
    sys.exit(main())
