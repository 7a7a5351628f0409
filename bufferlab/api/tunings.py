"""``bl.tune``: what to set for some traffic, and what the answer is to its user."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bufferlab.api.configuration import WHAT_A_CONFIG_IS, Config, ConfigLike, load
from bufferlab.api.drawing import Plots, on_axes
from bufferlab.api.overrides import Overrides, listed, plain, settings_by_path
from bufferlab.api.results import PathLike, Place, Result, bar_of, refuse_jobs_of_a_cluster, told
from bufferlab.api.speech import must_be, spoken
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.sweeps.grid import as_option, as_override, parse_grid, parse_settings
from bufferlab.experiments.tuning.asking import make_question, settings_of
from bufferlab.experiments.tuning.base import Asked
from bufferlab.experiments.tuning.changes import parse_what_ifs
from bufferlab.experiments.tuning.folder import TEXT_FILE
from bufferlab.experiments.tuning.question import (
    DEFAULT_CERTAINTY,
    DEFAULT_INDIFFERENCE,
    parse_certainty,
    parse_indifference,
    parse_limit,
    parse_objective,
)
from bufferlab.experiments.tuning.tune import run_tune

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from bufferlab.experiments.config.overrides import Override


@spoken
def tune(
    source: ConfigLike,
    *,
    model: str | None = None,
    gpu: str | None = None,
    link: PathLike | None = None,
    memory: str | int | None = None,
    encode_instances: int | None = None,
    language_instances: int | None = None,
    objective: str | None = None,
    slo: Mapping[str, str | float] | None = None,
    baseline: Overrides | Sequence[Overrides] = (),
    space: Mapping[str, Any] | None = None,
    search: Literal["grid", "optuna"] | None = None,
    trials: int | None = None,
    certainty: str | float = DEFAULT_CERTAINTY,
    indifference: str = DEFAULT_INDIFFERENCE,
    what_if: str | Sequence[str] = (),
    sensitivity: bool = False,
    overrides: Overrides | None = None,
    seed: int | None = None,
    replications: int | None = None,
    jobs: int | None = None,
    executor: Literal["local", "dask"] = "local",
    address: str | None = None,
    out: PathLike | None = None,
    force: bool = False,
    plots: bool = True,
    progress: bool = False,
) -> Tuning:
    """Say what to set for some traffic, what that brings, and how sure it is, as ``bufferlab tune`` does.

    ``source``: a file of requests (CSV, Parquet, JSON lines), or a configuration as ``bufferlab.load`` takes it.
    ``model``, ``gpu``, ``link``, ``memory`` (``"4GiB"``, or bytes of the pool of a language rank), ``encode_instances``
    and ``language_instances`` (replicas of either side) describe the system. ``objective``: what is to be low, such as
    ``"latency_p99"``; the figure of the first limit where it is left out, else that. ``slo``: limits, such as
    ``{"ttft_p99": "2s"}``; a number is in seconds. ``baseline``: settings to compare with, beside today's. ``space``:
    values by setting to choose from, or ``"LOW..HIGH"``. ``certainty``, ``indifference``, ``what_if``, ``sensitivity``,
    ``search`` and ``trials`` are those of the command. ``overrides``: other settings; ``replications``: the most of
    them. ``out``: the folder to write, in which an interrupted tune goes on when the same call is made again; ``force``
    starts again over another one. Without ``out`` it lies in a temporary folder that goes with the result. ``progress``
    shows a bar.

    Raises UserError before anything runs, RunFailedError if a run breaks.
    """
    refuse_jobs_of_a_cluster(jobs, executor, address)
    must_be("source", source, (str, Path, Config), f"a file of requests, or {WHAT_A_CONFIG_IS}")
    for name, value in (("slo", slo), ("space", space)):
        must_be(name, value or {}, Mapping, "a dictionary of values by name")
    texts = _Texts(
        model=model,
        gpu=gpu,
        link=None if link is None else os.fspath(link),
        memory=None if memory is None else str(memory),
        slo=[f"{name}={value if isinstance(value, str) else f'{value}s'}" for name, value in (slo or {}).items()],
        baseline=[_settings_option(one) for one in ([baseline] if isinstance(baseline, Mapping) else baseline)],
        space=[_space_option(field, values) for field, values in (space or {}).items()],
        what_if=[what_if] if isinstance(what_if, str) else list(what_if),
    )
    given = listed(overrides, {})
    limits = [parse_limit(one) for one in texts.slo]
    command = {
        "--model": texts.model, "--gpu": texts.gpu, "--link": texts.link, "--memory": texts.memory,
        "--encode-instances": encode_instances, "--language-instances": language_instances,
        "--objective": objective, "--slo": texts.slo,
        "--baseline": texts.baseline, "--space": texts.space, "--search": search, "--trials": trials,
        "--certainty": None if certainty == DEFAULT_CERTAINTY else certainty,
        "--indifference": None if indifference == DEFAULT_INDIFFERENCE else indifference, "--what-if": texts.what_if,
        "--sensitivity": sensitivity,
    }  # fmt: skip
    last = {"--seed": seed, "--replications": replications}
    question = make_question(
        Asked(
            source.source if isinstance(source, Config) else os.fspath(source),
            texts.model,
            texts.gpu,
            texts.link,
            texts.memory,
            settings_of(given, seed, limits),
            encode_instances,
            language_instances,
        ),
        objective=None if objective is None else parse_objective(objective),
        limits=limits,
        certainty=parse_certainty(str(certainty)),
        indifference=parse_indifference(indifference),
        space=parse_grid(texts.space, "--space"),
        baselines=[parse_settings(one, "--baseline") for one in texts.baseline],
        replications=replications,
        what_ifs=parse_what_ifs(texts.what_if),
        sensitivity=sensitivity,
        search=search,
        trials=trials,
        command=_command(source, command, given, last),
    )
    place = Place(out, question.base.config.run.name)
    with bar_of("tune", None, "runs", progress=progress) as shown:
        run_tune(
            question,
            place.path,
            jobs=jobs,
            executor=executor,
            address=address,
            force=force,
            plots=plots and out is not None,
            progress=shown.add,
            more=shown.stage,
            notice=told,
        )
    return Tuning(place)


class _Texts:
    """What is asked, in the words of the command."""

    def __init__(
        self,
        *,
        model: str | None,
        gpu: str | None,
        link: str | None,
        memory: str | None,
        slo: list[str],
        baseline: list[str],
        space: list[str],
        what_if: list[str],
    ) -> None:
        self.model, self.gpu, self.link, self.memory = model, gpu, link, memory
        self.slo, self.baseline, self.space, self.what_if = slo, baseline, space, what_if


def _settings_option(settings: Overrides) -> str:
    return ",".join(as_option(field, [value]) for field, value in settings_by_path(settings).items())


def _space_option(field: str, values: Any) -> str:
    known = plain(values)
    return f"{field}={known}" if isinstance(known, str) else as_option(field, known)


def _command(source: ConfigLike, options: Mapping[str, Any], given: Sequence[Override], last: Mapping[str, Any]) -> str:
    """The command that asks the same; nothing where no command can say it."""
    said = [one for layer in source.source.layers for one in layer] if isinstance(source, Config) else []
    try:
        settings = [one if isinstance(one, str) else as_override(*one) for one in (*said, *given)]
        if (
            isinstance(source, Config)
            and load(source.source.name).with_(dict(_pairs(said))).digest() != source.digest()
        ):
            return ""
    except UserError:
        return ""
    name = source.source.name if isinstance(source, Config) else os.fspath(source)
    parts = ["bufferlab", "tune", name]
    for option, value in [*options.items(), ("--set", settings), *last.items()]:
        if value is None or value is False:
            continue
        for one in value if isinstance(value, list) else [value]:
            parts += [option] if one is True else [option, str(one)]
    return shlex.join(parts)


def _pairs(overrides: Sequence[Override]) -> list[tuple[str, Any]]:
    return [one for one in overrides if not isinstance(one, str)]


class Tuning(Result):
    """A finished tune. A notebook shows the answer in words; ``table`` has every setting, ``plot`` draws."""

    def __init__(self, place: Place) -> None:
        from bufferlab.experiments.reports.sources import read_source

        super().__init__(place, read_source(place.path).content)

    @property
    def text(self) -> str:
        """The answer as the command prints it."""
        return (self.path / TEXT_FILE).read_text(encoding="utf-8").rstrip("\n")

    @property
    def verdict(self) -> str:
        """The answer in a word, such as ``clear``; tune.json has it as ``verdict``."""
        return str(self.content["verdict"])

    @property
    def recommendation(self) -> dict[str, Any]:
        """The recommended values by setting, as a file has them; empty where nothing can be recommended."""
        return dict(self.content["recommendation"])

    @property
    def changes(self) -> dict[str, Any]:
        """Those of them that are other than today's."""
        return dict(self.content["changes"])

    @cached_property
    def today(self) -> Config:
        """The configuration that it started from, with one replication."""
        return load(self.path)

    @property
    def recommended(self) -> Config:
        """Today's configuration with the recommended settings. Raises UserError where nothing can be recommended."""
        if self.content["chosen"] is None:
            raise UserError(f"the tune recommends nothing: {self._head().verdict_words}")
        return self.today.with_(self.changes)

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row for each setting that could be chosen or is compared with, index ``number``.

        The fields by their paths, ``memory_bytes`` (of the pool of a language rank), ``state`` (kept, dropped,
        screened-out, unfit or compared) and ``why``, ``runs``, ``eligible``; then every figure by its path, such as
        ``latency_s.p99`` (seconds), and ``difference`` (the objective, setting − best, seconds), each with its 95 %
        interval under ``….low`` and ``….high``. NaN stands for what was not found out.
        """
        import pandas as pd

        rows = []
        for one in self.content["settings"]:
            row = {"number": one["number"], **one["fields"]}
            row |= {name: one[name] for name in ("memory_bytes", "state", "why", "runs", "eligible")}
            for name, found in {**one["figures"], "difference": one["difference"]}.items():
                row |= {name: found["value"], f"{name}.low": found["low"], f"{name}.high": found["high"]}
            rows.append(row)
        return pd.DataFrame(rows).set_index("number")

    @property
    def plot(self) -> TuningPlots:
        """Its pictures."""
        return TuningPlots(self.content)

    def __repr__(self) -> str:
        from bufferlab.experiments.reports.tuninghead import words_of

        head = self._head()
        chosen = "nothing to recommend" if self.content["chosen"] is None else f"set {words_of(self.changes)}"
        return f"Tuning({self.today.run.name!r}: {head.verdict_words}, {chosen})"


class TuningPlots(Plots):
    """Pictures of a tune. Each is drawn on ``ax`` where that is given, and returns the axes."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self._content = content

    def front(self, ax: Axes | None = None) -> Axes:
        """Every setting that ran: the objective above the best one (ms or s) against the memory of its pool (MiB)."""
        from bufferlab.experiments.figures.tuning import draw_front

        return on_axes(ax, lambda axes: draw_front(axes, self._content))

    def u_shape(self, ax: Axes | None = None) -> Axes:
        """How far fixed default allocations (tokens) are above the best setting (ms or s), a curve for each pool."""
        from bufferlab.experiments.figures.tuning import draw_tokens

        return on_axes(ax, lambda axes: draw_tokens(axes, self._content))
