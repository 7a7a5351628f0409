"""Service-time profiles: how long an encoder or prefill pass takes, as base + per token.

The H100 profiles are the constant and linear terms of fits to NVIDIA's measured kernel tables (ai-dynamo/aiconfigurator
commit 095f58a5), times 1.4 for launches and scheduling, which brings a 1080p image on Qwen2.5-VL-7B to what vLLM users
observe. The quadratic term of attention is left out: it stays below a third of the encoder's time up to 4096 tokens.
The A100 profile scales the H100 one by the ratio of the measured prefill fits, 2.8.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import NamedTuple

OVERHEAD = 1.4
A100_SLOWDOWN = 2.8


class ServiceProfile(NamedTuple):
    """Seconds of a pass on either side."""

    encode_base_s: float
    encode_per_token_s: float
    prefill_base_s: float
    prefill_per_token_s: float


def _scaled(factor: float, *milliseconds: float) -> ServiceProfile:
    base, per_thousand, prefill_base, prefill_per_thousand = milliseconds
    return ServiceProfile(
        encode_base_s=factor * base / 1e3,
        encode_per_token_s=factor * per_thousand / 1e6,
        prefill_base_s=factor * prefill_base / 1e3,
        prefill_per_token_s=factor * prefill_per_thousand / 1e6,
    )


SERVICE_PROFILES: dict[str, ServiceProfile] = {
    "instant": ServiceProfile(0.0, 0.0, 0.0, 0.0),
    "h100-qwen2.5-vl-7b": _scaled(OVERHEAD, 1.97, 9.67, 0.83, 20.1),
    "h100-qwen3-vl-4b": _scaled(OVERHEAD, 0.88, 5.24, 1.27, 11.2),
    "h100-qwen3-vl-8b": _scaled(OVERHEAD, 1.12, 7.19, 0.83, 19.8),
    "a100-qwen2.5-vl-7b": _scaled(OVERHEAD * A100_SLOWDOWN, 1.97, 9.67, 0.83, 20.1),
}


def load_service_profile(name: str) -> ServiceProfile:
    """The profile called ``name``, or read from the TOML file of that name.

    A file has the four fields of ``ServiceProfile``; fields it leaves out are 0. Raises ValueError in one sentence.
    """
    if name in SERVICE_PROFILES:
        return SERVICE_PROFILES[name]
    path = Path(name)
    if path.suffix != ".toml":
        raise ValueError(f"must be one of {', '.join(SERVICE_PROFILES)}, or a .toml file")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise ValueError("must be a file that can be read") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"must be TOML ({error})") from None
    allowed = ServiceProfile._fields
    for field, value in table.items():
        if field not in allowed:
            raise ValueError(f"must not hold {field!r}, only {', '.join(allowed)}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise ValueError(f"must hold seconds of at least 0, but {field} is {value!r}")
    return ServiceProfile(*(float(table.get(field, 0.0)) for field in allowed))
