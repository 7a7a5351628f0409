"""Axes to draw on: those that were given, or new ones that a notebook shows; and what is drawn on them in which colour.

On axes that show something already a picture is one more: it takes the next colours, limits have room for both, and the
key has the labels of all.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bufferlab.api.speech import spoken
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.figures.style import COLOURS, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bufferlab.experiments.figures.sweeps import Curve

SIZE = (6.2, 4.1)
"""Inches of a new picture."""
Colour = str | tuple[float, ...]
"""A colour as matplotlib takes it."""


class Plots:
    """Pictures of a result, each of which a method draws."""

    def __init_subclass__(cls) -> None:
        for name, method in list(vars(cls).items()):
            if not name.startswith("_") and inspect.isfunction(method):
                setattr(cls, name, spoken(method))

    def __repr__(self) -> str:
        names = [name for name in dir(type(self)) if not name.startswith("_") and callable(getattr(type(self), name))]
        return f"{type(self).__name__}: {', '.join(f'.{name}()' for name in names)}"


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


def on_axes_of_times(
    ax: Axes | None,
    draw: Callable[..., Any],
    curves: Sequence[Curve],
    colours: Sequence[Colour | None],
    quantity: str,
) -> Axes:
    """The distributions of a time in seconds, each in its colour. ``draw``: what draws its body, or its tail."""
    return on_axes(
        ax, lambda axes: draw(axes, curves, quantity=quantity, colours=next_colours(axes, colours), seconds=True)
    )


def _draw(axes: Axes, draw: Callable[[Axes], Any], *, key: bool) -> None:
    draw(axes)
    named = axes.get_legend_handles_labels()[1]
    there = axes.get_legend()
    if key and named and (there is None or [one.get_text() for one in there.get_texts()] != named):
        axes.legend()


def next_colours(axes: Axes, given: Sequence[Colour | None]) -> list[Colour]:
    """A colour for each curve: the one that was given, else the next one of the axes, as lines of its own take them."""
    return [_next_colour(axes) if one is None else one for one in given]


def _next_colour(axes: Axes) -> Colour:
    line: Any = axes.plot([], [])[0]  # there is no other public way to ask
    line.remove()
    found: Colour = line.get_color()
    return found


class Named:
    """What the curves of a picture are called, and their colours; None where the next one of the axes is taken.

    Raises UserError for more curves than can be told apart, and for another number of names or colours than of curves.
    """

    def __init__(
        self, curves: Sequence[str], labels: Sequence[str] | None = None, colors: Sequence[Colour] | None = None
    ) -> None:
        if len(curves) > len(COLOURS):
            raise UserError(
                f"there are {len(curves)} curves, at most {len(COLOURS)} can be told apart; choose some with select, "
                f"such as select={{'protocol.sizing.tokens': [512, 2048]}} or the numbers of configurations"
            )
        self.labels: list[str] = list(curves) if labels is None else _one_for_each(labels, "labels", curves)
        self.colours: list[Colour | None] = (
            [None] * len(curves) if colors is None else _one_for_each(colors, "colors", curves)
        )


def _one_for_each(given: Sequence[Any], name: str, curves: Sequence[str]) -> list[Any]:
    if isinstance(given, str) or len(given) != len(curves):
        have = f"is {given!r}" if isinstance(given, str) else f"has {len(given)}"
        count = f"{len(curves)} curve{'s' if len(curves) != 1 else ''}"
        called = f": {', '.join(curves)}" if any(curves) else ""
        raise UserError(f"{name} {have}, it must be a list with one for each of the {count}{called}")
    return list(given)
