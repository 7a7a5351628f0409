"""Names of columns: how they are compared, and by which ones each field of a request is known."""

from __future__ import annotations

import re

TIME_STEMS = (
    "arrival", "timestamp", "time", "arrival_time", "arrival_timestamp", "arrived_at", "request_time",
    "request_timestamp", "start_time", "start", "created_at", "created", "datetime", "date_time", "date", "ts",
    "submit_time", "submitted_at", "send_time", "sent_at", "received_at",
)  # fmt: skip
UNIT_ENDS = {
    "s": ("s", "sec", "secs", "second", "seconds"),
    "ms": ("ms", "msec", "msecs", "millis", "millisecond", "milliseconds"),
    "us": ("us", "µs", "μs", "usec", "usecs", "micros", "microsecond", "microseconds"),
    "ns": ("ns", "nsec", "nsecs", "nanos", "nanosecond", "nanoseconds"),
}
"""Ends of names that say in which unit a time is."""

ALIASES: dict[str, tuple[str, ...]] = {
    "total_tokens": (
        "prompt_tokens", "input_tokens", "context_tokens", "request_tokens", "num_prompt_tokens", "num_input_tokens",
        "num_prefill_tokens", "input_length", "prompt_length", "input_len", "prompt_len",
        "prompt_token_count", "input_token_count", "isl", "tokens_in", "in_tokens", "n_prompt_tokens", "n_input_tokens",
    ),
    "text_tokens": ("num_text_tokens", "text_input_tokens", "text_token_count", "text_length"),
    "image_tokens": (
        "num_image_tokens", "image_input_tokens", "image_token_count", "vision_tokens", "visual_tokens",
        "multimodal_tokens", "mm_tokens",
    ),
    "images": ("num_images", "image_count", "n_images", "number_of_images", "images_count", "image_num", "num_image"),
    "client": ("client_id", "user", "user_id", "tenant", "tenant_id"),
    "image_tokens_hint": (),
    "image_squares": (),
    "encode_factor": (),
    "prefill_factor": (),
}  # fmt: skip
"""The fields of a request but its time, and by which other names each is known."""


def names_of(*fields: str) -> frozenset[str]:
    """All names that columns of these fields go by."""
    return frozenset(name for field in fields for name in (field, *ALIASES[field]))


IMAGE_COLUMNS = names_of("text_tokens", "image_tokens", "images")
"""Columns that published traces of texts do not have: a table with one of them is somebody's own."""
OUTPUTS = (
    "output_tokens", "completion_tokens", "generated_tokens", "response_tokens", "num_output_tokens",
    "num_decode_tokens", "output_length", "tokens_out", "out_tokens", "osl",
)  # fmt: skip
STATUSES = ("status", "http_status", "status_code", "http_status_code", "response_code", "http_code")
"""Columns that say how a request ended."""
OTHERS = frozenset(
    {
        *OUTPUTS, *STATUSES,
        "request_id", "id", "model", "hash_ids", "session_id", "elapsed_time", "log_type", "chat_id",
        "parent_chat_id", "turn", "type", "output_len", "", "index", "index_level_0", "end_time", "end", "finish_time",
        "finished_at", "duration", "latency", "ttft", "prompt", "temperature", "usage", "max_tokens",
        "max_output_tokens", "cached_tokens", "reasoning_tokens", "error", "path", "endpoint",
    }
)  # fmt: skip
"""Columns that many files have and no field is meant by; when they are not used, no other name is offered."""


def plain_name(name: str) -> str:
    """A name without case, spaces and signs: ``NumImages``, ``num images`` and ``num_images`` are the same."""
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip())
    return re.sub(r"[\W_]+", "_", split.lower()).strip("_")


def time_unit_of(name: str) -> str | None:
    """The unit that the name of a column of times ends in."""
    stem, _, end = plain_name(name).rpartition("_")
    return next((unit for unit, ends in UNIT_ENDS.items() if stem and end in ends), None)


def time_stem_of(name: str) -> str | None:
    """The name of a column of times without its unit, None for another column."""
    plain = plain_name(name)
    stem = plain.rpartition("_")[0] if time_unit_of(name) else plain
    return stem if stem in TIME_STEMS else None
