"""The command line. It only reads arguments and prints; the work is done in the modules it calls when they are needed.

What holds for all commands: exit status 0 done, 1 a stated check failed, 2 bad input (one sentence on stderr, nothing
run, nothing written), 130 interrupted. ``--json`` prints one JSON object on stdout and nothing else there.
"""

from __future__ import annotations

import functools
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from experiments.terminal import show_what_can_be_shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from experiments.config.schema import Config

DONE, CHECK_FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
SHOWN_DIFFERENCES = 20
QUICK_REQUESTS, QUICK_DEFAULTS, QUICK_ROUNDS = 40, (512, 1024, 4096), 2

EXAMPLES = {
    "demo": "bufferlab demo",
    "sim": "bufferlab sim quickstart --set protocol.sizing.tokens=2048",
    "real": "bufferlab real seed-resume",
    "sweep": "bufferlab sweep quickstart --grid protocol.sizing.tokens=512,1024,2048,4096",
    "compare": "bufferlab compare runs/sim-run runs/real-run",
    "paired": "bufferlab paired runs/tokens-1024 runs/tokens-4096",
    "bench-link": "bufferlab bench-link --block 64KiB,1MiB --batch 1,64 --min-GBps 1",
    "calibrate": "bufferlab calibrate runs/bench-link --out my-link.toml",
    "validate": "bufferlab validate runs/real-1 runs/real-2 --profile my-link.toml --out runs/validation",
    "check": "bufferlab check --discipline alloc_then_free",
    "workload": "bufferlab workload azure-like --buffer 2048 --buffer 8192",
    "examples": "bufferlab examples --show quickstart",
    "doctor": "bufferlab doctor",
}
"""One example for every command; a test holds it to the list of commands."""

# typer brings its own copy of click in some versions; the base of its errors is the same class in all of them.
UsageProblem: type[Exception] = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


class _Group(typer.core.TyperGroup):
    """Shows every command in full with its example, where click would cut the sentence short; knows near misses."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is meant; a wrong name is refused with the one that it may have meant."""
        try:
            return super().resolve_command(ctx, args)
        except UsageProblem:
            if args[0].startswith("-"):
                raise
            from protocol.naming import did_you_mean

            names = self.list_commands(ctx)
            hint = did_you_mean(args[0], names)
            raise UsageProblem(f"No such command {args[0]!r}{hint}; the commands are {', '.join(names)}") from None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands."""
        rows = []
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                example = f" Example: {EXAMPLES[name]}" if name in EXAMPLES else ""
                rows.append((name, f"{(command.help or '').strip()}{example}"))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


app = typer.Typer(
    name="bufferlab",
    help="How many tokens to preallocate for an embedding of unknown length: simulate it, then measure it.",
    cls=_Group,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

ConfigArgument = Annotated[
    str, typer.Argument(metavar="CONFIG", help="A TOML file, a run directory, or the name of a shipped example.")
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="The run directory to write. [default: runs/NAME-KIND-HASH]"),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Overrides any setting; may be given several times."),
]
SeedOption = Annotated[str | None, typer.Option("--seed", metavar="NUMBER", help="Overrides run.seed.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace a finished run in --out.")]
PlotsOption = Annotated[bool, typer.Option("--plots/--no-plots", help="Draw the figures in plots/.")]
TimelineOption = Annotated[
    bool, typer.Option("--timeline", help="Write timeline.json of the first replication, which Perfetto opens.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]


@app.callback(invoke_without_command=True)
def _start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        from experiments.runs.environment import package_version

        print(f"bufferlab {package_version('bufferlab') or '(from a source tree)'}")
        raise typer.Exit(DONE)
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command(epilog=f"Example: {EXAMPLES['demo']}")
def demo(
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="A new folder for the runs. [default: runs/demo]")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer requests, buffer sizes and repeats.")] = False,
    profile: Annotated[
        str | None,
        typer.Option("--profile", metavar="PROFILE", help="The profile that predicts. [default: measure this host]"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """The seed's scenarios in both worlds, and a small mixed workload: predicted, then measured over Mooncake."""
    from experiments.commands.demonstration.both_worlds import run_demo
    from experiments.files import free_name

    target = free_name(Path("runs/demo")) if out is None else out
    with _stdout_kept_for_json(as_json):
        if quick:
            result = run_demo(
                target, requests=QUICK_REQUESTS, defaults=QUICK_DEFAULTS, rounds=QUICK_ROUNDS, profile=profile
            )
        else:
            result = run_demo(target, profile=profile)
    if as_json:
        _print_json(result)
    raise typer.Exit(DONE if result.get("passed", True) else CHECK_FAILED)


