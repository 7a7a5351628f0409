"""What is explored: how many ranks, rooms and blocks, under which rules, and which faults how often."""

from __future__ import annotations

from enum import StrEnum
from functools import cached_property

import msgspec

from bufferlab.protocol.disciplines import DEFAULT, DISCIPLINES, make_discipline
from bufferlab.protocol.encode import EncodeRank
from bufferlab.protocol.language import LanguageRank
from bufferlab.protocol.layout import BufferLayout
from bufferlab.protocol.messages import EncodeRequest, LanguageRequest
from bufferlab.protocol.rank import RoomKey
from bufferlab.protocol.sizing import Fixed
from bufferlab.protocol.topology import RankId, Side

BLOCK_TOKENS = 2
"""The least with which a cut inside a block differs from one at its end."""

TIMEOUT_S = 10.0
"""Any value does: in the explored world a timer either is armed or has gone off."""


class Fault(StrEnum):
    """What may go wrong, at any step, as often as the bound says."""

    FAIL = "fail"
    """A write fails; its target may hold anything, and nothing more will land."""
    LATE = "late"
    """A write is reported as failed and its bytes land some time after."""
    LOSE = "lose"
    """A control message never arrives."""
    DUPLICATE = "duplicate"
    """A control message arrives and arrives again later."""
    ABORT = "abort"
    """The client of a room goes away; one rank is told."""
    EARLY = "early"
    """A room's timer goes off although things are moving."""
    DIE = "die"
    """A rank is gone, and some time after the others of its group; the other side learns of each some time after."""
    SUSPECT = "suspect"
    """A rank takes a living peer for dead, and some time after for alive again."""


NEED_TIMERS = frozenset({Fault.LOSE, Fault.EARLY, Fault.DIE, Fault.SUSPECT})
"""Faults after which only a timer can end some room."""

CONTAINED = frozenset({Fault.FAIL, Fault.LATE, Fault.ABORT, Fault.DUPLICATE})
"""Faults that concern one room and that no other room may notice in its outcome."""


