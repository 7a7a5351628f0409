"""Writes what was found as a link profile: a TOML file that ``link.profile`` takes, with ``[calibration]`` in it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import tomli_w

from bufferlab.experiments.calibration.host.software import known
from bufferlab.experiments.calibration.laws.fitting import Fit
from bufferlab.experiments.errors import RunFailedError
from bufferlab.experiments.files import disk_errors, write_text
from bufferlab.sim.network.link import CALIBRATION, COUNTS, HOST, LinkProfile

REFUSED = 0.15
"""A law that is off by more on average, on the rows it was fitted to, is no profile."""


class NoProfileError(RunFailedError):
    """The measurements can be reported on, but no profile can be made of them. ``report``: that of ``calibrate``."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.report: dict[str, Any] = {}


LAW = (
    "latency_s", "per_segment_s", "per_queue_s", "queues", "bandwidth_Bps", "message_rate_per_s", "adapters",
    "stripe_threshold_bytes",
)  # fmt: skip
AROUND = (
    "control_latency_s", "copy_bandwidth_Bps", "copy_latency_s", "first_contact_s", "submit_latency_s", "wakeup_s",
)  # fmt: skip


def make_profile(name: str, law: Fit, around: Mapping[str, Any], base: LinkProfile) -> tuple[LinkProfile, list[str]]:
    """The profile of a law and of what was measured around it, and the fields that ``base`` had to give.

    Raises NoProfileError if the law says too little of the rows it was fitted to.
    """  # fmt: skip
    mean_error = float(abs(law.errors).mean())
    if mean_error > REFUSED:
        raise NoProfileError(
            f"no single law that the simulator knows describes all that is fitted: the best, {law.form.title}, is off "
            f"by {mean_error:.0%} on average, and that of a profile may be by {REFUSED:.0%}"
        )
    fields: dict[str, Any] = {name: law.parameters[name] for name in LAW if name in law.parameters}
    fields.setdefault("latency_s", 0.0)
    fields.setdefault("per_segment_s", 0.0)
    fields |= {name: int(fields[name]) for name in COUNTS if name in fields}
    measured = {name: value for name in AROUND if (value := known(around.get(name))) is not None}
    if "copy_bandwidth_Bps" in around and "copy_bandwidth_Bps" not in measured:
        measured["copy_bandwidth_Bps"] = math.inf  # copies take no time at all
    assumed = [name for name in AROUND if name not in measured]
    fields |= {name: getattr(base, name) for name in assumed} | measured
    return LinkProfile(name=name, shared_by=base.shared_by, host=base.host, **fields), [*assumed, "shared_by"]


def write_profile(path: Path, profile: LinkProfile, calibration: Mapping[str, Any], comment: str) -> None:
    """Write the profile and how it was found, under another name first, so that none is ever half there.

    Raises RunFailedError when the file cannot be written.
    """
    fields = {name: value for name, value in msgspec.structs.asdict(profile).items() if name not in ("name", HOST)}
    host = {} if profile.host is None else {HOST: msgspec.structs.asdict(profile.host)}
    content = tomli_w.dumps({**fields, **host, CALIBRATION: without_nothing(calibration)})
    text = "".join(f"# {line}\n" for line in comment.splitlines()) + content
    with disk_errors(path):
        write_text(path, text)


def without_nothing(content: Any) -> Any:
    """The same without None, which TOML has not."""
    if isinstance(content, Mapping):
        return {name: without_nothing(value) for name, value in content.items() if value is not None}
    if isinstance(content, list):
        return [without_nothing(value) for value in content if value is not None]
    return content
