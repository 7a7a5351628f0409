"""Axes to draw on: those that were given, or new ones that a notebook shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bufferlab.experiments.figures.style import STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (6.2, 4.1)
"""Inches of a new picture."""


def on_axes(ax: Axes | None, draw: Callable[[Axes], Any], *, key: bool = True) -> Axes:
    """Draw on ``ax``, or on a new picture of pyplot in our style, and return the axes.

    ``key``: whether lines that have a name are explained.
    """
    if ax is not None:
        _draw(ax, draw, key=key)
        return ax
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    # Outside of the context: a backend that is loaded by this changes settings that are to stay.
    figure = plt.figure(figsize=SIZE, layout="constrained")
    with mpl.rc_context(STYLE):
        made = figure.subplots()
        _draw(made, draw, key=key)
    return made


def _draw(axes: Axes, draw: Callable[[Axes], Any], *, key: bool) -> None:
    draw(axes)
    if key and axes.get_legend() is None and axes.get_legend_handles_labels()[1]:
        axes.legend()
