"""How far a command has come: a bar on stderr for somebody at a terminal, nothing in a file or a CI log.

Everything that lasts goes through ``bar``, so that all bars look alike: share, count and time left.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, TypeVar

from bufferlab.experiments.shown import for_terminal

QUIET_S = 0.5
"""Work that ends sooner shows no bar."""
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


@contextmanager
def bar(title: str, total: int | None, unit: str = "", *, shown: bool | None = None) -> Iterator[Bar]:
    """A bar over ``total`` units of work, gone when the work is over.

    ``shown``: whether there is one, which without it is so where somebody watches a terminal.
    """
    if not (on_a_terminal(sys.stderr) if shown is None else shown):
        yield Bar()
        return
    tqdm: Any
    # tqdm.auto also finds out how a notebook shows the bar, and loads asyncio for it.
    if "IPython" in sys.modules:
        from tqdm.auto import tqdm
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
