"""Figures of a tune: the Pareto front of an objective against memory, and the U-shape over the default allocation.

Both show differences to the best setting, from the same requests, since these are known far better than the times.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bufferlab.experiments.figures.curves import MAX_CURVES, arms, bounds
from bufferlab.experiments.figures.style import COLOURS, new_figure, save, styled, token_axis, unit_of
from bufferlab.experiments.units import BYTES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POLICY, TOKENS, POOL = "protocol.sizing.policy", "protocol.sizing.tokens", "language.pool_blocks"
MIB = BYTES["MiB"]
SHOWN_ABOVE = 40.0
"""Settings that are worse by more than so many times the median of the others are left out of the picture."""


def plot_tune(content: Mapping[str, Any], folder: Path, title: str) -> list[Path]:
    """Write the figures that fit an answer into ``folder``/plots; ``content`` is that of tune.json."""
    return [save(figure, folder / "plots" / f"{name}.png") for name, figure in tune_pictures(content, title)]


def tune_pictures(content: Mapping[str, Any], title: str) -> Iterator[tuple[str, Figure]]:
    """The name and figure of each picture that fits an answer."""
    known = [one for one in content["settings"] if one["difference"]["value"] is not None]
    if len({one["memory_bytes"] for one in known}) > 1:
        yield "pareto", plot_front(content, title)
    if len({one["fields"].get(TOKENS) for one in _sized(known)}) > 1:
        yield "u_shape", plot_tokens(content, title)


@styled
def plot_front(content: Mapping[str, Any], title: str) -> Figure:
    """Every setting that ran, by the memory that it takes; the front is a line, the recommended one a star."""
    figure, (axes,) = new_figure(1, 1, (6.4, 4.3))
    draw_front(axes, content)
    axes.set_title(title)
    return figure


def draw_front(axes: Axes, content: Mapping[str, Any]) -> None:
    """The panel of ``plot_front``."""
    known = [one for one in content["settings"] if one["difference"]["value"] is not None]
    scale, unit = _unit(known)
    kinds = {"kept": (COLOURS[0], "may be the best"), "dropped": ("#999999", "worse"), "compared": ("#999999", "worse")}
    for label in ("worse", "may be the best"):
        shown = [one for one in known if kinds.get(one["state"], ("", ""))[1] == label]
        if shown:
            colour = COLOURS[0] if label == "may be the best" else "#999999"
            axes.errorbar(
                # Beside each other, as there are few sizes.
                [(0.97 if label == "worse" else 1.0) * one["memory_bytes"] / MIB for one in shown],
                [scale * one["difference"]["value"] for one in shown],
                yerr=_arms(shown, scale),
                fmt="o",
                color=colour,
                markersize=4,
                elinewidth=0.8,
                alpha=0.8,
                label=f"{label} ({len(shown)})",
            )
    by_number = {one["number"]: one for one in known}
    front = [by_number[number] for number in content["front"] if number in by_number]
    if front:
        xs = [one["memory_bytes"] / MIB for one in front]
        ys = [scale * one["difference"]["value"] for one in front]
        axes.step(xs, ys, where="post", color=COLOURS[1], label="Pareto front")
    chosen = by_number.get(content["chosen"])
    if chosen is not None:
        axes.plot(
            chosen["memory_bytes"] / MIB,
            scale * chosen["difference"]["value"],
            marker="*",
            markersize=13,
            color=COLOURS[1],
            linestyle="",
            label="recommended",
        )
    today = by_number.get(content["over"][0]["number"])
    if today is not None:
        axes.plot(
            today["memory_bytes"] / MIB,
            scale * today["difference"]["value"],
            marker="s",
            markersize=7,
            markerfacecolor="none",
            color=COLOURS[6],
            linestyle="",
            label="today",
        )
    axes.set_xscale("log", base=2)
    sizes = sorted({one["memory_bytes"] / MIB for one in known})
    _memory_ticks(axes, sizes)
    axes.set_xlabel("pool of a language rank (MiB)")
    axes.set_ylabel(f"{content['objective']['name']} above the best ({unit})")
    _cut(axes, [scale * one["difference"]["value"] for one in known])
    axes.legend()


@styled
def plot_tokens(content: Mapping[str, Any], title: str) -> Figure:
    """How far fixed defaults are above the best setting, a curve for each pool, in blocks of the recommended size."""
    figure, (axes,) = new_figure(1, 1, (6.4, 4.3))
    draw_tokens(axes, content)
    axes.set_title(title)
    return figure


def draw_tokens(axes: Axes, content: Mapping[str, Any]) -> None:
    """The panel of ``plot_tokens``."""
    known = _sized([one for one in content["settings"] if one["difference"]["value"] is not None])
    scale, unit = _unit(known)
    curves = _curves(known, content)
    for (label, points), colour in zip(curves, COLOURS, strict=False):
        axes.errorbar(
            [one["fields"][TOKENS] for one in points],
            [scale * one["difference"]["value"] for one in points],
            yerr=_arms(points, scale),
            color=colour,
            marker="o",
            markersize=4,
            capsize=2,
            label=label,
        )
    axes.axhline(0.0, color="#555555", linewidth=0.8)
    indifference = content["indifference"]
    if indifference:
        axes.axhspan(0.0, scale * indifference, color="#dddddd", alpha=0.6, label="indifference", linewidth=0)
    token_axis(axes, [one["fields"][TOKENS] for one in known])
    axes.set_xlabel("default allocation (tokens)")
    axes.set_ylabel(f"{content['objective']['name']} above the best ({unit})")
    _cut(axes, [scale * one["difference"]["value"] for _, points in curves for one in points])
    axes.legend()


def _sized(settings: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Fixed defaults of disciplines that ask for one."""
    return [
        one
        for one in settings
        if one["fields"].get(POLICY) == "fixed"
        and isinstance(one["fields"].get(TOKENS), int)
        and one["fields"].get("protocol.discipline") != "exact_announce"
    ]


