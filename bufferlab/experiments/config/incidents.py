"""How a configuration names ranks and instances, and the incidents that it gives as settings."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from bufferlab.protocol.faults import KINDS, Incident
from bufferlab.protocol.lifecycle import Instance
from bufferlab.protocol.topology import RankId, Side

_RANK = re.compile(r"(encode|language)(\d+)\.(\d+)")
_INSTANCE = re.compile(r"(encode|language)(\d+)")


def parse_rank(text: str) -> RankId:
    """``language0.1`` is rank 1 of language instance 0. Raises ValueError for anything else."""
    match = _RANK.fullmatch(text)
    if match is None:
        raise ValueError("must be a rank such as language0.1")
    return RankId(Side(match[1]), int(match[2]), int(match[3]))


def parse_instance(text: str) -> Instance:
    """``encode1`` is encode instance 1. Raises ValueError for anything else."""
    match = _INSTANCE.fullmatch(text)
    if match is None:
        raise ValueError("must be an instance such as encode0")
    return Side(match[1]), int(match[2])


PARSERS: Mapping[Any, Callable[[str], Any]] = {RankId: parse_rank, Instance: parse_instance}
"""How the text of a setting is read, by the type that it has in ``protocol.faults``; others are numbers already."""


def incident_of(kind: str, given: Mapping[str, Any]) -> Incident:
    """The incident of that kind with the settings of a configuration."""
    fields = {}
    for name, type_ in KINDS[kind].settings().items():
        parse = PARSERS.get(type_)
        fields[name] = given[name] if parse is None else parse(given[name])
    return KINDS[kind](**fields)
