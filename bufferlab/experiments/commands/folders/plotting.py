"""Draws again what a run, a sweep or a tuning has drawn: with a title, in another format, in another place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bufferlab.experiments.errors import UserError
from bufferlab.experiments.figures.style import FORMS, picture_bytes, with_title
from bufferlab.experiments.files import Claim, disk_errors, write_bytes
from bufferlab.experiments.reports.sources import Source, read_source
from bufferlab.experiments.tuning.question import parse_objective
from bufferlab.protocol.naming import did_you_mean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLOTS = "plots"


def plot(paths: Sequence[Path], *, out: Path | None = None, form: str = "png", title: str | None = None) -> list[Path]:
    """Draw the pictures of these directories and return their files.

    Without ``out`` each has its own in its plots/; in ``out`` their names begin with the name of the directory. Two or
    more runs have one more there, of all of them. ``title`` replaces the one that says what was run; an empty one
    draws none. Raises UserError before anything is written.
    """
    if form not in FORMS:
        raise UserError(f"--format is {form!r}, it must be one of {', '.join(FORMS)}{did_you_mean(form, FORMS)}")
    if len({path.absolute() for path in paths}) < len(paths):
        raise UserError("RUN is given twice, each directory may be given once")
    sources = [read_source(path) for path in paths]
    for source in sources:
        if source.kind == "validation":
            raise UserError(f"RUN is {str(source.path)!r}, a validation; validate --out draws its figures")
    names = [source.name for source in sources]
    if out is not None and len(set(names)) < len(names):
        raise UserError("two of RUN have the same name, in --out their pictures would be the same files")
    made: list[Path] = []
    if out is not None:
        with Claim(out / PLOTS, inside=False), disk_errors(out):
            for source in sources:
                made += _draw(source, out, f"{source.name}-", form, title)
            made += _together(sources, out, form, title)
        return made
    for source in sources:
        with Claim(source.path / PLOTS, "RUN"), disk_errors(source.path):
            made += _draw(source, source.path / PLOTS, "", form, title)
    return made


def _draw(source: Source, folder: Path, begin: str, form: str, title: str | None) -> Iterator[Path]:
    above = title_of(source) if title is None else title
    for name, figure in pictures(source):
        yield _write(figure, folder / f"{begin}{name}.{form}", form, above)


def _together(sources: Sequence[Source], folder: Path, form: str, title: str | None) -> Iterator[Path]:
    from bufferlab.experiments.figures.runs import latency_ecdf
    from bufferlab.experiments.figures.style import COLOURS
    from bufferlab.experiments.runs.rundir import StoredRun

    runs = [source for source in sources if source.kind == "run" and source.content["requests"]["succeeded"]]
    if 1 < len(runs) <= len(COLOURS):
        figure = latency_ecdf([StoredRun(one.path) for one in runs], labels=[one.name for one in runs])
        above = f"{len(runs)} runs beside each other" if title is None else title
        yield _write(figure, folder / f"compared.{form}", form, above)


def _write(figure: Figure, path: Path, form: str, title: str) -> Path:
    drawn = picture_bytes(with_title(figure, title) if title else figure, form)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, drawn)
    return path


def pictures(source: Source) -> Iterator[tuple[str, Figure]]:
    """The name and figure of each picture that a directory has."""
    match source.kind:
        case "sweep":
            from bufferlab.experiments.figures.sweeps import sweep_pictures
            from bufferlab.experiments.sweeps.sweep import read_sweep

            sweep = read_sweep(source.path)
            yield from sweep_pictures(sweep.table, lambda: sweep.quantiles)
        case "tune":
            from bufferlab.experiments.figures.tuning import tune_pictures

            yield from tune_pictures(source.content, f"{_configured(source)}: {_objective(source)}")
        case _:
            from bufferlab.experiments.figures.runs import run_pictures
            from bufferlab.experiments.runs.rundir import StoredRun

            yield from run_pictures(StoredRun(source.path))


def title_of(source: Source) -> str:
    """What was run, for somebody who sees the picture and nothing else: the configuration's name and its traffic."""
    content = source.content
    match source.kind:
        case "sweep":
            plan = content["plan"]
            sentences = [one["sentence"] for one in plan.get("workloads", ())]
            named = f"{plan['name']}: sweep of {plan['configurations']} configurations × {plan['replications']}"
        case "tune":
            sentences = [content["traffic"]["sentence"]]
            named = f"{_configured(source)}: tuning for a low {_objective(source)}"
        case _:
            sentences = [content["workload"]["sentence"]] if "workload" in content else []
            how = "simulated" if content["kind"] == "sim" else "measured"
            named = f"{_configured(source)}, {how} over {content['transport']}"
    told = sentences[0].splitlines()[0].removeprefix("workload: ") if len(sentences) == 1 else ""
    return f"{named}\n{told}" if told else named


def _objective(source: Source) -> str:
    return parse_objective(source.content["objective"]["name"].replace("_s.", "_")).title


def _configured(source: Source) -> str:
    import tomllib

    settings = tomllib.loads((source.path / "config.toml").read_text(encoding="utf-8"))
    return str(settings.get("run", {}).get("name", source.name))
