"""The requests of a configuration.

Requests are numbered from 1 in order of arrival and spread over the instances of both sides in turn. The same
configuration and replication give the same requests, whatever the protocol settings are (common random numbers).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import cast

import numpy as np

from bufferlab.experiments.config.inputs import config_beside
from bufferlab.experiments.config.schema import Config
from bufferlab.experiments.config.sections.workload import DEFAULT_REQUESTS, Workload
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.stats.replicates import INDEPENDENT, Replicates
from bufferlab.experiments.workloads.configurations import read_config
from bufferlab.experiments.workloads.readers import Reader, Reading, find_reader, read_lengths, read_requests
from bufferlab.experiments.workloads.readers.limits import check_arrivals, check_span
from bufferlab.experiments.workloads.readers.recorded import RecordedRun
from bufferlab.experiments.workloads.resampling import (
    NoResampling,
    Resampling,
    count_resampled,
    plan_resampling,
    resample,
)
from bufferlab.experiments.workloads.servegen import Service, count_replayed, read_service, replay
from bufferlab.protocol.emulation.requests import Request
from bufferlab.sim.workload import (
    BLOCK_REQUESTS,
    LEAST_CV,
    Arrivals,
    Columns,
    Mix,
    Order,
    Pace,
    Reals,
    Variation,
    check_chosen,
    even_times,
    generate_blocks,
    joined,
    load_mix,
    requests_of,
    service_factors,
)

DEFAULT_REPLICATIONS = 20
"""Of a file that can be resampled: their spread is known to a sixth, and one more request costs what it did before."""
LEAST_BY_DEFAULT = 10
MOST_BY_DEFAULT = 1_000_000
"""Requests of all replications of a file together; a longer file has fewer of them, and knows more by itself."""


def count_requests(config: Config, replication: int = 0) -> int:
    """Requests of one replication, of the first unless another is named."""
    workload = config.workload
    if replication and isinstance(plan := resampling_of(config), Resampling):
        return count_resampled(file_columns(workload), plan, config.run.seed, replication)
    if workload.requests is not None:
        return workload.requests
    if workload.file is not None:
        gives = reader_of(workload).gives
        if gives == "clients":
            return count_of_day(workload)
        return DEFAULT_REQUESTS if gives == "lengths" else len(reading_of(workload).columns)
    return len(workload.lengths or workload.request or ()) or DEFAULT_REQUESTS


def is_random(config: Config) -> bool:
    """Whether replications are drawn anew: a trace, a list and a batch of lengths are the same every time."""
    workload = config.workload
    if workload.service_log_sd > 0 or workload.preset is not None:
        return True
    if workload.file is not None:
        return reader_of(workload).gives in ("clients", "lengths")
    arrivals_matter = workload.loop == "open" and workload.rate_rps is not None
    return workload.lengths is not None and arrivals_matter and not _is_even(workload)


def _is_even(workload: Workload) -> bool:
    """Whether arrivals are a metronome at a steady rate."""
    arrivals = _variation(workload).arrivals_from(Arrivals())
    return arrivals.cv < LEAST_CV and arrivals.rate_log_sd == 0


def check_requests(config: Config, kind: str) -> None:
    """Raise UserError for a workload that cannot be run; what is in its file included."""
    workload = config.workload
    if workload.file is not None:
        _check_file(config)
    elif workload.request is not None:
        listed = np.asarray([one.arrival_s for one in workload.request], dtype=float)
        check_arrivals(listed, "workload.request: the arrivals")
    count = count_requests(config)
    rate_rps = rate_drawn(workload)
    if rate_rps is not None:
        check_span(count / rate_rps, 1, f"workload.rate_rps is {rate_rps:g}: {count} requests")
    for number, fault in enumerate(config.faults):
        if fault.room > count:
            raise UserError(f"faults.{number}.room is {fault.room}, it must be one of the requests 1 to {count}")
    for number, incident in enumerate(config.incidents):
        room = getattr(incident.planned(), "room", None)
        if room is not None and room > count:
            raise UserError(f"incidents.{number}.room is {room}, it must be one of the requests 1 to {count}")
    if config.run.warmup_requests >= count:
        raise UserError(
            f"run.warmup_requests is {config.run.warmup_requests}, it must be less than the number of requests, {count}"
        )
    if kind == "sim" and config.run.replications > 1:
        _check_replications(config)


def _check_replications(config: Config) -> None:
    """Raise UserError where replications would be the same, or would have nothing left after the warm-up."""
    plan, number, warmup = resampling_of(config), config.run.replications, config.run.warmup_requests
    if isinstance(plan, NoResampling) and not is_random(config):
        raise UserError(
            f"run.replications is {number}, it must be 1 for {Path(str(config.workload.file)).name}, which cannot be "
            f"resampled: {plan.why}"
        )
    if plan is None and not is_random(config):
        raise UserError(
            f"run.replications is {number}, it must be 1 for a workload without random draws: "
            f"every simulated replication would be the same (workload.service_log_sd = 0.2 draws service times)"
        )
    if isinstance(plan, Resampling) and warmup:
        fewest = min(count_requests(config, replication) for replication in range(number))
        if warmup >= fewest:
            raise UserError(
                f"run.warmup_requests is {warmup}, it must be less than the number of requests, which is {fewest} in "
                f"one of the resamples"
            )


def resampling_of(config: Config) -> Resampling | NoResampling | None:
    """How the replications of a file of requests are made of it, or why they cannot be; None for any other workload."""
    workload = config.workload
    if workload.file is None or reader_of(workload).gives != "requests":
        return None
    for name, listed in (("faults", config.faults), ("incidents", [one.planned() for one in config.incidents])):
        for number, one in enumerate(listed):
            if getattr(one, "room", None) is not None:
                return NoResampling(f"{name}.{number}.room is one of its requests, and a resample has others")
    decides = workload.model_dump_json(include={"file", "options", "requests", "rate_rps", "rate_scale", "loop"})
    return _planned(_Planned(f"{decides} {states_of_files(workload)}", workload))


def states_of_files(workload: Workload) -> str:
    """Its files with the time and the size that each has now, since files may change while we run."""
    states = [(name, Path(name).stat()) for name in workload.input_files()]
    return json.dumps([(name, state.st_mtime_ns, state.st_size) for name, state in states])


@dataclass(frozen=True)
class _Planned:
    """A workload that is told from others by what decides how it is resampled."""

    decides: str
    workload: Workload = field(compare=False)


@lru_cache(maxsize=8)
def _planned(what: _Planned) -> Resampling | NoResampling:
    """A run asks several times: to check, to count, and for every replication."""
    return plan_resampling(file_columns(what.workload), closed=what.workload.loop == "closed")


def replicates_of(config: Config) -> Replicates:
    """What the simulated replications of a configuration are to one another."""
    plan = resampling_of(config)
    return plan.replicates if isinstance(plan, Resampling) else INDEPENDENT


def default_replications(config: Config) -> int:
    """How often a configuration that does not say it is simulated.

    A run that is played back is meant to be that run again, so it has no others.
    """
    if not isinstance(resampling_of(config), Resampling) or isinstance(reader_of(config.workload), RecordedRun):
        return 1
    most = MOST_BY_DEFAULT // count_requests(config)
    return min(max(most, LEAST_BY_DEFAULT), DEFAULT_REPLICATIONS)


def _check_file(config: Config) -> None:
    workload = config.workload
    reader = reader_of(workload)
    try:
        check_chosen(f"this file ({reader.title})", reader.options, workload.options)
    except ValueError as error:
        raise UserError(f"workload.options.{error}") from None
    if reader.gives == "lengths":
        read_lengths(Path(str(workload.file)), workload.options)
        if workload.rate_scale is not None:
            raise UserError(
                f"workload.rate_scale is {workload.rate_scale:g}, but a file of lengths has no rate of its own; "
                f"give workload.rate_rps"
            )
        if workload.rate_rps is None and workload.loop == "open":
            raise UserError(
                "workload.rate_rps is missing, it must be given for a file of lengths: that says nothing about arrivals"
            )
        return
    for name in ("cv", "rate_log_sd", "rate_time_constant_s", "order", "repeat_probability", "hint"):
        if getattr(workload, name) is not None:
            raise UserError(
                f"workload.{name} is {getattr(workload, name)!r}, it is not allowed beside a file that has requests of "
                f"its own"
            )
    if isinstance(reader, RecordedRun) and workload.service_log_sd > 0:
        raise UserError(
            f"workload.service_log_sd is {workload.service_log_sd}, it must be 0 beside a run, whose requests have "
            f"their factors"
        )
    clients = reader.gives == "clients"
    rows = count_of_day(workload) if clients else len(reading_of(workload).columns)
    if workload.requests is not None and workload.requests > rows:
        raise UserError(f"workload.requests is {workload.requests}, it must be at most the {rows} rows of the file")
    if rows < 1:
        raise UserError("workload.rate_rps or workload.options.start_s leaves no requests of the file")
    if clients:
        rate_rps = _service(workload)[1] * _service(workload)[0].mean_rate_rps
        check_span(1.0, math.ceil(rate_rps), "workload.rate_scale: the requests of the clients")
    else:
        stretched = stretch(workload, reading_of(workload).columns.first(workload.requests))
        name = "rate_rps" if workload.rate_scale is None else "rate_scale"
        check_arrivals(stretched.arrival_s, f"workload.{name}: the requests of {Path(str(workload.file)).name}")


def make_requests(config: Config, replication: int, *, repeated: bool = False) -> Iterator[Request]:
    """The requests of one replication in order of arrival, made as they are asked for.

    ``repeated``: those of a measured run, which meets the same file again where a simulated one meets resamples of it.
    """
    return requests_from(config, make_columns(config, replication, repeated=repeated))


def requests_from(config: Config, blocks: Iterable[Columns]) -> Iterator[Request]:
    """The requests of columns, numbered from 1 and spread over the instances of a configuration."""
    return requests_of(
        blocks,
        first_room=1,
        encode_instances=config.encode.instances,
        language_instances=config.language.instances,
    )


def make_columns(config: Config, replication: int, *, repeated: bool = False) -> Iterator[Columns]:
    """The same as columns, some at a time; instances are not in them."""
    workload = config.workload
    blocks = _columns(config, replication, repeated=repeated)
    if workload.length_scale is None and workload.image_scale is None:
        return blocks
    return (_scaled(one, workload.length_scale or 1.0, workload.image_scale or 1.0) for one in blocks)


def _scaled(columns: Columns, length: float, images: float) -> Columns:
    """The same requests with more tokens in an image and more images in a request."""
    count = np.where(columns.images > 0, np.maximum(np.rint(columns.images * images), 1), 0)
    own = columns.total_tokens - columns.text_tokens
    tokens = np.rint(own * (length * images))
    # A request keeps a token of what it had.
    tokens = np.maximum(tokens, np.minimum(own, 1)).astype(np.int64)
    return replace(
        columns,
        total_tokens=columns.text_tokens + tokens,
        images=count.astype(np.int64),
        image_tokens_hint=np.rint(columns.image_tokens_hint * (length * images)).astype(np.int64),
        image_squares=np.rint(columns.image_squares * (length**2 * images)).astype(np.int64),
    )


def _columns(config: Config, replication: int, *, repeated: bool) -> Iterator[Columns]:
    workload, seed = config.workload, config.run.seed
    mix = _mix(workload)
    if mix is not None:
        return generate_blocks(
            mix,
            rate_rps=rate_drawn(workload) or mix.rate_rps or 1.0,
            requests=count_requests(config),
            seed=seed,
            replication=replication,
            variation=_variation(workload),
        )
    plan = resampling_of(config) if replication and not repeated else None
    if isinstance(plan, Resampling):
        blocks = iter((resample(file_columns(workload), plan, seed, replication),))
    else:
        blocks = _limited(_given(config, replication), count_requests(config))
    if workload.service_log_sd == 0:
        return blocks
    return _with_factors(blocks, workload.service_log_sd, seed, replication)


def _given(config: Config, replication: int) -> Iterator[Columns]:
    """Columns of requests that are not drawn from a mix."""
    workload = config.workload
    if workload.file is not None and reader_of(workload).gives == "clients":
        service, factor, start_s = _service(workload)
        draw = workload.options.get("draw", "comonotone")
        return replay(service, seed=config.run.seed, replication=replication, factor=factor, start_s=start_s, draw=draw)
    if workload.file is not None:
        return iter((file_columns(workload),))
    if workload.request is not None:
        return iter((_listed(workload),))
    return _lengths(config, replication)


def _mix(workload: Workload) -> Mix | None:
    """The mix that requests are drawn from, if they are."""
    if workload.preset is not None:
        return load_mix(workload.preset, workload.options)
    if workload.file is not None and reader_of(workload).gives == "lengths":
        return read_lengths(Path(workload.file), workload.options)
    return None


def reader_of(workload: Workload) -> Reader:
    """The reader of its file."""
    return find_reader(Path(str(workload.file)), workload.options)


def file_columns(workload: Workload) -> Columns:
    """The requests of its file, as many as are asked for and at the times at which they are to come."""
    return stretch(workload, reading_of(workload).columns.first(workload.requests))


def reading_of(workload: Workload) -> Reading:
    """What its file holds, in order of arrival and at its own times."""
    path = Path(str(workload.file))
    reading = read_requests(path, workload.options)
    if not isinstance(reader_of(workload), RecordedRun) or (beside := config_beside(path)) is None:
        return reading
    return _with_all_fields(reading, path, beside, int(workload.options.get("replication", 0)))


def _with_all_fields(reading: Reading, table: Path, config: Path, replication: int) -> Reading:
    """A replication of a run with the fields that its table has not, drawn again from the configuration beside it.

    Raises UserError, in one sentence, if that does not make these requests.
    """
    where = f"workload.file is {str(table)!r}, the config.toml beside it must make the same requests"
    try:
        drawn = [
            _drawn_again(config, config.stat().st_mtime_ns, replication, len(reading.columns), repeated)
            for repeated in ((False, True) if replication else (False,))
        ]
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    # A file is resampled by a simulated run and repeated by a measured one, and both leave the same table.
    made = next((one for one in drawn if len(one) == len(reading.columns)), drawn[0])
    for name in ("total_tokens", "text_tokens", "images"):
        if not np.array_equal(getattr(made, name), getattr(reading.columns, name)):
            raise UserError(f"{where}, but their {name} are not those of replication {replication}")
    return replace(reading, columns=replace(made, arrival_s=reading.columns.arrival_s))


@lru_cache(maxsize=4)
def _drawn_again(config: Path, _modified_ns: int, replication: int, count: int, repeated: bool) -> Columns:
    """The first requests of a replication of the run that a stored configuration is of."""
    return joined(make_columns(read_config(str(config))[0], replication, repeated=repeated)).first(count)


def rate_drawn(workload: Workload) -> float | None:
    """Mean arrivals a second of requests that are drawn; None where they come at their own times or as others end."""
    if workload.loop == "closed" or workload.request is not None:
        return None
    if workload.preset is not None and workload.rate_scale is not None:
        return (load_mix(workload.preset, workload.options).rate_rps or 1.0) * workload.rate_scale
    drawn = workload.preset is not None or workload.lengths is not None
    return workload.rate_rps if drawn or reader_of(workload).gives == "lengths" else None


def _service(workload: Workload) -> tuple[Service, float, float]:
    """ServeGen's clients, the factor on their rates and the second at which the replay starts."""
    service = read_service(Path(str(workload.file)))
    factor = workload.rate_scale or 1.0
    if workload.rate_rps is not None:
        factor = workload.rate_rps / service.mean_rate_rps
    return service, factor, float(workload.options.get("start_s", 0.0))


