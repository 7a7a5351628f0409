"""``bufferlab sweep``: many settings, in parallel and resumed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from bufferlab.experiments.commands.common.exits import CHECK_FAILED, DONE
from bufferlab.experiments.commands.common.options import (
    AddressOption,
    ConfigArgument,
    DryRunOption,
    ExecutorOption,
    JobsOption,
    JsonOption,
    PlotsOption,
    ReplicationsOption,
    ReportOption,
    SeedOption,
    SetOption,
)
from bufferlab.experiments.commands.common.output import print_json, tell_plan
from bufferlab.experiments.commands.common.registry import command
from bufferlab.experiments.commands.common.reporting import add_report, check_report
from bufferlab.experiments.commands.common.unused import refuse_jobs_of_a_cluster


@command(place=40, example="bufferlab sweep quickstart --grid protocol.sizing.tokens=512,1024,2048,4096")
def sweep(
    context: typer.Context,
    config: ConfigArgument,
    grid: Annotated[
        list[str] | None,
        typer.Option("--grid", metavar="KEY.PATH=VALUE,…", help="Values of a setting; several are crossed."),
    ] = None,
    configurations: Annotated[
        Path | None,
        typer.Option(
            "--configurations",
            metavar="FILE",
            help="TOML with [sweep.grid] or [[sweep.configurations]], or a JSON list.",
        ),
    ] = None,
    settings: SetOption = None,
    replications: ReplicationsOption = None,
    seed: SeedOption = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            "--baseline",
            metavar="KEY.PATH=VALUE",
            help="Compare each configuration with its like that has this. [default: the first of the same requests]",
        ),
    ] = None,
    jobs: JobsOption = None,
    executor: ExecutorOption = "local",
    address: AddressOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="The folder to write. [default: runs/NAME-sweep-HASH]")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Start again over a sweep in --out.")] = False,
    plots: PlotsOption = True,
    report: ReportOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """A grid or list of settings × replications, in parallel; the same command goes on after an interruption."""
    from bufferlab.experiments.starting import load_numpy

    load_numpy()
    from bufferlab.experiments.commands.planning.plans import estimate_of_sweep, long_text, plan_of_sweep
    from bufferlab.experiments.progress import bar
    from bufferlab.experiments.sweeps.grid import joined, parse_grid, parse_setting, read_configurations
    from bufferlab.experiments.sweeps.plan import make_plan
    from bufferlab.experiments.sweeps.sweep import run_sweep
    from bufferlab.experiments.sweeps.text import plan_text, sweep_text

    refuse_jobs_of_a_cluster(context, executor, address)
    listed, file_grid = ([], {}) if configurations is None else read_configurations(configurations)
    overrides = list(settings or ())
    # As settings, so that a wrong number is refused as any other is.
    overrides += [f"run.seed={seed}"] if seed is not None else []
    overrides += [f"run.replications={replications}"] if replications is not None else []
    plan = make_plan(
        config,
        grid=joined(file_grid, parse_grid(grid or ())),
        configurations=listed,
        settings=overrides,
        baseline=[parse_setting(one, "--baseline") for one in baseline or ()],
    )
    target = plan.target() if out is None else out
    if dry_run:
        tell_plan(plan_of_sweep(plan, target, jobs, force=force), as_json=as_json)
        return
    check_report(target, wanted=report)
    with bar("sweep", len(plan.tasks), "runs") as shown:

        def begin(finished: int) -> None:
            known = f"\n  {finished} of {len(plan.tasks)} runs are finished already" if finished else ""
            takes = long_text(estimate_of_sweep(plan, jobs, finished))
            shown.say(plan_text(plan) + known + takes, sys.stderr if as_json else sys.stdout)
            shown.begin_with(finished)

        def tell(found: dict[str, Any]) -> None:
            # Before the figures are drawn, so that a disk that is full by then takes no result away.
            if as_json:
                print_json(found)
            else:
                shown.say(f"\n{sweep_text(found)}", sys.stdout)

        try:
            done = run_sweep(
                plan, target, jobs=jobs, executor=executor, address=address, force=force, plots=plots, begin=begin,
                progress=shown.add, notice=shown.say, finished=tell,
            )  # fmt: skip
        except KeyboardInterrupt:
            shown.say(f"what is finished is kept in {target}; the same command goes on from there")
            raise
    if not as_json:
        print(f"sweep directory: {target}")
    add_report(target, wanted=report, as_json=as_json)
    violations = any(configuration["invariant_violations"] for configuration in done.report["configurations"])
    raise typer.Exit(CHECK_FAILED if violations else DONE)
