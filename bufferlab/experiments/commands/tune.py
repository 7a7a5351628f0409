"""``bufferlab tune``: from traffic to what to set, with a stated certainty."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bufferlab.experiments.commands.common.exits import CHECK_FAILED, DONE
from bufferlab.experiments.commands.common.options import (
    AddressOption,
    DryRunOption,
    ExecutorOption,
    JobsOption,
    JsonOption,
    PlotsOption,
    ReportOption,
    SeedOption,
    SetOption,
)
from bufferlab.experiments.commands.common.output import print_json, say, tell_plan
from bufferlab.experiments.commands.common.registry import command
from bufferlab.experiments.commands.common.reporting import add_report, check_report
from bufferlab.experiments.commands.common.unused import given, refuse_jobs_of_a_cluster
from bufferlab.experiments.tuning.question import DEFAULT_CERTAINTY, DEFAULT_INDIFFERENCE, DEFAULT_OBJECTIVE


@command(
    place=45,
    example="bufferlab tune traffic.csv --gpu h100 --language-instances 2 --memory 4GiB",
)
def tune(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="TRAFFIC|CONFIG",
            help="A file of requests as workload.file reads it; or a TOML file, a run directory, a shipped example.",
        ),
    ],
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="What is served. [default for a file: qwen2.5-vl-7b]")
    ] = None,
    gpu: Annotated[
        str | None, typer.Option("--gpu", metavar="NAME", help="What computes. [default for a file: h100]")
    ] = None,
    link: Annotated[
        str | None,
        typer.Option("--link", metavar="NAME|FILE", help="A link profile. [default for a file: cx7-400g]"),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory",
            metavar="SIZE",
            help="Most memory for the pool of a language rank. [default for a file: 4GiB, else what it has]",
        ),
    ] = None,
    encode_instances: Annotated[
        int | None,
        typer.Option(
            "--encode-instances",
            metavar="NUMBER",
            help="Replicas that encode, as --set encode.instances=NUMBER. [default for a file: 1]",
        ),
    ] = None,
    language_instances: Annotated[
        int | None,
        typer.Option(
            "--language-instances",
            metavar="NUMBER",
            help="Replicas that prefill, as --set language.instances=NUMBER. [default for a file: 1]",
        ),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            "--objective",
            metavar="FIGURE",
            help="What is to be low: latency, ttft or transfer, and mean to p99. [default: the figure of the first "
            f"--slo, else {DEFAULT_OBJECTIVE}]",
        ),
    ] = None,
    slo: Annotated[
        list[str] | None,
        typer.Option("--slo", metavar="FIGURE=TIME", help="A limit that a setting must keep to, such as ttft_p99=2s."),
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            "--baseline",
            metavar="FIELD=VALUE,…",
            help="Also compare with today's setting changed in this. [default: 8192 tokens]",
        ),
    ] = None,
    space: Annotated[
        list[str] | None,
        typer.Option("--space", metavar="FIELD=VALUE,…", help="The values of a field to choose from, or LOW..HIGH."),
    ] = None,
    search: Annotated[
        str | None,
        typer.Option(
            "--search",
            metavar="grid|optuna",
            help="Race all, or the best that Optuna finds. [default: optuna for ranges and large spaces]",
        ),
    ] = None,
    trials: Annotated[
        int | None, typer.Option("--trials", metavar="NUMBER", help="Settings that Optuna proposes. [default: 200]")
    ] = None,
    certainty: Annotated[
        str, typer.Option("--certainty", metavar="SHARE", help="How sure the set that is kept must be.")
    ] = DEFAULT_CERTAINTY,
    indifference: Annotated[
        str,
        typer.Option("--indifference", metavar="SHARE|TIME", help="Differences that do not matter, such as 2% or 5ms."),
    ] = DEFAULT_INDIFFERENCE,
    what_if: Annotated[
        list[str] | None,
        typer.Option(
            "--what-if", metavar="WORD=VALUE,…", help="The recommendation again with this, such as rate=2x,pool=0.5x."
        ),
    ] = None,
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="How far off profiles and traffic may be until it changes.")
    ] = False,
    settings: SetOption = None,
    seed: SeedOption = None,
    replications: Annotated[
        int | None,
        typer.Option(
            "--replications", metavar="NUMBER", help="Most replications of a setting. [default: 30, of a file 16]"
        ),
    ] = None,
    jobs: JobsOption = None,
    executor: ExecutorOption = "local",
    address: AddressOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="The folder to write. [default: runs/NAME-tune-HASH]")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Start again over a tune in --out.")] = False,
    plots: PlotsOption = True,
    report: ReportOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Says what to set for some traffic, what that brings, and how sure it is; goes on after an interruption."""
    from bufferlab.experiments.starting import load_numpy

    load_numpy()
    from bufferlab.experiments.commands.planning.plans import estimate_of_tune, long_text, plan_of_tune
    from bufferlab.experiments.progress import bar
    from bufferlab.experiments.sweeps.grid import parse_grid, parse_settings
    from bufferlab.experiments.tuning.asking import make_question, settings_of
    from bufferlab.experiments.tuning.base import Asked
    from bufferlab.experiments.tuning.changes import parse_what_ifs
    from bufferlab.experiments.tuning.decision import NOT_SERVED, SLO_MISSED
    from bufferlab.experiments.tuning.question import parse_certainty, parse_indifference, parse_limit, parse_objective
    from bufferlab.experiments.tuning.text import plan_text
    from bufferlab.experiments.tuning.tune import run_tune

    refuse_jobs_of_a_cluster(context, executor, address)
    limits = [parse_limit(one) for one in slo or ()]
    asked = Asked(
        source, model, gpu, link, memory, settings_of(settings or (), seed, limits), encode_instances,
        language_instances,
    )  # fmt: skip
    question = make_question(
        asked,
        objective=None if objective is None else parse_objective(objective),
        limits=limits,
        certainty=parse_certainty(certainty),
        indifference=parse_indifference(indifference),
        space=parse_grid(space or (), "--space"),
        baselines=[parse_settings(one, "--baseline") for one in baseline or ()],
        replications=replications,
        what_ifs=parse_what_ifs(what_if or []),
        sensitivity=sensitivity,
        search=search,
        trials=trials,
        command=_command(context, source),
    )
    target = question.target() if out is None else out
    if dry_run:
        tell_plan(plan_of_tune(question, target, jobs, force=force), as_json=as_json)
        return
    check_report(target, wanted=report)
    with bar("tune", None, "runs") as shown:

        def begin(finished: int) -> None:
            known = f"\n  {finished} runs are finished already" if finished else ""
            takes = long_text(estimate_of_tune(question, jobs, finished))
            shown.say(plan_text(question) + known + takes, sys.stderr if as_json else sys.stdout)

        try:
            told = run_tune(
                question, target, jobs=jobs, executor=executor, address=address, force=force, plots=plots, begin=begin,
                progress=shown.add, more=shown.stage, notice=shown.say,
            )  # fmt: skip
        except KeyboardInterrupt:
            shown.say(f"what is finished is kept in {target}; the same command goes on from there")
            raise
    if as_json:
        print_json(told.content)
    else:
        say(f"\n{told.text}")
        print(f"run directory: {target}")
    add_report(target, wanted=report, as_json=as_json)
    raise typer.Exit(CHECK_FAILED if told.content["verdict"] in (SLO_MISSED, NOT_SERVED) else DONE)


_NOT_THE_QUESTION = {
    "--jobs",
    "--executor",
    "--address",
    "--force",
    "--out",
    "--plots",
    "--no-plots",
    "--report",
    "--dry-run",
    "--json",
}


def _command(context: typer.Context, source: str) -> str:
    """The command line without what does not change the answer."""
    import shlex

    parts = ["bufferlab", "tune", source]
    for option in given(context):
        if option in _NOT_THE_QUESTION:
            continue
        (parameter,) = (one for one in context.command.params if option in (*one.opts, *one.secondary_opts))
        value = context.params[parameter.name or ""]
        for one in value if isinstance(value, list | tuple) else [value]:
            parts += [option] if isinstance(one, bool) else [option, str(one)]
    return shlex.join(parts)