def count_of_day(workload: Workload) -> int:
    """Requests of the replay of a folder of clients."""
    service, factor, start_s = _service(workload)
    return count_replayed(service, factor=factor, start_s=start_s)


def _variation(workload: Workload) -> Variation:
    """How the configuration wants a mix to be drawn."""
    return Variation(
        cv=workload.cv,
        rate_log_sd=workload.rate_log_sd,
        rate_time_constant_s=workload.rate_time_constant_s,
        order=cast("Order", workload.order or "random"),
        repeat_probability=workload.repeat_probability or 0.0,
        hint=workload.hint,
        service_log_sd=workload.service_log_sd,
    )


def _limited(blocks: Iterable[Columns], count: int) -> Iterator[Columns]:
    """The first ``count`` rows."""
    for block in blocks:
        yield block.first(count)
        count -= len(block)
        if count <= 0:
            return


def _with_factors(blocks: Iterable[Columns], log_sd: float, seed: int, replication: int) -> Iterator[Columns]:
    """The same rows, each with a further random factor on its encode and its prefill times."""
    drawn = service_factors(log_sd, seed, replication)
    encode, prefill = next(drawn)
    for block in blocks:
        while len(encode) < len(block):
            more_encode, more_prefill = next(drawn)
            encode, prefill = np.concatenate((encode, more_encode)), np.concatenate((prefill, more_prefill))
        size = len(block)
        yield replace(
            block,
            encode_factor=block.encode_factor * encode[:size],
            prefill_factor=block.prefill_factor * prefill[:size],
        )
        encode, prefill = encode[size:], prefill[size:]


