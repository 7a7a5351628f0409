"""A timeline as a picture, for pages and notebooks; Perfetto shows the same and lets one look closer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from bufferlab.experiments.figures.style import COLOURS
from bufferlab.experiments.figures.timeline import Timeline
from bufferlab.experiments.figures.timeline_drawing import (
    COPIES,
    ENCODER,
    OFFERS,
    PREFILL,
    REQUESTS,
    WAITING,
    writer,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {
    REQUESTS.name: "#bbbbbb", ENCODER.name: COLOURS[2], OFFERS.name: "#f2c9a1", writer(0, 1).name: COLOURS[0],
    COPIES.name: COLOURS[4], PREFILL.name: COLOURS[3], WAITING.name: "#dddddd",
}  # fmt: skip
_FAILED, _NO_BLOCKS = COLOURS[1], COLOURS[5]
_DARK = {COLOURS[0], COLOURS[1], COLOURS[2]}
_SIZE = 6.5
_LETTER = 0.55
"""How wide a letter is, of its height, on average."""
_MOST_TRACKS = 60

Slices = dict[tuple[int, int], list[dict[str, Any]]]


def draw_timeline(axes: Axes, made: Timeline, *, lanes: Collection[str], arrows: bool = True) -> None:
    """Draw the tracks of ``lanes`` from top to bottom, in their order; time in seconds.

    A slice has its name where there is room for it. Raises ValueError where there are more tracks than can be read.
    """
    slices: Slices = defaultdict(list)
    for one in made.events:
        if one["ph"] == "X" and _lane(one) in lanes:
            slices[one["pid"], one["tid"]].append(one)
    if len(slices) > _MOST_TRACKS:
        raise ValueError(
            f"there are {len(slices)} tracks, a picture shows {_MOST_TRACKS}; draw fewer lanes or requests"
        )
    heights = {track: -number for number, track in enumerate(sorted(slices))}
    processes = {one["pid"]: one["args"]["name"] for one in made.events if one["name"] == "process_name"}
    names = {one["tid"]: one["args"]["name"] for one in made.events if one["name"] == "thread_name"}
    last_s = max((one["ts"] + one["dur"] for some in slices.values() for one in some), default=1.0) / 1e6
    axes.set_xlim(0, last_s)
    axes.set_ylim(-len(slices) + 0.4, 0.6)
    axes.set_yticks(list(heights.values()), [f"{processes[pid]}  {names[tid]}" for pid, tid in heights], fontsize=7)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("seconds")
    width = axes.get_window_extent().width / axes.figure.dpi * 72
    for track, some in slices.items():
        for one in some:
            begin_s, lasts_s = one["ts"] / 1e6, one["dur"] / 1e6
            colour = _colour(one)
            axes.barh(heights[track], lasts_s, left=begin_s, height=0.8, color=colour, edgecolor="white", linewidth=0.3)
            if len(one["name"]) * _SIZE * _LETTER < lasts_s / last_s * width:
                axes.text(
                    begin_s + lasts_s / 2, heights[track], one["name"], fontsize=_SIZE, ha="center", va="center",
                    color="white" if colour in _DARK else "black",
                )  # fmt: skip
    if arrows:
        _draw_arrows(axes, made, heights)


def _lane(one: dict[str, Any]) -> str:
    """All writers of a rank count as one lane."""
    category = str(one["cat"])
    return writer(0, 1).name if category.startswith(writer(0, 1).name) else category


def _colour(one: dict[str, Any]) -> str:
    name = one["name"]
    if any(word in name for word in (" fails: ", " failed: ", " not finished")):
        return _FAILED
    return _NO_BLOCKS if "waits for blocks" in name else _COLOURS[_lane(one)]


def _draw_arrows(axes: Axes, made: Timeline, heights: dict[tuple[int, int], int]) -> None:
    begun: dict[int, tuple[float, int]] = {}
    last: dict[tuple[int, int], dict[str, Any]] = {}
    for one in made.events:
        track = one["pid"], one["tid"]
        if one["ph"] == "X":
            last[track] = one
        elif one["ph"] == "s" and track in heights:
            begun[one["id"]] = (last[track]["ts"] + last[track]["dur"]) / 1e6, heights[track]
        elif one["ph"] == "f" and track in heights and one["id"] in begun:
            axes.annotate(
                "", (one["ts"] / 1e6, heights[track]), begun[one["id"]],
                arrowprops={"arrowstyle": "->", "color": "#555555", "linewidth": 0.7, "shrinkA": 0, "shrinkB": 0},
            )  # fmt: skip
