"""What both drivers are given: the requests, the ranks and their rules. And how ranks are built from it.

A scenario says nothing about how fast the network is; the simulator gets that from a link profile, the real backend
from the machine. Both build their cores here, so a parameter cannot reach one world and miss the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from protocol.disciplines import make_discipline
from protocol.encode import EncodeRank
from protocol.language import LanguageRank
from protocol.layout import BufferLayout
from protocol.messages import EncodeRequest, LanguageRequest
from protocol.recording import Recorder
from protocol.sizing import POLICIES, SizingPolicy
from protocol.topology import RankId, Side


class Request(msgspec.Struct, frozen=True):
    """One request of a workload. ``arrival_s`` counts from the run's start.

    ``total_tokens``: length of the whole embedding, text included; the language side is not told.
    ``image_tokens_hint``: what a router that looks at the image sizes would guess, 0 if it does not.
    """

    room: int
    arrival_s: float
    total_tokens: int
    text_tokens: int = 0
    images: int = 0
    image_tokens_hint: int = 0
    client: str = ""
    incarnation: int = 0
    encode_instance: int = 0
    language_instance: int = 0


class WriteFault(msgspec.Struct, frozen=True):
    """The write of chunk ``epoch`` of ``room`` fails: to every destination, or only to rank ``destination``."""

    room: int
    epoch: int = 0
    destination: int | None = None


class ServiceTimes(msgspec.Struct, frozen=True):
    """How long the scheduler loops and the forward passes in them take, in seconds.

    A loop looks at its rooms every ``*_turn_s``. A turn that starts a forward pass lasts as long as the pass: one pass
    over everything the turn started takes base + per_token * tokens.
    """

    encode_turn_s: float = 0.001
    language_turn_s: float = 0.001
    encode_base_s: float = 0.0
    encode_per_token_s: float = 0.0
    prefill_base_s: float = 0.0
    prefill_per_token_s: float = 0.0

    def encode_s(self, tokens: Sequence[int]) -> float:
        """Duration of one encoder pass over requests of these lengths; 0 for none."""
        return self.encode_base_s + self.encode_per_token_s * sum(tokens) if tokens else 0.0

    def prefill_s(self, tokens: Sequence[int]) -> float:
        """Duration of one prefill pass over requests of these lengths; 0 for none."""
        return self.prefill_base_s + self.prefill_per_token_s * sum(tokens) if tokens else 0.0


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """Everything but the requests and the network. Pools are per rank; ``hidden`` is in bf16 elements."""

    block_tokens: int
    hidden: int
    deepstack_layers: int = 0
    discipline: str = "window"
    sizing: str = "fixed"
    sizing_options: dict[str, Any] = {}
    encode_instances: int = 1
    encode_tp: int = 1
    encode_blocks: int = 64
    language_instances: int = 1
    language_tp: int = 1
    language_blocks: int = 64
    timeout_s: float | None = 180.0
    resume_first: bool = True
    reserve_blocks: int = 0
    services: ServiceTimes = ServiceTimes()
    faults: tuple[WriteFault, ...] = ()

    @property
    def layout(self) -> BufferLayout:
        """The buffer layout of both sides."""
        return BufferLayout(self.block_tokens, self.hidden, self.deepstack_layers)

    def make_sizing(self) -> SizingPolicy:
        """A fresh policy; every language rank has its own copy. Raises ValueError for a bad name or option."""
        if self.sizing not in POLICIES:
            raise ValueError(f"unknown sizing policy {self.sizing!r}; known: {', '.join(POLICIES)}")
        try:
            return POLICIES[self.sizing](**self.sizing_options)
        except TypeError as error:
            raise ValueError(f"sizing policy {self.sizing}: {error}") from error

    def encode_ids(self) -> list[RankId]:
        """All encode ranks."""
        return [
            RankId(Side.ENCODE, instance, rank)
            for instance in range(self.encode_instances)
            for rank in range(self.encode_tp)
        ]

    def language_ids(self) -> list[RankId]:
        """All language ranks."""
        return [
            RankId(Side.LANGUAGE, instance, rank)
            for instance in range(self.language_instances)
            for rank in range(self.language_tp)
        ]

    def make_encode_rank(self, rank_id: RankId, recorder: Recorder | None) -> EncodeRank:
        """The core of one encode rank."""
        return EncodeRank(
            rank_id,
            layout=self.layout,
            discipline=make_discipline(self.discipline),
            pool_blocks=self.encode_blocks,
            encode_tp=self.encode_tp,
            language_tp=self.language_tp,
            timeout_s=self.timeout_s,
            recorder=recorder,
        )

    def make_language_rank(self, rank_id: RankId, recorder: Recorder | None) -> LanguageRank:
        """The core of one language rank."""
        return LanguageRank(
            rank_id,
            layout=self.layout,
            discipline=make_discipline(self.discipline),
            sizing=self.make_sizing(),
            pool_blocks=self.language_blocks,
            encode_tp=self.encode_tp,
            timeout_s=self.timeout_s,
            resume_first=self.resume_first,
            reserve_blocks=self.reserve_blocks,
            recorder=recorder,
        )

    def encode_request(self, request: Request) -> EncodeRequest:
        """What the encode ranks are told about ``request``."""
        return EncodeRequest(request.room, request.incarnation, request.total_tokens, request.language_instance)

    def language_request(self, request: Request) -> LanguageRequest:
        """What the language ranks are told: not the length, unless the policy is the bound that sees it."""
        return LanguageRequest(
            room=request.room,
            incarnation=request.incarnation,
            text_tokens=request.text_tokens,
            images=request.images,
            image_tokens_hint=request.image_tokens_hint,
            client=request.client,
            encode_instance=request.encode_instance,
            true_tokens=request.total_tokens if POLICIES[self.sizing].sees_true_length else None,
        )

    def write_fails(self, room: int, epoch: int, destination: RankId) -> bool:
        """Whether a fault is injected into this write."""
        return any(
            fault.room == room and fault.epoch == epoch and fault.destination in (None, destination.rank)
            for fault in self.faults
        )