def _curves(
    known: Sequence[Mapping[str, Any]], content: Mapping[str, Any]
) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Settings that differ in the default alone, those of the recommended block size first, at most as many as fit."""
    block = content["recommendation"].get("protocol.block_tokens")
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for one in known:
        fields = {name: value for name, value in one["fields"].items() if name not in (TOKENS, POOL, POLICY)}
        if block is not None and fields.get("protocol.block_tokens", block) != block:
            continue
        fields.pop("encode.pool_blocks", None)
        memory = round(one["memory_bytes"] / MIB)
        groups.setdefault((memory, *map(str, fields.values())), []).append(one)
    several = {key: points for key, points in groups.items() if len(points) > 1}
    varied = len({key[1:] for key in several}) > 1
    curves = []
    for key, points in sorted(several.items(), key=lambda item: (-item[0][0], item[0][1:])):
        label = f"{key[0]} MiB" + (f", {', '.join(key[1:])}" if varied else "")
        curves.append((label, sorted(points, key=lambda one: one["fields"][TOKENS])))
    return curves[:MAX_CURVES]


def _unit(settings: Sequence[Mapping[str, Any]]) -> tuple[float, str]:
    return unit_of(max((abs(one["difference"]["value"]) for one in settings), default=0.0))


def _arms(settings: Sequence[Mapping[str, Any]], scale: float) -> Any:
    return scale * arms([bounds(one["difference"]) for one in settings])


def _cut(axes: Any, values: Sequence[float]) -> None:
    """Leave settings out that would make all others one line."""
    ordered = sorted(value for value in values if value > 0)
    if len(ordered) > 4:
        middle = ordered[len(ordered) // 2]
        if ordered[-1] > SHOWN_ABOVE * middle:
            top = max(value for value in ordered if value <= SHOWN_ABOVE * middle)
            axes.set_ylim(top=1.2 * top)


def _memory_ticks(axes: Any, sizes: Sequence[float]) -> None:
    """A tick at every size that is not next to another one."""
    ticks: list[float] = []
    for size in sizes:
        if not ticks or size > 1.2 * ticks[-1]:
            ticks.append(size)
    axes.set_xticks(ticks, [f"{size:.3g}" for size in ticks])
    axes.minorticks_off()