@app.command(epilog=f"Example: {EXAMPLES['sim']}")
def sim(
    context: typer.Context,
    config: ConfigArgument,
    out: OutOption = None,
    settings: SetOption = None,
    seed: SeedOption = None,
    force: ForceOption = False,
    plots: PlotsOption = True,
    timeline: TimelineOption = False,
    as_json: JsonOption = False,
) -> None:
    """One simulated run, with its replications, into a run directory."""
    from experiments.runs.runner import run_sim

    _refuse_force_without_out(context, out)
    execute = functools.partial(run_sim, plots=plots, timeline=timeline)
    _run("sim", execute, _load(config, settings, seed), out, force=force, as_json=as_json)


@app.command(epilog=f"On several hosts: docs/several-hosts.md. Example: {EXAMPLES['real']}")
def real(
    context: typer.Context,
    config: Annotated[
        str | None, typer.Argument(metavar="CONFIG", help="As for sim; not needed with --role.", show_default=False)
    ] = None,
    transport: Annotated[
        str | None, typer.Option("--transport", metavar="tcp|rdma", help="Overrides real.transport.")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME", help="Overrides real.device; with --role for this rank.")
    ] = None,
    bootstrap: Annotated[
        str | None,
        typer.Option(
            "--bootstrap",
            metavar="HOST:PORT",
            help="Several hosts: where the coordinator, which is the process without --role, waits for its ranks.",
        ),
    ] = None,
    role: Annotated[
        str | None, typer.Option("--role", metavar="encode|language", help="Be one rank of this side of the run.")
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option("--rank", metavar="N", help="Which one, over all instances of its side: instance × tp + rank."),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            "--host", metavar="ADDRESS", help="This rank's own address. [default: that towards the coordinator]"
        ),
    ] = None,
    wait_s: Annotated[
        float | None,
        typer.Option(
            "--wait", metavar="SECONDS", help="How long to wait at --bootstrap for those not yet there. [default: 60]"
        ),
    ] = None,
    token: Annotated[
        Path | None,
        typer.Option(
            "--token",
            metavar="FILE",
            help="The run's token, without which nobody is listened to; the coordinator makes a new one.",
        ),
    ] = None,
    expose: Annotated[
        bool,
        typer.Option("--expose", help="Let other hosts reach the ports of the sglang wire, which know no token."),
    ] = False,
    out: OutOption = None,
    settings: SetOption = None,
    seed: SeedOption = None,
    force: ForceOption = False,
    plots: PlotsOption = True,
    timeline: TimelineOption = False,
    as_json: JsonOption = False,
) -> None:
    """The same configuration over Mooncake, one process per rank: all on this host, or each where it is started."""
    from experiments.errors import UserError
    from experiments.options import refuse_unused, unused_device
    from experiments.runs.hosts import WAIT_S, Meeting, Part, take_part
    from experiments.runs.runner import run_measured

    is_rank = any(one is not None for one in (role, rank, host))
    if bootstrap is None and (is_rank or wait_s is not None or token is not None or expose):
        raise UserError(
            "--role, --rank, --host, --wait, --token and --expose are for several hosts, they need --bootstrap"
        )
    meeting = None
    if bootstrap is not None:
        meeting = Meeting(bootstrap, WAIT_S if wait_s is None else wait_s, token, expose)
    overrides = list(settings or ())
    # As TOML strings, so that a device called 1 stays a name.
    overrides += [f"real.transport={json.dumps(transport)}"] if transport is not None else []
    if meeting is not None and is_rank:
        if role is None or rank is None:
            raise UserError("--role and --rank must both be given for a rank")
        if expose:
            raise UserError("--expose is not allowed with --role: the coordinator decides it")
        if out is not None or force or as_json:
            raise UserError("--out, --force and --json are not allowed with --role: the coordinator writes the run")
        refuse_unused(
            context,
            {"--no-plots", "--plots", "--timeline"},
            "with --role: give it to the coordinator, who writes the run",
        )
        if config is None and (overrides or seed is not None):
            raise UserError("--set, --seed and --transport are not allowed with --role unless CONFIG is given, too")
        own = None if config is None else _load(config, overrides, seed)
        if own is not None and (wrong := unused_device("--device", device or "", own.real.transport)):
            raise UserError(wrong)
        part = Part(role=role, number=rank, host=host, device=device or "")
        take_part(own, meeting, part, lambda line: print(line, file=sys.stderr))
        return
    if config is None:
        raise UserError("CONFIG is missing, only a rank with --role needs none")
    _refuse_force_without_out(context, out)
    overrides += [f"real.device={json.dumps(device)}"] if device is not None else []
    asked = _load(config, overrides, seed)
    option = "real.device" if device is None else "--device"
    if wrong := unused_device(option, asked.real.device, asked.real.transport):
        raise UserError(f"{wrong}; give --transport rdma, or leave the device out")
    if expose and asked.protocol.wire != "sglang":
        raise UserError(
            f"--expose has no effect with protocol.wire = {asked.protocol.wire!r}, whose ports know the run's token; "
            "it is for 'sglang'"
        )
    execute = functools.partial(run_measured, meeting=meeting, plots=plots, timeline=timeline)
    _run("real", execute, asked, out, force=force, as_json=as_json)


