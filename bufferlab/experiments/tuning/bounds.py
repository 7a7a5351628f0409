"""What arithmetic says before anything runs: how loaded every stage is at least, and where good defaults lie.

*Stages.* A stage whose offered work is more than its servers can do falls behind whatever else is set. The work that is
counted is what nobody can avoid: no constant part of a pass, which a full batch shares; a write in a single segment; a
pool's blocks for no longer than the bytes take to arrive. So a load above 1 here is one in truth, and one below proves
nothing (Little's law: mean number in a system = rate × mean time in it).

*Defaults.* Too small a default costs a resume, too large a one takes blocks that others wait for: a newsvendor's
problem. ``cost_of`` adds the expected resume to an approximate wait for the pool (Sakasegawa's formula for M/G/c, the
pool being as many servers as first allocations fit into it). It is no bound, so it drops nothing: it says around which
sizes to look.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bufferlab.experiments.config.schema import Config
from bufferlab.experiments.workloads.requests import count_requests, make_columns, reader_of
from bufferlab.protocol.disciplines import DISCIPLINES
from bufferlab.protocol.emulation.scenario import ServiceTimes
from bufferlab.sim.network.link import LinkProfile
from bufferlab.sim.workload import Columns, joined

LEAST_TOKENS = 256
"""Smaller defaults than this are not looked at by themselves: hardly a request is shorter."""
SIZES_AROUND = 3
"""How many doublings to either side of the size that costs least are looked at."""
MOST_LOOKED_AT = 50_000
"""Requests from which mean lengths and loads are taken; the longest one is that of all."""
REPLICATIONS_LOOKED_AT = 5
"""For the longest request, where replications have requests of their own."""


@dataclass(frozen=True)
class Demand:
    """The requests of replication 0, as far as bounds need them."""

    requests: int
    rate_rps: float | None
    """Mean arrivals a second; None where there is no rate: a closed loop, or all at once."""
    columns: Columns
    longest: int
    """Tokens of the longest request, of the first replications where they differ."""
    bounded: bool
    """Whether no replication has a longer one: lengths that are drawn anew may be longer than any that was seen."""
    clients: int
    hints: bool
    """Whether the language side is told a guess of the images' tokens."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of every request."""
        return self.columns.total_tokens


def demand_of(config: Config) -> Demand:
    """What a configuration asks for in its first replication."""
    whole = joined(make_columns(config, 0))
    columns, longest = whole.first(MOST_LOOKED_AT), int(whole.total_tokens.max())
    bounded = not _draws_lengths(config)
    if not bounded:
        for replication in range(1, REPLICATIONS_LOOKED_AT):
            longest = max(longest, *(int(block.total_tokens.max()) for block in make_columns(config, replication)))
    span_s = float(columns.arrival_s[-1] - columns.arrival_s[0])
    rate = (len(columns) - 1) / span_s if span_s > 0 and config.workload.loop == "open" else None
    return Demand(
        requests=count_requests(config),
        rate_rps=rate,
        columns=columns,
        longest=longest,
        bounded=bounded,
        clients=len(np.unique(columns.client)),
        hints=bool(np.any(columns.image_tokens_hint > 0)),
    )


def _draws_lengths(config: Config) -> bool:
    """Whether replications have requests of other lengths, and not only other arrivals or other times of service.

    Resamples of a file have none that the file has not.
    """
    workload = config.workload
    return workload.preset is not None or (workload.file is not None and reader_of(workload).gives != "requests")


@dataclass(frozen=True)
class Work:
    """Mean seconds of one request at every stage, without what a batch shares."""

    preprocess_s: float
    encode_s: float
    prefill_s: float
    write_s: float
    adapter_s: float


def work_of(config: Config, demand: Demand) -> Work:
    """The least work of a mean request."""
    services, link = config.scenario().services, config.link.load()
    columns = demand.columns
    total = columns.total_tokens.astype(np.float64)
    images = np.maximum(total - columns.text_tokens, 0.0)
    bytes_ = total * config.layout.bytes_per_token
    times = link.times
    # One segment is what a request takes at least; the mean of a maximum is at least the maximum of the means.
    mean_bytes = float(bytes_.mean())
    return Work(
        preprocess_s=float(np.mean(columns.encode_factor * services.preprocess_per_token_s * images)),
        encode_s=float(np.mean(_encode_s(services, columns, images))),
        prefill_s=float(
            np.mean(
                columns.prefill_factor * (services.prefill_per_token_s + services.prefill_per_token2_s * total) * total
            )
        ),
        write_s=times.latency_s + times.post_s(1.0) + times.adapter_s(mean_bytes, 1.0),
        adapter_s=times.adapter_s(mean_bytes, 1.0),
    )


def _encode_s(services: ServiceTimes, columns: Columns, tokens: NDArray[np.float64]) -> NDArray[np.float64]:
    """``ServiceTimes.encode_s`` of all requests at once."""
    images = np.where(tokens > 0, np.maximum(columns.images, 1), 0)
    even = np.divide(tokens * tokens, images, out=np.zeros_like(tokens), where=images > 0)
    squares = np.where(columns.image_squares > 0, columns.image_squares, even)
    work = (
        services.encode_per_image_s * images
        + services.encode_per_token_s * tokens
        + services.encode_per_token2_s * squares
    )
    return np.asarray(columns.encode_factor * work, dtype=np.float64)


