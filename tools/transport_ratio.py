"""How fast embeddings move within a run, beside the Transfer Engine's own benchmark, and what control adds.

    python tools/transport_ratio.py [--rounds N] [--tokens N] [--hidden N] [--block-tokens N] [--requests N] [--json]

A round measures these in an order drawn anew, so that what disturbs the machine disturbs all of them:

* run: `real.run.launcher.run_real` with one encode and one language rank; large embeddings arrive one at a time and are
  compared byte by byte. The rate is payload bytes (all kinds, not only embeddings) over the time in which a write was
  under way, from the protocol's order to write until the protocol knows that it is done.
* engine: our engine alone, one thread writing batches of as many blocks (not joined) as the embedding has.
* bench: the wheel's `transfer_engine_bench`, writing from host memory with one thread, as it comes.
* bench, same settings: the same with the environment that our engine starts with.

The benchmark's block is one block of embeddings and its batch as many blocks as the embedding has. Ratios are taken
round by round. Control is everything in a request that is no write: its time from the order to submit until delivery,
less its writes; for the large embedding, whose copies into and out of the blocks are in it, and for one of one block.

Exit status: 0, 1 when the median ratio of run to bench is below --min-ratio, 2 for bad input, 130 when interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bufferlab.experiments.installing import install_command
from bufferlab.experiments.progress import bar
from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.protocol.layout import EMBEDDINGS
from bufferlab.protocol.recording import Event, Record
from bufferlab.protocol.topology import Side
from bufferlab.real.bench.link import spread
from bufferlab.real.bench.pair import LinkBench
from bufferlab.real.bench.tasks import Case
from bufferlab.real.engine.mooncake_start import settings
from bufferlab.real.engine.variables import cleaned
from bufferlab.real.errors import EngineError
from bufferlab.real.run.launcher import run_real

RUN, ENGINE, BENCH, TUNED = "run", "engine", "bench", "bench, same settings"
BENCH_SECONDS = 1
"""The benchmark takes whole seconds."""

BENCH_TIMEOUT_S = 60.0
ENGINE_BATCHES = 10
GAP_S = 0.4
"""Time between requests, so that they do not overlap on a machine that is not busy."""

FORCE_TCP = {"MC_FORCE_TCP": "1"}
"""Beside an RDMA adapter the benchmark would run RDMA whatever it is asked for."""

SMALL_REQUESTS = 20
PHASES = ("submitted to ready", "ready to write", "between writes", "written to delivered")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and compare with the threshold."""
    parser = argparse.ArgumentParser(prog="transport_ratio", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9, help="at least 9")
    parser.add_argument("--tokens", type=int, default=8192, help="length of an embedding")
    parser.add_argument("--hidden", type=int, default=4096, help="width of an embedding row in bf16 elements")
    parser.add_argument("--block-tokens", type=int, default=128)
    parser.add_argument("--requests", type=int, default=6, help="large embeddings in every round")
    parser.add_argument("--min-ratio", type=float, help="fail below this ratio of run to bench")
    parser.add_argument("--seed", type=int, default=0, help="of the order")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout and nothing else there")
    chosen = parser.parse_args(arguments)
    least = {"rounds": 9, "tokens": 1, "hidden": 1, "block_tokens": 1, "requests": 1}
    for name, bound in least.items():
        if getattr(chosen, name) < bound:
            option = f"--{name.replace('_', '-')}"
            print(
                f"transport_ratio: {option} is {getattr(chosen, name)}, it must be at least {bound}.", file=sys.stderr
            )
            return 2
    binary = bench_binary()
    if binary is None:
        print(
            f"transport_ratio: there is no transfer_engine_bench; run: {install_command('mooncake')}.",
            file=sys.stderr,
        )
        return 2
    try:
        result = measure(chosen, binary)
    except EngineError as error:
        print(f"transport_ratio: {error}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("transport_ratio: interrupted", file=sys.stderr)
        return 130
    print(json.dumps(result, indent=2) if chosen.json else text(result))
    return 1 if chosen.min_ratio is not None and result["ratios"][BENCH]["median"] < chosen.min_ratio else 0


def bench_binary() -> Path | None:
    """The benchmark that the wheel ships."""
    package = find_spec("mooncake")
    for folder in (package.submodule_search_locations or []) if package is not None else []:
        if os.access(binary := Path(folder) / "transfer_engine_bench", os.X_OK):
            return binary
    return None


def measure(chosen: argparse.Namespace, binary: Path) -> dict[str, Any]:
    """All rounds and what they come to."""
    blocks = -(-chosen.tokens // chosen.block_tokens)
    scenario = Scenario(
        block_tokens=chosen.block_tokens,
        hidden=chosen.hidden,
        sizing_options={"tokens": chosen.tokens},
        encode_blocks=2 * blocks,
        language_blocks=2 * blocks,
    )
    case = Case(scenario.layout.kinds[EMBEDDINGS].bytes_per_block, blocks, 1)
    rates: dict[str, list[float]] = {RUN: [], ENGINE: [], BENCH: [], TUNED: []}
    control: dict[str, list[dict[str, float]]] = {"large": [], "small": []}
    order = random.Random(chosen.seed)
    with ExitStack() as stack:
        bench_targets = {
            BENCH: stack.enter_context(bench_target(binary, case, FORCE_TCP)),
            TUNED: stack.enter_context(bench_target(binary, case, engine_environment())),
        }
        link = stack.enter_context(
            LinkBench(
                transport="tcp",
                device="",
                seed=chosen.seed,
                memory_bytes=case.total_bytes,
                numbers=chosen.rounds + 1,
            )
        )
        link.write(case, 1)
        shown = stack.enter_context(bar("compare", chosen.rounds, "rounds"))
        for _ in range(chosen.rounds):
            names = list(rates)
            order.shuffle(names)
            for name in names:
                if name == RUN:
                    rates[RUN].append(run_rate(scenario, chosen, control))
                elif name == ENGINE:
                    timed, difference = link.write(case, ENGINE_BATCHES)
                    if difference:
                        raise EngineError(f"wrong bytes: {difference}")
                    rates[ENGINE].append(case.total_bytes * len(timed.batch_s) / timed.wall_s)
                else:
                    environment = FORCE_TCP if name == BENCH else engine_environment()
                    rates[name].append(bench_rate(binary, case, bench_targets[name], environment))
            shown.step()
    return {
        "configuration": {**vars(chosen), "block_bytes": case.block_bytes, "batch": case.batch, "threads": 1},
        "GBps": {name: told([rate / 1e9 for rate in values]) for name, values in rates.items()},
        "ratios": {
            name: told([ours / other for ours, other in zip(rates[RUN], rates[name], strict=True)])
            for name in (ENGINE, BENCH, TUNED)
        },
        "control_s": {
            size: {name: told([one[name] for one in ones]) for name in ("write", "control", *PHASES)}
            for size, ones in control.items()
        },
    }


def told(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles and their distance over the median."""
    one = spread(values)
    return {"median": one.median, "p25": one.low, "p75": one.high, "relative_iqr": one.relative_iqr}


# --- our run ---


def run_rate(scenario: Scenario, chosen: argparse.Namespace, control: dict[str, list[dict[str, float]]]) -> float:
    """Payload bytes a second while a write is under way; adds every request's account to ``control``."""
    large = range(1, chosen.requests + 1)
    small = range(chosen.requests + 1, chosen.requests + 1 + SMALL_REQUESTS)
    requests = [Request(room, GAP_S * room, chosen.tokens) for room in large]
    last_s = requests[-1].arrival_s + GAP_S
    requests += [Request(room, last_s + 0.05 * (room - small.start), chosen.block_tokens) for room in small]
    outcome = run_real(scenario, requests)
    if outcome.wrong or outcome.verified_rooms != len(requests):
        raise EngineError("; ".join(outcome.wrong) or f"{outcome.verified_rooms} of {len(requests)} rooms arrived")
    by_room: dict[int, list[Record]] = {}
    for record in outcome.records:
        by_room.setdefault(record.room, []).append(record)
    control["large"] += [account(by_room[room]) for room in large]
    control["small"] += [account(by_room[room]) for room in small]
    records = [record for room in large for record in by_room[room]]
    payload_bytes = sum(record.bytes for record in records if record.event is Event.WRITE_DONE)
    return payload_bytes / busy_s(sorted(writes(records)))


def writes(records: Sequence[Record]) -> Iterator[tuple[float, float]]:
    """Start and end of every write, in seconds. A room has one destination here, so they follow each other."""
    started: dict[int, float] = {}
    for record in sorted(records, key=lambda record: record.time_s):
        if record.event is Event.WRITE_STARTED:
            started[record.room] = record.time_s
        elif record.event is Event.WRITE_DONE:
            yield started.pop(record.room), record.time_s


def busy_s(spans: Sequence[tuple[float, float]]) -> float:
    """Length of the union of spans sorted by their start."""
    total, until = 0.0, float("-inf")
    for start, end in spans:
        total += max(end - max(start, until), 0.0)
        until = max(until, end)
    return total


def account(records: Sequence[Record]) -> dict[str, float]:
    """Where a request's time goes, in seconds; the phases, which ``PHASES`` names, add up to ``control``."""
    spans = list(writes(records))
    first = {
        (record.event, record.rank_id.side): record.time_s
        for record in sorted(records, key=lambda record: -record.time_s)
    }
    submitted_s = min(time_s for (event, _), time_s in first.items() if event is Event.SUBMITTED)
    ready_s = first[Event.ENCODED, Side.ENCODE]
    delivered_s = first[Event.DELIVERED, Side.LANGUAGE]
    write_s = sum(end - start for start, end in spans)
    parts = (
        ready_s - submitted_s,
        spans[0][0] - ready_s,
        spans[-1][1] - spans[0][0] - write_s,
        delivered_s - spans[-1][1],
    )
    return {"write": write_s, "control": delivered_s - submitted_s - write_s, **dict(zip(PHASES, parts, strict=True))}


# --- the wheel's benchmark ---


def engine_environment() -> dict[str, str]:
    """The benchmark's environment with the setting our engine starts with that matters to speed."""
    speed = {"MC_TCP_SLICE_SIZE"}
    return FORCE_TCP | {one.name: one.value for one in settings("tcp") if one.name in speed and one.value is not None}


def bench_arguments(binary: Path, case: Case) -> list[str]:
    return [
        str(binary),
        "-metadata_server=P2PHANDSHAKE",
        "-local_server_name=127.0.0.1",
        "-protocol=tcp",
        f"-buffer_size={case.total_bytes}",
    ]


@contextmanager
def bench_target(binary: Path, case: Case, environment: dict[str, str]) -> Iterator[str]:
    """The benchmark's receiving process; gives its address."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [*bench_arguments(binary, case), "-mode=target"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=cleaned(os.environ) | environment,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + BENCH_TIMEOUT_S
            while True:
                log.seek(0)
                said = log.read().decode(errors="replace")
                # The memory line is the last before it waits to be written to.
                if (found := re.search(r"P2P handshake, listening on (\S+)", said)) and "DRAM is used" in said:
                    break
                if process.poll() is not None or time.monotonic() > deadline:
                    raise EngineError(f"transfer_engine_bench does not start: {said.strip()[-300:]}")
                time.sleep(0.05)
            yield found[1]
        finally:
            process.kill()
            process.wait()


def bench_rate(binary: Path, case: Case, target: str, environment: dict[str, str]) -> float:
    """Bytes a second as the benchmark reports them."""
    arguments = [
        *bench_arguments(binary, case),
        "-mode=initiator",
        "-operation=write",
        f"-segment_id={target}",
        f"-block_size={case.block_bytes}",
        f"-batch_size={case.batch}",
        "-threads=1",
        f"-duration={BENCH_SECONDS}",
        "-report_unit=KB",
        "-report_precision=3",
    ]
    try:
        done = subprocess.run(
            arguments,
            env=cleaned(os.environ) | environment,
            capture_output=True,
            text=True,
            timeout=BENCH_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise EngineError(f"transfer_engine_bench took longer than {BENCH_TIMEOUT_S:g} s") from None
    found = re.search(r"Test completed: duration .*, throughput ([\d.]+) KB/s", done.stderr)
    if done.returncode or found is None:
        raise EngineError(f"transfer_engine_bench failed with status {done.returncode}: {done.stderr.strip()[-300:]}")
    return float(found[1]) * 1e3


# --- what is printed ---


def text(result: dict[str, Any]) -> str:
    """The result for a terminal."""
    configuration = result["configuration"]
    lines = [
        f"embeddings of {configuration['tokens']} tokens × {configuration['hidden']} in blocks of "
        f"{configuration['block_bytes']} bytes, batch {configuration['batch']}, 1 thread, "
        f"{configuration['rounds']} interleaved rounds; medians, quartiles in brackets",
    ]
    for name, one in result["GBps"].items():
        lines.append(f"{name:<22} {one['median']:6.3f} GB/s [{one['p25']:.3f}, {one['p75']:.3f}]")
    for name, one in result["ratios"].items():
        lines.append(f"{f'run / {name}':<28} {one['median']:6.3f}   [{one['p25']:.3f}, {one['p75']:.3f}]")
    for size, parts in result["control_s"].items():
        lines.append(f"a {size} request:")
        for name, one in parts.items():
            lines.append(f"  {name:<22} {1e3 * one['median']:8.3f} ms [{1e3 * one['p25']:.3f}, {1e3 * one['p75']:.3f}]")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
