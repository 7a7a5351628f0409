"""``bl.validate``: how far predictions are off what was measured, and what that is to its user."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bufferlab.api.drawing import Colour, Plots, next_colours, on_axes
from bufferlab.api.results import PathLike, Place, Result, bar_of, told
from bufferlab.api.runs import Run
from bufferlab.api.speech import must_be, one_of, spoken
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.validation.command import validate as validate_runs

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from bufferlab.experiments.validation.rescoring import Rows


@spoken
def validate(
    runs: Run | PathLike | Sequence[Run | PathLike],
    profile: PathLike,
    *,
    max_error: Mapping[str, float] | None = None,
    timelines: bool = False,
    seed: int = 0,
    out: PathLike | None = None,
    progress: bool = False,
) -> Validation:
    """Predict measured runs with a link profile and score the prediction, as ``bufferlab validate`` does.

    ``runs``: one or several runs or run directories; those of one configuration are repeats. ``profile``: the name of a
    link profile or a .toml file. ``max_error``: tolerances, relative, such as ``{"p50": 0.05}``; the usual ones unless
    given. ``seed``: of the resamples behind intervals. ``out``: a new folder for validation.json, cases.csv and
    figures, with a trace of each case where ``timelines`` is true; without it they lie in a temporary folder that goes
    with the result. ``progress`` shows a bar.

    Raises UserError, before anything is written, for what is no measured run or no profile.
    """
    must_be("runs", runs, (Run, str, Path, Sequence), RUNS)
    several = [runs] if isinstance(runs, Run | Path | str) else list(runs)
    for one in several:
        must_be("runs", one, (Run, str, Path), RUNS)
    must_be("profile", profile, (str, Path), "the name of a link profile or a .toml file")
    must_be("max_error", max_error or {}, Mapping, "tolerances such as {'p50': 0.05}")
    folders = [one.path if isinstance(one, Run) else Path(one) for one in several]
    if timelines and out is None:
        raise UserError("timelines has no effect without out")
    place = Place(out, "validation")
    limits = None if max_error is None else ",".join(f"{name}={value}" for name, value in max_error.items())
    with bar_of("validate", len(folders), "runs", progress=progress) as shown:
        made = validate_runs(
            folders,
            os.fspath(profile),
            max_error=limits,
            out=place.path,
            timelines=timelines,
            seed=seed,
            progress=shown.step,
        )
    for note in made.notes if timelines else ():
        told(note)
    return Validation(place, text=made.text(stages=True))


RUNS = "runs (bl.Run) or the folders of runs"


class Validation(Result):
    """A finished validation. A notebook shows in words how far predictions are off; ``table`` has every case."""

    def __init__(self, place: Place, *, text: str | None = None) -> None:
        from bufferlab.experiments.reports.sources import read_source

        super().__init__(place, read_source(place.path).content)
        self._text = text

    @property
    def text(self) -> str:
        """The tables that the command prints, with ``--stages``. Raises UserError for one that was read from a folder,
        which does not have them."""
        if self._text is None:
            raise UserError(f"the text of {str(self.path)!r} is not kept; its table and its page have all of it")
        return self._text

    @property
    def misses(self) -> list[str]:
        """A sentence for every figure that is off by more than its tolerance, and for every case in which requests
        ended otherwise on one side."""
        return list(self.content["misses"])

    @property
    def passed(self) -> bool:
        """Whether there are no misses."""
        return not self.misses

    @cached_property
    def table(self) -> pd.DataFrame:
        """cases.csv: a row for each case, index ``case``.

        For each of p50, p90, p99, mean and throughput: ``p50_measured_s`` and ``p50_predicted_s`` (seconds;
        ``throughput_measured_rps`` in requests a second), ``p50_bias`` (predicted / measured − 1) with its 95 %
        interval ``p50_bias_low`` and ``p50_bias_high``, ``p50_noise`` (how far one measurement is off as a prediction
        of another), ``p50_tolerance`` and ``p50_verdict``.
        """
        import pandas as pd

        return pd.read_csv(self.path / "cases.csv").set_index("case")

    @property
    def plot(self) -> ValidationPlots:
        """Its pictures."""
        return ValidationPlots(self.content)

    def __repr__(self) -> str:
        from bufferlab.experiments.reports.readings import plural

        cases = self.content["cases"]
        runs = plural(sum(one["repeats"] for one in cases), "repeat")
        name = self.content["profile"]["name"]
        return f"Validation({name!r}: {runs} of {plural(len(cases), 'case')}, {self._head().verdict_words})"

    def _rows(self) -> tuple[list[str], list[list[str]]]:
        from bufferlab.experiments.reports.readings import value_text

        rows = []
        for case in self.content["cases"]:
            for name, one in case["figures"].items():
                if one["verdict"]:
                    kind = "rate" if name == "throughput" else "time"
                    sides = [
                        value_text({"value": one[side], "low": None, "high": None}, kind)
                        for side in ("measured", "predicted")
                    ]
                    bias = value_text(one["bias"], "relative", signed=True)
                    rows.append([case["name"], one["called"], *sides, bias, str(one["verdict"])])
        return ["case", "figure", "measured", "predicted", "bias", "verdict"], rows


class ValidationPlots(Plots):
    """Pictures of a validation. Each is drawn on ``ax`` where that is given, and returns the axes."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self._content = content

    def qq(self, ax: Axes | None = None, *, case: str | int = 0, label: str = "", color: Colour | None = None) -> Axes:
        """Predicted against measured quantiles of the latency (ms) of a case, by its name or its place; a right
        prediction lies on the diagonal. ``label``: what a key calls the points; ``color``: the next one of the axes
        unless given. Raises UserError for a case that is not there."""
        import numpy as np

        from bufferlab.experiments.validation.figures import draw_quantiles

        found = _case(self._content["cases"], case)["qq"]
        measured, predicted = (np.array(found[side], dtype=float) for side in ("measured_s", "predicted_s"))

        def draw(axes: Axes) -> None:
            draw_quantiles(axes, measured, predicted, colour=next_colours(axes, [color])[0], label=label)

        return on_axes(ax, draw)

    def errors(self, ax: Axes | None = None, *, figure: Literal["p50", "p99", "throughput"] = "p99") -> Axes:
        """What predictions of a figure are off by (percent), case by case with their 95 % intervals; ticks are at the
        tolerance, grey is the noise of one measurement."""
        from bufferlab.experiments.validation.figures import draw_biases

        one_of("figure", figure, ("p50", "p99", "throughput"))
        rows = _judged(self._content["cases"])

        def draw(axes: Axes) -> None:
            draw_biases(axes, rows, figure)
            axes.set_yticks(range(len(rows)), list(rows))
            axes.invert_yaxis()

        return on_axes(ax, draw)


def _case(cases: Sequence[Mapping[str, Any]], case: str | int) -> Mapping[str, Any]:
    names = [one["name"] for one in cases]
    if isinstance(case, int) and -len(cases) <= case < len(cases):
        return cases[case]
    if case in names:
        return cases[names.index(str(case))]
    raise UserError(f"case is {case!r}, it must be one of {', '.join(names)}, or a number below {len(names)}")


def _judged(cases: Sequence[Mapping[str, Any]]) -> Rows:
    """The figures of cases as a picture of their biases takes them."""
    from bufferlab.experiments.validation.rescoring import BARRED, Judged

    return {
        case["name"]: {
            name: Judged(
                one["measured"],
                one["bias"],
                None if one["noise"] is None else one["noise"]["floor"],
                one["tolerance"],
                one["verdict"],
                one["called"],
            )
            for name, one in case["figures"].items()
            if name in BARRED
        }
        for case in cases
    }
