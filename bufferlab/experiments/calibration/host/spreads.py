"""How the durations that runs show vary from one time to the next, as factors of what the profile says of them.

The values in order are cut into ``FACTORS`` parts of equal size, and each part is its mean. So drawing one of them, all
equally likely, has the mean of the measurement whatever its tail is like, and nearly its quantiles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from bufferlab.experiments.calibration.input.runs import Observed
from bufferlab.sim.network.link import LinkProfile

FACTORS = 40
LEAST_PER_FACTOR = 2
"""Values that a part must have: fewer, and what is seen is not known to repeat itself."""


def spreads(seen: Observed, profile: LinkProfile) -> dict[str, tuple[float, ...]]:
    """The factors of every kind of duration of which enough was seen, by the name of its field in ``HostCosts``."""
    return {
        field: spread(ratios) for field, ratios in _ratios(seen, profile) if len(ratios) >= FACTORS * LEAST_PER_FACTOR
    }


def spread(ratios: Sequence[float]) -> tuple[float, ...]:
    """The means of ``FACTORS`` parts of equal size, nothing below 0."""
    parts = np.array_split(np.sort(np.maximum(np.asarray(ratios, dtype=float), 0.0)), FACTORS)
    # Parts differ by a value where they cannot be equal; their means are scaled to the mean of all.
    means = np.array([float(part.mean()) for part in parts])
    whole = float(np.maximum(np.asarray(ratios, dtype=float), 0.0).mean())
    return tuple((means * (whole / means.mean() if means.mean() else 1.0)).tolist())


def _ratios(seen: Observed, profile: LinkProfile) -> Iterator[tuple[str, list[float]]]:
    writes = [write for write in seen.writes if not write.first]
    yield "write_spread", [write.seconds / profile.write_s(write.bytes, write.segments) for write in writes]
    cold_s = profile.host.cold_copy_s if profile.host is not None else 0.0
    copies = [*seen.copies, *((bytes_, seconds - cold_s) for bytes_, seconds in seen.cold_copies)]
    yield "copy_spread", [seconds / copy_s for bytes_, seconds in copies if (copy_s := profile.copy_s(bytes_))]
    for field, values, typical_s in (
        ("control_spread", seen.control_s, profile.control_latency_s),
        ("submit_spread", seen.submits_s, profile.submit_latency_s),
        ("wakeup_spread", seen.late_s or seen.short_late_s, profile.wakeup_s),
    ):
        yield field, [value / typical_s for value in values] if typical_s else []
