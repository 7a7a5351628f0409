"""What the software around the link takes: control messages, iterations, copies, first contacts, the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from bufferlab.experiments.calibration.input.runs import SOUND_SLEEP_S, Observed
from bufferlab.experiments.calibration.laws.choosing import Chosen, choose
from bufferlab.experiments.calibration.laws.fitting import certainty
from bufferlab.experiments.calibration.laws.forms import FORMS
from bufferlab.experiments.calibration.laws.samples import Samples
from bufferlab.experiments.stats.intervals import Estimate, across_replications, unbounded
from bufferlab.sim.streams import stream

BATCHES = 10
"""Values of one run depend on their neighbours, so intervals are those of the means of so many parts of it."""

LATENCY_AND_RATE = tuple(form for form in FORMS if form.name in ("rate", "affine"))
SIMULATED = tuple(form for form in FORMS if form.simulated)


def typical(values: Sequence[float]) -> Estimate | None:
    """The median, with the interval of the medians of consecutive parts; None if there are no values."""
    if not values:
        return None
    value = float(median(values))
    if len(values) < 2 * BATCHES:
        return unbounded(value)
    parts = [float(median(part)) for part in np.array_split(np.asarray(values), BATCHES)]
    found = across_replications(parts)
    low, high = found["low"], found["high"]
    # The hull with the median of all: medians of parts scatter around another value where the law is skewed.
    return {
        "value": value,
        "low": value if low is None else min(low, value),
        "high": value if high is None else max(high, value),
    }


def _average(values: Sequence[float]) -> Estimate | None:
    """The mean, with the interval of the means of consecutive parts: of values with a known uniform part."""
    if not values:
        return None
    if len(values) < 2 * BATCHES:
        return unbounded(float(np.mean(values)))
    return across_replications([float(np.mean(part)) for part in np.array_split(np.asarray(values), BATCHES)])


def write_samples(seen: Observed) -> Samples:
    """The median write of every size and number of segments, first contacts left out."""
    found: dict[tuple[int, int], list[float]] = {}
    for write in seen.writes:
        if not write.first and write.seconds > 0:
            found.setdefault((write.bytes, write.segments), []).append(write.seconds)
    shapes = sorted(found)
    return Samples(
        np.array([bytes_ / segments for bytes_, segments in shapes]),
        np.array([float(segments) for _, segments in shapes]),
        np.ones(len(shapes)),
        np.array([median(found[shape]) for shape in shapes]),
    )


def link_law(seen: Observed) -> tuple[Chosen, Samples] | None:
    """The law of the writes, of those that a profile can say; None where their sizes are too few."""
    samples = write_samples(seen)
    chosen = choose(samples, SIMULATED, may_fill=False) if len(samples) >= 2 else None
    return None if chosen is None else (chosen, samples)


def first_contact(seen: Observed, law: Chosen) -> Estimate | None:
    """How much longer a first write takes than the law says, at least 0."""
    firsts = [write for write in seen.writes if write.first]
    samples = Samples(
        np.array([write.bytes / write.segments for write in firsts]),
        np.array([float(write.segments) for write in firsts]),
        np.ones(len(firsts)),
        np.array([write.seconds for write in firsts]),
    )
    if not firsts:
        return None
    return _at_least_zero(typical((samples.seconds - law.fit.seconds(samples)).tolist()))


def copies(seen: Observed, seed: int) -> dict[str, Estimate]:
    """``copy_bandwidth_Bps`` and ``copy_latency_s`` of gather copies; the rate is None where they take no time."""
    found: dict[int, list[float]] = {}
    for bytes_, seconds in seen.copies or seen.cold_copies:
        found.setdefault(bytes_, []).append(seconds)
    times = {size: median(all_) for size, all_ in found.items()}
    if not times:
        return {}
    if not all(time > 0 for time in times.values()):
        return {"copy_bandwidth_Bps": unbounded(None), "copy_latency_s": unbounded(0.0)}
    sizes = sorted(times)
    samples = Samples(
        np.array(sizes, dtype=float), np.ones(len(sizes)), np.ones(len(sizes)), np.array([times[one] for one in sizes])
    )
    chosen = choose(samples, LATENCY_AND_RATE, may_fill=False)
    if chosen is None:
        return {"copy_bandwidth_Bps": unbounded(sizes[0] / times[sizes[0]]), "copy_latency_s": unbounded(0.0)}
    sure = certainty(chosen.fit, samples, stream(seed, 0, "calibration", "copies"))
    names = {"bandwidth_Bps": "copy_bandwidth_Bps", "latency_s": "copy_latency_s"}
    found_here = {names[name]: interval for name, interval in sure.intervals.items()}
    return {"copy_latency_s": unbounded(0.0), **found_here}


def software(seen: Observed, seed: int) -> dict[str, Any]:
    """Everything beside the link, as far as the runs show it; see ``runs`` for the events in question."""
    control = typical(seen.control_s)
    found: dict[str, Any] = {"control_latency_s": control, **copies(seen, seed)}
    found["submit_latency_s"] = typical(seen.submits_s)
    found["wakeup_s"] = _at_least_zero(typical(seen.late_s or seen.short_late_s))
    found["nap_wakeup_s"] = _at_least_zero(_average(seen.naps_s))
    found["cold_copy_s"] = _cold_copy(seen, found)
    found["encode_iteration_cost_s"] = typical(seen.encode_iterations_s)
    message_s = control["value"] if control is not None and control["value"] is not None else 0.0
    beyond: dict[str, Callable[[], list[float]]] = {
        "language_iteration_cost_s": lambda: [one - message_s for one in seen.language_iterations_s],
        "request_constant_s": lambda: [one.rest_s - one.messages * message_s for one in seen.requests],
    }
    for name, values in beyond.items():
        found[name] = _at_least_zero(typical(values()))
    return {name: value for name, value in found.items() if value is not None}


def _cold_copy(seen: Observed, found: dict[str, Estimate]) -> Estimate | None:
    """How much longer a copy takes after a sound sleep than the law of the others says."""
    latency, rate = found.get("copy_latency_s"), found.get("copy_bandwidth_Bps")
    if not seen.copies or latency is None or rate is None or not rate["value"]:
        return None
    fixed_s, bytes_per_s = latency["value"] or 0.0, rate["value"]
    return _at_least_zero(typical([seconds - fixed_s - bytes_ / bytes_per_s for bytes_, seconds in seen.cold_copies]))


def asleep(seen: Observed, found: Mapping[str, Any]) -> dict[str, float]:
    """What sleeps cost, by the name of its field in ``HostCosts``; none of it where no sound sleep was seen."""
    if not seen.late_s:
        return {}
    told = {name: known(found.get(name)) for name in ("nap_wakeup_s", "cold_copy_s")}
    return {"asleep_after_s": SOUND_SLEEP_S, **{name: value for name, value in told.items() if value is not None}}


def _at_least_zero(found: Estimate | None) -> Estimate | None:
    """The same where less than nothing is measured for nothing."""
    if found is None:
        return None
    value, low, high = (None if one is None else max(0.0, one) for one in (found["value"], found["low"], found["high"]))
    return {"value": value, "low": low, "high": high}


def known(found: Estimate | None) -> float | None:
    """The value of an estimate, if there is one."""
    value = None if found is None else found["value"]
    return value if value is not None and math.isfinite(value) else None
