"""Time stamps of coarse clocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from bufferlab.sim.workload import Reals


def spread_ticks(times_s: Reals) -> Reals:
    """Times whose clock has coarse ticks, spread evenly between them; others as they are.

    A clock is coarse if most requests share their time with another. A tick lasts as long as ticks usually do (the
    median), but not beyond the next one.
    """
    order = np.argsort(times_s, kind="stable")
    ticks_s, first, sizes = np.unique(times_s[order], return_index=True, return_counts=True)
    if len(ticks_s) < 2 or sizes[sizes > 1].sum() <= len(times_s) / 2:
        return times_s
    gaps_s = np.diff(ticks_s)
    usual_s = float(np.median(gaps_s))
    lasts_s = np.minimum(np.append(gaps_s, usual_s), usual_s)
    place = np.arange(len(times_s)) - np.repeat(first, sizes)
    spread = np.empty(len(times_s))
    spread[order] = times_s[order] + np.repeat(lasts_s / sizes, sizes) * place
    return spread
