"""How the cost of a run grows: exponents of its CPU time in requests, ranks, waiting rooms and more.

For every axis the same run is made at sizes that are a constant factor apart, and a straight line is put through the
logarithms of size and CPU time. Its slope is the exponent: 1 where twice the size takes twice the time, 0 where the
size costs nothing. Each of several rounds takes all points one after the other, every second one backwards, so that a
slow stretch of the machine disturbs all points alike. A round gives an exponent; the table has the mean of them, its
95 % interval (Student's t), and the least time of each point.

* the run: CPU time of the whole run over the size
* a request: the same, divided by the number of requests

A cliff shows as an exponent above the expected one. All runs are made in this process on one core, without a recorder
but for "requests, figures" and "settings", which make what a sweep makes of a run.
"""

from __future__ import annotations

import argparse
import gc
import math
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bufferlab.experiments.stats.intervals import Estimate, across_replications
from bufferlab.protocol.compiled import state

if TYPE_CHECKING:
    from bufferlab.experiments.config.schema import Config
    from bufferlab.protocol.emulation.requests import Request

EXAMPLE = "ustudy"
ROUNDS, QUICK_ROUNDS = 4, 3
QUICK_SIZES = 3
"""Sizes of an axis, from the smallest on, that --quick measures."""
BLOCK_TOKENS, POOL_TOKENS, LONG_TOKENS = 128, 2**20, 8192
OVERLOAD_RPS = 60.0
"""More than twice what the example's language side serves."""
SWEPT_REQUESTS = 50


@dataclass(frozen=True)
class Axis:
    """What is made larger, by how much, and what that should cost."""

    name: str
    sizes: tuple[int, ...]
    run: Callable[[int], int]
    """Makes a whole run of a size and returns the number of its requests."""
    of: str
    """Whose time is looked at: "the run" or "a request"."""
    expected: str
    """The exponent, in words."""


Times = Mapping[tuple[str, int], float]
"""CPU seconds of one round, by axis and size."""


def main() -> int:
    """Measure every axis and print the table."""
    parser = argparse.ArgumentParser(prog="growth", description="Measure how the cost of a run grows, as exponents.")
    parser.add_argument(
        "--quick", action="store_true", help=f"the {QUICK_SIZES} smallest sizes of every axis, {QUICK_ROUNDS} rounds"
    )
    chosen = parser.parse_args()
    sizes = {axis.name: axis.sizes[:QUICK_SIZES] if chosen.quick else axis.sizes for axis in AXES}
    for axis in AXES:
        axis.run(axis.sizes[0])  # everything is imported then
    rounds = [measure(sizes, backwards=number % 2 == 1) for number in range(QUICK_ROUNDS if chosen.quick else ROUNDS)]
    print(table(AXES, sizes, rounds))
    print(f"\nThe cores were {state()}.")
    return 0


def measure(sizes: Mapping[str, Sequence[int]], *, backwards: bool) -> Times:
    """One round: every point once. Seconds of the run or of a request, as the axis says."""
    points = [(axis, size) for axis in AXES for size in sizes[axis.name]]
    times = {}
    for axis, size in reversed(points) if backwards else points:
        gc.collect()  # what earlier runs left is not this one's
        started_s = time.process_time()
        requests = axis.run(size)
        took_s = time.process_time() - started_s
        times[axis.name, size] = took_s if axis.of == "the run" else took_s / requests
    return times


# --- exponents -----------------------------------------------------------------------------------------------------


def exponent(sizes: Sequence[float], times_s: Sequence[float]) -> float:
    """The slope of the least-squares line through the logarithms. Raises ValueError for fewer than two sizes."""
    if len(set(sizes)) < 2:
        raise ValueError(f"sizes are {list(sizes)}, an exponent takes at least two different ones")
    across = [math.log(size) for size in sizes]
    up = [math.log(one_s) for one_s in times_s]
    middle, height = math.fsum(across) / len(across), math.fsum(up) / len(up)
    rise = math.fsum((x - middle) * (y - height) for x, y in zip(across, up, strict=True))
    return rise / math.fsum((x - middle) ** 2 for x in across)


def exponent_over(rounds: Sequence[Times], name: str, sizes: Sequence[int]) -> Estimate:
    """Mean of the rounds' exponents of an axis, with its interval."""
    return across_replications([exponent(sizes, [times[name, size] for size in sizes]) for times in rounds])


HEADER = ("growth in", "sizes", "time of", "ms at each size", "exponent", "95 % interval", "expected")


def table(axes: Sequence[Axis], sizes: Mapping[str, Sequence[int]], rounds: Sequence[Times]) -> str:
    """The whole table, one line an axis."""
    lines = [HEADER, *(line(axis, sizes[axis.name], rounds) for axis in axes)]
    widths = [max(len(row[column]) for row in lines) for column in range(len(HEADER))]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in lines
    )


