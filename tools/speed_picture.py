"""Where the time of a request goes, part by part, interpreted and compiled: a table, and a picture of it.

    python tools/speed_picture.py [--out docs/speed.png] [--requests 20000] [--json FILE]

Interpreted runs are watched by cProfile, which slows calls down more than what is between them; compiled ones by
samples of Linux's ``perf``, in which what a compiled function asks of the interpreter's library counts as the
function's. The shares are those of the processor time of a run that nobody watches. Without perf, or where nothing is
compiled, that half is left out, and said.

* off: the cores alone, 2,000 tokens over a default of 1,024, one rank a side
* configuration: one replication of the quickstart with all its figures, as a sweep runs it
* sim: the quickstart with its default output but for the plots

Exit status: 0, 2 for bad input.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OWN = ROOT / "bufferlab"
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from bench import timeout_s  # type: ignore[import-not-found]  # noqa: E402 - beside this file

PARTS = {
    "driver of the simulator": ("sim.cluster", "sim.run", "sim.faults", "protocol.emulation"),
    "language core": ("protocol.language",),
    "encode core": ("protocol.encode",),
    "what both cores share": ("protocol.rank", "protocol.agreement", "protocol.phases"),
    "event queue": ("sim.clock",),
    "block pool": ("protocol.allocator",),
    "messages, chunks, status, policy": (
        *("protocol.messages", "protocol.values", "protocol.chunks", "protocol.status", "protocol.layout"),
        *("protocol.topology", "protocol.disciplines", "protocol.sizing"),
    ),
    "link and workers": ("sim.network", "sim.fairshare", "sim.host"),
    "requests and their draw": (
        *("protocol.emulation.requests", "protocol.emulation.scenario", "sim.workload", "sim.streams"),
        "experiments.workloads",
    ),
    "figures": ("protocol.observe", "protocol.recording", "experiments.runs.replication"),
    "invariant monitor": ("protocol.observe.monitor",),
    "events and rows, parquet": (
        *("protocol.observe.eventrows", "experiments.runs.recorder", "experiments.runs.rundir"),
        *("experiments.runs.tables", "pyarrow"),
    ),
    "summary and all else": ("",),
}
"""By part, the beginnings of the names of its modules, ours without ``bufferlab.``."""

RUNS = ("off", "configuration", "sim")


def part_of(module: str) -> str:
    """The part that a module belongs to."""
    found = [
        (len(start), part)
        for part, starts in PARTS.items()
        for start in starts
        if module == start or module.startswith(f"{start}.") or not start
    ]
    return max(found)[1]


# --- what is watched ---


def prepared(run: str, requests: int) -> Callable[[], object]:
    """What one run does, with everything imported and read."""
    from bufferlab.experiments.config.schema import parse
    from bufferlab.experiments.runs.simulate import run_sim
    from bufferlab.experiments.sweeps.configuration import run_configuration
    from bufferlab.experiments.workloads.loading import load
    from bufferlab.experiments.workloads.requests import make_requests
    from bufferlab.sim.network.link import load_profile
    from bufferlab.sim.run import simulate

    if run == "off":
        config = parse(
            {
                "workload": {"lengths": [2000], "requests": requests, "rate_rps": 500.0},
                "protocol": {"sizing": {"tokens": 1024}},
                "encode": {"pool_blocks": 1024},
                "language": {"pool_blocks": 1024},
                "link": {"profile": "cx7-400g"},
            }
        )
        return lambda: simulate(config.scenario(), make_requests(config, 0), load_profile("cx7-400g"))
    config = load("quickstart", [f"workload.requests={requests}", "run.replications=1"])
    if run == "configuration":
        return lambda: run_configuration(config, 1)

    def whole() -> None:
        with tempfile.TemporaryDirectory() as folder:
            run_sim(config, Path(folder) / "run")

    return whole


def child(run: str, requests: int, watch: str) -> dict[str, Any]:
    """In a process of its own: the processor time of a run, and who spent it if cProfile watches."""
    prepared(run, 200)()  # imports everything
    action = prepared(run, requests)
    if watch == "cProfile":
        profile = cProfile.Profile()
        profile.runcall(action)
        spent: Counter[str] = Counter()
        watched: dict[Any, Any] = pstats.Stats(profile).stats  # type: ignore[attr-defined]
        for (file, _, _), (_, _, own_s, _, callers) in watched.items():
            if file != "~":
                spent[part_of(_module(file))] += own_s
            for (caller, _, _), (_, _, for_it_s, _) in callers.items() if file == "~" else ():
                spent[part_of(_module(caller))] += for_it_s  # what the interpreter itself does is the caller's
        return {"parts": spent}
    if watch.startswith("perf:"):
        switch = Path(watch.removeprefix("perf:"))
        switch.write_text("enable\n", encoding="utf-8")
        for _ in range(3):
            action()
        switch.write_text("disable\n", encoding="utf-8")
        return {}
    times_s, bare_s = [], [timeout_s()]
    for _ in range(3):
        started_s = time.process_time()
        action()
        times_s.append(time.process_time() - started_s)
        bare_s.append(timeout_s())
    return {"cpu_s": min(times_s), "bare_s": min(bare_s)}


def _module(file: str) -> str:
    path = Path(file)
    if path.is_relative_to(OWN):
        return ".".join(path.relative_to(OWN).with_suffix("").parts)
    return "pyarrow" if "pyarrow" in path.parts else path.stem


# --- watching ---


def in_a_process(run: str, requests: int, watch: str, compiled: bool, *before: str) -> dict[str, Any]:
    """One child's answer."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "BUFFERLAB_COMPILED": "1" if compiled else "0"}
    command = [*before, sys.executable, __file__, "--child", run, str(requests), watch]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def sampled(run: str, requests: int) -> Counter[str]:
    """Samples by part of a compiled run: each belongs to the compiled or Python-level function that it was taken in."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "perf.data"
        switch = Path(folder) / "switch"
        os.mkfifo(switch)
        how = ("-q", "-D", "-1", "--control", f"fifo:{switch}", "--call-graph", "dwarf,16384", "-F", "997")
        in_a_process(run, requests, f"perf:{switch}", True, "perf", "record", "-o", str(data), *how, "--")
        told = subprocess.run(
            ["perf", "script", "-i", str(data), "-F", "ip,sym,dso"], capture_output=True, text=True, check=True
        ).stdout
    spent: Counter[str] = Counter()
    for stack in told.split("\n\n"):
        frames = [line.split(maxsplit=1)[1] for line in stack.splitlines() if len(line.split(maxsplit=1)) == 2]
        if frames:
            spent[next(_parts_in(frames), part_of(""))] += 1
    return spent


def _parts_in(frames: list[str]) -> Iterator[str]:
    for frame in frames:
        if found := re.search(r"CPy(?:Def|Py)_(\w+)", frame):
            module = _compiled_module(found.group(1))
            if module:
                yield part_of(module)
        elif "arrow" in frame:
            yield part_of("pyarrow")


def _compiled_module(symbol: str) -> str:
    """The module of a function that mypyc has named: by as much of the module's name as tells it from others."""
    from bufferlab.protocol.compiled import MODULES

    listed = []
    for name in MODULES:
        folder = ROOT / name.removesuffix(".*").replace(".", "/")
        stems = [path.stem for path in folder.glob("*.py") if path.stem != "__init__"] if name.endswith(".*") else [""]
        listed += [f"{name.removesuffix('.*')}.{stem}".rstrip(".") for stem in stems]
    parts = symbol.split("___")
    for count in (3, 2, 1):
        ending = ".".join(parts[:count])
        fitting = [name for name in listed if name == ending or name.endswith(f".{ending}")]
        if len(fitting) == 1:
            return fitting[0]
    return ""