def _listed(workload: Workload) -> Columns:
    listed = sorted(workload.request or (), key=lambda one: one.arrival_s)
    names = tuple(dict.fromkeys(one.client for one in listed))
    return Columns.of(
        np.asarray([one.arrival_s for one in listed], dtype=float),
        np.asarray([one.total_tokens for one in listed], dtype=np.int64),
        text_tokens=np.asarray([one.text_tokens for one in listed], dtype=np.int64),
        images=np.asarray([one.images for one in listed], dtype=np.int64),
        image_tokens_hint=np.asarray([one.image_tokens_hint for one in listed], dtype=np.int64),
        client=np.asarray([names.index(one.client) for one in listed], dtype=np.int64),
        clients=names,
    )


def _lengths(config: Config, replication: int) -> Iterator[Columns]:
    """Lengths used in turn, without end."""
    workload = config.workload
    lengths = np.asarray(workload.lengths, dtype=np.int64)
    first = 0
    for arrival_s in _arrivals(config, replication):
        total = lengths[(first + np.arange(len(arrival_s))) % len(lengths)]
        has_image = total > workload.text_tokens
        yield Columns.of(
            arrival_s,
            total,
            text_tokens=np.full(len(total), workload.text_tokens, dtype=np.int64),
            images=has_image.astype(np.int64),
        )
        first += len(arrival_s)


