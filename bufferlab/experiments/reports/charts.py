"""The charts of the page: curves with bands, distributions, bars, trade-offs, a map of two fields, and differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bufferlab.experiments.figures.distributions import Distribution as Shares
from bufferlab.experiments.reports.drawing import (
    LINE,
    MARKS,
    WIDE,
    WIDTH,
    Frame,
    Key,
    labels_of,
    letters,
    shape,
    shortened,
)
from bufferlab.experiments.reports.page import Panel
from bufferlab.experiments.reports.readings import BESIDE, interval_text, scale_for, shown, value_text
from bufferlab.experiments.reports.scales import linear, logarithmic, ordinal, sizes

Samples = NDArray[np.float64]
MOST_STEPS = 260
"""Points of one line: more than a picture this wide can show."""
MOST_BANDS = 3
"""Bands over each other that can be told apart."""
MOST_LABELLED = 24
"""Points of a trade-off that all have their intervals and names; of more only those that matter have."""
LABEL = 34
"""Letters of a label beside a bar."""


@dataclass(frozen=True)
class Spot:
    """A value with its interval at a place of a curve, and what is to be known of it."""

    x: float
    estimate: Mapping[str, Any]
    tip: str
    best: bool = False
    alike: bool = False
    whole: bool = True
    """Whether all requests were served."""


@dataclass(frozen=True)
class Curve:
    """A line through spots."""

    label: str
    spots: Sequence[Spot]


@dataclass(frozen=True)
class Distribution:
    """The share of the requests within a time, and what it is called."""

    label: str
    of: Shares
    dash: int = 0

    @property
    def told(self) -> str:
        """Its median and its tail in words, for those who do not see it."""
        half, most = (self.of.time_s(share) for share in (0.5, 0.99))
        return f"{self.label}: half within {shown(half, 'time')}, 99 % within {shown(most, 'time')}"


def curves(
    title: str, given: Sequence[Curve], *, across: str, kind: str, file: str, description: str, ranked: bool,
    names: Sequence[str] = (),
) -> Panel:  # fmt: skip
    """Values against a setting, with bands; a star is the lowest, filled marks may be it, crosses lost requests.

    ``names``: what the places are called where they are no numbers. ``ranked``: whether filled marks say anything.
    """
    spots = [spot for one in given for spot in one.spots]
    highest = max(spot.estimate["value"] for spot in spots)
    tops = [min(_bound(spot, "high"), 1.6 * highest) for spot in spots]
    factor, unit = scale_for(kind, highest)
    keys = [Key(one.label, number, "line") for number, one in enumerate(given, 1)] if len(given) > 1 else []
    if any(spot.best for spot in spots):
        keys.append(Key("lowest", 0, "star"))
    others = [spot for spot in spots if ranked and spot.whole and not spot.best]
    keys += [Key("may be the lowest", 0, "circle")] if any(spot.alike for spot in others) else []
    keys += [Key("higher", 0, "hollow circle")] if not all(spot.alike for spot in others) else []
    if not all(spot.whole for spot in spots):
        keys.append(Key("requests lost", 0, "cross"))
    xs = sorted({spot.x for spot in spots})
    frame = Frame(
        title, description, file,
        (
            (lambda a, b: ordinal(names, a, b)) if names else (lambda a, b: sizes(xs, a, b)),
            lambda a, b: linear(0.0, max(tops), a, b, factor=factor),
        ),
        across=across, upwards=unit, keys=keys,
    )  # fmt: skip
    for colour, one in enumerate(given, 1):
        if len(given) > 1:  # several bands over each other show none
            for spot in one.spots:
                if spot.estimate["low"] is not None:
                    at = frame.x.place(spot.x) + 5 * (colour - (len(given) + 1) / 2)
                    frame.rule(
                        at, *(frame.y.held(_bound(spot, "low")), at, frame.y.held(_bound(spot, "high"))), "wh", colour
                    )
        elif has_intervals(given):
            lows, highs = ([(s.x, _bound(s, side)) for s in one.spots] for side in ("low", "high"))
            frame.band(lows, highs, colour)
    for colour, one in enumerate(given, 1):
        aside = 0.0 if len(given) == 1 else 5 * (colour - (len(given) + 1) / 2)
        frame.line([(spot.x, spot.estimate["value"]) for spot in one.spots], colour, aside=aside)
        for spot in one.spots:
            look = "cross" if not spot.whole else "star" if spot.best else MARKS[(colour - 1) % len(MARKS)]
            hollow = ranked and spot.whole and not spot.best and not spot.alike
            frame.mark(spot.x, spot.estimate["value"], colour, look, spot.tip, hollow=hollow, aside=aside)
    return frame.panel()


def has_intervals(given: Sequence[Curve]) -> bool:
    """Whether intervals are drawn: upright lines of several curves, of a single one a band if all of it has them."""
    known = [spot.estimate["low"] is not None for one in given for spot in one.spots]
    return all(known) if len(given) == 1 else any(known)


def distribution_panels(given: Sequence[Distribution], what: str, *, across: str, file: str) -> list[Panel]:
    """The body of distributions and their tails. ``what``: a time, a latency."""
    told = "; ".join(one.told for one in given)
    return [
        distributions(f"Share of requests {side} {what}", given, tail=tail, across=across, file=name, description=words)
        for side, tail, name, words in (
            ("within", False, file, told),
            ("beyond", True, f"{file}-tail", f"The slowest requests of the same; {told}"),
        )
    ]


def has_bands(given: Sequence[Distribution]) -> bool:
    """Whether bands are drawn: more than a few over each other show none."""
    return len(given) <= MOST_BANDS and any(one.of.low is not None for one in given)


def shares_sentence(given: Sequence[Distribution]) -> str:
    """What lines over several replications are, and what not; nothing of one run, or of a file."""
    if all(one.of.replications == 1 for one in given):
        return ""
    bands = ", bands its 95 % interval" if has_bands(given) else ""
    return (
        f"Over replications a line is the mean of their shares within a time{bands}. The tables have the mean of the "
        "replications' quantiles, which few slow replications raise far more."
    )


def distributions(
    title: str, given: Sequence[Distribution], *, tail: bool, across: str, file: str, description: str
) -> Panel:
    """The share of requests within a time, or with ``tail`` beyond it, on axes that show the slowest."""
    largest = max(float(one.of.times_s[-1]) for one in given)
    least = max(min(float(one.of.times_s[0]) for one in given), largest * 1e-4) or 1e-9
    factor, unit = scale_for("time", largest if largest >= 10 else min(largest, 0.9))
    keys = [Key(one.label, number, "line", one.dash) for number, one in enumerate(given, 1) if one.label]
    frame = Frame(
        title, description, file,
        (
            lambda a, b: logarithmic(least * 0.9, max(largest, least) * 1.1, a, b, factor=factor),
            (lambda a, b: logarithmic(1e-3, 1.0, a, b, factor=100)) if tail
            else (lambda a, b: linear(0.0, 1.0, a, b, factor=100)),
        ),
        across=f"{across} ({unit})", upwards="% beyond" if tail else "% within", keys=keys, grid="xy",
    )  # fmt: skip

    def places(one: Shares, shares: Samples) -> list[tuple[float, float]]:
        heights = np.maximum(1 - shares, 1e-9) if tail else shares
        return list(zip(one.times_s.tolist(), heights.tolist(), strict=True))

    for colour, one in enumerate(given, 1):
        if one.of.low is not None and one.of.high is not None and has_bands(given):
            frame.band(places(one.of, one.of.low), places(one.of, one.of.high), colour)
        first = (float(one.of.times_s[0]), 1.0 if tail else 0.0)
        frame.steps([first, *places(one.of, one.of.shares)], colour, dash=one.dash)
    return frame.panel()


def bars(title: str, rows: Sequence[tuple[str, Mapping[str, Any], bool, str]], *, file: str, description: str) -> Panel:
    """A bar for each share: (label, estimate, whether it stands out, a word where there is none), with its interval."""
    factor, unit = scale_for("share", 1.0)
    labels = labels_of([label for label, *_ in rows], LABEL)
    left = max(letters(label) for label in labels) + 12
    step = 27
    frame = Frame(
        title, description, file,
        (
            lambda a, b: linear(0.0, 1.0, a, b - 62, factor=factor, ticks=4),
            lambda a, b: ordinal(labels[::-1], a, b),
        ),
        across=unit, height=round(30 + 4 + 42 + step * len(rows)), grid="x", left=left, names=False,
    )  # fmt: skip
    for number, ((_, estimate, stands_out, word), label) in enumerate(zip(rows, labels, strict=True)):
        middle = frame.y.place(len(rows) - 1 - number)
        frame.write(left - 8, middle + 4, label, anchor="end", look="v" if stands_out else "k")
        value = estimate["value"]
        if value is None:
            frame.write(frame.begin + 6, middle + 4, word or "not known")
            continue
        reading = value_text(estimate, "share")
        tip = (
            f"{label}: {reading} ({interval_text(estimate, 'share')})"
            if estimate["low"] is not None
            else f"{label}: {reading}"
        )
        begin, end = frame.x.place(0.0), frame.x.held(value)
        frame.bar(begin, middle - 8, frame.x.place(frame.x.high), middle + 8, 0, look="track")
        frame.bar(begin, middle - 8, end, middle + 8, 2 if stands_out else 1, tip=tip)
        if estimate["low"] is not None:
            low, high = frame.x.held(max(estimate["low"], 0.0)), frame.x.held(estimate["high"])
            frame.rule(low, middle, high, middle, colour=0)
            for edge in (low, high):
                frame.rule(edge, middle - 4, edge, middle + 4, colour=0)
        frame.write(frame.end, middle + 4, reading, anchor="end", look="v" if stands_out else "k")
    return frame.panel()


def tradeoff(
    title: str, spots: Sequence[tuple[Mapping[str, Any], Mapping[str, Any], str, bool, bool, str]], *, across: str,
    kinds: tuple[str, str], upwards: str, file: str, description: str, chosen: str = "lowest",
) -> Panel:  # fmt: skip
    """Points of two estimates each, (across, upwards, name, on the front, the chosen one, tip); less of both is better.

    The front is the line through the points that no other point beats in both.
    """
    pairs = [(spot[0], spot[1]) for spot in spots]
    most = [max(min(_high(pair[side]), 1.5 * pair[side]["value"]) for pair in pairs) for side in (0, 1)]
    scales = [scale_for(kind, one) for kind, one in zip(kinds, most, strict=True)]
    front = sorted((spot for spot in spots if spot[3]), key=lambda spot: spot[0]["value"])
    keys = [Key(chosen, 2, "star")] if any(spot[4] for spot in spots) else []
    keys += [Key("nothing is better in both", 1, "circle")] if any(spot[3] and not spot[4] for spot in spots) else []
    keys += [Key("not on the front", 0, "hollow circle")] if any(not spot[3] and not spot[4] for spot in spots) else []
    frame = Frame(
        title, description, file,
        (
            lambda a, b: linear(0.0, most[0], a, b, factor=scales[0][0]),
            lambda a, b: linear(0.0, most[1], a, b, factor=scales[1][0]),
        ),
        across=f"{across} ({scales[0][1]})", upwards=f"{upwards} ({scales[1][1]})", keys=keys, grid="xy", height=320,
    )  # fmt: skip
    if len(front) > 1:
        frame.steps([(spot[0]["value"], spot[1]["value"]) for spot in front], 1, dash=1)
    taken: list[tuple[float, float, float, float]] = []
    for x, y, _, on_front, is_chosen, tip in sorted(spots, key=lambda spot: (spot[4], spot[3])):
        colour = 2 if is_chosen else 1 if on_front else 0
        at, height = frame.x.place(x["value"]), frame.y.place(y["value"])
        for one, horizontal in ((x, True), (y, False)):
            if one["low"] is None or (len(spots) > MOST_LABELLED and not on_front and not is_chosen):
                continue
            axis = frame.x if horizontal else frame.y
            low, high = axis.held(max(one["low"], 0.0)), axis.held(one["high"])
            frame.rule(*((low, height, high, height) if horizontal else (at, low, at, high)), "thin", colour)
        look = "star" if is_chosen else "circle"
        frame.mark(x["value"], y["value"], colour, look, tip, hollow=not on_front and not is_chosen)
    for x, y, name, on_front, is_chosen, _ in sorted(spots, key=lambda spot: (not spot[4], not spot[3])):
        at, height = frame.x.place(x["value"]), frame.y.place(y["value"])
        box = (at + 7, height - 16, at + 9 + letters(name), height - 3)
        free = box[2] < frame.end and not any(_overlap(box, other) for other in taken)
        if free and (on_front or is_chosen or len(spots) <= MOST_LABELLED):
            taken.append(box)
            frame.write(box[0], height - 5, name, look="v" if is_chosen else "k")
    return frame.panel()


def heat(
    title: str, columns: Sequence[str], rows: Sequence[str],
    cells: Mapping[tuple[int, int], tuple[Mapping[str, Any], bool, bool, str]], *,
    across: str, upwards: str, kind: str, file: str, description: str,
) -> Panel:  # fmt: skip
    """A map of two fields: by (column, row), an estimate, whether it is the best, whether it may be, and a tip."""
    values = [cell[0]["value"] for cell in cells.values() if cell[0]["value"] is not None]
    low, high = (min(values), max(values)) if values else (0.0, 0.0)
    labels = [shortened(name, 22) for name in rows]
    left = max(letters(name) for name in labels) + 14
    wide = left + 46 * len(columns) + 14 > WIDTH
    step = 32
    keys = [Key("lowest", 0, "star")] if any(cell[1] for cell in cells.values()) else []
    keys += [Key("may be the lowest", 0, "circle")] if any(cell[2] and not cell[1] for cell in cells.values()) else []
    frame = Frame(
        title, description, file,
        (lambda a, b: ordinal(columns, a, b), lambda a, b: ordinal(labels[::-1], a, b)),
        across=across, upwards=upwards, keys=keys, grid="", left=left, names=False, width=WIDE if wide else WIDTH,
        height=round(30 + LINE * bool(keys) + 16 + 42 + step * len(rows)),
    )  # fmt: skip
    each = (frame.end - frame.begin) / len(columns)
    for row, label in enumerate(labels):
        middle = frame.y.place(len(rows) - 1 - row)
        frame.write(left - 8, middle + 4, label, anchor="end", look="k")
        for column in range(len(columns)):
            centre = frame.x.place(column)
            begin, end = centre - each / 2 + 1, centre + each / 2 - 1
            found = cells.get((column, row))
            if found is None or found[0]["value"] is None:
                frame.bar(
                    begin,
                    middle - step / 2 + 1,
                    end,
                    middle + step / 2 - 1,
                    0,
                    look="track",
                    tip=found[3] if found else "not run",
                )
                frame.write(centre, middle + 4, "–", anchor="middle")
                continue
            estimate, best, alike, tip = found
            depth = (
                0.0
                if high <= low
                else (
                    math.log(estimate["value"] / low) / math.log(high / low)
                    if low > 0
                    else (estimate["value"] - low) / (high - low)
                )
            )
            opacity = 0.10 + 0.80 * depth
            frame.parts.append(f'<g fill-opacity="{opacity:.2f}">')
            frame.bar(begin, middle - step / 2 + 1, end, middle + step / 2 - 1, 1, look="ht", tip=tip)
            frame.parts.append("</g>")
            words = value_text({**estimate, "low": None, "high": None}, kind)
            frame.write(
                centre + (7 if best or alike else 0),
                middle + 4,
                _fitting(words, each - 22),
                look="on" if depth > 0.5 else "k",
                anchor="middle",
            )
            if best or alike:
                outline = shape("star" if best else "circle", begin + 10, middle)
                frame.parts.append(f'<path class="pt {"on" if depth > 0.5 else ""} s0" d="{outline}"/>')
    return frame.panel()


def course(
    title: str, lines: Sequence[tuple[str, Samples, Samples]], *, upwards: str, factor: float, top: float | None,
    file: str, description: str, area: bool = False,
) -> Panel:  # fmt: skip
    """Values in the course of time: (label, times, values) of each line."""
    until = max((float(times[-1]) for _, times, _ in lines if len(times)), default=1.0)
    since = min((float(times[0]) for _, times, _ in lines if len(times)), default=0.0)
    most = top if top is not None else max(float(values.max()) for _, _, values in lines if len(values))
    keys = [Key(label, number) for number, (label, _, _) in enumerate(lines, 1) if label]
    frame = Frame(
        title, description, file,
        (
            lambda a, b: linear(0.0 if since < 0.2 * until else since, until, a, b, ticks=6),
            lambda a, b: linear(0.0, most, a, b, factor=factor),
        ),
        across="time (s)", upwards=upwards, keys=keys, height=220,
    )  # fmt: skip
    for colour, (_, times, values) in enumerate(lines, 1):
        places = list(zip(times.tolist(), values.tolist(), strict=True))
        if area:
            corners = [(a, b) for (x, y), (x2, _) in pairwise(places) for a, b in ((x, y), (x2, y))]
            frame.band([(x, 0.0) for x, _ in corners], corners, colour)
            frame.steps(places, colour)
        else:
            frame.line(places, colour)
    return frame.panel()


def differences(
    title: str, rows: Sequence[tuple[str, Mapping[str, Any], int, str, float | None, float | None]], *, across: str,
    kind: str, file: str, description: str, keys: Sequence[Key] = (),
) -> Panel:  # fmt: skip
    """Differences about zero: (label, estimate, colour, tip, tolerance, noise) of each row.

    An interval that is far wider than the others ends in an arrow, beside which its end is written.
    """
    ends = [
        abs(one)
        for _, estimate, _, _, tolerance, noise in rows
        for one in (estimate["value"], tolerance, noise)
        if one is not None
    ]
    most = max(ends, default=1.0) or 1.0
    reaches = [max(abs(one["low"]), abs(one["high"])) for _, one, *_ in rows if one["low"] is not None]
    wide = sorted(one for one in reaches if one)
    reach = max(reaches, default=most)
    most = max(most, wide[len(wide) // 2] if wide else 0.0)  # intervals as usual here are seen whole
    most = 1.04 * max(most, min(reach, 2.5 * most))  # a mark at the edge would lie on its label
    factor, unit = scale_for(kind, most)
    labels = labels_of([label for label, *_ in rows], LABEL)
    left = 1.05 * max((letters(label) for label in labels), default=0.0) + 12
    is_wide = left > 0.55 * WIDTH
    frame = Frame(
        title, description, file,
        (
            lambda a, b: linear(-most, most, a, b - 8, factor=factor, ticks=6),  # half of the last tick's name
            lambda a, b: ordinal(labels[::-1], a, b),
        ),
        across=f"{across} ({unit})", height=round(36 + LINE * bool(keys) + 44 + 26 * len(rows)), grid="x", left=left,
        names=False, keys=keys, width=WIDE if is_wide else WIDTH,
    )  # fmt: skip
    zero = frame.x.place(0.0)
    for number, (_, estimate, colour, tip, tolerance, noise) in enumerate(rows):
        middle = frame.y.place(len(rows) - 1 - number)
        frame.write(left - 8, middle + 4, labels[number], anchor="end", look="k")
        if noise:
            frame.bar(frame.x.held(-noise), middle - 9, frame.x.held(noise), middle + 9, 0, look="track")
        if tolerance:
            for edge in (-tolerance, tolerance):
                if abs(edge) <= frame.x.high:
                    frame.rule(frame.x.place(edge), middle - 9, frame.x.place(edge), middle + 9, colour=0)
        if estimate["value"] is None:
            frame.write(zero + 6, middle + 4, "not known")
            continue
        if estimate["low"] is not None:
            frame.rule(frame.x.held(estimate["low"]), middle, frame.x.held(estimate["high"]), middle, "ln", colour)
            _arrows(frame, estimate, middle, colour, kind)
        frame.mark(estimate["value"], len(rows) - 1 - number, colour, "circle", tip)
    frame.rule(zero, frame.top, zero, frame.bottom, "ax")
    return frame.panel()


def _arrows(frame: Frame, estimate: Mapping[str, Any], middle: float, colour: int, kind: str) -> None:
    """Where an interval goes on beyond the axis: an arrow at that end, and the value of the end above it."""
    ends = ((estimate["low"], frame.x.low, 1, "start"), (estimate["high"], frame.x.high, -1, "end"))
    for end, edge, inwards, anchor in ends:
        if (end - edge) * inwards >= 0:
            continue
        at = frame.x.place(edge)
        for side in (-4, 4):
            frame.rule(at, middle, at + 6 * inwards, middle + side, "ln", colour)
        frame.write(at, middle - 6, shown(end, kind, signed=True), anchor=anchor)


def scatter(title: str, x: Samples, y: Samples, *, across: str, upwards: str, file: str, description: str) -> Panel:
    """A cloud of points, and the line on which both values of one are equal."""
    low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
    factor, unit = scale_for("time", high)
    log = low > 0 and high > 5 * low

    def axis(a: float, b: float) -> Any:
        return (
            logarithmic(low * 0.95, high * 1.05, a, b, factor=factor) if log else linear(low, high, a, b, factor=factor)
        )

    frame = Frame(
        title, description, file, (axis, axis), across=f"{across} ({unit})", upwards=f"{upwards} ({unit})", grid="xy",
        height=340,
    )  # fmt: skip
    frame.rule(frame.x.held(low), frame.y.held(low), frame.x.held(high), frame.y.held(high), "ref")
    at = _spread(len(x))
    for a, b in zip(x[at].tolist(), y[at].tolist(), strict=True):
        frame.mark(a, b, 1, "dot", "")
    return frame.panel()


def _spread(number: int) -> NDArray[np.int64]:
    """Places of at most MOST_STEPS of so many, the first and the last among them, closer together near the end."""
    if number <= MOST_STEPS:
        return np.arange(number)
    even = np.linspace(0, number - 1, MOST_STEPS - 60)
    tail = number - 1 - np.geomspace(1, max(number * 0.05, 2), 60)
    return np.unique(np.concatenate([even, tail, [0, number - 1]]).round().astype(np.int64))


def _bound(spot: Spot, side: str) -> float:
    bound = spot.estimate[side]
    return float(spot.estimate["value"] if bound is None else max(bound, 0.0))


def _high(estimate: Mapping[str, Any]) -> float:
    return float(estimate["value"] if estimate["high"] is None else estimate["high"])


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _fitting(words: str, width: float) -> str:
    """A number without its unit where both do not fit."""
    return words if letters(words) <= width else words.partition(BESIDE)[0]
