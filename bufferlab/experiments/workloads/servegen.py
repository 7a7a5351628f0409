"""ServeGen's client files: replays a day of a multimodal service, or fits a mix to it.

The format (alibaba/ServeGen, Apache-2.0; arXiv 2505.09999), two files a client: ``chunk-N-trace.csv`` without a
header has the columns timestamp (s), rate (requests/s), cv, pattern (Gamma, Weibull or empty), shape, scale, a row for
each window; ``chunk-N-dataset.json`` has, from some second of the day on, for each field a Python dictionary of
probabilities in a string. A client's requests of one window are drawn as ServeGen's own generator does it: ceil(rate ·
window) gaps of the pattern are scaled to fill the window, and the last arrival, at its end, is dropped. One uniform
number a request decides on its text and its number of images (with ``draw = "independent"``, one each), and every image
is drawn by itself. A request is its text and its images; the tokens around images are not counted there.
"""

from __future__ import annotations

import ast
import csv
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bufferlab.experiments.config.inputs import client_files
from bufferlab.experiments.errors import UserError
from bufferlab.sim.streams import stream
from bufferlab.sim.workload import QUANTILE_LEVELS, Columns, Counts, Reals

FIELDS = ("text_tokens", "image_tokens", "image_count")
PATTERNS = ("Gamma", "Weibull", "")
DRAWS = ("comonotone", "independent")
DAY_S = 86_400
FIT_CLIENTS = 12
FIT_CHOICES = 4
"""Distributions with at most so many values are fitted by those values, others by their quantiles."""
FIT_COUNT_EDGES = (0, 1, 2, 3, 4, 5, 6, 8, 10, 14, 20, 26, 32, 40, 49)
"""Numbers of images up to each of these, and above the one before, are fitted by their mean."""
OTHERS = "others"


class Table(NamedTuple):
    """A discrete distribution: rising values and the cumulative probabilities up to each."""

    values: Counts
    cumulative: Reals

    def at(self, levels: Reals) -> Counts:
        """Quantiles at ``levels``, which are in [0, 1)."""
        return self.values[np.searchsorted(self.cumulative[:-1], levels, side="right")]


class Client(NamedTuple):
    """One client: for every window its rate (requests/s) and how gaps are spread, and its lengths by second of day."""

    name: str
    rates_rps: Reals
    cvs: Reals
    patterns: tuple[str, ...]
    shapes: Reals
    periods: tuple[tuple[float, dict[str, Table]], ...]

    def tables(self, time_s: float) -> dict[str, Table]:
        """The distributions that hold at ``time_s``."""
        found = self.periods[0][1]
        for start_s, tables in self.periods:
            if start_s <= time_s:
                found = tables
        return found


class Service(NamedTuple):
    """All clients of a folder. Windows have equal lengths."""

    window_s: float
    windows: int
    clients: tuple[Client, ...]

    @property
    def mean_rate_rps(self) -> float:
        """Requests a second of all clients, averaged over the day."""
        return float(sum(client.rates_rps.mean() for client in self.clients))

    def sizes(self, client: Client, factor: float) -> Counts:
        """Requests of a client in every window at ``factor`` times its rate."""
        return np.maximum(np.ceil(client.rates_rps * factor * self.window_s) - 1, 0).astype(np.int64)


def is_folder_of_clients(path: Path) -> bool:
    """Whether ``path`` is a folder with at least one client file."""
    return path.is_dir() and any(path.glob("chunk-*-trace.csv"))


def read_service(folder: Path) -> Service:
    """The clients of a folder. Raises UserError naming the file and what is wrong with it."""
    files = client_files(folder)
    if not any(path.name.endswith("-trace.csv") for path in files):
        raise UserError(f"workload.file is {str(folder)!r}, a folder must hold ServeGen's chunk-N-trace.csv files")
    return _read(folder, tuple(path.stat().st_mtime_ns for path in files))


@lru_cache(maxsize=2)
def _read(folder: Path, _modified: tuple[int, ...]) -> Service:
    traces = sorted(folder.glob("chunk-*-trace.csv"), key=_number)
    read = [_client(path) for path in traces]
    times_s = read[0][1]
    for path, (_, own_s) in zip(traces, read, strict=True):
        if own_s != times_s:
            raise UserError(f"workload.file {path.name}: its timestamps must be those of {traces[0].name}")
    gaps_s = {second - first for first, second in itertools.pairwise(times_s)}
    if len(gaps_s) != 1 or times_s[0] != 0 or min(gaps_s) <= 0:
        raise UserError(f"workload.file {traces[0].name}: timestamps must start at 0 and rise in equal steps")
    service = Service(gaps_s.pop(), len(times_s), tuple(client for client, _ in read))
    if service.mean_rate_rps <= 0:
        raise UserError(f"workload.file is {str(folder)!r}, at least one client must have a rate above 0")
    return service


def _number(path: Path) -> tuple[int, str]:
    part = path.name.split("-")[1]
    return (int(part) if part.isdecimal() else 10**9, path.name)