def _arrivals(config: Config, replication: int) -> Iterator[Reals]:
    """Blocks of arrival times for lengths: all at once without a rate."""
    workload, seed = config.workload, config.run.seed
    if workload.rate_rps is None:
        while True:
            yield np.zeros(BLOCK_REQUESTS)
    arrivals = _variation(workload).arrivals_from(Arrivals())
    pace = Pace(arrivals, workload.rate_rps, seed, replication)
    for times in even_times(arrivals.cv, seed, replication):
        yield pace.seconds(times)


def stretch(workload: Workload, rows: Columns) -> Columns:
    """The rows with their times stretched so that they arrive at the configured rate, or that many times faster."""
    rate_rps, scale = workload.rate_rps, workload.rate_scale
    if workload.loop == "closed" or (rate_rps is None and scale is None):
        return rows
    span_s = float(rows.arrival_s[-1] - rows.arrival_s[0])
    if span_s <= 0:
        told = f"rate_rps is {rate_rps}" if scale is None else f"rate_scale is {scale}"
        raise UserError(f"workload.{told}, which is not allowed for this file: its requests arrive all at once")
    if scale is not None:
        return replace(rows, arrival_s=rows.arrival_s / scale)
    assert rate_rps is not None
    factor = (len(rows) - 1) / span_s / rate_rps
    return replace(rows, arrival_s=(rows.arrival_s - rows.arrival_s[0]) * factor)
