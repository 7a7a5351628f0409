"""How far a command has come, on stderr: a bar for somebody at a terminal, a plain line now and then in a file, a pipe
or the log of a CI job.

Everything that lasts goes through ``bar``, so that all bars and lines look alike: share, count and time left.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, TypeVar

from bufferlab.experiments.shown import for_terminal

QUIET_S = 0.5
"""Work that ends sooner shows no bar."""
LINE_S = 30.0
"""Where there is no terminal a line is written at most so often, and none about work that ends sooner."""
MOST_TEXT, WIDTH, HEIGHT = 60, 80, 24
COUNTED_AT_ONCE = 2048

Step = Callable[[str], object]
"""Told of every step that is done, and of what it was."""
Item = TypeVar("Item")


def on_a_terminal(stream: TextIO) -> bool:
    """Whether somebody watches this stream: frames of a bar are of no use in a file, a pipe or the log of a CI job."""
    try:
        watched = stream.isatty()
    except (AttributeError, ValueError):  # no file at all, or a closed one
        return False
    return watched and os.environ.get("TERM") != "dumb" and os.environ.get("CI", "") in {"", "0", "false"}


class Bar:
    """A bar that nobody sees; what is said beside it is printed all the same."""

    def add(self, more: int) -> None:
        """So many more are done."""

    def step(self, what: str = "") -> None:
        """One more is done; ``what`` stands beside the bar."""

    def begin_with(self, done: int) -> None:
        """So many were done before; they say nothing about the speed."""

    def more(self, units: int) -> None:
        """So many units more have to be done than was known at first."""

    def stage(self, units: int) -> None:
        """A stage of so many units begins; how many stages there will be is not known, so each has a bar of its own."""

    def say(self, text: str, stream: TextIO | None = None) -> None:
        """Print ``text`` (on stderr if no stream is given) so that the bar stays whole, and at once."""
        # Whoever reads a pipe wants it while the work goes on.
        chosen = sys.stderr if stream is None else stream
        print(for_terminal(text, chosen), file=chosen, flush=True)


class _ShownBar(Bar):
    def __init__(self, tqdm: Any, title: str) -> None:
        self._tqdm = tqdm
        self._title = title
        self._stages = 0

    def add(self, more: int) -> None:
        self._tqdm.update(more)

    def step(self, what: str = "") -> None:
        self._tqdm.set_postfix_str(what[:MOST_TEXT], refresh=False)
        self._tqdm.update()

    def begin_with(self, done: int) -> None:
        self._tqdm.initial = done
        self._tqdm.n = self._tqdm.last_print_n = done

    def more(self, units: int) -> None:
        if self._tqdm.total is not None:
            self._tqdm.total += units

    def stage(self, units: int) -> None:
        self._stages += 1
        self._tqdm.set_description_str(f"{self._title}, stage {self._stages}", refresh=False)
        self._tqdm.initial = 0
        self._tqdm.reset(total=units)

    def say(self, text: str, stream: TextIO | None = None) -> None:
        chosen = sys.stderr if stream is None else stream
        self._tqdm.write(for_terminal(text, chosen), file=chosen)
        chosen.flush()


class _Lines(Bar):
    """Plain lines, none of them before ``LINE_S`` have passed."""

    def __init__(self, title: str, total: int | None, unit: str, clock: Callable[[], float]) -> None:
        self._title, self._total, self._unit, self._clock = title, total, unit, clock
        self._done = self._initial = self._stages = 0
        self._begun_s = self._told_s = clock()

    def add(self, more: int) -> None:
        self._done += more
        now_s = self._clock()
        if now_s - self._told_s >= LINE_S:
            self._told_s = now_s
            print(self._line(now_s), file=sys.stderr, flush=True)

    def step(self, what: str = "") -> None:
        self.add(1)

    def begin_with(self, done: int) -> None:
        self._initial = self._done = done

    def more(self, units: int) -> None:
        if self._total is not None:
            self._total += units

    def stage(self, units: int) -> None:
        self._stages += 1
        self._done = self._initial = 0
        self._total, self._begun_s = units, self._clock()

    def _line(self, now_s: float) -> str:
        """``tune, stage 2: 120 of 760 runs, 16 %, about 5 min left``."""
        title = f"{self._title}, stage {self._stages}" if self._stages else self._title
        unit = f" {self._unit}" if self._unit else ""
        if not self._total:
            return f"{title}: {self._done:,}{unit}"
        share = int(100 * self._done / self._total)
        made = self._done - self._initial
        left_s = (self._total - self._done) * (now_s - self._begun_s) / made if made > 0 else None
        left = "" if left_s is None else f", {_about(left_s)} left"
        return f"{title}: {self._done:,} of {self._total:,}{unit}, {share} %{left}"


def _about(seconds: float) -> str:
    if seconds < 120:
        return f"about {max(seconds, 0):.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 7200 else f"about {seconds / 3600:.1f} h"


@contextmanager
def bar(title: str, total: int | None, unit: str = "", *, shown: bool | None = None) -> Iterator[Bar]:
    """A bar over ``total`` units of work, gone when the work is over; plain lines where nobody watches a terminal.

    ``shown``: whether there is one, which without it is so where somebody watches a terminal; False: no lines either.
    """
    if shown is False:
        yield Bar()
        return
    if shown is None and not on_a_terminal(sys.stderr):
        yield _Lines(title, total, unit, time.monotonic)
        return
    tqdm: Any
    if "IPython" in sys.modules:
        tqdm = _tqdm_of_ipython()
    else:
        from tqdm import tqdm

    width: dict[str, Any] = (
        {"dynamic_ncols": True} if _knows_its_size(sys.stderr) else {"ncols": WIDTH, "nrows": HEIGHT}
    )
    with tqdm(
        total=total, desc=title, unit=f" {unit}" if unit else "it", file=sys.stderr, leave=False, delay=QUIET_S,
        smoothing=0.1, **width,
    ) as made:  # fmt: skip
        yield _ShownBar(made, title)


def _tqdm_of_ipython() -> Any:
    """tqdm as a notebook shows it, with widgets; that of terminals where IPython runs in one.

    A bar in a notebook is gone when its work is over, but a page that keeps no widgets has it as it was at first. So it
    leaves a line that says how much was done.
    """
    # tqdm.auto finds out what there is, and loads asyncio for it.
    from tqdm import auto
    from tqdm.notebook import tqdm_notebook

    found: Any = auto.tqdm
    if not issubclass(found, tqdm_notebook):
        return found
    from IPython.display import display

    class NotebookBar(found):
        displayed: bool
        _shown: Any = None

        def display(self, *arguments: Any, check_delay: bool = True, **options: Any) -> None:
            if check_delay and self.delay > 0 and not self.displayed:
                self._shown = display(self.container, display_id=True)
                self.displayed = True
            super().display(*arguments, check_delay=check_delay, **options)

        def close(self) -> None:
            shown, self._shown = self._shown, None
            super().close()
            if shown is not None:
                known = f" of {self.total:,}" if self.total else ""
                lasted = self.format_interval(self.format_dict["elapsed"])
                said = f"{self.desc.removesuffix(': ')}: {self.n:,}{known}{self.unit} in {lasted}"
                shown.update({"text/plain": said}, raw=True)

    return NotebookBar


def _knows_its_size(stream: TextIO) -> bool:
    """Terminals of containers and of `script` say that they have no columns and rows, in which no bar fits."""
    try:
        return os.get_terminal_size(stream.fileno()).columns > 0
    except (OSError, ValueError):
        return False


def counted(items: Iterable[Item], add: Callable[[int], object] | None) -> Iterator[Item]:
    """The same items, with ``add`` told of them a few at a time."""
    if add is None:
        yield from items
        return
    passed = 0
    for item in items:
        yield item
        passed += 1
        if passed == COUNTED_AT_ONCE:
            add(passed)
            passed = 0
    add(passed)
