"""When requests arrive: renewal processes on a warped clock.

On an even clock requests arrive at rate 1, with gaps of a Gamma distribution whose coefficient of variation is ``cv``:
1 is a Poisson process, 0 a metronome, above 1 it bursts. That clock then runs at the varying speed

    rate(t) = rate · exp(σ x(t) − σ² / 2),

x being a stationary Ornstein–Uhlenbeck process of variance 1 and correlation exp(−s / τ), so the mean rate is ``rate``.
For counts in windows of T seconds, with u = T / τ and C the asymptotic index of dispersion of the gaps (cv²),

    variance / mean  →  C + rate · T · (exp(σ²) − 1) · w,    w ≈ 2 (u − 1 + exp(−u)) / u²  for small σ.

Plain Poisson arrivals stay at 1 and plain Gamma gaps at cv²; production traces rise to 20 … 30 within a minute (Azure
LLM and LMM traces; ServeGen, arXiv 2505.09999), which is why the clock is warped. Everything is drawn in blocks from
streams of their own and only as far as it is needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count

import msgspec
import numpy

from bufferlab.sim.streams import stream
from bufferlab.sim.workload.lengths import Counts, Reals

BLOCK_REQUESTS = 1024
"""Requests drawn together. A block is always drawn whole, from a stream of its own, so the first n requests of a longer
workload are those of a shorter one."""

LEAST_CV, MOST_CV = 1e-3, 100.0
"""Gaps that differ by less than one in a thousand are drawn as even ones."""

MOST_RATE_LOG_SD = 3.0
STEPS_PER_TIME_CONSTANT = 64
"""Steps of the rate's grid. The process is exact at the grid's points and its rate constant between them: within 1/64
of the time constant x moves by 0.18 in the root mean square."""

LEAST_REQUESTS_PER_TIME_CONSTANT = 0.01
"""A rate that changes a hundred times between two requests averages out, and would take ever more steps to follow."""


class Arrivals(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``cv``: of the gaps on the even clock. ``rate_log_sd``: σ. ``rate_time_constant_s``: τ in seconds."""

    cv: float = 1.0
    rate_log_sd: float = 0.0
    rate_time_constant_s: float = 600.0

    def __post_init__(self) -> None:
        if not 0 <= self.cv <= MOST_CV:
            raise ValueError(f"cv is {self.cv}, it must be from 0 to {MOST_CV:g}")
        if not 0 <= self.rate_log_sd <= MOST_RATE_LOG_SD:
            raise ValueError(f"rate_log_sd is {self.rate_log_sd}, it must be from 0 to {MOST_RATE_LOG_SD:g}")
        if not 0 < self.rate_time_constant_s < math.inf:
            raise ValueError(f"rate_time_constant_s is {self.rate_time_constant_s}, it must be above 0 and finite")

    def check_rate(self, rate_rps: float) -> None:
        """Raise ValueError for a mean rate at which these arrivals cannot be drawn."""
        if not 0 < rate_rps < math.inf:
            raise ValueError(f"rate_rps is {rate_rps}, it must be above 0 and finite")
        least_s = LEAST_REQUESTS_PER_TIME_CONSTANT / rate_rps
        if self.rate_log_sd > 0 and self.rate_time_constant_s < least_s:
            raise ValueError(
                f"rate_time_constant_s is {self.rate_time_constant_s}, it must be at least {least_s:g} at a rate of "
                f"{rate_rps:g}: a rate that changes faster averages out between two requests"
            )


