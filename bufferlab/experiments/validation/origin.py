"""Where a profile comes from, beside where the runs that it predicts come from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from bufferlab.experiments.runs.rundir import StoredRun
from bufferlab.experiments.validation.frozen import FrozenProfile


def of_profile(profile: FrozenProfile) -> dict[str, Any]:
    """``transport``, ``date`` and ``processors`` of the measurements behind it; None for what its file does not say."""
    return {
        "transport": profile.transport or None,
        "date": profile.date or None,
        "processors": processors_of(profile),
    }


def of_runs(runs: Sequence[StoredRun]) -> dict[str, list[Any]]:
    """The same of the measured ones of these runs, each value once, in order."""
    measured = [run for run in runs if run.kind == "real"]
    return {
        "transport": sorted({run.config.real.transport for run in measured}),
        "date": sorted({run.date for run in measured if run.date}),
        "processors": sorted({run.processors for run in measured if run.processors is not None}),
    }


def processors_of(profile: FrozenProfile) -> int | None:
    """How many the host of the profile has, where it has one that is like any."""
    host = profile.link.host
    return None if host is None or not math.isfinite(host.processors) else round(host.processors)


def told(origin: dict[str, Any]) -> str:
    """In words: ``over tcp, 2 processors, 2026-12-01``; what is not known is said to be so."""
    transports, dates, processors = (_listed(origin[name]) for name in ("transport", "date", "processors"))
    return ", ".join(
        [
            f"over {' and '.join(transports)}" if transports else "transport not known",
            f"{' and '.join(processors)} processor{'' if processors == ['1'] else 's'}"
            if processors
            else "processors not known",
            dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}" if dates else "date not known",
        ]
    )


def _listed(value: Any) -> list[str]:
    return [] if value is None else list(map(str, value)) if isinstance(value, list) else [str(value)]
