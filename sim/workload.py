"""Workloads: length models as data, Poisson arrivals, and the reader of traces.

A *mix* is a TOML file in ``workloads/``: kinds of requests with their weights and, for each, the distribution of its
text tokens, its number of images and the tokens of one image. A request is text + sum over its images of (tokens + 2),
the two being the tokens around an image.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import msgspec
import numpy
from numpy.typing import NDArray

from protocol.scenario import Request
from sim.streams import stream

Counts = NDArray[numpy.int64]

BLOCK_REQUESTS = 1024
"""Requests drawn together. A block is always drawn whole, from a stream of its own, so the first n requests of a longer
workload are those of a shorter one."""

IMAGE_BOUNDARY_TOKENS = 2


class Constant(msgspec.Struct, frozen=True, tag="constant", forbid_unknown_fields=True):
    """Always ``value``."""

    value: int

    def __post_init__(self) -> None:
        if self.value < 0:
            raise ValueError(f"value is {self.value}, it must be at least 0")

    def draw(self, generator: numpy.random.Generator, count: int) -> Counts:
        """``count`` values."""
        return numpy.full(count, self.value, dtype=numpy.int64)


class Uniform(msgspec.Struct, frozen=True, tag="uniform", forbid_unknown_fields=True):
    """Every integer from ``low`` to ``high``, both included, alike."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high:
            raise ValueError(f"low is {self.low} and high is {self.high}, it must be 0 <= low <= high")

    def draw(self, generator: numpy.random.Generator, count: int) -> Counts:
        """``count`` values."""
        return generator.integers(self.low, self.high, count, endpoint=True)


class LogNormal(msgspec.Struct, frozen=True, tag="lognormal", forbid_unknown_fields=True):
    """Lognormal by its median and the standard deviation of its logarithm, rounded, at least 1."""

    median: float
    log_sd: float

    def __post_init__(self) -> None:
        if not (0 < self.median < math.inf and 0 <= self.log_sd < math.inf):
            raise ValueError(
                f"median is {self.median} and log_sd is {self.log_sd}, they must be above 0 and at least 0"
            )

    def draw(self, generator: numpy.random.Generator, count: int) -> Counts:
        """``count`` values."""
        values = numpy.rint(generator.lognormal(math.log(self.median), self.log_sd, count))
        return numpy.maximum(values, 1).astype(numpy.int64)


class Geometric(msgspec.Struct, frozen=True, tag="geometric", forbid_unknown_fields=True):
    """Trials until the first success of probability ``probability``, at most ``most``."""

    probability: float
    most: int

    def __post_init__(self) -> None:
        if not 0 < self.probability <= 1 or self.most < 1:
            raise ValueError(
                f"probability is {self.probability} and most is {self.most}, they must be in (0, 1] and >= 1"
            )

    def draw(self, generator: numpy.random.Generator, count: int) -> Counts:
        """``count`` values."""
        return numpy.minimum(generator.geometric(self.probability, count), self.most)


