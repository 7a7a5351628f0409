"""What would mend a system that cannot keep up, by the stage that holds it back."""

from __future__ import annotations

import math

from experiments.config.schema import Config
from experiments.tuning.bounds import Demand

AIM = 0.8
"""How busy a stage may be on average before waits become long."""
SERVERS_OF = {
    "preprocessing": "encode.preprocess_workers",
    "encoder": "encode.instances",
    "prefill": "language.instances",
}
"""Stages whose servers are counted in one field."""


def remedy(config: Config, demand: Demand, stage: str | None, load: float | None) -> str:
    """What to change, in a sentence; ``load``: what the stage is offered over what it can do, where that is known."""
    parts = []
    if stage in SERVERS_OF:
        parts.append(_more_servers(config, stage, load))
    elif stage == "writers":
        parts.append(
            "more threads and instances to write to (encode.transfer_workers, language.instances), or larger blocks"
        )
    elif stage == "adapters":
        parts.append("a faster link, or more instances to share it (encode.instances, language.instances)")
    elif stage == "language_pool":
        parts.append("more memory for the language side (--memory), or more instances of it")
    elif stage == "encode_pool":
        parts.append("more memory for the encode side (encode.pool_blocks), or more instances of it")
    if demand.rate_rps is not None and load is not None and load > AIM:
        parts.append(f"at most {demand.rate_rps * AIM / load:.3g} requests a second instead of {demand.rate_rps:.3g}")
    if not parts:
        return "look at the reasons for which requests were not served"
    return ", or ".join(parts)


def _more_servers(config: Config, stage: str, load: float | None) -> str:
    field = SERVERS_OF[stage]
    section, name = field.split(".")
    now = int(getattr(getattr(config, section), name))
    if load is None:
        return f"{field} above {now}"
    return f"{field} = {max(math.ceil(now * load / AIM), now + 1)} instead of {now}"