@app.command(epilog=f"Example: {EXAMPLES['sweep']}")
def sweep(
    context: typer.Context,
    config: ConfigArgument,
    grid: Annotated[
        list[str] | None,
        typer.Option("--grid", metavar="KEY.PATH=VALUE,…", help="Values of a setting; several are crossed."),
    ] = None,
    cells: Annotated[
        Path | None,
        typer.Option("--cells", metavar="FILE", help="TOML with [sweep.grid] or [[sweep.cells]], or a JSON list."),
    ] = None,
    settings: SetOption = None,
    replications: Annotated[
        int | None, typer.Option("--replications", metavar="NUMBER", help="Overrides run.replications.")
    ] = None,
    seed: SeedOption = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            "--baseline",
            metavar="KEY.PATH=VALUE",
            help="Compare every cell with the one like it that has this. [default: the first of the same requests]",
        ),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", metavar="NUMBER", help="Runs at once. [default: one a core]")
    ] = None,
    executor: Annotated[
        str, typer.Option("--executor", metavar="local|dask", help="Where the runs take place.")
    ] = "local",
    address: Annotated[
        str | None, typer.Option("--address", metavar="HOST:PORT", help="The cluster's scheduler.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="The folder to write. [default: runs/NAME-sweep-HASH]")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Start again over a sweep in --out.")] = False,
    plots: PlotsOption = True,
    as_json: JsonOption = False,
) -> None:
    """A grid or list of settings × replications, in parallel; the same command goes on after an interruption."""
    from experiments.options import refuse_unused
    from experiments.progress import bar
    from experiments.sweeps.grid import joined, parse_grid, parse_setting, read_cells
    from experiments.sweeps.sweep import make_plan, run_sweep
    from experiments.sweeps.text import plan_text, sweep_text

    if executor == "dask" and address is not None:
        refuse_unused(context, {"--jobs"}, "with --address: the cluster decides how many runs it has at once")
    listed, file_grid = ([], {}) if cells is None else read_cells(cells)
    overrides = list(settings or ())
    # As settings, so that a wrong number is refused as any other is.
    overrides += [f"run.seed={seed}"] if seed is not None else []
    overrides += [f"run.replications={replications}"] if replications is not None else []
    plan = make_plan(
        config,
        grid=joined(file_grid, parse_grid(grid or ())),
        cells=listed,
        settings=overrides,
        baseline=[parse_setting(one, "--baseline") for one in baseline or ()],
    )
    target = plan.target() if out is None else out
    with bar("sweep", len(plan.tasks), "runs") as shown:

        def begin(finished: int) -> None:
            known = f"\n  {finished} of {len(plan.tasks)} runs are finished already" if finished else ""
            shown.say(plan_text(plan) + known, sys.stderr if as_json else sys.stdout)
            shown.begin_with(finished)

        try:
            done = run_sweep(
                plan, target, jobs=jobs, executor=executor, address=address, force=force, plots=plots, begin=begin,
                progress=shown.add, notice=shown.say,
            )  # fmt: skip
        except KeyboardInterrupt:
            shown.say(f"what is finished is kept in {target}; the same command goes on from there")
            raise
    if as_json:
        _print_json(done.report)
    else:
        print()
        print(sweep_text(done.report))
        print(f"sweep directory: {target}")
    broken = any(cell["invariant_violations"] for cell in done.report["cells"])
    raise typer.Exit(CHECK_FAILED if broken else DONE)