class Choice(msgspec.Struct, frozen=True, tag="choice", forbid_unknown_fields=True):
    """One of ``values`` by their ``weights``, which need not add up to 1."""

    values: tuple[int, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_weights(self.weights, len(self.values), "values")
        if min(self.values) < 0:
            raise ValueError(f"values hold {min(self.values)}, they must be at least 0")

    def draw(self, generator: numpy.random.Generator, count: int) -> Counts:
        """``count`` values."""
        return numpy.asarray(self.values, dtype=numpy.int64)[_pick(generator, self.weights, count)]


class Mixture(msgspec.Struct, frozen=True, tag="mixture", forbid_unknown_fields=True):
    """One of ``parts`` by their ``weights``, then a value of that."""

    parts: tuple[Length, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_weights(self.weights, len(self.parts), "parts")

    def draw(self, generator: numpy.random.Generator, count: int) -> Counts:
        """``count`` values."""
        picked = _pick(generator, self.weights, count)
        # Every part draws for everybody: wasteful, but a part's draws then depend on nothing but the block.
        drawn = numpy.stack([part.draw(generator, count) for part in self.parts])
        return drawn[picked, numpy.arange(count)]


Length = Constant | Uniform | LogNormal | Geometric | Choice | Mixture


class RequestKind(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One kind of request of a mix. ``text`` and ``image_tokens`` (of one image) are in tokens."""

    weight: float
    text: Length
    images: Length = Constant(0)
    image_tokens: Length = Constant(0)
    client: str = ""


class Mix(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Kinds of requests by their weights; every length is clipped to ``max_tokens``."""

    kinds: tuple[RequestKind, ...]
    max_tokens: int
    description: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens is {self.max_tokens}, it must be at least 1")
        _check_weights([kind.weight for kind in self.kinds], len(self.kinds), "kinds")


def constant_mix(tokens: int) -> Mix:
    """Every request has exactly ``tokens`` tokens, all of them text."""
    return Mix(kinds=(RequestKind(1.0, Constant(tokens)),), max_tokens=max(tokens, 1))


@cache
def _mix_texts() -> dict[str, str]:
    found = {
        entry.name.removesuffix(".toml"): entry.read_text(encoding="utf-8")
        for entry in files("sim").joinpath("workloads").iterdir()
        if entry.name.endswith(".toml")
    }
    return dict(sorted(found.items()))


def mix_names() -> list[str]:
    """Names of the shipped mixes."""
    return list(_mix_texts())


def load_mix(name: str) -> Mix:
    """A shipped mix by its name. Raises ValueError listing the known ones."""
    texts = _mix_texts()
    if name not in texts:
        raise ValueError(f"unknown workload {name!r}; known: {', '.join(texts)}")
    return mix_from(tomllib.loads(texts[name]), name=name)


def mix_from(table: Mapping[str, Any], *, name: str) -> Mix:
    """The mix in a table of fields. Raises ValueError in one sentence that names the field."""
    try:
        return msgspec.convert(table, Mix)
    except msgspec.ValidationError as error:
        raise ValueError(f"workload {name}: {error}") from error


def generate(mix: Mix, *, rate_rps: float, requests: int, seed: int, replication: int = 0) -> Iterator[Request]:
    """``requests`` requests of ``mix`` with Poisson arrivals of ``rate_rps`` a second, one at a time.

    Rooms count from 0. Arrivals and lengths have streams of their own, so another rate keeps the lengths and the order
    of the arrivals. Raises ValueError for a rate that is not positive or fewer than one request.
    """
    if not 0 < rate_rps < math.inf:
        raise ValueError(f"rate_rps is {rate_rps}, it must be above 0 and finite")
    if requests < 1:
        raise ValueError(f"requests is {requests}, it must be at least 1")
    return _generate(mix, rate_rps, requests, seed, replication)


def _generate(mix: Mix, rate_rps: float, requests: int, seed: int, replication: int) -> Iterator[Request]:
    arrival_s = 0.0
    for first in range(0, requests, BLOCK_REQUESTS):
        block = first // BLOCK_REQUESTS
        # Unit gaps scaled afterwards: the same requests come at another rate, only faster or slower.
        gaps = stream(seed, replication, "arrivals", block).exponential(1.0, BLOCK_REQUESTS)
        columns = _draw_block(mix, stream(seed, replication, "lengths", block))
        rows = zip(gaps.tolist(), *(column.tolist() for column in columns), strict=True)
        for room, (gap, kind, text, images, image_tokens) in enumerate(rows, first):
            if room == requests:
                return
            arrival_s += gap / rate_rps
            total = text + image_tokens + IMAGE_BOUNDARY_TOKENS * images
            yield Request(
                room=room,
                arrival_s=arrival_s,
                total_tokens=min(max(total, 1), mix.max_tokens),
                text_tokens=min(text, mix.max_tokens),
                images=images,
                image_tokens_hint=image_tokens,
                client=mix.kinds[kind].client,
            )


def _draw_block(mix: Mix, generator: numpy.random.Generator) -> tuple[Counts, Counts, Counts, Counts]:
    """Kind, text tokens, images and their tokens together, for one block of requests."""
    kinds = _pick(generator, [kind.weight for kind in mix.kinds], BLOCK_REQUESTS)
    text, images, image_tokens = (numpy.zeros(BLOCK_REQUESTS, dtype=numpy.int64) for _ in range(3))
    for number, kind in enumerate(mix.kinds):
        members = numpy.flatnonzero(kinds == number)
        text[members] = kind.text.draw(generator, len(members))
        counts = kind.images.draw(generator, len(members))
        images[members] = counts
        owners = numpy.repeat(members, counts)
        numpy.add.at(image_tokens, owners, kind.image_tokens.draw(generator, len(owners)))
    return kinds, text, images, image_tokens


def _check_weights(weights: Iterable[float], count: int, what: str) -> None:
    listed = list(weights)
    if len(listed) != count or not listed or min(listed) < 0 or not 0 < sum(listed) < math.inf:
        raise ValueError(f"weights are {listed}: there must be one for each of the {count} {what}, none below 0")


def _pick(generator: numpy.random.Generator, weights: Iterable[float], count: int) -> Counts:
    edges = numpy.cumsum(numpy.asarray(list(weights), dtype=float))
    # The last edge is the exact sum, so a draw just below 1 stays inside.
    return numpy.searchsorted(edges[:-1] / edges[-1], generator.random(count), side="right").astype(numpy.int64)


def spread(requests: Iterable[Request], *, encode_instances: int, language_instances: int) -> Iterator[Request]:
    """Send request i to instance i modulo their number, on each side."""
    for number, request in enumerate(requests):
        yield msgspec.structs.replace(
            request, encode_instance=number % encode_instances, language_instance=number % language_instances
        )


# --- traces --------------------------------------------------------------------------------------------------------


def read_requests(rows: Iterable[Mapping[str, Any]], *, name: str = "trace") -> Iterator[Request]:
    """Requests from the rows of a table, in order; rooms count from 0.

    A row has ``arrival_s`` (seconds from the run's start) or ``timestamp_s`` (any origin: the first row is 0), and
    ``total_tokens`` or ``text_tokens`` and ``image_tokens``. ``text_tokens``, ``images``, ``image_tokens_hint`` and
    ``client`` are taken when they are there; other columns are ignored. Values may be texts, as
    a CSV reader gives them.
    Raises ValueError with the row's number (from 1, the header not counted) and the field, when that row is pulled.
    """
    origin_s: float | None = None
    last_s = -math.inf
    for number, row in enumerate(rows, 1):
        where = f"{name}, row {number}"
        clock = "arrival_s" if "arrival_s" in row else "timestamp_s"
        if clock not in row:
            raise ValueError(f"{where}: neither arrival_s nor timestamp_s is there")
        time_s = _number(row[clock], where, clock)
        if origin_s is None:
            origin_s = time_s if clock == "timestamp_s" else 0.0
        arrival_s = time_s - origin_s
        if arrival_s < 0 and clock == "arrival_s":
            raise ValueError(f"{where}: arrival_s is {time_s}, it must be at least 0")
        if arrival_s < last_s:
            raise ValueError(f"{where}: {clock} is {time_s}, earlier than the row before")
        last_s = arrival_s
        text = _count(row, where, "text_tokens")
        image = _count(row, where, "image_tokens")
        total = _count(row, where, "total_tokens")
        if total is None:
            if text is None or image is None:
                missing = "text_tokens" if text is None else "image_tokens"
                raise ValueError(f"{where}: {missing} is missing, and so is total_tokens")
            total = text + image
        if total < 1:
            raise ValueError(f"{where}: total_tokens is {total}, it must be at least 1")
        if text is not None and text > total:
            raise ValueError(f"{where}: text_tokens is {text}, more than the total of {total}")
        client = row.get("client")
        yield Request(
            room=number - 1,
            arrival_s=arrival_s,
            total_tokens=total,
            text_tokens=text or 0,
            images=_count(row, where, "images") or 0,
            image_tokens_hint=_count(row, where, "image_tokens_hint") or 0,
            client="" if client is None else str(client),
        )


def _number(value: Any, where: str, field: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{where}: {field} is {value!r}, it must be a finite number")
    return number


def _count(row: Mapping[str, Any], where: str, field: str) -> int | None:
    """A whole number that is at least 0; None when the field is absent or empty."""
    value = row.get(field)
    if value is None or value == "":
        return None
    number = _number(value, where, field)
    if number < 0 or number != int(number):
        raise ValueError(f"{where}: {field} is {value!r}, it must be a whole number and at least 0")
    return int(number)
