"""``bl.what_if``: sliders over a configuration, and what changes with them on the same requests."""

from __future__ import annotations

import functools
import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bufferlab.api.configuration import Config, ConfigLike, load
from bufferlab.api.runs import Run, simulate
from bufferlab.api.speech import must_be, spoken
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.figures.style import STYLE, new_figure, png_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REQUESTS = 300
"""A run of so many takes some tenths of a second."""
FACTORS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)
TOKENS = (256, 512, 1024, 2048, 4096, 8192, 16384)
WIDGETS = "application/vnd.jupyter.widget-view+json"

WIDTH = 920
"""Of the picture on the page."""
BEFORE = "#aaaaaa"
"""The colour of the configuration as it is."""

Choice = dict[str, float]
"""A value for each slider, by its name."""


class WhatIf:
    """A configuration beside the same with other traffic, memory and links. A notebook shows sliders and a picture.

    ``requests``: of each run; few enough that an answer takes less than a second. Where there are no widgets, or where
    a page shows them no longer, there is the picture alone; ``figure`` and ``run`` answer without a front end.
    """

    def __init__(self, config: ConfigLike, *, requests: int = REQUESTS) -> None:
        self.config: Config = load(config, {"workload.requests": requests, "run.replications": 1})
        tokens = self.config.protocol.sizing.tokens
        self.choices: dict[str, Sequence[float]] = {
            "rate": FACTORS, "tokens": sorted({*TOKENS, tokens}), "pool": FACTORS, "bandwidth": FACTORS,
        }  # fmt: skip
        """What each slider offers: factors on the configuration's own, and tokens of the default allocation."""
        self.start: Choice = {"rate": 1.0, "tokens": tokens, "pool": 1.0, "bandwidth": 1.0}
        """Where the sliders stand at first: the configuration as it is."""
        self._run = functools.lru_cache(maxsize=64)(self._simulated)

    @spoken
    def run(self, **choice: float) -> Run:
        """The configuration with these values of sliders; what is not named stays as it is.

        Raises UserError for a slider that there is not and for what no configuration can have.
        """
        unknown = sorted(choice.keys() - self.start.keys())
        if unknown:
            raise UserError(f"{unknown[0]} is no slider, there are {', '.join(self.start)}")
        for name, value in choice.items():
            must_be(name, value, (int, float), "a number")
        return self._run(*(self.start | choice).values())

    def _simulated(self, rate: float, tokens: float, pool: float, bandwidth: float) -> Run:
        config = self.config
        overrides: dict[str, Any] = {
            "protocol.sizing.tokens": int(tokens),
            "language.pool_blocks": max(1, round(config.blocks(config.language) * pool)),
            "link.bandwidth_scale": (config.link.bandwidth_scale or 1.0) * bandwidth,
        }
        if rate != 1:
            overrides["workload.rate_rps"] = (config.workload.rate_rps or 1.0) * rate
        return simulate(config, overrides, plots=False)

    def figure(self, **choice: float) -> Figure:
        """The picture for these values of sliders: how long requests take, and the pool, beside the configuration."""
        import matplotlib as mpl

        first, second = self.run(), self.run(**choice)
        with mpl.rc_context(STYLE):
            figure, (left, right) = new_figure(1, 2, (9.6, 3.6))
            if second is not first:
                first.plot.tail(left, label="as configured", color=BEFORE)
                first.plot.pools(right, label="as configured", color=BEFORE)
            now = "what if" if second is not first else "as configured"
            second.plot.tail(left, label=now)
            second.plot.pools(right, label=now)
            key = right.get_legend()
            if key is not None:
                key.remove()  # that of the left panel says it
            right.set_title("", loc="left")
            right.set_title(_said(second))
        return figure

    def _png(self, **choice: float) -> bytes:
        return png_bytes(self.figure(**choice))

    @functools.cached_property
    def widgets(self) -> Any:
        """The sliders and their picture; None where ipywidgets is not installed."""
        try:
            import ipywidgets
        except ImportError:
            return None
        sliders = {
            name: ipywidgets.SelectionSlider(
                options=[(f"{value:g}{'' if name == 'tokens' else '×'}", value) for value in values],
                value=self.start[name], description=name, continuous_update=False, layout={"width": f"{WIDTH // 2}px"},
            )
            for name, values in self.choices.items()
        }  # fmt: skip
        picture = ipywidgets.Image(value=self._png(), format="png", width=WIDTH)
        words = ipywidgets.HTML()

        def changed(_: object) -> None:
            try:
                picture.value = self._png(**{name: slider.value for name, slider in sliders.items()})
                words.value = ""
            except UserError as error:
                words.value = f"<p>{html.escape(str(error))}</p>"

        for slider in sliders.values():
            slider.observe(changed, names="value")
        each = list(sliders.values())
        rows = [ipywidgets.HBox(each[start : start + 2]) for start in range(0, len(each), 2)]
        return ipywidgets.VBox([*rows, words, picture])

    def _repr_mimebundle_(self, **_: object) -> tuple[dict[str, Any], dict[str, Any]]:
        """Widgets for front ends that have them, and for all others the picture as it is at first."""
        import base64

        bundle: dict[str, Any] = {
            "text/plain": repr(self),
            "image/png": base64.b64encode(self._png()).decode("ascii"),
        }
        if self.widgets is not None:
            bundle[WIDGETS] = {"version_major": 2, "version_minor": 0, "model_id": self.widgets.model_id}
        return bundle, {"image/png": {"width": WIDTH}}

    def __repr__(self) -> str:
        return f"WhatIf({self.config.run.name!r}: {', '.join(self.choices)})"


@spoken
def what_if(config: ConfigLike, *, requests: int = REQUESTS) -> WhatIf:
    """Sliders over a configuration: rate, default allocation (tokens), pool of the language side, bandwidth.

    Each answer is one short simulated run of the same requests, beside the configuration as it is. ``requests``: how
    many each run has.
    """
    return WhatIf(config, requests=requests)


def _said(run: Run) -> str:
    from bufferlab.experiments.units import format_duration

    p99 = run.content["latency_s"]["p99"]["value"]
    requests, resumed = run.content["requests"], run.content["resume"]["rate"]["value"]
    late = "nothing is delivered" if p99 is None else f"p99 {format_duration(p99)}"
    resumes = "" if resumed is None else f", {resumed:.0%} resumed"
    return f"{late}{resumes}, {requests['succeeded']} of {requests['offered']} served"
