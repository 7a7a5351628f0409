"""The look of all figures: palette, style, axes with units, labels that do not overlap, PNG files that repeat.

Figures are made without pyplot, which keeps them alive and chooses a backend for the whole process.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec

import numpy as np
from numpy.typing import NDArray

from bufferlab.experiments.files import disk_errors, write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# Okabe and Ito's palette, without its yellow, which is too light for lines on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DOTS_PER_INCH = 150
NOTEBOOK_DOTS_PER_INCH = 96
PNG_LEVEL = 3
"""Files are a tenth larger than with zlib's usual 6, in a third of the time."""
FORMS = ("png", "svg", "pdf")
TITLE_INCHES = 0.24
"""Of a line of a title above a figure."""
MAX_POINTS = 2000
MAX_SHARES = 8000
"""Twenty to a pixel of the highest figure: steps that are much smaller than what matplotlib leaves out of a line."""
SECONDS_FROM_S = 10.0
"""Logarithmic axes whose largest value is below this show milliseconds."""

STYLE: Any = {
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": "medium",
    "axes.titley": 1.0,  # where it is in any case: looking what might be in its way takes a tenth of the drawing
    "axes.axisbelow": True,
    "axes.prop_cycle": f"cycler(color={list(COLOURS)})",
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": "small",
    "lines.linewidth": 1.6,
    "font.size": 9.5,
}

# Where a label may stand beside its point, in points right of it and above it; the first free one is taken.
SIDES = (
    (5, 4), (-5, 4), (5, -4), (-5, -4), (7, 0), (-7, 0), (0, 7), (0, -7), (14, 8), (-14, -8), (14, -8), (-14, 8),
    (0, 15), (0, -15), (18, 0), (-18, 0), (10, 18), (-10, 18), (10, -18), (-10, -18), (24, 12), (-24, 12), (24, -12),
    (-24, -12),
)  # fmt: skip
NEAR_POINTS = 30.0
SAME_POINTS = 4.0
"""Points of a curve that are no further apart look like one."""

Samples = NDArray[np.float64]
Arguments = ParamSpec("Arguments")
KIND_NAMES = {"sim": "simulated", "real": "measured"}
KIND_LINES = {"sim": "-", "real": "--"}
"""How simulated and measured runs are called and drawn."""


def styled(draw: Callable[Arguments, Figure]) -> Callable[Arguments, Figure]:
    """The function with our style, while that of the process stays as it is."""

    @functools.wraps(draw)
    def in_style(*arguments: Arguments.args, **options: Arguments.kwargs) -> Figure:
        import matplotlib as mpl

        with mpl.rc_context(STYLE):
            return draw(*arguments, **options)

    return in_style


class Margins(NamedTuple):
    """Inches around the panels of a figure, for their labels, and between two of them."""

    left: float
    right: float
    bottom: float
    top: float
    between: float

    def places(self, rows: int, columns: int, size: tuple[float, float]) -> dict[str, float]:
        """What matplotlib wants: shares of a figure of ``size``, and between panels shares of one of them."""
        width, height = size
        across = (width - self.left - self.right - self.between * (columns - 1)) / columns
        down = (height - self.bottom - self.top - self.between * (rows - 1)) / rows
        return {
            "left": self.left / width,
            "right": 1 - self.right / width,
            "bottom": self.bottom / height,
            "top": 1 - self.top / height,
            "wspace": self.between / across,
            "hspace": self.between / down,
        }


