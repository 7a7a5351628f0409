"""``bufferlab bench-link``: what the transport does on this host."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bufferlab.experiments.commands.common.exits import CHECK_FAILED, DONE
from bufferlab.experiments.commands.common.options import JsonOption
from bufferlab.experiments.commands.common.output import tell
from bufferlab.experiments.commands.common.registry import command
from bufferlab.experiments.options import transport_names


@command(
    place=70,
    example="bufferlab bench-link --block 64KiB,1MiB --batch 1,64 --min-GBps 1",
    names={"--transport": transport_names},
)
def bench_link(
    block: Annotated[str, typer.Option("--block", metavar="SIZES", help="Bytes of one segment.")] = "4KiB,64KiB,1MiB",
    batch: Annotated[str, typer.Option("--batch", metavar="N,…", help="Segments written together.")] = "1,16,64",
    threads: Annotated[str, typer.Option("--threads", metavar="N,…", help="Threads that write.")] = "1",
    rounds: Annotated[int, typer.Option("--rounds", metavar="NUMBER", help="Measurements of each, at least 9.")] = 9,
    transport: Annotated[str, typer.Option("--transport", help="What must carry the data.")] = "tcp",
    device: Annotated[str, typer.Option("--device", metavar="NAME", help="The RDMA device. [default: any]")] = "",
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="A new folder for the CSV and JSON. [default: runs/bench-link]"),
    ] = None,
    min_gbps: Annotated[
        float | None,
        typer.Option("--min-GBps", metavar="NUMBER", help="Fail if the fastest case moves fewer GB (10^9) a second."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="NUMBER", help="Of the content and the order.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Measures the transport, block × batch × threads, with a plain socket beside it and every byte compared."""
    from bufferlab.experiments.calibration import bench_link as link
    from bufferlab.experiments.progress import bar

    sweep = link.make_sweep(
        block=block, batch=batch, threads=threads, rounds=rounds, transport=transport, device=device, seed=seed,
        min_gbps=min_gbps,
    )  # fmt: skip
    with link.claim_folder(out) as claim, bar("bench-link", sweep.steps, "measurements") as shown:
        stream = sys.stderr if as_json else sys.stdout
        result = link.run_sweep(sweep, show=lambda text: shown.say(f"{text}\n", stream), progress=shown.step)
        link.write_files(result, claim.target)
    tell(result, f"{link.result_text(result)}\nwritten to: {claim.target}", as_json=as_json)
    raise typer.Exit(DONE if result["passed"] else CHECK_FAILED)
