"""About how long something takes, from a short try on this machine, with what the number rests on."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bufferlab.experiments.units import format_duration, format_span

if TYPE_CHECKING:
    from bufferlab.experiments.config.schema import Config

TRIED = 400
"""Requests of a try: enough that the first ones, which find everything cold, do not decide."""
MOST_SIMULATED = 20_000
"""Requests that are simulated to see how long a measured run lasts; of more than that only so many."""
START_S = 2.0
"""What starting the processes of a measured replication takes at most, on an idle host."""
HOST_S = 30.0
"""What measuring a host takes, as ``calibrate --here`` says of itself."""


@dataclass(frozen=True)
class Estimate:
    """Seconds, from ``low`` to ``high`` (the same where one number is known), and what they rest on."""

    low_s: float
    high_s: float
    basis: str

    @property
    def text(self) -> str:
        """``about 12 s: the first 400 requests took …``."""
        low, high = (_rounded(one) for one in (self.low_s, self.high_s))
        return f"{high if low == high else f'{low} to {high}'}: {self.basis}"

    def content(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"low_s": self.low_s, "high_s": self.high_s, "basis": self.basis}


def _rounded(seconds: float) -> str:
    """Two digits are more than is known."""
    if seconds < 1:
        return "less than a second"
    if seconds < 120:
        return f"about {round(seconds, -1 if seconds >= 100 else 0):.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 7200 else f"about {format_span(seconds)}"


def simulated(configs: Sequence[Config], requests: tuple[int, int], workers: int = 1) -> Estimate:
    """Of so many requests, from the least to the most, of configurations like these, which are tried."""
    tried, spent_s = 0, 0.0
    for config in configs:
        number, one_s = _try(config)
        tried, spent_s = tried + number, spent_s + one_s
    each_s = spent_s / max(tried, 1) / workers
    basis = f"{tried:,} of the requests took {format_duration(spent_s)} here just now"
    if workers > 1:
        basis += f", and {workers} processes run at once"
    return Estimate(requests[0] * each_s, requests[1] * each_s, f"{basis}; files and pictures come on top")


def _try(config: Config) -> tuple[int, float]:
    """Simulate the first requests of a configuration; how many there were, and the seconds that took."""
    from bufferlab.experiments.runs.simulate import simulate_one
    from bufferlab.experiments.workloads.requests import make_requests

    requests = list(itertools.islice(make_requests(config, 0), TRIED))
    started_s = time.perf_counter()
    simulate_one(config, 0, requests=requests)
    return len(requests), time.perf_counter() - started_s


def measured(config: Config) -> Estimate:
    """Of a measured run, whose requests come in real time: as long as its simulation says on its own clock."""
    from bufferlab.experiments.runs.simulate import simulate_one
    from bufferlab.experiments.workloads.requests import count_requests, make_requests

    count = count_requests(config)
    requests = list(itertools.islice(make_requests(config, 0, repeated=True), MOST_SIMULATED))
    one, _ = simulate_one(config, 0, requests=requests)
    lasts_s = one.end_s * count / max(len(requests), 1)
    number = config.run.replications
    basis = f"simulated over {config.link.profile} a replication ends after {format_span(lasts_s)}"
    start = f"up to {START_S:g} s to start the processes of each come on top"
    return Estimate(number * lasts_s, number * (lasts_s + START_S), f"{basis}; {start}")
