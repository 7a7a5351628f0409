"""What would mend a system that cannot keep up, by the stage that holds it back."""

from __future__ import annotations

import math
from collections.abc import Mapping

from bufferlab.experiments.config.schema import Config
from bufferlab.experiments.tuning.bounds import Demand
from bufferlab.experiments.units import format_per_second

AIM = 0.8
"""How busy a stage may be on average before waits become long."""
SERVERS_OF = {
    "preprocessing": "encode.preprocess_workers",
    "encoder": "encode.instances",
    "prefill": "language.instances",
}
"""Stages whose servers are counted in one field."""


FAR = 10.0
"""Who offers so many times what a system can do does not lack a few servers."""


def remedy(config: Config, demand: Demand, stage: str | None, load: float | None, loads: Mapping[str, float]) -> str:
    """What to change, in a sentence.

    ``load``: what the stage is offered over what it can do, where that is known; ``loads``: at least so of every stage.
    """
    most = max([load or 0.0, *loads.values()])
    less = ""
    if demand.rate_rps is not None and load is not None and most > AIM:
        able, asked = (
            format_per_second(rate).removesuffix("/s") for rate in (demand.rate_rps * AIM / most, demand.rate_rps)
        )
        less = f"at most {able} requests a second instead of {asked}"
    if most > FAR:
        checks = (
            f"{most:,.0f} times what it can do is hardly a matter of more servers, so check that the times and lengths "
            "of the traffic are in the units that are meant, and that the model and the GPU are the ones that serve it"
        )
        return f"{less}; {checks}" if less else checks
    parts = []
    if stage in SERVERS_OF:
        # Whoever mends one of several finds the next one in its place.
        others = [name for name in SERVERS_OF if name != stage and loads.get(name, 0.0) > 1]
        parts.append(
            " and ".join(
                [_more_servers(config, stage, load), *(_more_servers(config, name, loads[name]) for name in others)]
            )
        )
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
    parts += [less] if less else []
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