def new_figure(
    rows: int, columns: int, size: tuple[float, float], margins: Margins | None = None, **shared: Any
) -> tuple[Figure, list[Axes]]:
    """An empty figure of ``size`` (inches) and its panels, row by row.

    Without ``margins`` matplotlib finds out what room the labels take, which takes it as long as drawing them.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with mpl.rc_context(STYLE):
        figure = _figure_class()(figsize=size, dpi=DOTS_PER_INCH, layout="constrained" if margins is None else None)
        FigureCanvasAgg(figure)
        places = {} if margins is None else margins.places(rows, columns, size)
        panels = figure.subplots(rows, columns, squeeze=False, gridspec_kw=places, **shared)
    return figure, list(panels.flat)


@functools.cache
def _figure_class() -> type[Figure]:
    from matplotlib.figure import Figure

    class ShownFigure(Figure):
        """A figure that a notebook shows as the value of a cell, which else only pyplot's figures are."""

        def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
            return png_bytes(self), {"width": round(self.get_figwidth() * NOTEBOOK_DOTS_PER_INCH)}

    return ShownFigure


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG; the same figure gives the same bytes."""
    drawn = png_bytes(figure)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, drawn)
    return path


def with_title(figure: Figure, title: str) -> Figure:
    """The figure with a title above all of its panels, which keep their size."""
    height = figure.get_figheight()
    taller = height + TITLE_INCHES * len(title.splitlines())
    share = height / taller
    engine: Any = figure.get_layout_engine()
    if engine is None:
        for axes in figure.axes:
            place = axes.get_position()
            axes.set_position((place.x0, place.y0 * share, place.width, place.height * share))
    else:
        engine.set(rect=(0, 0, 1, share))
    figure.set_figheight(taller)
    figure.text(0.02, 1 - TITLE_INCHES / 3 / taller, title, ha="left", va="top", fontsize="large")
    return figure


def picture_bytes(figure: Figure, form: str) -> bytes:
    """A figure as one of ``FORMS``; the same figure gives the same bytes."""
    if form == "png":
        return png_bytes(figure)
    import matplotlib as mpl

    buffer = io.BytesIO()
    # Without the time of day, and with names of parts that are no random ones.
    dated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with mpl.rc_context({**STYLE, "svg.hashsalt": "bufferlab", "pdf.fonttype": 42}):
        figure.savefig(buffer, format=form, metadata=dated[form])
    return buffer.getvalue()


def png_bytes(figure: Figure) -> bytes:
    """A figure of ``new_figure`` as PNG."""
    buffer = io.BytesIO()
    canvas: Any = figure.canvas  # Agg's; ``savefig`` goes through the motions once more before it draws
    canvas.print_png(buffer, metadata={"Software": None}, pil_kwargs={"compress_level": PNG_LEVEL})
    return buffer.getvalue()


def limits_of(axes: Axes, name: str) -> tuple[float, float] | None:
    """The limits of the ``x`` or ``y`` axis, which must stay in sight; None where nothing is drawn yet."""
    if not axes.has_data():
        return None
    low, high = sorted(axes.get_xlim() if name == "x" else axes.get_ylim())
    return low, high


def around(low: float, high: float, before: tuple[float, float] | None) -> tuple[float, float]:
    """Limits from ``low`` to ``high``, and around those ``before``, of which what is not above 0 has no place on an
    axis that begins there."""
    if before is None:
        return low, high
    return (min(low, before[0]) if before[0] > 0 or low <= 0 else low), max(high, before[1])


def time_axis(axes: Axes, largest_s: float) -> None:
    """Milliseconds below two seconds, seconds above; from 0, so that lengths compare."""
    from matplotlib.ticker import FuncFormatter

    in_milliseconds = largest_s < 2
    scale = 1e3 if in_milliseconds else 1.0
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value * scale:g}"))
    axes.set_xlabel("time (ms)" if in_milliseconds else "time (s)")
    axes.set_xlim(0, largest_s * 1.03 or 1.0)


def plain_log_axis(axis: Axis, *, scale: float = 1.0) -> None:
    """Label a logarithmic axis with plain numbers, ``scale`` times the value, close enough to read values off."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = sorted(axis.get_view_interval())
    decades = np.log10(high / low) if low > 0 else 1.0
    steps = (1.0,) if decades > 3.5 else (1.0, 2.0, 5.0) if decades > 0.7 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
    axis.set_major_locator(LogLocator(base=10, subs=steps, numticks=30))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value * scale:g}"))
    axis.set_minor_formatter(NullFormatter())