def line(axis: Axis, sizes: Sequence[int], rounds: Sequence[Times]) -> tuple[str, ...]:
    """The texts of one line."""
    estimate = exponent_over(rounds, axis.name, sizes)
    low, high = estimate["low"], estimate["high"]
    least_ms = [1e3 * min(times[axis.name, size] for times in rounds) for size in sizes]
    return (
        axis.name,
        " ".join(map(str, sizes)),
        axis.of,
        " ".join(f"{one_ms:.3g}" if one_ms < 100 else f"{one_ms:.0f}" for one_ms in least_ms),
        "-" if estimate["value"] is None else f"{estimate['value']:+.2f}",
        "-" if low is None or high is None else f"{low:+.2f} to {high:+.2f}",
        axis.expected,
    )


# --- the runs ------------------------------------------------------------------------------------------------------


def example(*overrides: str) -> Config:
    """The shipped example with ``key=value`` settings of its own."""
    from bufferlab.experiments.config.overrides import apply_override
    from bufferlab.experiments.config.schema import parse
    from bufferlab.experiments.config.shipped import example_text

    tree = tomllib.loads(example_text(EXAMPLE))
    for override in overrides:
        apply_override(tree, override)
    return parse(tree)


def simulated(config: Config, requests: Iterator[Request] | None = None) -> int:
    """Simulate a configuration, or other requests with it, without a recorder."""
    from bufferlab.experiments.workloads.requests import make_requests
    from bufferlab.sim.run import simulate

    outcome = simulate(
        config.scenario(), make_requests(config, 0) if requests is None else requests, config.link.load()
    )
    if outcome.unfinished:
        raise RuntimeError(f"{outcome.unfinished} requests are unfinished")
    return config.workload.requests or 0


def requests_alone(count: int) -> int:
    """Longer and longer runs."""
    return simulated(example(f"workload.requests={count}"))


def requests_with_figures(count: int) -> int:
    """The same with all figures of a sweep, which look at every request again."""
    from bufferlab.experiments.sweeps.configuration import run_configuration

    run_configuration(example(f"workload.requests={count}"), 0)
    return count


def ranks(tp: int) -> int:
    """``tp`` ranks on each side: writes and acknowledgements between all of them."""
    return simulated(example("workload.requests=500", f"encode.tp={tp}", f"language.tp={tp}"))


def instances(count: int) -> int:
    """``count`` instances of both sides, each asked for as much as a single one."""
    return simulated(
        example(
            "workload.requests=1000",
            f"workload.rate_rps={3.0 * count}",
            f"encode.instances={count}",
            f"language.instances={count}",
        )
    )


def waiting_rooms(count: int) -> int:
    """An overload whose timers let up to ``count`` rooms wait, for twice as long as a timer runs."""
    return simulated(
        example(
            f"workload.requests={2 * count}",
            f"workload.rate_rps={OVERLOAD_RPS}",
            f"protocol.timeout_s={count / OVERLOAD_RPS}",
        )
    )


def blocks(count: int) -> int:
    """Requests of one length, of ``count`` blocks each, over pools that hold the same tokens."""
    from bufferlab.experiments.config.schema import parse

    block_tokens = LONG_TOKENS // count
    tree = example().tree()
    tree["workload"] = {"lengths": [LONG_TOKENS], "requests": 500, "rate_rps": 3.0}
    tree["protocol"]["block_tokens"] = block_tokens
    for side in ("encode", "language"):
        tree[side]["pool_blocks"] = POOL_TOKENS // block_tokens
    return simulated(parse(tree))


def clients(count: int) -> int:
    """Requests of ``count`` clients in turn, each at least twice, and a policy that remembers every client."""
    from bufferlab.experiments.workloads.requests import make_requests
    from bufferlab.protocol.values import replaced

    config = example(
        f"workload.requests={max(1000, 2 * count)}",
        "protocol.sizing.policy=per_client_quantile",
        f"protocol.sizing.clients={count}",
        "protocol.sizing.warmup=1",
    )
    sent = (replaced(one, client=f"client {one.room % count}") for one in make_requests(config, 0))
    return simulated(config, sent)


def settings(count: int) -> int:
    """A sweep of ``count`` configurations that differ in a pool too large to matter, on one core."""
    from bufferlab.experiments.sweeps.plan import make_plan
    from bufferlab.experiments.sweeps.sweep import run_sweep

    pools = [POOL_TOKENS // BLOCK_TOKENS + number for number in range(count)]
    plan = make_plan(
        EXAMPLE, grid={"encode.pool_blocks": pools}, settings=[f"workload.requests={SWEPT_REQUESTS}"], replications=2
    )
    run_sweep(plan, jobs=1)
    return plan.requests


AXES = (
    Axis("requests", (1000, 2000, 4000, 8000, 16000), requests_alone, "the run", "1"),
    Axis("requests, figures", (500, 1000, 2000, 4000), requests_with_figures, "the run", "1"),
    Axis("ranks of a side", (1, 2, 4, 8), ranks, "a request", "at most 1.1"),
    Axis("instances of both sides", (1, 2, 4, 8, 16), instances, "a request", "0"),
    Axis("waiting rooms", (500, 1000, 2000, 4000), waiting_rooms, "a request", "0"),
    Axis("blocks a request", (64, 128, 256, 512), blocks, "a request", "0"),
    Axis("clients", (1, 10, 100, 1000, 10000), clients, "a request", "0"),
    Axis("settings of a sweep", (2, 4, 8, 16, 32), settings, "the run", "1"),
)


if __name__ == "__main__":
    sys.exit(main())