@app.command(epilog=f"Example: {EXAMPLES['compare']}")
def compare(
    first: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    second: Annotated[Path, typer.Argument(metavar="RUN", help="Another one, usually of the other kind.")],
    as_json: JsonOption = False,
) -> None:
    """Whether two runs have the same history of every room on every rank; exit status 1 if they differ."""
    from experiments.progress import bar
    from experiments.runs.equality import compare_runs
    from experiments.runs.rundir import count_records

    with bar("compare", count_records(first, second), "events") as shown:
        result = compare_runs(first, second, progress=shown.add)
    if as_json:
        _print_json(result)
    else:
        lines = result["differences"]
        for line in lines[:SHOWN_DIFFERENCES]:
            print(line)
        if len(lines) > SHOWN_DIFFERENCES:
            print(f"and {len(lines) - SHOWN_DIFFERENCES} more")
        print(f"{result['histories']} histories compared, {len(lines)} different")
    raise typer.Exit(DONE if result["equal"] else CHECK_FAILED)


@app.command(epilog=f"Example: {EXAMPLES['paired']}")
def paired(
    first: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    second: Annotated[Path, typer.Argument(metavar="RUN", help="Another one, of the same requests.")],
    as_json: JsonOption = False,
) -> None:
    """What a setting changes: the differences of two runs of the same requests, with their intervals."""
    from experiments.progress import bar
    from experiments.runs.paired import compare_paired, paired_text
    from experiments.runs.rundir import count_records

    with bar("paired", count_records(first, second), "events") as shown:
        result = compare_paired(first, second, progress=shown.add)
    _tell(result, paired_text(result), as_json=as_json)