def loads_of(config: Config, demand: Demand) -> dict[str, float]:
    """Stage → offered work over what its servers can do, at least; empty where there is no rate."""
    if demand.rate_rps is None:
        return {}
    rate, work, link = demand.rate_rps, work_of(config, demand), config.link.load()
    encode, language = config.encode, config.language
    copies = language.tp
    threads = encode.instances * encode.tp * min(encode.transfer_workers, language.instances)
    loads = {
        "preprocessing": rate * work.preprocess_s / (encode.instances * encode.preprocess_workers),
        "encoder": rate * work.encode_s / encode.instances,
        "writers": rate * copies * work.write_s / threads,
        "prefill": rate * work.prefill_s / language.instances,
        "language_pool": rate * _least_held(config, demand, link) / language.instances,
    }
    if link.contended:
        per_rank = link.shared_by == "rank"
        senders = encode.instances * (encode.tp if per_rank else 1)
        receivers = language.instances * (language.tp if per_rank else 1)
        loads["adapters"] = rate * copies * work.adapter_s / min(senders, receivers)
    return loads


def _least_held(config: Config, demand: Demand, link: LinkProfile) -> float:
    """Mean share of a language rank's pool times seconds that a request takes, at least."""
    pool = config.blocks(config.language) - config.protocol.reserve_blocks
    block = config.protocol.block_tokens
    total = demand.lengths
    blocks = np.minimum(-(-first_tokens(config, total) // block), pool)
    bytes_ = np.minimum(total, blocks * block) * config.layout.bytes_per_token
    times = link.times
    arrives_s = link.control_latency_s + times.latency_s + bytes_ / (link.adapters * link.bandwidth_Bps)
    return float(np.mean(blocks * arrives_s) / pool)


def first_tokens(config: Config, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """What every request is given at first, where that is known before the run; a block each where it is not."""
    protocol = config.protocol
    discipline = DISCIPLINES[protocol.discipline]
    if discipline.announces_length:
        return lengths
    if discipline.has_slots or protocol.sizing.policy == "fixed":
        return np.full_like(lengths, protocol.sizing.tokens)
    return np.full_like(lengths, protocol.block_tokens)


def never_served(config: Config, demand: Demand) -> int:
    """How many of the requests this setting can never deliver, however idle it is."""
    discipline = DISCIPLINES[config.protocol.discipline]
    pool = config.blocks(config.language)
    new = pool - config.protocol.reserve_blocks
    block = config.protocol.block_tokens
    lengths, counts = np.unique(demand.lengths, return_counts=True)
    firsts = first_tokens(config, lengths)
    known = discipline.announces_length or discipline.has_slots or config.protocol.sizing.policy == "fixed"
    if not known and not discipline.resumes:
        return 0  # whether the first allocation is enough depends on what a policy has learnt
    lost = 0
    for length, first, count in zip(lengths.tolist(), firsts.tolist(), counts.tolist(), strict=True):
        taken = min(-(-first // block), new)
        lost += 0 if discipline.serves(-(-length // block), first=taken, pool=pool, new=new) else count
    return lost


def cost_of(config: Config, demand: Demand, tokens: int) -> float:
    """About what a mean request pays for a default of ``tokens``: its resumes, and its wait for the pool, seconds."""
    rate, work, link = demand.rate_rps or 0.0, work_of(config, demand), config.link.load()
    polls_s = config.encode.poll_interval_s + config.language.poll_interval_s
    control_s = 2 * link.control_latency_s
    resume_s = control_s + polls_s + link.latency_s
    busy = min(rate * work.encode_s / config.encode.instances, 0.9)
    held_s = work.preprocess_s + work.encode_s / (1 - busy) + work.write_s + control_s + polls_s
    resumed = float(np.mean(demand.lengths > tokens))
    pool_tokens = config.blocks(config.language) * config.protocol.block_tokens
    rooms = max(pool_tokens // max(tokens, 1), 1)
    return resume_s * resumed + _wait_s(rate * held_s / (rooms * config.language.instances), rooms, held_s)


def _wait_s(load: float, servers: int, service_s: float) -> float:
    """Mean wait in M/M/c by Sakasegawa's approximation; without end at or above capacity."""
    if load >= 1:
        return math.inf
    return float(service_s * load ** (math.sqrt(2 * (servers + 1)) - 1) / (servers * (1 - load)))


def sizes_to_look_at(config: Config, demand: Demand, whole: int) -> tuple[int, list[int]]:
    """The size that costs least, and those around it: powers of two in whole blocks, within the pool.

    The largest is that of the longest request, in multiples of ``whole``: what is set aside beyond it is never filled.
    """
    block = config.protocol.block_tokens
    usable = (config.blocks(config.language) - config.protocol.reserve_blocks) * block
    least = block if block >= LEAST_TOKENS else block * -(-LEAST_TOKENS // block)
    sizes = [least]
    whole = whole if whole <= demand.longest else block
    most = max(-(-demand.longest // whole) * whole, least)
    while sizes[-1] < most and min(sizes[-1] * 2, most) <= usable:
        sizes.append(min(sizes[-1] * 2, most))
    costs = [cost_of(config, demand, size) for size in sizes]
    best = costs.index(min(costs))
    around = sizes[max(best - SIZES_AROUND, 0) : best + SIZES_AROUND + 1]
    return sizes[best], around
