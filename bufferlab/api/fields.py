"""The settings of each section as keyword arguments, for type checkers; ``tools/api_fields.py`` writes it.

A key that is none of these is an error of theirs. What a value may be in full, and what it means, is in
docs/settings.md. None stands for a setting that need not be there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, SupportsFloat, SupportsIndex, TypedDict

Whole = SupportsIndex
"""A whole number, NumPy's as well."""
Number = SupportsFloat | SupportsIndex
"""A number, NumPy's as well."""
Text = str
"""A text; with a unit where it stands for a number: "5ms", "4GiB"."""
File = str | PathLike[str]
"""A file, or a name that stands for one."""


class RunFields(TypedDict, total=False):
    """Which run this is."""

    name: Text
    seed: Whole
    replications: Whole
    warmup_requests: Whole


class RequestSpecFields(TypedDict, total=False):
    """One request given by hand, in ``[[workload.request]]``."""

    total_tokens: Whole
    arrival_s: Number | Text
    text_tokens: Whole
    images: Whole
    image_tokens_hint: Whole
    client: Text


class WorkloadFields(TypedDict, total=False):
    """What is asked of the system."""

    preset: Text | None
    file: File | None
    lengths: Sequence[Whole] | None
    request: Sequence[RequestSpecFields] | None
    loop: Text
    concurrency: Whole | None
    requests: Whole | None
    rate_rps: Number | None
    rate_scale: Number | None
    length_scale: Number | None
    image_scale: Number | None
    text_tokens: Whole
    options: Mapping[str, Any]
    cv: Number | None
    rate_log_sd: Number | None
    rate_time_constant_s: Number | Text | None
    order: Text | None
    repeat_probability: Number | None
    hint: Text | Number | None
    service_log_sd: Number


class ProtocolFields(TypedDict, total=False):
    """The rules of the transfer."""

    discipline: Text
    wire: Text
    block_tokens: Whole
    timeout_s: Number | Text | None
    resume_first: bool
    reserve_blocks: Whole
    resume_tokens: Whole | None
    sizing: Mapping[str, Any] | None


class EncodeFields(TypedDict, total=False):
    """The encode side."""

    instances: Whole
    tp: Whole
    pool_blocks: Whole | Text
    poll_interval_s: Number | Text
    base_s: Number | Text | None
    per_token_s: Number | Text | None
    time_scale: Number | None
    profile: File
    preprocess_per_token_s: Number | Text | None
    preprocess_workers: Whole
    batch_requests: Whole | None
    transfer_workers: Whole


class LanguageFields(TypedDict, total=False):
    """The language side."""

    instances: Whole
    tp: Whole
    pool_blocks: Whole | Text
    poll_interval_s: Number | Text
    base_s: Number | Text | None
    per_token_s: Number | Text | None
    time_scale: Number | None
    profile: File
    batch_tokens: Whole | None
    release: Text


class LinkFields(TypedDict, total=False):
    """The network between the sides; the real backend has its own."""

    profile: File
    bandwidth_scale: Number | None
    latency_scale: Number | None
    processors: Number | None


class ModelFields(TypedDict, total=False):
    """What is served, which sets the bytes of a token."""

    name: Text | None
    hidden: Whole | None
    deepstack_layers: Whole | None


class FaultFields(TypedDict, total=False):
    """A write that fails: chunk ``epoch`` of room ``room``, to every destination or to one language rank."""

    room: Whole
    epoch: Whole
    destination: Whole | None


class IncidentFields(TypedDict, total=False):
    """Something that goes wrong at a time: which settings there are depends on its kind."""

    kind: Text
    time_s: Number | Text | None
    rank: Text | None
    observer: Text | None
    instance: Text | None
    lasts_s: Number | Text | None
    factor: Number | None
    room: Whole | None


class RandomFaultsFields(TypedDict, total=False):
    """What goes wrong by chance."""

    lost_messages: Number
    doubled_messages: Number
    late_messages: Number
    most_delay_s: Number | Text
    failed_writes: Number
    late_writes: Number
    most_late_s: Number | Text
    late_requests: Number
    most_request_delay_s: Number | Text
    until_s: Number | Text | None
    heartbeat_s: Number | Text
    heartbeat_failures: Whole


class SloFields(TypedDict, total=False):
    """What the service promises."""

    ttft_s: Number | Text | None
    latency_s: Number | Text | None


class RealFields(TypedDict, total=False):
    """What only the real backend needs."""

    transport: Text
    device: Text
    memory: Text
    verify: bool


class SectionFields(TypedDict, total=False):
    """The sections of a configuration as keyword arguments."""

    run: RunFields
    workload: WorkloadFields
    protocol: ProtocolFields
    encode: EncodeFields
    language: LanguageFields
    link: LinkFields
    model: ModelFields
    faults: Sequence[FaultFields]
    incidents: Sequence[IncidentFields]
    random_faults: RandomFaultsFields
    slo: SloFields
    real: RealFields
