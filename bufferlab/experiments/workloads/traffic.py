"""What a run's requests are, in one sentence before it begins: how many, of which source, how long, how fast.

Whatever is left out, stretched, moved or assumed is a note of its own. Both are printed with the plan of a run and
stored in its directory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bufferlab.experiments.config.schema import Config
from bufferlab.experiments.config.sections.workload import Workload
from bufferlab.experiments.units import format_per_second, format_span
from bufferlab.experiments.workloads.requests import (
    DEFAULT_REPLICATIONS,
    count_of_day,
    count_requests,
    rate_drawn,
    reader_of,
    reading_of,
    resampling_of,
    stretch,
)
from bufferlab.experiments.workloads.resampling import NoResampling

WITHOUT_RESAMPLES = "run once, without resamples: "
"""How the note begins that says why the replications of a file are one."""


@dataclass(frozen=True)
class Traffic:
    """The requests of one replication."""

    source: str
    requests: int
    available: int | None = None
    """How many the source has; None where any number can be drawn."""
    span_s: float | None = None
    rate_rps: float | None = None
    loop: str = ""
    notes: tuple[str, ...] = ()
    cut: bool = False
    """Whether workload.requests takes the first of them only."""

    @property
    def sentence(self) -> str:
        """``workload: 3000 of 3000 requests of mine.csv, 410 s, 7.3/s``."""
        first = "the first " if self.cut else ""
        known = f" of {self.available}" if self.available is not None else ""
        requests = "request" if (self.available or self.requests) == 1 else "requests"
        parts = [f"workload: {first}{self.requests}{known} {requests} {self.source}"]
        if self.loop:
            parts.append(self.loop)
        else:
            parts += [format_span(self.span_s)] if self.span_s else []
            parts += [format_per_second(self.rate_rps)] if self.rate_rps is not None else []
            parts += ["all at once"] if self.rate_rps is None else []
        return ", ".join(parts)

    @property
    def text(self) -> str:
        """The sentence and a line for every note."""
        return "\n".join([self.sentence, *(f"  {note}" for note in self.notes)])

    def content(self) -> dict[str, Any]:
        """What is stored of it."""
        return {
            "sentence": self.sentence,
            "source": self.source,
            "requests": self.requests,
            "available": self.available,
            "span_s": self.span_s,
            "rate_rps": self.rate_rps,
            "notes": list(self.notes),
        }


def traffic_of(config: Config, *, measured: bool = False) -> Traffic:
    """What a checked configuration asks for; ``measured``: of a real backend, which cannot resample a file."""
    workload = config.workload
    if workload.file is not None and reader_of(workload).gives == "requests":
        made = _of_file(workload)
    elif workload.file is not None and reader_of(workload).gives == "clients":
        made = _of_clients(config)
    elif workload.request is not None:
        made = _of_times("listed in the configuration", [one.arrival_s for one in workload.request])
    else:
        made = _drawn(config)
    notes = [*made.notes, *_replications(config, measured=measured)]
    of_policy = [one for one in config.set_aside if one.startswith("protocol.")]
    of_workload = [one for one in config.set_aside if one not in of_policy]
    for other, settings in (
        ("the file" if workload.file else "the new workload", of_workload),
        (f"the policy {config.protocol.sizing.policy}, which has no such option", of_policy),
    ):
        if settings:
            again = "" if settings is of_policy else " (give them in the same command to have them)"
            notes.append(f"not applied to {other}: {', '.join(settings)}{again}")
    if config.run.warmup_requests:
        notes.append(f"the first {config.run.warmup_requests} are warm-up and not in the figures")
    loop = f"in their order, {workload.concurrency} at a time" if workload.loop == "closed" else ""
    return Traffic(made.source, made.requests, made.available, made.span_s, made.rate_rps, loop, tuple(notes), made.cut)


def _replications(config: Config, *, measured: bool) -> list[str]:
    """How the replications of a file come about, and what intervals across them hold."""
    plan, number = resampling_of(config), config.run.replications
    if plan is None:
        return []
    if measured:
        again = f"the same {number} times, whose spread is that of measuring, not of the traffic"
        return [again] if number > 1 else []
    if isinstance(plan, NoResampling):
        if config.workload.service_log_sd > 0 and number > 1:
            return [
                f"the same requests in all {number} replications, so intervals hold the chance of service times only: "
                f"the file cannot be resampled, since {plan.why}"
            ]
        return [f"{WITHOUT_RESAMPLES}{plan.why}"] if config.replications_by_default else []
    if number == 1:
        return (
            []
            if not config.replications_by_default
            else [f"run once; run.replications={DEFAULT_REPLICATIONS} adds resamples of it"]
        )
    noise = " and of service times" if config.workload.service_log_sd > 0 else ""
    ways = " (run.replications=1 runs the file alone)" if config.replications_by_default else ""
    return [
        f"{number} replications: the file as it is, and {number - 1} resamples of it{ways}",
        f"each is {plan.blocks} blocks of {plan.told(plan.block)} from near their own time (its traffic remembers "
        f"{plan.told(plan.memory)}); figures are the file's, intervals hold the chance of such traffic{noise}",
    ]


def _of_file(workload: Workload) -> Traffic:
    reading = reading_of(workload)
    taken = reading.columns.first(workload.requests)
    made = stretch(workload, taken)
    span_s, own_s = (float(one.arrival_s[-1] - one.arrival_s[0]) for one in (made, taken))
    notes = list(reading.notes)
    if made is not taken:
        rate, own = (format_per_second((len(taken) - 1) / one) for one in (span_s, own_s))
        notes.insert(0, f"stretched ×{own_s / span_s:.3g} to {rate} from its own {own}")
    first_s = float(made.arrival_s[0])
    if first_s > 0 and workload.loop == "open":
        notes.append(f"the first request comes {format_span(first_s)} after the run's start")
    rate_rps = (len(taken) - 1) / span_s if span_s > 0 else None
    name = Path(str(workload.file)).name
    cut = len(taken) < len(reading.columns)
    return Traffic(f"of {name}", len(taken), reading.rows, span_s, rate_rps, notes=tuple(notes), cut=cut)


def _of_clients(config: Config) -> Traffic:
    from bufferlab.experiments.workloads.servegen import DAY_S

    workload = config.workload
    day_s = DAY_S - float(workload.options.get("start_s", 0.0))
    whole = count_of_day(workload)
    requests = workload.requests if workload.requests is not None else whole
    notes = []
    if workload.rate_rps is not None or workload.rate_scale is not None:
        notes.append(f"the rates of all clients scaled to {format_per_second(whole / day_s)} together")
    name = Path(str(workload.file)).name
    span_s = day_s if requests == whole else None
    source, cut = f"of the clients in {name}", requests < whole
    return Traffic(source, requests, whole, span_s, whole / day_s, notes=tuple(notes), cut=cut)


def _of_times(source: str, times_s: list[float]) -> Traffic:
    span_s = max(times_s) - min(times_s)
    count = len(times_s)
    return Traffic(source, count, None, span_s, (count - 1) / span_s if span_s > 0 else None)


def _drawn(config: Config) -> Traffic:
    workload = config.workload
    if workload.preset is not None:
        variant = workload.options.get("variant")
        source = f"drawn from the preset {workload.preset}" + (f" ({variant})" if variant else "")
    elif workload.file is not None:
        source = f"drawn from the lengths in {Path(workload.file).name}"
    else:
        lengths = workload.lengths or ()
        source = f"of {lengths[0]} tokens" if len(lengths) == 1 else f"of {len(lengths)} lengths in turn"
    return Traffic(source, count_requests(config), None, None, rate_drawn(workload))
