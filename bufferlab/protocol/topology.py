"""Which encode rank writes to which language rank.

Language rank r is written by encode rank ``r mod encode_tp``. An encode rank's destinations are therefore an explicit
*set*, so ratios that do not divide (2 encode ranks for 3 language ranks) work, and an encode rank beyond the language
ranks has the empty set and takes no part in the transfer. Counting destinations instead was hazard T1 and T2 of the
original system.
"""

from __future__ import annotations

from enum import StrEnum
from functools import cache
from typing import Final, NamedTuple


class Side(StrEnum):
    """The two sides of the split."""

    ENCODE = "encode"
    LANGUAGE = "language"

    __hash__ = str.__hash__  # Enum's own runs in Python, and a side is part of every rank's name


class RankId(NamedTuple):
    """One tensor-parallel rank: its side, its instance (a serving replica) and its rank within the instance."""

    side: Side
    instance: int
    rank: int

    def __str__(self) -> str:
        return self.side + f"{self.instance}.{self.rank}"  # quicker than the side's value in the text


def writer_rank(language_rank: int, encode_tp: int) -> int:
    """The encode rank that writes to ``language_rank``."""
    return language_rank % encode_tp


_NAMES: Final[dict[RankId, str]] = {}


def name_of(rank_id: RankId) -> str:
    """``str(rank_id)``, made once."""
    name = _NAMES.get(rank_id)
    if name is None:
        name = _NAMES[rank_id] = str(rank_id)
    return name


@cache
def destinations(encode_rank: int, encode_tp: int, language_instance: int, language_tp: int) -> tuple[RankId, ...]:
    """The language ranks that ``encode_rank`` must serve; empty for a surplus encode rank."""
    return tuple(
        RankId(Side.LANGUAGE, language_instance, rank)
        for rank in range(language_tp)
        if writer_rank(rank, encode_tp) == encode_rank
    )
