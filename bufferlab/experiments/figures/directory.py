"""What is drawn into the directory of a run: the figures in plots/, and a timeline.

``runs`` knows nothing of figures: whoever starts a run hands it what this module makes, and the run calls it when its
tables are written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path


def drawing(*, plots: bool = True, timeline: bool = False) -> Callable[[Path], Iterator[str]]:
    """Draws what is asked for into the run directory it is given; its lines are what the user must know of it."""

    def draw(folder: Path) -> Iterator[str]:
        # matplotlib takes a second to import, which is only spent where something is drawn.
        if plots:
            from bufferlab.experiments.figures.runs import plot_run

            plot_run(folder)
        if timeline:
            from bufferlab.experiments.figures.timeline import FILE, run_timeline, write_timeline
            from bufferlab.experiments.runs.rundir import StoredRun

            made = run_timeline(StoredRun(folder))
            write_timeline(made, folder / FILE)
            if made.note:
                yield made.note

    return draw
