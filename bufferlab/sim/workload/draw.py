"""Draws the requests of a mix, block by block.

Every column comes from a stream of its own, named by what it is for and the number of the block: another rate keeps the
lengths, another hint or another spread of service times keeps everything else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Literal

import msgspec
import numpy
from numpy.typing import NDArray

from bufferlab.protocol.emulation.requests import Request
from bufferlab.sim.streams import stream
from bufferlab.sim.workload.arrivals import BLOCK_REQUESTS, Arrivals, Pace, even_times, superposed_times
from bufferlab.sim.workload.columns import Columns, requests_of
from bufferlab.sim.workload.lengths import Counts, Reals, pick
from bufferlab.sim.workload.memory import IMAGE_TOKENS, IMAGES, KIND, SQUARES, TEXT, TOTAL, Pool, Repeater, StormClock
from bufferlab.sim.workload.mix import Mix, RequestKind

Order = Literal["random", "alternating", "sorted-runs"]
ORDERS: tuple[Order, ...] = ("random", "alternating", "sorted-runs")
RUN_REQUESTS = 32
"""Requests of a sorted run."""

MOST_LOG_SD = 3.0


class Variation(msgspec.Struct, frozen=True, kw_only=True):
    """How a mix is drawn, apart from its lengths.

    ``cv``, ``rate_log_sd``, ``rate_time_constant_s`` replace those of the mix's arrivals (``cv`` also that of every
    client with arrivals of its own). ``order``: the requests of a block of 1024 come at random, small and large ones in
    iteration ("alternating"), or in "sorted-runs" of 32, small to large; who arrives when is not changed by it.
    ``repeat_probability``: with it a client's next request is of the same length class as its last one, lengths from
    2^k to 2^(k+1) − 1 being a class; how long requests are on the whole does not change. ``hint``: what the language
    side is told about the image tokens, "exact", "none" or the log-sd of a lognormal error; None for what the mix says.
    ``service_log_sd``: log-sd of the lognormal factors (median 1) on each request's encode and prefill times.
    """

    cv: float | None = None
    rate_log_sd: float | None = None
    rate_time_constant_s: float | None = None
    order: Order = "random"
    repeat_probability: float = 0.0
    hint: str | float | None = None
    service_log_sd: float = 0.0

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise ValueError(f"order is {self.order!r}, it must be one of {', '.join(ORDERS)}")
        if not 0 <= self.repeat_probability < 1:
            raise ValueError(f"repeat_probability is {self.repeat_probability}, it must be in [0, 1)")
        if isinstance(self.hint, str) and self.hint not in ("exact", "none"):
            raise ValueError(f"hint is {self.hint!r}, it must be exact, none or a relative error such as 0.2")
        for name in ("hint", "service_log_sd"):
            value = getattr(self, name)
            if isinstance(value, float | int) and not 0 <= value <= MOST_LOG_SD:
                raise ValueError(f"{name} is {value}, it must be from 0 to {MOST_LOG_SD:g}")

    def arrivals_from(self, own: Arrivals) -> Arrivals:
        """``own`` with what is replaced. Raises ValueError for a value that is not allowed."""
        return Arrivals(
            cv=own.cv if self.cv is None else self.cv,
            rate_log_sd=own.rate_log_sd if self.rate_log_sd is None else self.rate_log_sd,
            rate_time_constant_s=(
                own.rate_time_constant_s if self.rate_time_constant_s is None else self.rate_time_constant_s
            ),
        )


def generate(
    mix: Mix,
    *,
    rate_rps: float,
    requests: int,
    seed: int,
    replication: int = 0,
    variation: Variation | None = None,
) -> Iterator[Request]:
    """``requests`` requests of ``mix`` at a mean rate of ``rate_rps`` a second, one at a time; rooms count from 0.

    Raises ValueError for a rate that is not positive or fewer than one request.
    """
    blocks = generate_blocks(
        mix, rate_rps=rate_rps, requests=requests, seed=seed, replication=replication, variation=variation
    )
    return requests_of(blocks)


def generate_blocks(
    mix: Mix,
    *,
    rate_rps: float,
    requests: int,
    seed: int,
    replication: int = 0,
    variation: Variation | None = None,
) -> Iterator[Columns]:
    """The same as columns, at most 1024 requests at a time."""
    if requests < 1:
        raise ValueError(f"requests is {requests}, it must be at least 1")
    source = _Source(mix, variation or Variation(), rate_rps, seed, replication)
    return _cut(source, requests)


def _cut(source: _Source, requests: int) -> Iterator[Columns]:
    for first, block in zip(range(0, requests, BLOCK_REQUESTS), source.blocks(), strict=False):
        yield block.first(requests - first)


def service_factors(log_sd: float, seed: int, replication: int) -> Iterator[tuple[Reals, Reals]]:
    """Blocks of 1024 lognormal factors of median 1, for encoding and for prefill."""
    for block in count():
        if log_sd == 0:
            ones = numpy.ones(BLOCK_REQUESTS)
            yield ones, ones
        else:
            generator = stream(seed, replication, "service", block)
            yield (
                generator.lognormal(0.0, log_sd, BLOCK_REQUESTS),
                generator.lognormal(0.0, log_sd, BLOCK_REQUESTS),
            )


class _Source:
    """Endless blocks of one replication."""

    def __init__(self, mix: Mix, variation: Variation, rate_rps: float, seed: int, replication: int) -> None:
        self._mix, self._variation = mix, variation
        self._seed, self._replication = seed, replication
        self._arrivals = variation.arrivals_from(mix.arrivals)
        self._pace = Pace(self._arrivals, rate_rps, seed, replication)
        self._clients = mix.client_names

    def blocks(self) -> Iterator[Columns]:
        """Blocks of 1024 requests without end."""
        mix = self._mix
        drawn = self._from_clients() if mix.own_arrivals else self._from_all()
        factors = service_factors(self._variation.service_log_sd, self._seed, self._replication)
        for block, (seconds, lengths, clients) in enumerate(drawn):
            order = _in_order(lengths[:, TOTAL], self._variation.order)
            lengths, clients = lengths[order], clients[order]
            images = lengths[:, IMAGES]
            encode_factor, prefill_factor = next(factors)
            yield Columns(
                arrival_s=seconds,
                total_tokens=lengths[:, TOTAL],
                text_tokens=numpy.minimum(lengths[:, TEXT], mix.max_tokens),
                images=images,
                image_tokens_hint=self._hints(lengths[:, IMAGE_TOKENS] + mix.boundary_tokens * images, block),
                image_squares=lengths[:, SQUARES],
                encode_factor=encode_factor,
                prefill_factor=prefill_factor,
                client=clients,
                clients=self._clients,
            )

    def _hints(self, exact: Counts, block: int) -> Counts:
        """What a router says about image tokens that are ``exact``."""
        hint = self._mix.hint if self._variation.hint is None else self._variation.hint
        if hint == "none":
            return numpy.zeros_like(exact)
        guessed: Counts = exact
        if isinstance(hint, float | int):
            errors = stream(self._seed, self._replication, "hint", block).lognormal(0.0, hint, BLOCK_REQUESTS)
            guessed = numpy.rint(exact * errors).astype(numpy.int64)
        return numpy.minimum(guessed, self._mix.max_tokens)

    def _from_all(self) -> Iterator[tuple[Reals, Counts, Counts]]:
        """Seconds, lengths and clients where one process of arrivals serves everybody."""
        mix, seed, replication = self._mix, self._seed, self._replication
        places = {name: place for place, name in enumerate(self._clients)}
        # -1 for a kind whose requests anybody may send.
        owner = numpy.asarray([places[kind.client] if kind.client else -1 for kind in mix.kinds])
        anybody = len(self._clients) - max(mix.clients, 1)
        storm = StormClock(mix, seed, replication)
        repeater = Repeater(self._variation.repeat_probability, seed, replication)
        for block, times in enumerate(even_times(self._arrivals.cv, seed, replication)):
            seconds = self._pace.seconds(times)
            stormy = storm.at(seconds)
            lengths = self._drawn("lengths", block, stormy)
            clients = owner[lengths[:, KIND]]
            shared = clients < 0
            if shared.any():
                senders = stream(seed, replication, "clients", block).integers(0, max(mix.clients, 1), BLOCK_REQUESTS)
                clients = numpy.where(shared, anybody + senders, clients)
            if repeater.active:
                pools = [
                    Pool(rows, owner[rows[:, KIND]])
                    for rows in (
                        self._drawn("repeats", block, numpy.full(BLOCK_REQUESTS, state)) for state in (False, True)
                    )
                ]
                lengths = repeater.repeated(lengths, clients, owner[lengths[:, KIND]], stormy, pools, str(block))
            yield seconds, lengths, clients

    def _drawn(self, role: str, block: int, stormy: NDArray[numpy.bool_]) -> Counts:
        """Lengths of one block. Every request has a calm and a stormy self, of which its moment takes one."""
        mix = self._mix
        weights = [kind.weight for kind in mix.kinds]

        def draw(chosen: list[float]) -> Counts:
            return _draw(mix, mix.kinds, chosen, stream(self._seed, self._replication, role, block))

        if not stormy.any():
            return draw(weights)
        if stormy.all():
            return draw(mix.storm_weights)
        return numpy.where(stormy[:, None], draw(mix.storm_weights), draw(weights))

    def _from_clients(self) -> Iterator[tuple[Reals, Counts, Counts]]:
        """Seconds, lengths and clients where every client sends on its own."""
        mix = self._mix
        kinds = [[kind for kind in mix.kinds if kind.client == client.name] for client in mix.own_arrivals]
        weights = [sum(kind.weight for kind in of_client) for of_client in kinds]
        senders = mix.own_arrivals
        if self._variation.cv is not None:
            senders = tuple(msgspec.structs.replace(client, cv=self._variation.cv) for client in senders)
        sources = [_Rows(self._client_lengths(place, of_client)) for place, of_client in enumerate(kinds)]
        for times, clients in superposed_times(list(senders), weights, self._seed, self._replication):
            lengths = numpy.empty((BLOCK_REQUESTS, TOTAL + 1), dtype=numpy.int64)
            for place, source in enumerate(sources):
                members = numpy.flatnonzero(clients == place)
                lengths[members] = source.take(len(members))
            yield self._pace.seconds(times), lengths, clients

    def _client_lengths(self, place: int, kinds: list[RequestKind]) -> Iterator[Counts]:
        mix, name = self._mix, self._clients[place]
        weights = [kind.weight for kind in kinds]
        repeater = Repeater(self._variation.repeat_probability, self._seed, self._replication)
        nobody = numpy.zeros(BLOCK_REQUESTS, dtype=numpy.int64)
        calm = numpy.zeros(BLOCK_REQUESTS, dtype=bool)
        for block in count():
            entity = f"{name}/{block}"
            rows = _draw(mix, kinds, weights, stream(self._seed, self._replication, "lengths", entity))
            if repeater.active:
                spare = _draw(mix, kinds, weights, stream(self._seed, self._replication, "repeats", entity))
                rows = repeater.repeated(rows, nobody, nobody, calm, [Pool(spare, nobody)], entity)
            yield rows


class _Rows:
    """Takes any number of rows from a source of blocks."""

    def __init__(self, blocks: Iterator[Counts]) -> None:
        self._blocks = blocks
        self._rest = numpy.empty((0, TOTAL + 1), dtype=numpy.int64)

    def take(self, wanted: int) -> Counts:
        """The next ``wanted`` rows."""
        while len(self._rest) < wanted:
            self._rest = numpy.concatenate((self._rest, next(self._blocks)))
        taken, self._rest = self._rest[:wanted], self._rest[wanted:]
        return taken


def _draw(mix: Mix, kinds: Iterable[RequestKind], weights: list[float], generator: numpy.random.Generator) -> Counts:
    """Lengths of one block of requests, a row each; ``weights`` of ``kinds``, whose number is column KIND."""
    rows = numpy.zeros((BLOCK_REQUESTS, TOTAL + 1), dtype=numpy.int64)
    picked = pick(generator, weights, BLOCK_REQUESTS)
    rows[:, KIND] = picked
    for number, kind in enumerate(kinds):
        members = numpy.flatnonzero(picked == number)
        size = len(members)
        if kind.total is not None:
            _draw_total(kind, mix, rows, members, generator)
            continue
        if kind.coupled:
            levels = generator.random(size)
            text, images = kind.text.at(levels), kind.images.at(levels)  # type: ignore[union-attr]
        else:
            text = kind.text.draw(generator, size)
            images = kind.images.draw(generator, size)
        rows[members, TEXT] = text
        rows[members, IMAGES] = images
        owners = numpy.repeat(members, images)
        tokens, squares = kind.image_tokens.draw_visual(generator, len(owners))
        numpy.add.at(rows[:, IMAGE_TOKENS], owners, tokens)
        numpy.add.at(rows[:, SQUARES], owners, squares)
    total = rows[:, TEXT] + rows[:, IMAGE_TOKENS] + mix.boundary_tokens * rows[:, IMAGES]
    rows[:, TOTAL] = numpy.clip(total, 1, mix.max_tokens)
    return rows


def _draw_total(kind: RequestKind, mix: Mix, rows: Counts, members: Counts, generator: numpy.random.Generator) -> None:
    """Requests whose whole length is drawn: images take what the text leaves."""
    assert kind.total is not None
    text = kind.text.draw(generator, len(members))
    total = numpy.clip(kind.total.draw(generator, len(members)), 1, mix.max_tokens)
    text = numpy.minimum(text, total)
    visual = total - text
    size = kind.image_size_tokens or math.inf
    images = numpy.maximum(numpy.rint(visual / size), 1).astype(numpy.int64)
    # Less than one token and its boundary is no image.
    images[visual <= mix.boundary_tokens] = 0
    tokens = numpy.where(images > 0, visual - mix.boundary_tokens * images, 0)
    rows[members, TEXT] = numpy.where(images > 0, text, total)
    rows[members, IMAGES] = images
    rows[members, IMAGE_TOKENS] = tokens
    rows[members, SQUARES] = tokens * tokens // numpy.maximum(images, 1)


def _in_order(totals: Counts, order: Order) -> Counts:
    """The places of a block's requests in the order in which they come."""
    if order == "random":
        return numpy.arange(len(totals))
    if order == "sorted-runs":
        runs = totals.reshape(-1, RUN_REQUESTS)
        within = numpy.argsort(runs, axis=1, kind="stable")
        return (within + numpy.arange(0, len(totals), RUN_REQUESTS)[:, None]).ravel()
    half = len(totals) // 2
    ranked = numpy.argsort(totals, kind="stable")
    # Both halves keep their own random order; only which half comes when is arranged.
    small, large = numpy.sort(ranked[:half]), numpy.sort(ranked[half:])
    return numpy.stack((small, large), axis=1).ravel()