Parts = dict[str, dict[str, dict[str, float]]]
"""By code and run, µs a request of each part."""
Timeouts = dict[tuple[str, str], float]
"""By code and run, a request's time in timeouts of a bare SimPy process, measured in turns with it."""


def measure(requests: int, notice: Callable[[str], None]) -> tuple[Parts, Timeouts]:
    """Watch and time every run."""
    from bufferlab.protocol.compiled import state

    found: Parts = defaultdict(dict)
    timeouts: Timeouts = {}
    for code in ("interpreted", "compiled"):
        compiled = code == "compiled"
        if compiled and (state().folder is None or shutil.which("perf") is None):
            notice(f"the compiled half is left out: {state() if state().folder is None else 'there is no perf'}")
            continue
        for run in RUNS:
            timed = in_a_process(run, requests, "time", compiled)
            cpu_s = timed["cpu_s"]
            spent = (
                sampled(run, requests) if compiled else Counter(in_a_process(run, requests, "cProfile", False)["parts"])
            )
            whole = sum(spent.values())
            found[code][run] = {part: spent[part] / whole * cpu_s / requests * 1e6 for part in PARTS}
            timeouts[code, run] = cpu_s / requests / timed["bare_s"]
            notice(f"{code} {run}: {cpu_s / requests * 1e6:.1f} µs, a bare timeout {timed['bare_s'] * 1e6:.2f} µs")
    return found, timeouts


# --- showing ---


def table(found: Parts, timeouts: Timeouts) -> str:
    """The same as a table of Markdown."""
    columns = [(code, run) for code in found for run in found[code]]
    lines = ["| µs a request | " + " | ".join(f"{run}, {code}" for code, run in columns) + " |"]
    lines.append("|---|" + "--:|" * len(columns))
    for part in PARTS:
        lines.append(f"| {part} | " + " | ".join(f"{found[code][run][part]:.1f}" for code, run in columns) + " |")
    totals = (f"**{sum(found[code][run].values()):.1f}**" for code, run in columns)
    lines.append("| **total** | " + " | ".join(totals) + " |")
    lines.append("| in bare SimPy timeouts | " + " | ".join(f"{timeouts[column]:.0f}" for column in columns) + " |")
    return "\n".join(lines)


def draw(found: Parts, out: Path) -> None:
    """The same as bars that add up."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(10, 4.6), layout="constrained")
    names = [f"{run}, {code}" for code in found for run in found[code]]
    lefts = [0.0] * len(names)
    colours = plt.get_cmap("tab20").colors  # type: ignore[attr-defined]
    for number, part in enumerate(PARTS):
        widths = [found[code][run][part] for code in found for run in found[code]]
        axes.barh(names, widths, left=lefts, label=part, color=colours[number])
        lefts = [left + width for left, width in zip(lefts, widths, strict=True)]
    for name, left in zip(names, lefts, strict=True):
        axes.annotate(f" {left:.0f}", (left, name), va="center")
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel("processor time of one request, µs")
    axes.set_title("Where the time of a request goes")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize="small", frameon=False)
    figure.savefig(out, dpi=150)


def main() -> int:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(prog="speed_picture", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "speed.png", metavar="PNG")
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON as well")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child is not None:
        run, requests, watch = chosen.child
        print(json.dumps(child(run, int(requests), watch)))
        return 0
    if chosen.requests < 1:
        print(f"speed_picture: --requests is {chosen.requests}, it must be at least 1", file=sys.stderr)
        return 2
    found, timeouts = measure(chosen.requests, lambda line: print(line, file=sys.stderr))
    print(table(found, timeouts))
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    draw(found, chosen.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