class Bound(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One configuration to explore: pools in blocks of BLOCK_TOKENS tokens, everything else in tokens.

    ``lengths``: tokens of each request in order of submission. ``rooms``: their room numbers, by default their places;
    a number that comes again is the next incarnation of that room. ``instances``: the encode instance of each request.
    ``default_tokens``: what each language rank allocates first; one number for all of them, or one for each.
    ``arrivals_any``: each rank gets each request whenever it likes, else all requests are there at the start.
    ``atomic_iterations``: all ranks of a group carry out an iteration at the same moment.
    ``instant``: messages arrive and forward passes end in the move that starts them. Only writes and iterations take
    time: rooms still get and return blocks in every order, but not every order of arrival is seen.
    ``most_faults``: how many of ``faults`` may happen in one run.
    ``hazards``: the rows of the hazard catalogue that this configuration is there for.
    """

    name: str
    lengths: tuple[int, ...]
    discipline: str = DEFAULT
    rooms: tuple[int, ...] = ()
    instances: tuple[int, ...] = ()
    encode_tp: int = 1
    language_tp: int = 1
    encode_instances: int = 1
    encode_blocks: int = 2
    language_blocks: int = 2
    default_tokens: tuple[int, ...] = (BLOCK_TOKENS,)
    reserve_blocks: int = 0
    resume_first: bool = True
    timers: bool = False
    arrivals_any: bool = True
    atomic_iterations: bool = False
    instant: bool = False
    faults: tuple[Fault, ...] = ()
    most_faults: int = 0
    hazards: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise ValueError(f"bound {self.name!r}: {problem}")

    def _problem(self) -> str:
        """What is wrong with the values, as the end of a sentence."""
        counts = {"encode_tp": 1, "language_tp": 1, "encode_instances": 1, "encode_blocks": 1, "language_blocks": 1}
        for name, least in (*counts.items(), ("reserve_blocks", 0), ("most_faults", 0)):
            if getattr(self, name) < least:
                return f"{name} is {getattr(self, name)}, it must be at least {least}"
        if self.discipline not in DISCIPLINES:
            return f"discipline is {self.discipline!r}, it must be one of {', '.join(DISCIPLINES)}"
        if not self.lengths or min(self.lengths) < 0 or min(self.default_tokens, default=1) < 1:
            return "it has at least one length, of 0 tokens or more, and default_tokens of at least 1"
        if self.reserve_blocks >= self.language_blocks:
            return f"reserve_blocks is {self.reserve_blocks}, it must be less than language_blocks"
        if bool(self.faults) != bool(self.most_faults):
            return "faults and most_faults go together"
        if not self.timers and NEED_TIMERS.intersection(self.faults):
            return f"after {', '.join(self.faults)} only timers can end a room"
        if any(len(given) not in (0, len(self.lengths)) for given in (self.rooms, self.instances)):
            return "rooms and instances have one entry for each of the lengths"
        if any(not 0 <= instance < self.encode_instances for instance in self.instances):
            return f"instances are {self.instances}, there are {self.encode_instances}"
        if len(self.default_tokens) not in (1, self.language_tp):
            return "default_tokens has one entry, or one for each language rank"
        alone = len(self.lengths) == self.encode_tp == 1 and not DISCIPLINES[self.discipline].waits_holding
        if len(set(self.default_tokens)) > 1 and not alone:
            # Sizing policies answer alike on all ranks of a group (SizingPolicy), and the core relies on it.
            return f"unequal default_tokens are for one room and one encode rank, and not for {self.discipline}"
        if self.instant and (self.faults or not self.atomic_iterations):
            return "a world can be instant only with atomic iterations and without faults"
        return ""

    @cached_property
    def layout(self) -> BufferLayout:
        """The buffer layout; rows are as short as can be."""
        return BufferLayout(BLOCK_TOKENS, hidden=1)

    @cached_property
    def keys(self) -> tuple[RoomKey, ...]:
        """(room, incarnation) of each request."""
        rooms = self.rooms or tuple(range(len(self.lengths)))
        return tuple((room, rooms[:place].count(room)) for place, room in enumerate(rooms))

    @property
    def may_deadlock(self) -> bool:
        """Whether the rooms may wait for each other for ever, so that only timers end them."""
        return DISCIPLINES[self.discipline].may_deadlock and len(self.lengths) > 1

    def encode_ids(self) -> list[RankId]:
        """All encode ranks."""
        return [
            RankId(Side.ENCODE, instance, rank)
            for instance in range(self.encode_instances)
            for rank in range(self.encode_tp)
        ]

    def language_ids(self) -> list[RankId]:
        """All language ranks; there is one language instance."""
        return [RankId(Side.LANGUAGE, 0, rank) for rank in range(self.language_tp)]

    def requests_for(self, rank_id: RankId) -> list[EncodeRequest | LanguageRequest]:
        """What a rank is given, in order."""
        instances = self.instances or (0,) * len(self.lengths)
        requests: list[EncodeRequest | LanguageRequest] = []
        for (room, incarnation), tokens, instance in zip(self.keys, self.lengths, instances, strict=True):
            if rank_id.side is Side.LANGUAGE:
                requests.append(LanguageRequest(room, incarnation, encode_instance=instance))
            elif rank_id.instance == instance:
                requests.append(EncodeRequest(room, incarnation, tokens))
        return requests

    def make_core(self, rank_id: RankId) -> EncodeRank | LanguageRank:
        """The real core of one rank, without a recorder."""
        timeout_s = TIMEOUT_S if self.timers else None
        if rank_id.side is Side.ENCODE:
            return EncodeRank(
                rank_id,
                layout=self.layout,
                discipline=make_discipline(self.discipline),
                pool_blocks=self.encode_blocks,
                encode_tp=self.encode_tp,
                language_tp=self.language_tp,
                timeout_s=timeout_s,
            )
        default_tokens = self.default_tokens[rank_id.rank % len(self.default_tokens)]
        return LanguageRank(
            rank_id,
            layout=self.layout,
            discipline=make_discipline(self.discipline, self.layout.blocks_for(default_tokens)),
            sizing=Fixed(default_tokens),
            pool_blocks=self.language_blocks,
            encode_tp=self.encode_tp,
            timeout_s=timeout_s,
            resume_first=self.resume_first,
            reserve_blocks=self.reserve_blocks,
        )

    def can_succeed(self, tokens: int) -> bool:
        """Whether a request of this length, alone and with nothing going wrong, is delivered.

        Said from what the discipline claims (``Discipline.serves``), not by asking what it answers.
        """
        blocks = -(-tokens // BLOCK_TOKENS)
        if not 1 <= blocks <= self.encode_blocks:
            return False
        new = self.language_blocks - self.reserve_blocks
        first = min(max(1, -(-min(self.default_tokens) // BLOCK_TOKENS)), new)
        return DISCIPLINES[self.discipline].serves(blocks, first=first, pool=self.language_blocks, new=new)
