"""The kinds of what goes wrong in a run, and the names of ranks and instances in a configuration."""

from __future__ import annotations

import re

from protocol.topology import RankId, Side

NEEDS: dict[str, tuple[str, ...]] = {
    "death": ("time_s", "rank"),
    "restart": ("time_s", "instance", "lasts_s"),
    "hang": ("time_s", "rank", "lasts_s"),
    "slow": ("rank", "factor"),
    "abort": ("time_s", "room"),
    "false-alarm": ("time_s", "observer", "rank", "lasts_s"),
}
"""The settings of every kind of incident, all of which must be given."""

_RANK = re.compile(r"(encode|language)(\d+)\.(\d+)")
_INSTANCE = re.compile(r"(encode|language)(\d+)")


def parse_rank(text: str) -> RankId:
    """``language0.1`` is rank 1 of language instance 0. Raises ValueError for anything else."""
    match = _RANK.fullmatch(text)
    if match is None:
        raise ValueError("must be a rank such as language0.1")
    return RankId(Side(match[1]), int(match[2]), int(match[3]))


def parse_instance(text: str) -> tuple[Side, int]:
    """``encode1`` is encode instance 1. Raises ValueError for anything else."""
    match = _INSTANCE.fullmatch(text)
    if match is None:
        raise ValueError("must be an instance such as encode0")
    return Side(match[1]), int(match[2])