def _client(path: Path) -> tuple[Client, list[float]]:
    """One client and the times of its windows."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError):
        raise UserError(f"workload.file {path.name}, it must be a text file that can be read") from None
    numbers = np.zeros((len(rows), 6))
    patterns = []
    for row, fields in enumerate(rows):
        try:
            numbers[row] = [0.0 if column == 3 else float(text) for column, text in enumerate(fields)]
            pattern = fields[3].strip()
        except (ValueError, IndexError):
            pattern = "?"
        active = numbers[row, 1] > 0
        good = pattern in PATTERNS and np.isfinite(numbers[row]).all() and (numbers[row, 1:] >= 0).all()
        if not good or (active and (not pattern or numbers[row, 4] <= 0)):
            raise UserError(
                f"workload.file {path.name}, row {row + 1}: it must be timestamp,rate,cv,pattern,shape,scale, the "
                f"pattern Gamma, Weibull or (without a rate) nothing"
            )
        patterns.append(pattern)
    if len(rows) < 2:
        raise UserError(f"workload.file {path.name}: it must have at least two windows")
    name = path.name.removesuffix("-trace.csv")
    client = Client(
        name=f"client-{name.split('-')[1]}",
        rates_rps=numbers[:, 1],
        cvs=numbers[:, 2],
        patterns=tuple(patterns),
        shapes=numbers[:, 4],
        periods=_periods(path.with_name(f"{name}-dataset.json")),
    )
    return client, numbers[:, 0].tolist()


def _periods(path: Path) -> tuple[tuple[float, dict[str, Table]], ...]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        found = sorted((float(start), fields) for start, fields in document.items())
        periods = tuple((start, {name: _table(fields[name]) for name in FIELDS}) for start, fields in found)
        if not periods:
            raise ValueError("no period")
    except OSError:
        raise UserError(f"workload.file {path.name}, it must be a file that can be read") from None
    except (ValueError, KeyError, TypeError, AttributeError, SyntaxError, RecursionError):
        raise UserError(
            f"workload.file {path.name}: it must be JSON, for each start in seconds the fields {', '.join(FIELDS)}, "
            f"each a dictionary of probabilities in a string"
        ) from None
    return periods


def _table(text: str) -> Table:
    """The distribution in one string. A field that a client never uses is empty: always 0."""
    told: Mapping[Any, Any] = ast.literal_eval(text)
    pairs = sorted((int(value), float(weight)) for value, weight in told.items()) or [(0, 1.0)]
    values, weights = np.asarray([pair[0] for pair in pairs]), np.asarray([pair[1] for pair in pairs])
    if values[0] < 0 or weights.min() < 0 or not 0 < weights.sum() < math.inf:
        raise ValueError("bad table")
    return Table(values, np.cumsum(weights) / weights.sum())


# --- replay ---


def count_replayed(service: Service, *, factor: float = 1.0, start_s: float = 0.0) -> int:
    """Requests of a replay from ``start_s`` to the end of the day."""
    first = int(start_s // service.window_s)
    return sum(int(service.sizes(client, factor)[first:].sum()) for client in service.clients)


def replay(
    service: Service,
    *,
    seed: int,
    replication: int = 0,
    factor: float = 1.0,
    start_s: float = 0.0,
    draw: str = "comonotone",
) -> Iterator[Columns]:
    """The requests of a day, a window at a time, at ``factor`` times every client's rate.

    It starts with the window that ``start_s`` is in; times count from that window's start. Every client and window has
    a stream of its own.
    """
    names = tuple(client.name for client in service.clients)
    first = int(start_s // service.window_s)
    for window in range(first, service.windows):
        begin_s = window * service.window_s
        parts = []
        for place, client in enumerate(service.clients):
            size = int(service.sizes(client, factor)[window])
            if size:
                generator = stream(seed, replication, "servegen", f"{client.name}/{window}")
                shifted_s = (window - first) * service.window_s
                times_s = shifted_s + service.window_s * _fractions(client, window, size, generator)
                # Nobody is rounded into the next window.
                arrival_s = np.minimum(times_s, np.nextafter(shifted_s + service.window_s, 0))
                parts.append(
                    (arrival_s, np.full(size, place), *_lengths(client.tables(begin_s), size, draw, generator))
                )
        if not parts:
            continue
        arrival_s, senders, text, images, image_tokens, squares = map(np.concatenate, zip(*parts, strict=True))
        order = np.argsort(arrival_s, kind="stable")
        block = Columns.of(
            arrival_s,
            np.maximum(text + image_tokens, 1),
            text_tokens=text,
            images=images,
            image_tokens_hint=image_tokens,
            image_squares=squares,
            client=senders,
            clients=names,
        )
        yield block.rows(order)


def _fractions(client: Client, window: int, size: int, generator: np.random.Generator) -> Reals:
    """When in a window its ``size`` requests arrive, as parts of its length."""
    shape = float(client.shapes[window])
    pattern = client.patterns[window]
    gaps = generator.gamma(shape, size=size + 1) if pattern == "Gamma" else generator.weibull(shape, size + 1)
    ends = np.cumsum(gaps)
    # Gaps so uneven that all underflow to 0 leave nothing to scale: then all come at once.
    return ends[:-1] / ends[-1] if ends[-1] > 0 else np.zeros(size)


def _lengths(
    tables: Mapping[str, Table], size: int, draw: str, generator: np.random.Generator
) -> tuple[Counts, Counts, Counts, Counts]:
    """Text tokens, images, their tokens together and the sum of their squares."""
    levels = generator.random(size)
    text = tables["text_tokens"].at(levels)
    images = tables["image_count"].at(levels if draw == "comonotone" else generator.random(size))
    owners = np.repeat(np.arange(size), images)
    tokens = tables["image_tokens"].at(generator.random(len(owners)))
    sums, squares = (np.bincount(owners, weights=column, minlength=size) for column in (tokens, tokens * tokens))
    return text, images, np.rint(sums).astype(np.int64), np.rint(squares).astype(np.int64)


# --- fit ---


def fitted_mix(service: Service, clients: int = FIT_CLIENTS) -> dict[str, Any]:
    """The tables ``own_arrivals`` and ``kinds`` of a mix fitted to a service (``sim/workloads/servegen-like.toml``).

    Each of the biggest ``clients`` is a client of the mix, the rest together is one more. A client has its share of the
    requests, the mean cv of its windows (weighted by requests) and its lengths over the day: few values as they are,
    more by their quantiles at ``QUANTILE_LEVELS``.
    """
    sizes = {client.name: service.sizes(client, 1.0) for client in service.clients}
    whole = sum(int(size.sum()) for size in sizes.values())
    ranked = sorted(service.clients, key=lambda client: -int(sizes[client.name].sum()))
    groups = [(client.name, [client]) for client in ranked[:clients]]
    if ranked[clients:]:
        groups.append((OTHERS, ranked[clients:]))
    own, kinds = [], []
    for name, members in groups:
        requests = np.concatenate([sizes[client.name] for client in members])
        cvs = np.concatenate([client.cvs for client in members])
        own.append({"name": name, "cv": _round(float(np.average(cvs, weights=requests)), 3)})
        kinds.append(
            {
                "client": name,
                "weight": _round(float(requests.sum()) / whole, 4),
                "coupled": True,
                "text": _fitted(_pooled(service, members, "text_tokens")),
                "images": _fitted_counts(_pooled(service, members, "image_count")),
                "image_tokens": _fitted(_pooled(service, members, "image_tokens")),
            }
        )
    return {"own_arrivals": own, "kinds": kinds}


def _pooled(service: Service, clients: list[Client], field: str) -> dict[int, float]:
    """Probability of every value of ``field`` over the day and ``clients``; image tokens are weighted by images."""
    found: dict[int, float] = {}
    starts_s = np.arange(service.windows) * service.window_s
    for client in clients:
        sizes = service.sizes(client, 1.0)
        ends_s = [start_s for start_s, _ in client.periods[1:]] + [math.inf]
        for (start_s, tables), end_s in zip(client.periods, ends_s, strict=True):
            weight = float(sizes[(starts_s >= start_s) & (starts_s < end_s)].sum())
            if field == "image_tokens":
                weight *= _mean(tables["image_count"])
            probabilities = np.diff(tables[field].cumulative, prepend=0.0)
            for value, probability in zip(tables[field].values.tolist(), probabilities.tolist(), strict=True):
                found[value] = found.get(value, 0.0) + weight * probability
    whole = sum(found.values()) or 1.0
    return {value: weight / whole for value, weight in sorted(found.items()) if weight > 0} or {0: 1.0}


def _mean(table: Table) -> float:
    return float(table.values @ np.diff(table.cumulative, prepend=0.0))


def _fitted(probabilities: dict[int, float]) -> dict[str, Any]:
    if len(probabilities) <= FIT_CHOICES:
        return _choice(probabilities)
    table = Table(np.asarray(list(probabilities)), np.cumsum(list(probabilities.values())))
    inner = table.at(np.asarray(QUANTILE_LEVELS[:-1])).tolist()
    return {"type": "quantiles", "values": [*inner, int(table.values[-1])]}


def _fitted_counts(probabilities: dict[int, float]) -> dict[str, Any]:
    edges = np.asarray(FIT_COUNT_EDGES)
    groups: dict[int, list[tuple[int, float]]] = {}
    for value, probability in probabilities.items():
        groups.setdefault(int(np.searchsorted(edges, value)), []).append((value, probability))
    binned: dict[int, float] = {}
    for members in groups.values():
        weight = sum(probability for _, probability in members)
        binned[round(sum(value * probability for value, probability in members) / weight)] = weight
    return _choice(binned)


def _choice(probabilities: dict[int, float]) -> dict[str, Any]:
    kept = {value: _round(weight, 4) for value, weight in probabilities.items() if weight >= 0.00005}
    if len(kept) == 1:
        return {"type": "constant", "value": next(iter(kept))}
    return {"type": "choice", "values": list(kept), "weights": list(kept.values())}


def _round(number: float, digits: int) -> float:
    return float(f"{number:.{digits}g}")