def unit_of(largest_s: float) -> tuple[float, str]:
    """Factor and name of the unit for values up to ``largest_s``."""
    return (1.0, "s") if largest_s >= SECONDS_FROM_S else (1e3, "ms")


def token_axis(axes: Axes, sizes: Iterable[float]) -> None:
    """A base-2 axis with a tick at every size; every other one has its number where they would touch."""
    known = sorted(set(sizes))
    axes.set_xscale("log", base=2)
    step = 1 if len(known) <= 10 else 2
    names = [f"{size:g}" if index % step == 0 else "" for index, size in enumerate(known)]
    axes.set_xticks(known, names, fontsize="small" if len(known) > 7 else None)
    axes.minorticks_off()


def thinned(times: Samples, values: Samples, most: int = MAX_POINTS) -> tuple[Samples, Samples]:
    """At most so many points; the highest of every stretch, so that no peak is lost."""
    if len(times) <= most:
        return times, values
    edges = np.linspace(0, len(times), most + 1).astype(int)[:-1]
    return times[edges], np.maximum.reduceat(values, edges)


def shown_ranks(count: int) -> NDArray[np.int64]:
    """Ranks of ``count`` sorted samples to draw their distribution through: all, or as many as a picture shows."""
    return np.linspace(1, count, min(count, MAX_SHARES)).round().astype(np.int64)


def place_labels(axes: Axes, curves: Sequence[Sequence[tuple[float, float, str]]], colours: Sequence[str]) -> None:
    """Write the text of each (x, y, text) beside its point, where it covers no curve, point or other text.

    Points of a curve that look like one have one text. A text for which there is no place is left out, and so is one
    that stands already beside a near point: curves that run together share their labels. The axes must have their
    limits.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # the layout moves the axes, so pixels are known only now
    places = [axes.transData.transform([point[:2] for point in curve]) for curve in curves if curve]
    covered = np.concatenate([_along(place) for place in places]) if places else np.zeros((0, 2))
    frame = axes.get_window_extent()
    near = NEAR_POINTS * figure.dpi / 72
    taken: list[Any] = []
    written: list[tuple[str, Any]] = []
    for curve, place, colour in zip((one for one in curves if one), places, colours, strict=False):
        for (x, y, text), pixel in _apart(curve, place, SAME_POINTS * figure.dpi / 72):
            if any(text == other and np.hypot(*(pixel - where)) < near for other, where in written):
                continue
            for right, up in SIDES:
                label = axes.annotate(
                    text, (x, y), (right, up), textcoords="offset points", color=colour, fontsize="small",
                    ha="left" if right > 0 else "right" if right < 0 else "center",
                    va="bottom" if up > 0 else "top" if up < 0 else "center",
                )  # fmt: skip
                box = label.get_window_extent()
                inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
                columns, rows = covered.T
                hidden = (box.x0 <= columns) & (columns <= box.x1) & (box.y0 <= rows) & (rows <= box.y1)
                if inside and not hidden.any() and not any(box.overlaps(other) for other in taken):
                    taken.append(box)
                    written.append((text, pixel))
                    break
                label.remove()


def _apart(
    curve: Sequence[tuple[float, float, str]], pixels: Any, least: float
) -> Iterator[tuple[tuple[float, float, str], Any]]:
    """The points of a curve that can be told apart, and where they are; several that cannot are one, which says so."""
    begin = 0
    for index in range(1, len(curve) + 1):
        if index < len(curve) and np.hypot(*(pixels[index] - pixels[begin])) < least:
            continue
        x, y, text = curve[begin]
        if index - begin > 1:
            text += f"{', ' if index - begin == 2 else ' … '}{curve[index - 1][2]}"
        yield (x, y, text), pixels[begin]
        begin = index


def _along(pixels: Any) -> Samples:
    """Points every few pixels along a line through ``pixels``."""
    steps = [np.linspace(first, last, 40) for first, last in pairwise(pixels)]
    return np.concatenate([pixels, *steps])
