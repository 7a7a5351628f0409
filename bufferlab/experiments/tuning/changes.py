"""Words for what may be otherwise than a configuration says, and the configuration in which it is.

Each word changes fields of the configuration and nothing else, so that every run of a what-if can be repeated with
``--set``. Requests stay the same ones: who comes, and with what luck, is drawn from streams that no word touches.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from bufferlab.experiments.config.schema import Config, parse
from bufferlab.experiments.config.sections.serving import MAX_INSTANCES
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.tuning.base import Base
from bufferlab.experiments.tuning.words import COUNTED, LINK, POOL, RATE, SCALED, WORDS
from bufferlab.experiments.workloads.requests import check_requests
from bufferlab.protocol.naming import did_you_mean

LEAST, MOST = 0.01, 100.0


@dataclass(frozen=True)
class Change:
    """One word and its value: a factor, or the name of a link profile."""

    word: str
    value: float | str

    @property
    def text(self) -> str:
        """As the option has it."""
        return f"{self.word}={self.value}" if isinstance(self.value, str) else f"{self.word}={self.value:.4g}x"


@dataclass(frozen=True)
class WhatIf:
    """Changes that are made together."""

    changes: tuple[Change, ...]

    @property
    def text(self) -> str:
        """As the option has it."""
        return "+".join(change.text for change in self.changes)


def parse_what_ifs(texts: list[str]) -> tuple[WhatIf, ...]:
    """``rate=2x,pool=0.5x``: two questions; ``rate=2x+pool=0.5x``: one in which both are so. Raises UserError."""
    found = dict.fromkeys(_what_if(part) for text in texts for part in text.split(","))
    return tuple(found)


def _what_if(text: str) -> WhatIf:
    made = tuple(_change(part, text) for part in text.split("+"))
    words = [change.word for change in made]
    twice = next((word for word in words if words.count(word) > 1), None)
    if twice is not None:
        raise UserError(f"--what-if is {text!r}, which names {twice} twice, it must name each word once")
    return WhatIf(made)


def _change(text: str, whole: str) -> Change:
    word, sign, value = (part.strip() for part in text.partition("="))
    if not sign or not value:
        raise UserError(f"--what-if is {whole!r}, it must look like rate=2x or link=efa-p5en")
    if word not in WORDS:
        hint = did_you_mean(word, WORDS)
        raise UserError(f"--what-if is {whole!r}: {word!r} is not known{hint}, it must be one of {', '.join(WORDS)}")
    if word == LINK:
        from bufferlab.sim.network.link import profile_names

        names = profile_names()
        if value not in names and not value.endswith(".toml"):
            hint = did_you_mean(value, names)
            raise UserError(
                f"--what-if is {whole!r}: {value!r} is no link profile{hint}, it must be one of {', '.join(names)}, or "
                f"a .toml file"
            )
        return Change(word, value)
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)x?", value)
    factor = float(match.group(1)) if match else math.nan
    if not LEAST <= factor <= MOST:
        raise UserError(f"--what-if is {whole!r}: {value!r} must be a factor from {LEAST:g}x to {MOST:g}x, such as 2x")
    return Change(word, factor)


def changed_base(base: Base, what_if: WhatIf, config: Config | None = None) -> Base:
    """Where a tune starts from in which all this is so; ``config`` in place of today's. Raises UserError."""
    factor = math.prod(float(one.value) for one in what_if.changes if one.word == POOL)
    made = changed_config(base.config if config is None else config, what_if)
    return replace(base, config=made, budget_bytes=max(int(base.budget_bytes * factor), made.layout.bytes_per_block))


def changed_config(config: Config, what_if: WhatIf) -> Config:
    """The configuration in which all this is so. Raises UserError where it cannot be."""
    tree = config.tree()
    for change in what_if.changes:
        _put(tree, config, change, what_if)
    return parse(tree).resolved()


def _put(tree: dict[str, Any], config: Config, change: Change, what_if: WhatIf) -> None:
    if isinstance(change.value, str):
        tree["link"]["profile"] = change.value
    elif change.word == POOL:
        tree["language"]["pool_blocks"] = max(round(config.blocks(config.language) * change.value), 1)
    elif change.word == RATE:
        workload = tree["workload"]
        if config.workload.loop == "closed" or config.workload.request is not None:
            raise UserError(
                f"--what-if is {what_if.text!r}, but these requests have no rate, it must be another word: "
                f"{', '.join(word for word in WORDS if word != RATE)}"
            )
        name = "rate_rps" if config.workload.rate_rps is not None else "rate_scale"
        if name == "rate_scale" and config.workload.lengths is not None:
            raise UserError(f"--what-if is {what_if.text!r}, but all lengths come at once, it must be another word")
        workload[name] = workload.get(name, 1.0) * change.value
    elif change.word in COUNTED:
        _put_instances(tree, config, change, what_if)
    else:
        for section, name in SCALED[change.word]:
            tree[section][name] = tree[section].get(name, 1.0) * change.value


def _put_instances(tree: dict[str, Any], config: Config, change: Change, what_if: WhatIf) -> None:
    """Whole instances, at least one. Raises UserError where there would be as many as before."""
    counts = {"encode": config.encode.instances, "language": config.language.instances}
    sides = COUNTED[change.word]
    for side in sides:
        made = max(round(counts[side] * float(change.value)), 1)
        if made > MAX_INSTANCES:
            raise UserError(
                f"--what-if is {what_if.text!r}, which makes {made} instances of {counts[side]}, there may be at most "
                f"{MAX_INSTANCES}"
            )
        tree[side]["instances"] = made
    if change.value != 1 and all(tree[side]["instances"] == counts[side] for side in sides):
        raise UserError(
            f"--what-if is {what_if.text!r}, but of {counts[sides[0]]} that leaves {counts[sides[0]]}: instances are "
            f"whole, it must be another factor"
        )


def check_what_ifs(base: Base, what_ifs: Sequence[WhatIf]) -> None:
    """Raise UserError for a what-if that today's configuration cannot have, before anything runs."""
    for what_if in what_ifs:
        check_requests(changed_base(base, what_if).config, "sim")
