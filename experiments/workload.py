"""The requests of a configuration.

Requests are numbered from 1 in order of arrival and spread over the instances of both sides in turn. The same
configuration and replication give the same requests, whatever the protocol settings are (common random numbers).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import cycle, islice
from pathlib import Path

from experiments.config import DEFAULT_REQUESTS, Config
from experiments.errors import UserError
from experiments.traces import TraceRow, read_trace
from protocol.scenario import Request
from sim.streams import stream
from sim.workload import generate, load_mix, mix_names


def preset_names() -> list[str]:
    """Names of the workload models."""
    return mix_names()


def count_requests(config: Config) -> int:
    """Requests of one replication."""
    workload = config.workload
    if workload.requests is not None:
        return workload.requests
    if workload.file is not None:
        return len(read_trace(Path(workload.file)))
    return len(workload.lengths or workload.request or ()) or DEFAULT_REQUESTS


def is_random(config: Config) -> bool:
    """Whether replications differ: a file, a list and a batch of lengths are the same every time."""
    workload = config.workload
    return workload.preset is not None or (workload.lengths is not None and workload.rate_rps is not None)


def check_requests(config: Config, kind: str) -> None:
    """Raise UserError for a workload that cannot be run; what is in its file included."""
    workload = config.workload
    if workload.file is not None:
        rows = len(read_trace(Path(workload.file)))
        if workload.requests is not None and workload.requests > rows:
            raise UserError(f"workload.requests is {workload.requests}, it must be at most the {rows} rows of the file")
        _stretch(config, read_trace(Path(workload.file))[: workload.requests])
    count = count_requests(config)
    for number, fault in enumerate(config.faults):
        if fault.room > count:
            raise UserError(f"faults.{number}.room is {fault.room}, it must be one of the requests 1 to {count}")
    if kind == "sim" and config.run.replications > 1 and not is_random(config):
        raise UserError(
            f"run.replications is {config.run.replications}, it must be 1 for a workload without random draws: "
            f"every simulated replication would be the same"
        )


def make_requests(config: Config, replication: int) -> Iterator[Request]:
    """The requests of one replication in order of arrival, made as they are asked for."""
    return _numbered(config, _rows(config, replication))


def _numbered(config: Config, rows: Iterable[TraceRow]) -> Iterator[Request]:
    encode, language = config.encode.instances, config.language.instances
    for room, row in enumerate(rows, 1):
        yield Request(
            room=room,
            arrival_s=row.arrival_s,
            total_tokens=row.total_tokens,
            text_tokens=row.text_tokens,
            images=row.images,
            image_tokens_hint=row.image_tokens_hint,
            client=row.client,
            encode_instance=(room - 1) % encode,
            language_instance=(room - 1) % language,
        )


def _rows(config: Config, replication: int) -> Iterable[TraceRow]:
    workload = config.workload
    if workload.file is not None:
        return _stretch(config, read_trace(Path(workload.file))[: workload.requests])
    if workload.request is not None:
        listed = [
            TraceRow(one.arrival_s, one.total_tokens, one.text_tokens, one.images, one.image_tokens_hint, one.client)
            for one in workload.request
        ]
        return sorted(listed, key=lambda row: row.arrival_s)
    if workload.lengths is not None:
        return _lengths(config, replication)
    return _preset(config, replication)


def _preset(config: Config, replication: int) -> Iterator[TraceRow]:
    workload = config.workload
    made = generate(
        load_mix(str(workload.preset)),
        rate_rps=workload.rate_rps or 1.0,
        requests=count_requests(config),
        seed=config.run.seed,
        replication=replication,
    )
    for one in made:
        yield TraceRow(one.arrival_s, one.total_tokens, one.text_tokens, one.images, one.image_tokens_hint, one.client)


def _lengths(config: Config, replication: int) -> Iterator[TraceRow]:
    workload = config.workload
    count = count_requests(config)
    images = 0 if workload.text_tokens else 1
    arrivals = _poisson(config, replication) if workload.rate_rps is not None else cycle((0.0,))
    for arrival_s, tokens in zip(arrivals, islice(cycle(workload.lengths or ()), count), strict=False):
        has_image = images or tokens > workload.text_tokens
        yield TraceRow(arrival_s, tokens, workload.text_tokens, int(has_image), 0, "")


def _stretch(config: Config, rows: list[TraceRow]) -> list[TraceRow]:
    """The rows with their times stretched so that they arrive at the configured mean rate."""
    rate_rps = config.workload.rate_rps
    if rate_rps is None:
        return rows
    span_s = rows[-1].arrival_s - rows[0].arrival_s
    if span_s <= 0:
        raise UserError(
            f"workload.rate_rps is {rate_rps}, which is not allowed for this file: its requests arrive all at once"
        )
    factor = (len(rows) - 1) / span_s / rate_rps
    return [row._replace(arrival_s=(row.arrival_s - rows[0].arrival_s) * factor) for row in rows]


def _poisson(config: Config, replication: int) -> Iterator[float]:
    """Times of a Poisson process without end."""
    draws = stream(config.run.seed, replication, "arrivals")
    rate_rps = config.workload.rate_rps or 1.0
    now = 0.0
    while True:
        # Unit gaps, scaled afterwards: another rate only stretches the same arrivals.
        now += float(draws.exponential(1.0)) / rate_rps
        yield now