class ClientArrivals(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A client that sends on its own: its name and the cv of its gaps."""

    name: str
    cv: float

    def __post_init__(self) -> None:
        if not 0 <= self.cv <= MOST_CV:
            raise ValueError(f"cv is {self.cv}, it must be from 0 to {MOST_CV:g}")


def even_times(cv: float, seed: int, replication: int, entity: str = "") -> Iterator[Reals]:
    """Blocks of arrival times at a mean rate of 1. ``entity``: whose arrivals, for streams of their own.

    The process is stationary from time 0 on (the first gap is what is left of one that is under way), so counts have
    the right mean from the start. Only at cv 0 nothing is random and the first comes at 1.
    """
    now = 0.0
    for block in count():
        generator = stream(seed, replication, "arrivals", f"{entity}/{block}")
        gaps = _gaps(cv, generator)
        if block == 0 and cv >= LEAST_CV and cv != 1:
            # What is left of the gap around a fixed moment: uniform in a gap that is chosen in proportion to its
            # length. A Gamma gap so chosen has a shape larger by 1. A Poisson process remembers nothing.
            around = generator.gamma(1 / cv**2 + 1) * cv**2
            gaps[0] = around * generator.random()
        times = now + numpy.cumsum(gaps)
        now = float(times[-1])
        yield times


def _gaps(cv: float, generator: numpy.random.Generator) -> Reals:
    if cv < LEAST_CV:
        return numpy.ones(BLOCK_REQUESTS)
    return generator.gamma(1 / cv**2, size=BLOCK_REQUESTS) * cv**2


def superposed_times(
    clients: list[ClientArrivals], weights: list[float], seed: int, replication: int
) -> Iterator[tuple[Reals, Counts]]:
    """Blocks of arrival times at a mean rate of 1 and the number of the client that sends each.

    Every client is a renewal process of its own at its share of the rate. Ties go to the client listed first.
    """
    scales = [sum(weights) / weight for weight in weights]
    sources = [even_times(client.cv, seed, replication, client.name) for client in clients]
    pending = [scale * next(source) for scale, source in zip(scales, sources, strict=True)]
    while True:
        horizons = [times[-1] for times in pending]
        known = min(horizons)
        # All that comes before the first horizon is complete.
        ready = [int(numpy.searchsorted(times, known, side="right")) for times in pending]
        if sum(ready) < BLOCK_REQUESTS:
            first = horizons.index(known)
            pending[first] = numpy.concatenate((pending[first], scales[first] * next(sources[first])))
            continue
        times = numpy.concatenate([times[:size] for times, size in zip(pending, ready, strict=True)])
        senders = numpy.repeat(numpy.arange(len(clients)), ready)
        order = numpy.argsort(times, kind="stable")[:BLOCK_REQUESTS]
        taken = numpy.bincount(senders[order], minlength=len(clients))
        pending = [times[size:] for times, size in zip(pending, taken.tolist(), strict=True)]
        for number, rest in enumerate(pending):
            if not len(rest):
                pending[number] = scales[number] * next(sources[number])
        yield times[order], senders[order]


class Pace:
    """Turns times on the even clock into seconds. Times must be asked for in order; what is behind is forgotten."""

    def __init__(self, arrivals: Arrivals, rate_rps: float, seed: int, replication: int) -> None:
        arrivals.check_rate(rate_rps)
        self._rate_rps = rate_rps
        self._log_sd = arrivals.rate_log_sd
        self._step_s = arrivals.rate_time_constant_s / STEPS_PER_TIME_CONSTANT
        self._seed, self._replication = seed, replication
        self._block = 0
        self._state = 0.0
        self._first_step = 0
        self._reached = numpy.zeros(1)
        """The even clock at the start of steps ``_first_step``, ``_first_step`` + 1, …"""

    def seconds(self, times: Reals) -> Reals:
        """When the even clock shows ``times``, which must not fall."""
        if self._log_sd == 0:
            return times / self._rate_rps
        while self._reached[-1] <= times[-1]:
            self._extend()
        steps = numpy.arange(self._first_step, self._first_step + len(self._reached))
        found = numpy.interp(times, self._reached, steps * self._step_s)
        behind = max(int(numpy.searchsorted(self._reached, times[-1], side="right")) - 1, 0)
        self._reached = self._reached[behind:]
        self._first_step += behind
        return found

    def _extend(self) -> None:
        generator = stream(self._seed, self._replication, "pace", self._block)
        noise = generator.standard_normal(BLOCK_REQUESTS).tolist()
        decay = math.exp(-1 / STEPS_PER_TIME_CONSTANT)
        push = math.sqrt(1 - decay * decay)
        states = []
        for number, shock in enumerate(noise):
            # The first point is a draw of the stationary law.
            fresh = self._block == 0 and number == 0
            self._state = shock if fresh else decay * self._state + push * shock
            states.append(self._state)
        speeds = numpy.exp(self._log_sd * numpy.asarray(states) - self._log_sd**2 / 2)
        grown = self._reached[-1] + numpy.cumsum(speeds * (self._rate_rps * self._step_s))
        self._reached = numpy.concatenate((self._reached, grown))
        self._block += 1
