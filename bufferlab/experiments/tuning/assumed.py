"""What nobody said of the system and is assumed, ready to be shown: beside each the option that says it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from bufferlab.experiments.config.overrides import Override, key_of

if TYPE_CHECKING:
    from bufferlab.experiments.config.schema import Config

SIDES = ("encode", "language")


def assumed(
    config: Config,
    *,
    options: Sequence[tuple[str, str | None, str]],
    instances: Mapping[str, int | None],
    settings: Sequence[Override],
) -> tuple[str, ...]:
    """All of it, for a configuration that was made around a file of traffic.

    ``options``: what was given for each, and what is taken where nothing was. ``instances``: what was given of either
    side. ``settings``: what --set says.
    """
    said = {key_of(one) for one in settings}
    return (
        *(f"{name} {value}" for name, given, value in options if given is None),
        *_instances(config, instances, said),
        *_protocol(config, said),
    )


def _instances(config: Config, given: Mapping[str, int | None], said: set[str]) -> Iterator[str]:
    """How many instances serve, which decides more than anything else does."""
    sections = {"encode": config.encode, "language": config.language}
    left = [side for side in SIDES if given.get(side) is None and not said & {side, f"{side}.instances"}]
    if len(left) == len(SIDES) and config.encode.tp == config.language.tp:
        options = ", ".join(f"--{side}-instances" for side in SIDES)
        yield f"1 encode and 1 language instance of {_ranks(config.encode.tp)} each ({options})"
        return
    for side in left:
        yield f"1 {side} instance of {_ranks(sections[side].tp)} (--{side}-instances)"


def _ranks(number: int) -> str:
    return "1 rank" if number == 1 else f"{number} ranks"


def _protocol(config: Config, said: set[str]) -> Iterator[str]:
    """What is set today: nothing in a file of traffic says it, and what a change brings is told against it."""
    own = config.protocol
    parts: dict[str, tuple[str, set[str]]] = {
        "protocol.sizing.tokens": (f"{own.sizing.tokens} tokens set aside today", {"protocol.sizing"}),
        "protocol.block_tokens": (f"blocks of {own.block_tokens} tokens", set()),
        "protocol.discipline": (f"discipline {own.discipline}", {"protocol.wire"}),
    }
    for name, (text, others) in parts.items():
        if not said & {name, "protocol", "protocol.system", *others}:
            yield f"{text} (--set {name}=…)"
