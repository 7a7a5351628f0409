"""``bufferlab bench-link``: reads the sweep, has it measured, and makes the table and the files of it.

The CSV has the columns that calibration reads (``table, msg_bytes, batch, threads, total_bytes, time_us, bw_GBps``) and
more beside them; the JSON has the same rows with the whole configuration, the versions and the proof of the transport.
"""

from __future__ import annotations

import csv
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bufferlab.experiments.errors import UserError
from bufferlab.experiments.files import Claim, claim_free, free_name, new_folder, require_empty_folder, write_json
from bufferlab.experiments.options import transports_with_devices, unused_device
from bufferlab.experiments.runs.backend import real_errors
from bufferlab.experiments.runs.busy import Busy, Glances, read_busy
from bufferlab.experiments.runs.diagnosis import examine_real
from bufferlab.experiments.runs.environment import MOONCAKE_WHEELS, describe, memory_bytes, package_version
from bufferlab.experiments.text import table
from bufferlab.experiments.units import format_duration, format_size, parse_size

if TYPE_CHECKING:
    from bufferlab.real.bench.link import LinkReport, Row
    from bufferlab.real.engine.proof import TransportProof

SCHEMA = "bufferlab-link/1"
CSV_FILE, JSON_FILE = "link.csv", "link.json"
FEWEST_ROUNDS, MOST_ROUNDS = 9, 1000
MOST_BLOCK_BYTES, MOST_BATCH, MOST_THREADS, MOST_CASES = 1 << 30, 65_536, 64, 500
MEMORY_SHARE = 0.5
"""Both sides' memory may take this share of the host's."""

GIGA, MICRO = 1e9, 1e-6


@dataclass(frozen=True, kw_only=True)
class LinkSweep:
    """What is asked for, checked. The cases are all combinations of block, batch and threads."""

    block_bytes: tuple[int, ...]
    batches: tuple[int, ...]
    threads: tuple[int, ...]
    rounds: int
    transport: str
    device: str
    seed: int
    min_GBps: float | None  # noqa: N815 - the unit's name

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """(block bytes, batch, threads) of every case, in the order of the table."""
        return [
            (block, batch, threads) for threads, block, batch in product(self.threads, self.block_bytes, self.batches)
        ]

    @property
    def steps(self) -> int:
        """Measurements in all: the cases and the plain socket's sizes, in every round and in the warm-up."""
        return (self.rounds + 1) * (len(self.shapes) + len({math.prod(shape) for shape in self.shapes}))


def make_sweep(
    *,
    block: str,
    batch: str,
    threads: str,
    rounds: int,
    transport: str,
    device: str,
    seed: int,
    min_gbps: float | None,
) -> LinkSweep:
    """Check the options of the command line. Raises UserError with one sentence."""
    from bufferlab.real.engine.registry import transports

    blocks = _listed("--block", block, parse_size, "sizes such as 4KiB,1MiB", MOST_BLOCK_BYTES, format_size)
    batches = _listed("--batch", batch, int, "whole numbers such as 1,16,128", MOST_BATCH, str)
    counts = _listed("--threads", threads, int, "whole numbers such as 1,2", MOST_THREADS, str)
    if not FEWEST_ROUNDS <= rounds <= MOST_ROUNDS:
        raise UserError(f"--rounds is {rounds}, it must be from {FEWEST_ROUNDS} to {MOST_ROUNDS}")
    if transport not in (known := transports()):
        raise UserError(f"--transport is {transport!r}, it must be one of {', '.join(known)}")
    if wrong := unused_device("--device", device, transport):
        raise UserError(f"{wrong}; give --transport {transports_with_devices()}, or leave --device out")
    if seed < 0:
        raise UserError(f"--seed is {seed}, it must be at least 0")
    if min_gbps is not None and not (math.isfinite(min_gbps) and min_gbps > 0):
        raise UserError(f"--min-GBps is {min_gbps}, it must be a finite number more than 0")
    sweep = LinkSweep(
        block_bytes=blocks, batches=batches, threads=counts, rounds=rounds, transport=transport, device=device,
        seed=seed, min_GBps=min_gbps,
    )  # fmt: skip
    if len(sweep.shapes) > MOST_CASES:
        raise UserError(
            f"--block, --batch and --threads make {len(sweep.shapes)} cases, at most {MOST_CASES} are allowed"
        )
    largest = max(map(math.prod, sweep.shapes))
    allowed = int(memory_bytes() * MEMORY_SHARE) or 2**63
    if 2 * largest > allowed:
        raise UserError(
            f"the largest case of --block, --batch and --threads takes {format_size(largest)} on each of two sides, "
            f"they may take {format_size(allowed)} of this host's memory together"
        )
    return sweep


