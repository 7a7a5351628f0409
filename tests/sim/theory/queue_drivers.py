"""Scenarios in which the whole simulator degenerates into one textbook queue, and what is read off a run of them.

Everything that is not the queue in question takes no time: control messages, loops without period, a link of infinite
bandwidth, pools that never fill. What a request costs its server comes with the request (``encode_factor``,
``prefill_factor``, its length), so any law of service times can be fed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import msgspec
import numpy
from numpy.typing import NDArray

from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario, ServiceTimes
from bufferlab.protocol.messages import Abort, LanguageRequest
from bufferlab.protocol.recording import Event
from bufferlab.protocol.topology import RankId, Side
from bufferlab.sim.cluster.cluster import Cluster
from bufferlab.sim.faults import Faults
from bufferlab.sim.network.link import LinkProfile
from bufferlab.sim.run import SimulationOutcome, simulate
from bufferlab.sim.streams import stream

Times = NDArray[numpy.float64]

SEED = 20261125
LAWS = ("exponential", "deterministic", "hyperexponential")
SECOND_MOMENTS = {"exponential": 2.0, "deterministic": 1.0, "hyperexponential": 5.0}
"""Of the laws below, whose mean is 1."""

FREE = LinkProfile(
    name="free",
    latency_s=0.0,
    per_segment_s=0.0,
    bandwidth_Bps=math.inf,
    control_latency_s=0.0,
    copy_bandwidth_Bps=math.inf,
)
# A token has 2 × 6 bytes of embedding and 16 of ids and positions; the first chunk has 64 bytes more.
BLOCK_TOKENS = 1 << 20
TOKEN_BYTES, AUX_BYTES = 28, 64
WIDE = 1 << 16  # blocks of a pool that never fills

AT_ONCE = Scenario(
    block_tokens=BLOCK_TOKENS,
    hidden=6,
    encode_blocks=WIDE,
    language_blocks=WIDE,
    sizing_options={"tokens": 1},
    timeout_s=None,
    services=ServiceTimes(encode_poll_interval_s=0.0, language_poll_interval_s=0.0),
)
"""One block holds any request, and nothing takes any time."""


def scenario(services: dict[str, float] | None = None, **fields: object) -> Scenario:
    """``AT_ONCE`` with some service times and fields of its own."""
    changed = msgspec.structs.replace(AT_ONCE.services, **(services or {}))
    return msgspec.structs.replace(AT_ONCE, services=changed, **fields)


ENCODER = scenario({"encode_per_image_s": 1.0}, encode_batch=1)
"""One encoder pass after another, each for one request, ``encode_factor`` seconds long."""

PREFILL = scenario({"prefill_per_token_s": 1.0}, prefill_batch_tokens=1, release_after_prefill=True)
"""One prefill pass after another, each for one request, ``prefill_factor`` seconds per token long."""


def slots(places: int, instances: int = 1024) -> Scenario:
    """A pool of ``places`` slots, each held for ``encode_factor`` seconds, all at once if need be.

    Requests go to so many encode instances in turn that nobody ever meets another one there.
    """
    return scenario(
        {"encode_per_image_s": 1.0},
        discipline="slot",
        language_blocks=places,
        encode_instances=instances,
        encode_blocks=64,
    )


def link(**fields: object) -> LinkProfile:
    """``FREE`` with some fields of its own."""
    return msgspec.structs.replace(FREE, **fields)


# --- input ---------------------------------------------------------------------------------------------------------


def draw(law: str, draws: numpy.random.Generator, shape: int | tuple[int, ...]) -> Times:
    """Services of mean 1. The hyperexponential has a squared coefficient of variation of 4, with balanced means."""
    if law == "deterministic":
        return numpy.ones(shape)
    if law == "exponential":
        return draws.exponential(1.0, shape)
    likely = 0.5 * (1 + math.sqrt(3 / 5))
    return draws.exponential(numpy.where(draws.random(shape) < likely, 1 / (2 * likely), 1 / (2 * (1 - likely))))


def draws_of(case: str, replication: int) -> numpy.random.Generator:
    """The stream of one replication of a case."""
    return stream(SEED, replication, "closed forms", case)


def poisson(draws: numpy.random.Generator, rate: float, shape: int | tuple[int, ...]) -> Times:
    """Arrival times of a Poisson process, along the last axis."""
    return numpy.cumsum(draws.exponential(1 / rate, shape), axis=-1)


def requests_of(
    arrivals_s: Times,
    *,
    encode: Times | None = None,
    prefill: Times | None = None,
    tokens: Sequence[int] | None = None,
    encode_instances: int = 1,
) -> Iterator[Request]:
    """Requests number 0, 1, …; encode instances take turns. One token each unless ``tokens`` says otherwise."""
    number = len(arrivals_s)
    return (
        Request(
            room,
            arrival_s,
            total,
            encode_factor=encode_factor,
            prefill_factor=prefill_factor,
            encode_instance=room % encode_instances,
        )
        for room, (arrival_s, total, encode_factor, prefill_factor) in enumerate(
            zip(
                arrivals_s.tolist(),
                [1] * number if tokens is None else tokens,
                [1.0] * number if encode is None else encode.tolist(),
                [1.0] * number if prefill is None else prefill.tolist(),
                strict=True,
            )
        )
    )


# --- runs ----------------------------------------------------------------------------------------------------------


class Stopwatch:
    """A recorder of when some events happened, by room: the last time for each, NaN for never."""

    def __init__(self, rooms: int, *wanted: tuple[Side, Event]) -> None:
        self.times_s = {key: numpy.full(rooms, numpy.nan) for key in wanted}

    def __call__(
        self, time_s: float, rank_id: RankId, room: int, event: Event, status: object, tokens: int, *rest: object
    ) -> None:
        times_s = self.times_s.get((rank_id.side, event))
        # ALLOCATED with no tokens says that a room has given its blocks back to wait.
        if times_s is not None and (tokens or event is not Event.ALLOCATED):
            times_s[room] = time_s


def run(
    setting: Scenario,
    requests: Iterable[Request],
    rooms: int,
    *wanted: tuple[Side, Event],
    over: LinkProfile = FREE,
    faults: Faults | None = None,
) -> tuple[SimulationOutcome, list[Times]]:
    """Simulate; return the outcome and, for each of ``wanted``, when it happened to each room."""
    watch = Stopwatch(rooms, *wanted)
    outcome = simulate(setting, requests, over, recorder=watch, faults=faults)
    if outcome.unfinished or outcome.deadlocks or outcome.leftovers:
        raise AssertionError(f"the run did not end: {outcome}")
    return outcome, [watch.times_s[key] for key in wanted]


class Turnstile(Faults):
    """Sends away whoever is not given a slot on arrival: its client goes at once. Makes a queue a loss system."""

    AFTER_ALL_ITERATIONS = 1 << 20

    def __init__(self) -> None:
        self.sent_away: set[int] = set()

    def begin(self, cluster: Cluster) -> None:
        """Remember whom to ask."""
        self._cluster = cluster
        self._cores = {core.rank_id: core for core in cluster.cores}

    def admits(self, rank_id: RankId, event: object) -> bool:
        """Let everything pass; look at a new request when all iterations of its moment are over."""
        if type(event) is LanguageRequest:
            clock = self._cluster.clock
            clock.call_last_at(clock.now, self.AFTER_ALL_ITERATIONS, self._look, rank_id, event)
        return True

    def _look(self, rank_id: RankId, request: LanguageRequest) -> None:
        room = self._cores[rank_id].rooms.get((request.room, request.incarnation))
        if room is not None and not room.blocks and not room.over:  # type: ignore[union-attr]
            self.sent_away.add(request.room)
            self._cluster.give(rank_id, Abort(request.room, request.incarnation, "no slot is free"))
