"""A picture as SVG: a frame with axes, a title and a key, into which charts put their lines and marks.

Pictures are written by hand rather than by matplotlib so that their colours follow the page's (light, dark, print), the
letters are the page's, and a picture is a few kilobytes. Shapes and dashes tell apart what colours do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

from bufferlab.experiments.reports.page import Panel
from bufferlab.experiments.reports.scales import Axis, apart

WIDTH = 420
WIDE = 880
SMALL = 11.5
"""The size of letters of ticks and keys."""
TITLE = 13.0
"""The size of the letters of a title."""
LINE = 17
"""From one line of a key to the next."""
SERIES = 7
"""Colours there are."""
RIGHT = 14
DASHES = ("", "6 3", "2 3", "8 3 2 3")

Point = tuple[float, float]
Scales = tuple[Callable[[float, float], Axis], Callable[[float, float], Axis]]
"""What makes the axis across and the one upwards, given their ends in pixels."""


@dataclass(frozen=True)
class Key:
    """An entry of the key: a name, the number of its colour from 1 (0: grey), and what it looks like."""

    label: str
    colour: int = 0
    look: str = "line"
    """line, or the name of a mark."""
    dash: int = 0


@dataclass
class Frame:
    """One picture that is being drawn."""

    title: str
    description: str
    file: str
    axes: Scales
    across: str = ""
    upwards: str = ""
    height: int = 290
    width: int = WIDTH
    keys: Sequence[Key] = ()
    grid: str = "y"
    left: float | None = None
    """Room for what stands left of the axis; as much as its ticks need unless given."""
    names: bool = True
    """Whether the upright axis has its ticks written."""
    parts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        rows = _rows(self.keys, self.width)
        self.top = 30.0 + LINE * len(rows) + (16 if self.upwards else 4)
        self.bottom = self.height - (42.0 if self.across else 26.0)
        trial = self.axes[1](self.bottom, self.top)
        widest = max((letters(name) for _, name in trial.ticks), default=0.0) if self.names else 0.0
        begin = widest + 12 if self.left is None else self.left
        self.x = self.axes[0](begin, self.width - RIGHT)
        self.y = trial
        self.begin, self.end = begin, float(self.width - RIGHT)
        self._frame(rows)

    # --- marks ---

    def line(self, points: Iterable[Point], colour: int, *, dash: int = 0, aside: float = 0.0) -> None:
        """A line through points that are values, moved ``aside`` by so many pixels."""
        path = _path((self.x.held(x) + aside, self.y.held(y)) for x, y in points)
        dashes = f' stroke-dasharray="{DASHES[dash % len(DASHES)]}"' if dash % len(DASHES) else ""
        if path:
            self.parts.append(f'<path class="ln s{colour}" d="{path}"{dashes}/>')

    def steps(self, points: Sequence[Point], colour: int, *, dash: int = 0) -> None:
        """A line that goes across first and up then."""
        corners: list[Point] = []
        for x, y in points:
            if corners:
                corners.append((x, corners[-1][1]))
            corners.append((x, y))
        self.line(corners, colour, dash=dash)

    def band(self, lows: Sequence[Point], highs: Sequence[Point], colour: int) -> None:
        """The area between two lines of values."""
        edge = [*lows, *reversed(highs)]
        path = _path((self.x.held(x), self.y.held(y)) for x, y in edge)
        if path:
            self.parts.append(f'<path class="bd s{colour}" d="{path}Z"/>')

    def mark(
        self, x: float, y: float, colour: int, look: str, tip: str, *, hollow: bool = False, aside: float = 0.0
    ) -> None:
        """A mark at a value; ``tip`` is what is shown when it is pointed at."""
        outline = shape(look, self.x.held(x) + aside, self.y.held(y))
        self.parts.append(
            f'<path class="{"ho" if hollow else "pt"} s{colour}" d="{outline}"><title>{escape(tip)}</title></path>'
        )

    def bar(self, x: float, y: float, x2: float, y2: float, colour: int, *, look: str = "br", tip: str = "") -> None:
        """A rectangle between two corners in pixels."""
        title = f"<title>{escape(tip)}</title>" if tip else ""
        left, top, width, height = min(x, x2), min(y, y2), abs(x2 - x), abs(y2 - y)
        self.parts.append(
            f'<rect class="{look} s{colour}" x="{_n(left)}" y="{_n(top)}" width="{_n(width)}" height="{_n(height)}">'
            f"{title}</rect>"
        )

    def rule(self, x: float, y: float, x2: float, y2: float, look: str = "wh", colour: int = 0) -> None:
        """A straight line in pixels."""
        self.parts.append(f'<path class="{look} s{colour}" d="M{_n(x)} {_n(y)}L{_n(x2)} {_n(y2)}"/>')

    def write(self, x: float, y: float, words: str, *, look: str = "", anchor: str = "start") -> None:
        """Words at a place in pixels."""
        kind = f' class="{look}"' if look else ""
        end = "" if anchor == "start" else f' text-anchor="{anchor}"'
        self.parts.append(f'<text{kind} x="{_n(x)}" y="{_n(y)}"{end}>{escape(words)}</text>')

    # --- all of it ---

    def _frame(self, rows: Sequence[Sequence[tuple[float, Key]]]) -> None:
        room = int(len(self.title) * self.width / max(letters(self.title) * TITLE / SMALL, 1.0))
        self.write(0, 14, shortened(self.title, room), look="t")
        for number, row in enumerate(rows):
            for x, one in row:
                self._key(x, 33 + LINE * number, one)
        if self.upwards:
            self.write(0, self.top - 10, self.upwards)
        for value, name in self.y.ticks:
            height = self.y.place(value)
            if "y" in self.grid:
                self.rule(self.begin, height, self.end, height, "gr")
            if self.names:
                self.write(self.begin - 7, height + 4, name, anchor="end")
        for value, name in apart(self.x, lambda name: letters(name) + 8):
            place = self.x.place(value)
            if "x" in self.grid:
                self.rule(place, self.top, place, self.bottom, "gr")
            self.write(place, self.bottom + 17, name, anchor="middle")
        self.rule(self.begin, self.bottom, self.end, self.bottom, "ax")
        if self.across:
            self.write((self.begin + self.end) / 2, self.bottom + 36, self.across, anchor="middle")

    def _key(self, x: float, y: float, one: Key) -> None:
        if one.look == "line":
            dashes = f' stroke-dasharray="{DASHES[one.dash % len(DASHES)]}"' if one.dash % len(DASHES) else ""
            self.parts.append(f'<path class="ln s{one.colour}" d="M{_n(x)} {_n(y - 4)}h20"{dashes}/>')
        else:
            look, hollow = one.look.removeprefix("hollow "), one.look.startswith("hollow ")
            kind = "ho" if hollow else "pt"
            self.parts.append(f'<path class="{kind} s{one.colour}" d="{shape(look, x + 10, y - 4)}"/>')
        self.write(x + 26, y, one.label, look="k")

    def panel(self) -> Panel:
        """The finished picture."""
        content = "".join(self.parts)
        svg = (
            f'<svg viewBox="0 0 {self.width} {self.height}" role="img" class="c">'
            f"<title>{escape(self.title)}</title><desc>{escape(self.description)}</desc>{content}</svg>"
        )
        return Panel(self.title, self.description, svg, self.file, self.width > WIDTH)


SHAPES = {
    "circle": lambda x, y: f"M{_n(x - 4)} {_n(y)}a4 4 0 1 0 8 0a4 4 0 1 0-8 0Z",
    "dot": lambda x, y: f"M{_n(x - 1.8)} {_n(y)}a1.8 1.8 0 1 0 3.6 0a1.8 1.8 0 1 0-3.6 0Z",
    "square": lambda x, y: f"M{_n(x - 3.6)} {_n(y - 3.6)}h7.2v7.2h-7.2Z",
    "diamond": lambda x, y: f"M{_n(x)} {_n(y - 5)}l5 5l-5 5l-5-5Z",
    "triangle": lambda x, y: f"M{_n(x)} {_n(y - 4.6)}l4.8 8.4h-9.6Z",
    "star": lambda x, y: (
        f"M{_n(x)} {_n(y - 7.5)}l2.2 4.5l4.9.7l-3.5 3.5l.8 4.9l-4.4-2.3l-4.4 2.3l.8-4.9l-3.5-3.5l4.9-.7Z"
    ),
    "cross": lambda x, y: f"M{_n(x - 5)} {_n(y - 3)}l2-2l3 3l3-3l2 2l-3 3l3 3l-2 2l-3-3l-3 3l-2-2l3-3Z",
}
MARKS = ("circle", "square", "diamond", "triangle")
"""The marks of one series after the other."""


def shape(look: str, x: float, y: float) -> str:
    """The outline of a mark around a place."""
    return SHAPES[look](x, y)


def letters(words: str) -> float:
    """About how wide words are, in pixels."""
    narrow = sum(one in "il.,:;'|1 !jtf()" for one in words)
    return SMALL * (0.58 * (len(words) - narrow) + 0.36 * narrow)


def shortened(words: str, most: int) -> str:
    """The end of long words is left out."""
    return words if len(words) <= most else f"{words[: most - 1]}…"


def labels_of(names: Sequence[str], most: int) -> list[str]:
    """Names as there is room for them; where what they begin with does not tell them apart, what they end with."""
    made = [shortened(name, most) for name in names]
    if len(set(made)) == len(set(names)):
        return made
    ends = [name if len(name) <= most else f"…{name[1 - most :]}" for name in names]
    return ends if len(set(ends)) > len(set(made)) else made


def chart_style(colour: Callable[[str], str]) -> str:
    """The style of pictures, given what each colour is: those of the page, or of a file that stands alone."""
    rules = [
        f".c text{{font:{SMALL}px system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif;"
        f"fill:{colour('muted')}}}",
        f".c text.t{{font-size:{TITLE:g}px;font-weight:600;fill:{colour('ink')}}}",
        f".c text.k,.c text.v{{fill:{colour('ink')}}}.c text.v{{font-weight:600}}.c text.on{{fill:{colour('paper')}}}",
        f".c .gr{{stroke:{colour('rule')};stroke-width:1}}.c .ax{{stroke:{colour('muted')};stroke-width:1}}",
        f".c .wh{{stroke-width:1.4;fill:none}}.c .ref{{stroke:{colour('muted')};stroke-dasharray:3 3;fill:none}}",
        ".c .ln{fill:none;stroke-width:1.8;stroke-linejoin:round}.c .thin{fill:none;stroke-width:1}",
        f".c .bd{{fill-opacity:.17}}.c .ho{{fill:{colour('paper')};stroke-width:1.6}}",
        f".c .br{{fill-opacity:.85}}.c .track{{fill:{colour('rule')};fill-opacity:.55}}",
    ]
    for number in range(SERIES + 1):
        name = colour(f"c{number}")
        rules.append(
            f".c .ln.s{number},.c .thin.s{number},.c .wh.s{number},.c .ho.s{number}{{stroke:{name}}}"
            f".c .pt.s{number},.c .bd.s{number},.c .br.s{number},.c .ht.s{number}{{fill:{name}}}"
        )
    rules.append(f".c .pt.on{{fill:{colour('paper')}}}")
    return "".join(rules)


def _rows(keys: Sequence[Key], width: float) -> list[list[tuple[float, Key]]]:
    """The key in lines, each entry with its place across."""
    rows: list[list[tuple[float, Key]]] = []
    at = 0.0
    for one in keys:
        needed = 26 + letters(one.label) + 16
        if not rows or at + needed - 16 > width:
            rows.append([])
            at = 0.0
        rows[-1].append((at, one))
        at += needed
    return rows


def _path(points: Iterable[Point]) -> str:
    found = [f"{_n(x)} {_n(y)}" for x, y in points]
    return f"M{'L'.join(found)}" if len(found) > 1 else ""


def _n(number: float) -> str:
    """A place in pixels, to a tenth."""
    return f"{number:.1f}".removesuffix(".0")