def _listed(
    option: str, text: str, parse: Callable[[str], int], wanted: str, most: int, show: Callable[[int], str]
) -> tuple[int, ...]:
    """The distinct values of ``a,b,c``, smallest first."""
    try:
        values = {parse(part.strip()) for part in text.split(",")}
    except ValueError:
        raise UserError(f"{option} is {text!r}, it must be {wanted}") from None
    if min(values) < 1 or max(values) > most:
        raise UserError(f"{option} is {text!r}, each must be from {show(1)} to {show(most)}")
    return tuple(sorted(values))


def choose_folder(out: Path | None) -> Path:
    """Where the files go: ``out``, which must be new or empty, or the first free ``runs/bench-link``."""
    if out is None:
        return free_name(Path("runs/bench-link"))
    require_empty_folder(out)
    return out


def claim_folder(out: Path | None) -> Claim:
    """The same place, claimed before anything is measured."""
    return claim_free(Path("runs/bench-link")) if out is None else Claim(choose_folder(out))


def run_sweep(
    sweep: LinkSweep, *, show: Callable[[str], object], progress: Callable[[], object] = lambda: None
) -> dict[str, Any]:
    """Measure the sweep; the result is the content of the JSON file.

    ``show`` is given the heading, with the proved transport, before anything is measured. Raises UserError when the
    backend or the transport is not to be had here, RunFailedError when a write fails.
    """
    if missing := examine_real(sweep.transport):
        raise UserError(missing)
    with real_errors(lambda line: print(line, file=sys.stderr)):
        from bufferlab.real.bench.link import measure_link
        from bufferlab.real.bench.tasks import Case

        head: dict[str, Any] = {}
        glances = Glances()

        def begin(proof: TransportProof) -> None:
            head.update(_heading(sweep, proof))
            show(heading_text(head))
            glances.look()

        report = measure_link(
            [Case(*shape) for shape in sweep.shapes],
            rounds=sweep.rounds,
            transport=sweep.transport,
            device=sweep.device,
            seed=sweep.seed,
            begin=begin,
            progress=progress,
        )
        glances.look()
    return _result(sweep, head, report, glances.found)


def _heading(sweep: LinkSweep, proof: TransportProof) -> dict[str, Any]:
    """Everything that is known before the first measurement."""
    from bufferlab.real.engine.registry import engine_class
    from bufferlab.real.engine.variables import passed

    environment = {name: value for name, value in passed(os.environ).items() if name.startswith("MC_")}
    for setting in engine_class(sweep.transport).settings(sweep.transport):
        if setting.value is not None and (setting.forced or setting.name not in environment):
            environment[setting.name] = setting.value
    return {
        "schema": SCHEMA,
        "configuration": {
            "block_bytes": list(sweep.block_bytes),
            "batch": list(sweep.batches),
            "threads": list(sweep.threads),
            "rounds": sweep.rounds,
            "transport": sweep.transport,
            "device": sweep.device,
            "seed": sweep.seed,
            "min_GBps": sweep.min_GBps,
            "engine_settings": environment,
        },
        "environment": describe(msgspec.to_builtins(proof)),
    }


def _result(sweep: LinkSweep, head: dict[str, Any], report: LinkReport, busy: Busy | None) -> dict[str, Any]:
    from bufferlab.real.engine.registry import engine_class

    engine = f"{engine_class(sweep.transport).called} of bufferlab"
    if engine_class(sweep.transport).needs_mooncake:
        engine = next((name for name in MOONCAKE_WHEELS if package_version(name)), "Mooncake")
    origin = f"bufferlab bench-link, {engine} {package_version(engine) or ''}".rstrip()
    rows = [_row(sweep, head["environment"]["host"]["cpu"], origin, row) for row in report.rows]
    fastest = max(row["bw_GBps"] for row in rows)
    failures = list(report.mismatches)
    if sweep.min_GBps is not None and fastest < sweep.min_GBps:
        failures.append(f"the fastest case moves {fastest:.3g} GB/s, --min-GBps asks for {sweep.min_GBps:g}")
    environment = {**head["environment"], "transport_proof": msgspec.to_builtins(report.proof)}
    return {
        **head,
        "environment": environment,
        "first_contact_us": report.first_contact_s / MICRO,
        "busy": None if busy is None else busy.content(),
        "written_bytes": report.written_bytes,
        "verified_bytes": report.verified_bytes,
        "mismatches": report.mismatches,
        "fastest_GBps": fastest,
        "failures": failures,
        "passed": not failures,
        "rows": rows,
    }


