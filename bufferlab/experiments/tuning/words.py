"""The words for what may be otherwise in a what-if, by themselves: whoever lists them needs nothing else of a tune."""

from __future__ import annotations

LINK = "link"
SCALED: dict[str, tuple[tuple[str, str], ...]] = {
    "bandwidth": (("link", "bandwidth_scale"),),
    "latency": (("link", "latency_scale"),),
    "encode": (("encode", "time_scale"),),
    "prefill": (("language", "time_scale"),),
    "service": (("encode", "time_scale"), ("language", "time_scale")),
    "images": (("workload", "image_scale"),),
    "lengths": (("workload", "length_scale"),),
}
"""The words whose factor multiplies fields that are 1 where nothing is said."""
RATE, POOL = "rate", "pool"
COUNTED: dict[str, tuple[str, ...]] = {
    "instances": ("encode", "language"),
    "encode_instances": ("encode",),
    "language_instances": ("language",),
}
"""The words whose factor multiplies the instances of these sides."""
WORDS = (RATE, POOL, LINK, *SCALED, *COUNTED)
