"""What a workload is like: ``bufferlab workload``.

Every figure is ``{"value", "low", "high"}``. Where requests are drawn at random it is the mean over independent
replications with a 95 % t interval; what a trace holds is simply counted, and has no interval.

* ``tokens``: lengths of requests. Quantiles are order statistics.
* ``buffers``: for each size the share of requests that are longer, and how full such a buffer is on average, counting a
  request that does not fit as a full buffer.
* ``arrivals``: coefficient of variation of the gaps; for windows of 1, 10 and 60 seconds the index of dispersion
  (variance over mean of the counts: 1 for Poisson at every length) and the count of the busiest window over the mean.
  Only with at least ten whole windows.
* ``length_autocorrelation``: correlation of a length with that of the next arrival.
* ``clients``: how many send, and the share of the busiest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bufferlab.experiments.config.inputs import why_unreadable
from bufferlab.experiments.config.overrides import anchor_files
from bufferlab.experiments.config.schema import Config, parse
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.progress import Step
from bufferlab.experiments.stats.intervals import Estimate, across_replications, shares_across
from bufferlab.experiments.text import table
from bufferlab.experiments.units import format_duration
from bufferlab.experiments.workloads.configurations import apply_overrides
from bufferlab.experiments.workloads.loading import load
from bufferlab.experiments.workloads.readers import find_reader
from bufferlab.experiments.workloads.readers.writing import write_trace
from bufferlab.experiments.workloads.requests import check_requests, count_requests, is_random, make_columns
from bufferlab.experiments.workloads.traffic import traffic_of
from bufferlab.protocol.naming import did_you_mean
from bufferlab.sim.workload import Columns, Option, Reals, joined, load_mix, mix_names, mix_options

DEFAULT_BUFFERS = (1024, 8192)
PRESET_REQUESTS = 20_000
REPLICATIONS = 5
WINDOWS_S = (1, 10, 60)
LEAST_WINDOWS = 10
LEVELS = {"p10": 0.1, "p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}

Figures = dict[str, float | None]


def configure(
    source: str, *, requests: int | None = None, rate_rps: float | None = None, settings: Sequence[str] = ()
) -> Config:
    """The configuration of a workload: the name of a preset, a workload file or folder, or a configuration file.

    A preset has 20,000 requests at the rate of the data it was fitted to, unless told otherwise.
    """
    overrides = list(settings)
    overrides += [] if requests is None else [f"workload.requests={requests}"]
    overrides += [] if rate_rps is None else [f"workload.rate_rps={rate_rps}"]
    path = Path(source)
    if source in mix_names():
        workload: dict[str, Any] = {"preset": source, "requests": PRESET_REQUESTS}
        workload["rate_rps"] = load_mix(source).rate_rps or 1.0
    elif path.suffix == ".toml":
        return load(source, overrides)
    elif path.exists():
        workload = {"file": str(path)}
        if path.is_file() and find_reader(path).gives == "lengths":
            workload["requests"] = PRESET_REQUESTS
    else:
        names = mix_names()
        raise UserError(
            f"NAME is {source!r}{did_you_mean(source, names)}, it must be a workload or configuration file, or one of "
            f"the presets {', '.join(names)}{why_unreadable(path) if path.suffix else ''}"
        )
    tree: dict[str, Any] = {"workload": workload}
    anchor_files(tree, Path())
    apply_overrides(tree, overrides)
    return parse(tree).resolved()


def count_draws(config: Config, replications: int | None = None) -> int:
    """How many times ``describe`` draws the workload: once where nothing is drawn at random.

    Raises UserError for a number of replications that cannot be or would have no effect.
    """
    if replications is not None and replications < 1:
        raise UserError(f"--replications is {replications}, it must be at least 1")
    if is_random(config):
        return replications or REPLICATIONS
    if replications is not None and replications > 1:
        raise UserError(
            f"--replications is {replications}, which has no effect on requests that are the same in every draw; it is "
            "for a preset or lengths, which are drawn at random"
        )
    return 1


def describe(
    config: Config, buffers: Sequence[int], replications: int | None = None, *, progress: Step = lambda _: None
) -> dict[str, Any]:
    """The description of a configuration's workload, see above. ``progress`` is told of every draw.

    Raises UserError for a workload that cannot be run.
    """
    for size in buffers:
        if size < 1:
            raise UserError(f"--buffer is {size}, it must be at least 1")
    check_requests(config, "workload")
    repeats = count_draws(config, replications)
    measured = []
    for number in range(repeats):
        measured.append(measure(joined(make_columns(config, number, repeated=True)), buffers))
        progress("")

    def told(name: str) -> Estimate:
        return across_replications([one[name] for one in measured])

    def share(name: str) -> Estimate:
        return shares_across([one[name] for one in measured])

    return {
        "workload": config.tree()["workload"],
        "seed": config.run.seed,
        "traffic": traffic_of(_as_described(config)).content(),
        "replications": repeats,
        "requests": count_requests(config),
        "rate_rps": told("rate_rps"),
        "tokens": {name: told(name) for name in ("mean", *LEVELS, "max")},
        "images": {"mean": told("images"), "share_of_tokens": told("image_share")},
        "buffers": [
            {"tokens": size, "share_above": share(f"above {size}"), "mean_fill": told(f"fill {size}")}
            for size in buffers
        ],
        "arrivals": {
            "gap_cv": told("gap_cv"),
            "dispersion": {str(window_s): told(f"dispersion {window_s}") for window_s in WINDOWS_S},
            "peak_to_mean": {str(window_s): told(f"peak {window_s}") for window_s in WINDOWS_S},
        },
        "length_autocorrelation": told("autocorrelation"),
        "clients": {"count": told("clients"), "largest_share": told("largest_client")},
    }


def _as_described(config: Config) -> Config:
    """The configuration as it is described, which says nothing of how often it would be run: nothing is resampled."""
    return config.with_replications(1, by_default=False)


def measure(columns: Columns, buffers: Sequence[int]) -> Figures:
    """The figures of one replication; None where there is too little to tell."""
    tokens = columns.total_tokens.astype(np.float64)
    ordered = np.sort(tokens)
    count = len(tokens)
    found: Figures = {
        "mean": float(tokens.mean()),
        "max": float(ordered[-1]),
        "images": float(columns.images.mean()),
        "image_share": 1 - float(columns.text_tokens.sum() / columns.total_tokens.sum()),
        "autocorrelation": _autocorrelation(tokens),
    }
    for name, level in LEVELS.items():
        found[name] = float(ordered[max(math.ceil(level * count) - 1, 0)])
    for size in buffers:
        found[f"above {size}"] = float(np.count_nonzero(tokens > size)) / count
        found[f"fill {size}"] = float(np.minimum(tokens, size).mean()) / size
    by_client = np.bincount(columns.client)
    found["clients"] = float(np.count_nonzero(by_client))
    found["largest_client"] = float(by_client.max()) / count
    return found | _arrivals(columns.arrival_s)


def _arrivals(arrival_s: Reals) -> Figures:
    gaps_s = np.diff(arrival_s)
    span_s = float(arrival_s[-1] - arrival_s[0])
    moving = span_s > 0
    found: Figures = {
        "rate_rps": len(gaps_s) / span_s if moving else None,
        "gap_cv": float(gaps_s.std() / gaps_s.mean()) if moving else None,
    }
    for window_s in WINDOWS_S:
        # Only windows that lie within the workload from end to end.
        whole = int(span_s // window_s)
        enough = whole >= LEAST_WINDOWS
        windows = ((arrival_s - arrival_s[0]) // window_s).astype(np.int64)
        # Only windows with requests are held: a month of silence between two of them takes no memory.
        counts = np.unique(windows[windows < whole], return_counts=True)[1].astype(float)
        mean = float(counts.sum()) / max(whole, 1)
        variance = (float(((counts - mean) ** 2).sum()) + (whole - len(counts)) * mean**2) / max(whole, 1)
        found[f"dispersion {window_s}"] = variance / mean if enough else None
        found[f"peak {window_s}"] = float(counts.max()) / mean if enough else None
    return found


def _autocorrelation(values: Reals) -> float | None:
    if len(values) < LEAST_WINDOWS:
        return None
    first, second = values[:-1] - values[:-1].mean(), values[1:] - values[1:].mean()
    spread = math.sqrt(float(first @ first) * float(second @ second))
    return float(first @ second) / spread if spread > 0 else None


def write(config: Config, path: Path, *, force: bool = False) -> dict[str, Any]:
    """Write the requests of the first replication to a table that ``workload.file`` reads again.

    Raises UserError if the file exists (without ``force``) or cannot be written.
    """
    check_requests(config, "workload")
    if path.exists() and not (force and path.is_file()):
        raise UserError(f"--out is {str(path)!r}, which exists; give a new name, or --force to replace a file")
    columns = joined(make_columns(config, 0))
    write_trace(columns, path)
    return {"path": str(path), "requests": len(columns)}


def options_of(config: Config) -> Mapping[str, Option]:
    """What ``workload.options`` may hold for this workload."""
    workload = config.workload
    if workload.preset is not None:
        return mix_options(workload.preset)
    return {} if workload.file is None else dict(find_reader(Path(workload.file), workload.options).options)


def description_text(config: Config, described: Mapping[str, Any]) -> str:
    """A description as text for a terminal."""
    workload = config.workload
    lines = []
    if workload.preset is not None:
        mix = load_mix(workload.preset, workload.options)
        lines += [f"{workload.preset}: {mix.description}", " ".join(mix.source.split()), ""]
    repeats = described["replications"]
    rows: list[tuple[str, ...]] = [("", "value", "95 % interval")]

    def add(name: str, estimate: Estimate, show: Any) -> None:
        value, low, high = estimate["value"], estimate["low"], estimate["high"]
        if value is not None:
            told = "" if low is None or high is None else f"{show(low)} .. {show(high)}"
            rows.append((name, show(value), told))

    add("requests a second", described["rate_rps"], _three)
    for name, estimate in described["tokens"].items():
        add(f"tokens {name}", estimate, _whole)
    for one in described["buffers"]:
        add(f"longer than {one['tokens']}", one["share_above"], _percent)
        add(f"mean fill of {one['tokens']}", one["mean_fill"], _percent)
    add("images a request", described["images"]["mean"], _three)
    add("tokens that are images'", described["images"]["share_of_tokens"], _percent)
    add("gaps, cv", described["arrivals"]["gap_cv"], _three)
    for label, figures in (("dispersion", "dispersion"), ("peak over mean", "peak_to_mean")):
        for window_s, estimate in described["arrivals"][figures].items():
            add(f"{label} in {format_duration(float(window_s))}", estimate, _three)
    add("length autocorrelation", described["length_autocorrelation"], _three)
    add("clients", described["clients"]["count"], _whole)
    add("share of the busiest", described["clients"]["largest_share"], _percent)
    if repeats == 1:
        rows = [row[:2] for row in rows]
    times = f", {repeats} replications" if repeats > 1 else ""
    traffic = described["traffic"]
    told = [] if workload.file is None else [traffic["sentence"], *(f"  {note}" for note in traffic["notes"])]
    requests = "1 request" if described["requests"] == 1 else f"{described['requests']} requests"
    lines += [f"{requests}{times}", *told, "", table(rows)]
    options = options_of(config)
    if options:
        lines += ["", "options:"]
        lines += [
            f"  workload.options.{name} = {workload.options.get(name, option.default)!r}: {option.help}"
            for name, option in options.items()
        ]
    return "\n".join(lines)


def _whole(value: float) -> str:
    return f"{value:.0f}"


def _three(value: float) -> str:
    return f"{value:.3g}"


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"