def _row(sweep: LinkSweep, system: str, origin: str, row: Row) -> dict[str, Any]:
    """One line of the CSV. All times are per batch of one thread unless the name says operation."""
    case = row.case
    of_threads = "" if case.threads == 1 else f"_threads{case.threads}"
    named = ("p50", "p90", "p99", "max")
    return {
        # A law in segments and bytes is one writing thread's, so every number of threads has a table of its own.
        "table": f"bench_link_{sweep.transport}{of_threads}",
        "system": system,
        "link": sweep.transport,
        "op": "write",
        "msg_bytes": case.block_bytes,
        "batch": case.batch,
        "threads": case.threads,
        "total_bytes": case.total_bytes,
        "time_us": row.batch_s[0] / MICRO,
        "bw_GBps": row.bytes_per_s.median / GIGA,
        "quantity": "time of whole batch (median)",
        "origin": "measured",
        "source": origin,
        "bw_p25_GBps": row.bytes_per_s.low / GIGA,
        "bw_p75_GBps": row.bytes_per_s.high / GIGA,
        "bw_relative_iqr": row.bytes_per_s.relative_iqr,
        **{f"batch_{name}_us": value / MICRO for name, value in zip(named, row.batch_s, strict=True)},
        **{f"operation_{name}_us": value / MICRO for name, value in zip(named, row.operation_s, strict=True)},
        "post_us": row.post_s / MICRO,
        "transfer_us": row.transfer_s / MICRO,
        "source_cpu": row.source_cpu,
        "target_cpu": row.target_cpu,
        "socket_GBps": row.socket_bytes_per_s.median / GIGA,
        "socket_relative_iqr": row.socket_bytes_per_s.relative_iqr,
        "rounds": sweep.rounds,
        "batches": row.batches,
    }


def heading_text(head: dict[str, Any]) -> str:
    """The whole configuration, the versions and the transport that really runs."""
    from bufferlab.real.engine.registry import engine_class

    configuration, environment = head["configuration"], head["environment"]
    proof, host = environment["transport_proof"], environment["host"]
    versions = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    engine = " ".join(f"{name}={value}" for name, value in sorted(configuration["engine_settings"].items()))
    rows = [
        ("link", f"{engine_class(configuration['transport']).called} writes between two processes of this host"),
        ("transport", f"{proof['actual']} runs ({proof['requested']} was asked for)"),
        *(("", sentence) for sentence in proof["evidence"]),
        ("device", configuration["device"] or "any"),
        ("engine", engine),
        ("host", f"{host['cpu'] or host['machine']}, {host['cpus']} processors, {host['platform']}"),
        ("versions", f"Python {environment['python']}, {versions}"),
        ("block", ", ".join(map(format_size, configuration["block_bytes"]))),
        ("batch", ", ".join(map(str, configuration["batch"]))),
        ("threads", ", ".join(map(str, configuration["threads"]))),
        ("rounds", f"{configuration['rounds']}, interleaved, after a warm-up that does not count"),
        ("seed", str(configuration["seed"])),
    ]
    return "\n".join(f"{name.ljust(10)} {text}" for name, text in rows)


def result_text(result: dict[str, Any]) -> str:
    """The table, what the columns mean, and the verdict."""
    rows: list[Sequence[str]] = [
        (
            "block", "batch", "threads", "GB/s", "IQR", "socket GB/s", "batch p50", "p90", "p99", "max",
            "operation p50", "post", "transfer", "source CPU", "target CPU",
        )
    ]  # fmt: skip
    for row in result["rows"]:
        times = [f"batch_{name}_us" for name in ("p50", "p90", "p99", "max")]
        rows.append(
            (
                format_size(row["msg_bytes"]),
                str(row["batch"]),
                str(row["threads"]),
                f"{row['bw_GBps']:.3f}",
                f"{100 * row['bw_relative_iqr']:.0f} %",
                f"{row['socket_GBps']:.3f}",
                *(
                    format_duration(row[name] * MICRO)
                    for name in (*times, "operation_p50_us", "post_us", "transfer_us")
                ),
                f"{row['source_cpu']:.2f}",
                f"{row['target_cpu']:.2f}",
            )
        )
    lines = [
        table(rows),
        "",
        "GB/s: 10^9 bytes a second, all threads, median of the rounds; IQR: between its quartiles, over the median",
        "socket: one plain TCP socket with an acknowledgement, the bytes of all threads' batches, in the same rounds",
        "batch: all blocks of one batch of one thread, over all batches; operation: that divided by the blocks",
        "post: until the last block is handed to the engine; transfer: the rest; CPU: processors kept busy",
        f"first contact: {format_duration(result['first_contact_us'] * MICRO)}",
        f"transport: {result['environment']['transport_proof']['evidence'][-1]}",
        f"compared: {result['verified_bytes']} bytes right, {len(result['mismatches'])} measurements with wrong bytes",
        *_busy_lines(read_busy(result.get("busy"))),
        *(f"FAILED: {failure}" for failure in result["failures"]),
    ]
    return "\n".join(lines)


def _busy_lines(busy: Busy | None) -> list[str]:
    if busy is None:
        return []
    if not busy.too_busy:
        return [f"others: {busy}"]
    return [f"THIS HOST IS BUSY: {busy}; what the link does by itself is measured when it is idle"]


def write_files(result: dict[str, Any], folder: Path) -> None:
    """Write the CSV and the JSON into ``folder``, which is claimed and appears when both are there."""
    with new_folder(folder) as partial:
        with (partial / CSV_FILE).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(result["rows"][0]))
            writer.writeheader()
            writer.writerows(result["rows"])
        write_json(partial / JSON_FILE, result)
