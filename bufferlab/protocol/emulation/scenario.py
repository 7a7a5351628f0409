"""What both drivers are given: the requests, the ranks and their rules. And how ranks are built from it.

A scenario says nothing about how fast the network is; the simulator gets that from a link profile, the real backend
from the machine. Both build their cores here, so a parameter cannot reach one world and miss the other.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import msgspec

from bufferlab.protocol.disciplines import Discipline, make_discipline
from bufferlab.protocol.emulation.requests import Intake, Request
from bufferlab.protocol.encode import EncodeRank
from bufferlab.protocol.language import LanguageRank
from bufferlab.protocol.layout import BufferLayout
from bufferlab.protocol.messages import EncodeRequest, LanguageRequest
from bufferlab.protocol.recording import Recorder
from bufferlab.protocol.sizing import SizingPolicy, find_policy, make_policy
from bufferlab.protocol.topology import RankId, Side
from bufferlab.protocol.wire.limits import EXTENDED


class WriteFault(msgspec.Struct, frozen=True):
    """The write of chunk ``epoch`` of ``room`` fails: to every destination, or only to rank ``destination``."""

    room: int
    epoch: int = 0
    destination: int | None = None


class ServiceTimes(msgspec.Struct, frozen=True, dict=True):
    """How long the scheduler loops and the forward passes in them take, in seconds.

    A loop looks at its rooms every ``*_poll_interval_s``. An iteration that starts a forward pass lasts as long as the
    pass. One encoder pass over everything the iteration started takes base + the sum over its images of per_image +
    per_token
    * k + per_token2 * k², k being the image's tokens (attention does not cross images). One prefill pass takes base +
    the sum over its requests of per_token * t + per_token2 * t², t being the request's tokens.

    Before its pass a request is prepared (decoding, resizing) by one of ``preprocess_workers`` processors of its encode
    instance, first come, first served, which takes ``preprocess_per_token_s`` for every token of its images.
    """

    encode_poll_interval_s: float = 0.001
    language_poll_interval_s: float = 0.001
    encode_base_s: float = 0.0
    encode_per_image_s: float = 0.0
    encode_per_token_s: float = 0.0
    encode_per_token2_s: float = 0.0
    prefill_base_s: float = 0.0
    prefill_per_token_s: float = 0.0
    prefill_per_token2_s: float = 0.0
    preprocess_per_token_s: float = 0.0
    preprocess_workers: int = 1

    def poll_interval_s(self, side: Side) -> float:
        """How often the loops of a side look at their rooms."""
        return self.encode_poll_interval_s if side is Side.ENCODE else self.language_poll_interval_s

    @property
    def prefills(self) -> bool:
        """Whether a prefill takes any time. If not, a request has its first token when it is delivered."""
        return self.prefill_base_s > 0 or self.prefill_per_token_s > 0 or self.prefill_per_token2_s > 0

    @cached_property
    def intake(self) -> Intake:
        """What these times make of requests."""
        return Intake(self, tells_length=False)

    def encode_s(self, request: Request) -> float:
        """The part of an encoder pass that is this request's, the pass's own base not included."""
        return self.intake.encode_s(request)

    def prefill_s(self, tokens: int, factor: float = 1.0) -> float:
        """The part of a prefill pass that is one request's, the pass's own base not included."""
        return self.intake.prefill_s(tokens, factor)

    def preprocess_s(self, request: Request) -> float:
        """How long one processor prepares the request's images."""
        return self.intake.preprocess_s(request)


class Scenario(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Everything but the requests and the network. Pools are per rank; ``hidden`` is in bf16 elements.

    ``resume_tokens``: most tokens a resume asks for at once; None for all that is missing.
    ``encode_batch``, ``prefill_batch_tokens``: most requests of one encoder pass, and most tokens of one prefill pass
    (a longer request has a pass of its own); None for no limit. ``release_after_prefill``: a delivered request keeps
    its blocks until its prefill is over, instead of until its tokens are copied. ``transfer_workers``: threads that
    write, per encode rank; all writes to one language instance are one thread's (instance modulo workers).
    ``slot_tokens``: the size of a slot where that is the discipline; None for the ``tokens`` of ``sizing_options``, and
    without these for the whole pool. ``wire``: how the sides speak in a measured run (see ``protocol.wire``).
    """

    block_tokens: int
    hidden: int
    deepstack_layers: int = 0
    discipline: str = "window"
    wire: str = EXTENDED
    sizing: str = "fixed"
    sizing_options: dict[str, Any] = {}
    slot_tokens: int | None = None
    encode_instances: int = 1
    encode_tp: int = 1
    encode_blocks: int = 64
    language_instances: int = 1
    language_tp: int = 1
    language_blocks: int = 64
    timeout_s: float | None = 180.0
    resume_first: bool = True
    reserve_blocks: int = 0
    resume_tokens: int | None = None
    encode_batch: int | None = None
    prefill_batch_tokens: int | None = None
    release_after_prefill: bool = False
    transfer_workers: int = 1
    services: ServiceTimes = ServiceTimes()
    faults: tuple[WriteFault, ...] = ()

    @cached_property
    def layout(self) -> BufferLayout:
        """The buffer layout of both sides."""
        return BufferLayout(self.block_tokens, self.hidden, self.deepstack_layers)

    def make_discipline(self) -> Discipline:
        """The discipline. Raises ValueError for a bad name."""
        tokens = self.sizing_options.get("tokens") if self.slot_tokens is None else self.slot_tokens
        return make_discipline(self.discipline, None if tokens is None else self.layout.blocks_for(tokens))

    def make_sizing(self) -> SizingPolicy:
        """A fresh policy; every language rank has its own copy. Raises ValueError for a bad name or option."""
        return make_policy(self.sizing, self.sizing_options, alone=self.language_tp == 1)

    @cached_property
    def intake(self) -> Intake:
        """What the ranks are told of requests."""
        return Intake(self.services, tells_length=find_policy(self.sizing).sees_true_length)

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
            discipline=self.make_discipline(),
            pool_blocks=self.encode_blocks,
            encode_tp=self.encode_tp,
            language_tp=self.language_tp,
            timeout_s=self.timeout_s,
            batch_requests=self.encode_batch,
            recorder=recorder,
        )

    def make_language_rank(self, rank_id: RankId, recorder: Recorder | None) -> LanguageRank:
        """The core of one language rank."""
        return LanguageRank(
            rank_id,
            layout=self.layout,
            discipline=self.make_discipline(),
            sizing=self.make_sizing(),
            pool_blocks=self.language_blocks,
            encode_tp=self.encode_tp,
            timeout_s=self.timeout_s,
            resume_first=self.resume_first,
            reserve_blocks=self.reserve_blocks,
            resume_tokens=self.resume_tokens,
            release_after_prefill=self.release_after_prefill,
            recorder=recorder,
        )

    def encode_request(self, request: Request) -> EncodeRequest:
        """What the encode ranks are told about ``request``."""
        return self.intake.encode_request(request)

    def language_request(self, request: Request) -> LanguageRequest:
        """What the language ranks are told: not the length, unless the policy is the bound that sees it."""
        return self.intake.language_request(request)

    def write_fails(self, room: int, epoch: int, destination: RankId) -> bool:
        """Whether a fault is injected into this write."""
        return any(
            fault.room == room and fault.epoch == epoch and fault.destination in (None, destination.rank)
            for fault in self.faults
        )