@app.command("bench-link", epilog=f"Example: {EXAMPLES['bench-link']}")
def bench_link(
    block: Annotated[str, typer.Option("--block", metavar="SIZES", help="Bytes of one piece.")] = "4KiB,64KiB,1MiB",
    batch: Annotated[str, typer.Option("--batch", metavar="N,…", help="Pieces written together.")] = "1,16,64",
    threads: Annotated[str, typer.Option("--threads", metavar="N,…", help="Threads that write.")] = "1",
    rounds: Annotated[int, typer.Option("--rounds", metavar="NUMBER", help="Measurements of each, at least 9.")] = 9,
    transport: Annotated[
        str, typer.Option("--transport", metavar="tcp|rdma", help="What must carry the data.")
    ] = "tcp",
    device: Annotated[str, typer.Option("--device", metavar="NAME", help="The RDMA device. [default: any]")] = "",
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="A new folder for the CSV and JSON. [default: runs/bench-link]"),
    ] = None,
    min_gbps: Annotated[
        float | None,
        typer.Option("--min-GBps", metavar="NUMBER", help="Fail if the fastest cell moves fewer GB (10^9) a second."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="NUMBER", help="Of the content and the order.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Measures the transport, block × batch × threads, with a plain socket beside it and every byte compared."""
    from experiments.calibration import bench_link as link
    from experiments.progress import bar

    sweep = link.make_sweep(
        block=block, batch=batch, threads=threads, rounds=rounds, transport=transport, device=device, seed=seed,
        min_gbps=min_gbps,
    )  # fmt: skip
    with link.claim_folder(out) as claim, bar("bench-link", sweep.steps, "measurements") as shown:
        stream = sys.stderr if as_json else sys.stdout
        result = link.run_sweep(sweep, show=lambda text: shown.say(f"{text}\n", stream), progress=shown.step)
        link.write_files(result, claim.target)
    _tell(result, f"{link.result_text(result)}\nwritten to: {claim.target}", as_json=as_json)
    raise typer.Exit(DONE if result["passed"] else CHECK_FAILED)


@app.command(epilog=f"Example: {EXAMPLES['calibrate']}")
def calibrate(
    context: typer.Context,
    measurements: Annotated[
        list[Path] | None,
        typer.Argument(metavar="MEASUREMENTS…", help="CSV tables, bench-link output, or run directories."),
    ] = None,
    here: Annotated[
        bool, typer.Option("--here", help="Measure this host first, about half a minute, and fit what was measured.")
    ] = False,
    keep: Annotated[
        Path | None,
        typer.Option("--keep", metavar="DIR", help="With --here: a new folder in which the measured runs stay."),
    ] = None,
    holdout: Annotated[
        str, typer.Option("--holdout", metavar="odd|even|none", help="Rows of each table to predict and not to fit.")
    ] = "none",
    tables: Annotated[
        list[str] | None, typer.Option("--table", metavar="NAME", help="Fit only this table; several may be given.")
    ] = None,
    predicted: Annotated[
        list[str] | None, typer.Option("--predict", metavar="NAME", help="Predict this table from the fitted ones.")
    ] = None,
    accounts: Annotated[
        list[Path] | None,
        typer.Option(
            "--accounts", metavar="RUN", help="A run that only says what processors do; several may be given."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="PROFILE.toml", help="Write one profile for all that is fitted.")
    ] = None,
    base: Annotated[
        str, typer.Option("--base", metavar="PROFILE", help="Where a profile takes what was not measured from.")
    ] = "tcp-loopback",
    seed: Annotated[int, typer.Option("--seed", metavar="NUMBER", help="Of the residuals drawn for intervals.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Fits the link, and the software around it, to measurements; writes a profile with its uncertainties."""
    from experiments.calibration.command import calibrate as fit_measurements
    from experiments.calibration.profiles import NoProfileError
    from experiments.calibration.report import report_text
    from experiments.errors import UserError
    from experiments.options import refuse_unused
    from experiments.progress import bar

    if out is None:
        refuse_unused(context, {"--base"}, "without --out: it is where the profile takes what was not measured from")
    if here:
        given = {"MEASUREMENTS": measurements, "--table": tables, "--predict": predicted, "--accounts": accounts}
        for name, value in given.items():
            if value:
                raise UserError(f"{name} is given with --here, which measures all that it fits")
        if holdout != "none":
            raise UserError(f"--holdout is {holdout!r}, with --here it must be none")
        _calibrate_here(out, keep, base, seed, as_json=as_json)
        return
    if keep is not None:
        raise UserError("--keep is given without --here, it is for the runs that --here measures")
    if not measurements:
        raise UserError("MEASUREMENTS are missing; to measure this host now: bufferlab calibrate --here --out my.toml")
    try:
        with bar("calibrate", len(measurements), "steps") as shown:
            result = fit_measurements(
                measurements, holdout=holdout, tables=tables or (), predicted=predicted or (),
                accounts=accounts or (), out=out, base=base, seed=seed,
                command=shlex.join(["bufferlab", *sys.argv[1:]]), more=shown.more, progress=shown.step,
            )  # fmt: skip
    except NoProfileError as error:
        _tell(error.report, "" if as_json else report_text(error.report), as_json=as_json)
        raise
    _tell(result, "" if as_json else report_text(result), as_json=as_json)


@app.command(epilog=f"Example: {EXAMPLES['validate']}")
def validate(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN…", help="Measured run directories; those of one configuration are repeats."),
    ],
    profile: Annotated[
        str,
        typer.Option("--profile", metavar="PROFILE", help="The link profile that predicts: a name or a .toml file."),
    ],
    max_error: Annotated[
        str | None,
        typer.Option("--max-error", metavar="p50=0.05,…", help="Fail where a figure is off these bars."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="A new folder for validation.json, cells.csv, figures.")
    ] = None,
    stages: Annotated[
        bool, typer.Option("--stages", help="Print where the time of a request goes, stage by stage.")
    ] = False,
    timelines: Annotated[
        bool, typer.Option("--timeline", help="Write a trace per cell, simulated above measured, which Perfetto opens.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", metavar="NUMBER", help="Of the resamples behind intervals.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Predicts measured runs with a frozen link profile and scores the prediction beside the measurement's noise."""
    from experiments.progress import bar
    from experiments.validation.command import validate as validate_runs

    with bar("validate", len(runs), "runs") as shown:
        result = validate_runs(
            runs, profile, max_error=max_error, out=out, timelines=timelines, seed=seed, progress=shown.step
        )
    _tell(result.content() if as_json else None, "" if as_json else result.text(stages=stages), as_json=as_json)
    if not as_json and out is not None:
        print(f"written to: {out}")
    if as_json and not result.passed:
        for line in result.missed():
            print(line, file=sys.stderr)
    raise typer.Exit(DONE if result.passed else CHECK_FAILED)


@app.command(epilog=f"Example: {EXAMPLES['check']}")
def check(
    context: typer.Context,
    suite: Annotated[
        str, typer.Option("--bound", metavar="quick|standard|deep", help="How much is explored.")
    ] = "standard",
    discipline: Annotated[
        str | None, typer.Option("--discipline", metavar="NAME", help="Only this buffer discipline.")
    ] = None,
    only: Annotated[
        str | None, typer.Option("--only", metavar="TEXT", help="Only configurations with this in their name.")
    ] = None,
    show_list: Annotated[bool, typer.Option("--list", help="List the configurations and explore nothing.")] = False,
    budget_s: Annotated[
        float | None, typer.Option("--budget-s", metavar="SECONDS", help="Stop all searches after this long.")
    ] = None,
    most_states: Annotated[
        int | None, typer.Option("--states", metavar="NUMBER", help="Stop each search at this many states.")
    ] = None,
    grid: Annotated[
        int | None,
        typer.Option("--grid", metavar="REQUESTS", help="Count deadlocks over a grid of up to 2, 3 or 4 requests."),
    ] = None,
    random: Annotated[
        int | None,
        typer.Option("--random", metavar="SEEDS", help="Run this many seeds with random faults on the simulator."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="NUMBER", help="The first seed of --random.")] = 0,
    replay: Annotated[
        Path | None, typer.Option("--replay", metavar="FILE", help="Carry out a saved schedule on the cores.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", metavar="NUMBER", help="Searches at once. [default: one a core]")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where counterexamples are saved, if there are any.")
    ] = Path("runs/check"),
    verbose: Annotated[bool, typer.Option("--verbose", help="A line for every configuration.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Explores the protocol's interleavings and fault schedules; prints the smallest counterexample there is."""
    from experiments.commands.checking import searches as checking
    from experiments.errors import UserError
    from experiments.options import CHECK_USES, SEARCH, refuse_unused_in_mode
    from experiments.progress import bar

    numbers = {"--budget-s": budget_s, "--states": most_states, "--random": random, "--jobs": jobs}
    for name, value in numbers.items():
        if value is not None and not value > 0:
            raise UserError(f"{name} is {value}, it must be more than 0")
    if seed < 0:
        raise UserError(f"--seed is {seed}, it must be at least 0")
    if grid is not None and grid not in (2, 3, 4):
        raise UserError(f"--grid is {grid}, it must be 2, 3 or 4")
    if sum(mode is not None for mode in (grid, random, replay)) > 1:
        raise UserError("only one of --grid, --random and --replay may be given")
    modes = {"--grid": grid, "--random": random, "--replay": replay}
    mode = next((name for name, value in modes.items() if value is not None), "--list" if show_list else SEARCH)
    if show_list and mode != "--list":
        raise UserError(f"--list has no effect with {mode}: it is for the configurations of a search")
    refuse_unused_in_mode(context, mode, CHECK_USES)
    if jobs is None:
        jobs = checking.default_jobs()
    if replay is not None:
        done = checking.replay_file(replay)
        _tell(done, checking.replay_text(done), as_json=as_json)
        raise typer.Exit(CHECK_FAILED if done["broken"] else DONE)
    if grid is not None:
        with bar("check", checking.count_grid(grid), "cells") as shown:
            report = checking.check_grid(grid, jobs=jobs, progress=shown.step)
        _tell(report, checking.grid_text(report), as_json=as_json)
        raise typer.Exit(CHECK_FAILED if checking.unexpected_deadlocks(report) else DONE)
    if random is not None:
        with bar("check", random, "seeds") as shown:
            report = checking.check_random(random, seed, jobs=jobs, progress=shown.step)
        _tell(report, checking.random_text(report), as_json=as_json)
        raise typer.Exit(CHECK_FAILED if report["violations"] else DONE)
    bounds = checking.chosen_bounds(suite, discipline, only)
    if show_list:
        listed = [{"name": bound.name, "hazards": list(bound.hazards)} for bound in bounds]
        _tell({"configurations": listed}, checking.list_text(bounds), as_json=as_json)
        return
    with bar("check", len(bounds), "configurations") as shown:
        report = checking.check(bounds, jobs=jobs, most_states=most_states, budget_s=budget_s, progress=shown.step)
    try:
        checking.write_schedules(report, out)
    finally:  # counterexamples that cannot be written are shown all the same
        _tell(report, checking.report_text(report, verbose=verbose), as_json=as_json)
    raise typer.Exit(CHECK_FAILED if report["violations"] else DONE)


@app.command(epilog=f"Example: {EXAMPLES['workload']}")
def workload(
    context: typer.Context,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME|FILE",
            help="A preset, a trace, a file of lengths, a folder of clients or a configuration.",
            show_default=False,
        ),
    ] = None,
    requests: Annotated[
        int | None, typer.Option("--requests", metavar="NUMBER", help="How many. [default: 20000 of a preset]")
    ] = None,
    rate_rps: Annotated[
        float | None, typer.Option("--rate", metavar="RPS", help="Mean arrivals a second. [default: as in the data]")
    ] = None,
    seed: SeedOption = None,
    buffers: Annotated[
        list[int] | None,
        typer.Option("--buffer", metavar="TOKENS", help="A buffer size; several may be given. [default: 1024, 8192]"),
    ] = None,
    replications: Annotated[
        int | None, typer.Option("--replications", metavar="NUMBER", help="Draws behind each interval. [default: 5]")
    ] = None,
    settings: SetOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write the requests to this .csv, .csv.gz or .parquet instead."),
    ] = None,
    template: Annotated[
        Path | None,
        typer.Option("--template", metavar="FILE", help="Write a small table to fill: a workload file."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file of --out or --template.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Describes a workload (lengths, burstiness, share above a buffer size), or writes its requests to a file."""
    from experiments.errors import UserError
    from experiments.options import refuse_unused
    from experiments.progress import bar
    from experiments.workloads import describe
    from experiments.workloads.readers.writing import write_template

    if template is not None:
        if source is not None or out is not None:
            raise UserError("--template writes an example of a workload file, it stands alone")
        unused = {"--requests", "--rate", "--seed", "--buffer", "--replications", "--set"}
        refuse_unused(context, unused, "with --template, which writes the same example of a workload file every time")
        write_template(template, force=force)
        told = f"wrote {template}; fill it, then: bufferlab workload {shlex.quote(str(template))}"
        _tell({"path": str(template)}, told, as_json=as_json)
        return
    if source is None:
        raise UserError("Missing argument 'NAME|FILE': it must be a preset, a workload file or a configuration")
    if out is None:
        refuse_unused(context, {"--force"}, "without --out or --template, whose file it lets replace")
    else:
        unused = {"--buffer", "--replications"}
        refuse_unused(context, unused, "with --out, which writes the requests and describes nothing; leave --out out")
    overrides = [*(settings or ()), *([] if seed is None else [f"run.seed={seed}"])]
    config = describe.configure(source, requests=requests, rate_rps=rate_rps, settings=overrides)
    if out is not None:
        written = describe.write(config, out, force=force)
        _tell(written, f"wrote {written['requests']} requests to {out}", as_json=as_json)
        return
    with bar("workload", describe.count_draws(config, replications), "draws") as shown:
        described = describe.describe(config, buffers or describe.DEFAULT_BUFFERS, replications, progress=shown.step)
    _tell(described, "" if as_json else describe.description_text(config, described), as_json=as_json)


@app.command(epilog=f"Example: {EXAMPLES['examples']}")
def examples(
    show: Annotated[str | None, typer.Option("--show", metavar="NAME", help="Print this example.")] = None,
    write: Annotated[
        tuple[str, Path] | None, typer.Option("--write", metavar="NAME PATH", help="Write this example to a new file.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Lists the shipped example configurations, shows one, or writes one to a file."""
    from experiments.config.shipped import example_names, example_text, example_title
    from experiments.errors import UserError

    if show is not None and write is not None:
        raise UserError("--show and --write are both given, only one of them is allowed")
    if write is not None:
        name, path = write
        text = example_text(name)
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            raise UserError(f"--write is {str(path)!r}, it must be a file that does not exist yet") from None
        except OSError as error:
            raise UserError(f"--write is {str(path)!r}, which cannot be written: {error.strerror}") from None
        if as_json:
            _print_json({"name": name, "path": str(path)})
        else:
            print(f"wrote {path}; run it with: bufferlab sim {path}")
    elif show is not None:
        text = example_text(show)
        if as_json:
            _print_json({"name": show, "text": text})
        else:
            print(text, end="")
    elif as_json:
        _print_json({"examples": [{"name": name, "title": example_title(name)} for name in example_names()]})
    else:
        width = max(map(len, example_names()))
        for name in example_names():
            print(f"{name.ljust(width)}  {example_title(name)}")


@app.command(epilog=f"Example: {EXAMPLES['doctor']}")
def doctor(as_json: JsonOption = False) -> None:
    """What is installed, which transports really work here, and the exact command that mends what is missing."""
    from experiments.runs.diagnosis import examine, report_text

    found = examine(lambda step: print(f"checking {step} ...", file=sys.stderr))
    if as_json:
        _print_json(found)
    else:
        print(report_text(found))
    raise typer.Exit(DONE if found["simulator"]["works"] else CHECK_FAILED)


# --- helpers ---


def _calibrate_here(out: Path | None, keep: Path | None, base: str, seed: int, *, as_json: bool) -> None:
    from experiments.calibration.here import STEPS, calibrate_here
    from experiments.calibration.profiles import NoProfileError
    from experiments.calibration.report import report_text
    from experiments.progress import bar

    try:
        with bar("measuring this host", STEPS, "steps") as shown:
            result = calibrate_here(
                out=out, keep=keep, base=base, seed=seed, command=shlex.join(["bufferlab", *sys.argv[1:]]),
                progress=shown.step,
            )  # fmt: skip
    except NoProfileError as error:
        _tell(error.report, "" if as_json else report_text(error.report), as_json=as_json)
        raise
    _tell(result, "" if as_json else report_text(result), as_json=as_json)


def _load(source: str, settings: Sequence[str] | None, seed: str | None) -> Config:
    from experiments.workloads.loading import load

    overrides = list(settings or ())
    return load(source, overrides if seed is None else [*overrides, f"run.seed={seed}"])


def _refuse_force_without_out(context: typer.Context, out: Path | None) -> None:
    from experiments.options import refuse_unused

    if out is None:
        refuse_unused(context, {"--force"}, "without --out, whose finished run it lets replace")


def _run(
    kind: str,
    execute: Callable[..., dict[str, Any]],
    config: Config,
    out: Path | None,
    *,
    force: bool,
    as_json: bool,
) -> None:
    from experiments.errors import RunFaultedError
    from experiments.progress import bar
    from experiments.runs.rundir import claim_target
    from experiments.text import summary_text
    from experiments.workloads.requests import count_requests

    with ExitStack() as stack:
        claim = stack.enter_context(claim_target(config, kind, out, force=force))
        shown = stack.enter_context(bar(kind, count_requests(config) * config.run.replications, "requests"))
        faulted: RunFaultedError | None = None

        def begin(plan: str) -> None:
            shown.say(plan, sys.stderr if as_json else sys.stdout)

        try:
            summary = execute(config, claim, begin=begin, progress=shown.add, notice=shown.say)
        except RunFaultedError as error:
            faulted, summary = error, error.summary
    if as_json:
        _print_json(summary)
    else:
        print(summary_text(summary))
        print(f"run directory: {claim.target}")
    if faulted is not None:
        raise faulted
    # The laws are checks that every run states it keeps.
    raise typer.Exit(CHECK_FAILED if summary["invariant_violations"] else DONE)


def _tell(content: Any, text: str, *, as_json: bool) -> None:
    if as_json:
        _print_json(content)
    else:
        print(text)


def _print_json(content: Any) -> None:
    from experiments.files import json_text

    print(json_text(content))


@contextmanager
def _stdout_kept_for_json(as_json: bool) -> Iterator[None]:
    """Send what a step prints to stderr while JSON is wanted."""
    if not as_json:
        yield
        return
    kept, sys.stdout = sys.stdout, sys.stderr
    try:
        yield
    finally:
        sys.stdout = kept


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    show_what_can_be_shown()
    command = typer.main.get_command(app)
    try:
        if any("compiled" in folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep)):
            from experiments.runs.environment import check_compiled

            check_compiled()
        status = command.main(
            args=None if arguments is None else list(arguments), prog_name="bufferlab", standalone_mode=False
        )
        sys.stdout.flush()
        if status == INTERRUPTED:  # what typer makes of Ctrl-C within a command
            raise KeyboardInterrupt
    except (typer.Abort, KeyboardInterrupt):
        print("bufferlab: interrupted", file=sys.stderr)
        return INTERRUPTED
    except UsageProblem as error:
        return _refuse(error.format_message())  # type: ignore[attr-defined]
    except BrokenPipeError:
        # Whoever reads our output has enough, as in `bufferlab examples | head -1`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except Exception as error:
        from experiments.errors import RunFailedError, UserError
        from experiments.files import DISK, reason

        if isinstance(error, UserError):
            return _refuse(str(error))
        if isinstance(error, RunFailedError):
            _refuse(str(error))
            return CHECK_FAILED
        if isinstance(error, OSError) and error.errno in DISK:
            if error.filename is None:  # what has no name is what we print to
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            _refuse(f"{error.filename or 'standard output'} cannot be read or written: {reason(error)}")
            return CHECK_FAILED
        raise
    if status == INTERRUPTED:  # typer turns Ctrl-C into this by itself
        print("bufferlab: interrupted", file=sys.stderr)
    return status if isinstance(status, int) else DONE


def _refuse(message: str) -> int:
    sentence = " ".join(message.split()).rstrip(".")
    print(f"bufferlab: {sentence}.", file=sys.stderr)
    return BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
