"""Both sides wired back to back in one process, without a clock: for tests, exploration and the docs.

A ``World`` holds the rank cores of one encode and one language instance, the messages between them and the work they
asked for. Nothing moves by itself: the caller delivers a message, finishes a write or holds an iteration. ``run_until_quiet``
does so in a fixed order until nothing is left to do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec

from bufferlab.protocol.agreement import hold_iteration
from bufferlab.protocol.disciplines import make_discipline
from bufferlab.protocol.encode import EncodeRank
from bufferlab.protocol.language import LanguageRank
from bufferlab.protocol.layout import BufferLayout
from bufferlab.protocol.messages import (
    Action,
    Conclude,
    CopyOut,
    Deliver,
    Encoded,
    EncodeRequest,
    LanguageRequest,
    Message,
    Note,
    Send,
    StartEncode,
    StartWrite,
    WriteDone,
)
from bufferlab.protocol.recording import Event, Record
from bufferlab.protocol.sizing import Fixed, SizingPolicy
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side
from bufferlab.protocol.values import fields_of


class WorldSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Size and rules of a world; memory in blocks, lengths in tokens."""

    encode_tp: int = 1
    language_tp: int = 1
    encode_blocks: int = 8
    language_blocks: int = 8
    block_tokens: int = 4
    default_tokens: int = 4
    discipline: str = "window"
    timeout_s: float | None = None
    resume_first: bool = True


class World:
    """The cores and everything in flight between them."""

    def __init__(self, spec: WorldSpec, sizing: Callable[[], SizingPolicy] | None = None) -> None:
        self.spec = spec
        self.now = 0.0
        self.records: list[Record] = []
        self.layout = BufferLayout(spec.block_tokens, hidden=1)
        self.encode = [
            EncodeRank(
                RankId(Side.ENCODE, 0, rank),
                layout=self.layout,
                discipline=make_discipline(spec.discipline, self.layout.blocks_for(spec.default_tokens)),
                pool_blocks=spec.encode_blocks,
                encode_tp=spec.encode_tp,
                language_tp=spec.language_tp,
                timeout_s=spec.timeout_s,
                recorder=self._record,
            )
            for rank in range(spec.encode_tp)
        ]
        self.language = [
            LanguageRank(
                RankId(Side.LANGUAGE, 0, rank),
                layout=self.layout,
                discipline=make_discipline(spec.discipline, self.layout.blocks_for(spec.default_tokens)),
                sizing=sizing() if sizing else Fixed(spec.default_tokens),
                pool_blocks=spec.language_blocks,
                encode_tp=spec.encode_tp,
                timeout_s=spec.timeout_s,
                resume_first=spec.resume_first,
                recorder=self._record,
            )
            for rank in range(spec.language_tp)
        ]
        self.ranks: dict[RankId, EncodeRank | LanguageRank] = {}
        self.ranks.update((member.rank_id, member) for member in self.encode)
        self.ranks.update((member.rank_id, member) for member in self.language)
        # One first-in first-out channel per ordered pair of ranks, as ZeroMQ gives.
        self.channels: dict[tuple[RankId, RankId], deque[Message]] = {}
        self.encoding: deque[tuple[RankId, StartEncode]] = deque()
        self.writing: dict[RankId, deque[StartWrite]] = {rank.rank_id: deque() for rank in self.encode}
        self.copied: dict[tuple[int, RankId], list[tuple[int, int]]] = {}
        self.delivered: list[tuple[RankId, Deliver]] = []
        self.concluded: dict[tuple[int, int], dict[RankId, Conclude]] = {}

    def _record(
        self,
        time_s: float,
        rank_id: RankId,
        room: int,
        event: Event,
        status: Status | None,
        tokens: int,
        bytes_: int,
        detail: str,
    ) -> None:
        self.records.append(Record(time_s, rank_id, room, event, status, tokens, bytes_, detail))

    # --- moves ---

    def submit(self, room: int, total_tokens: int, incarnation: int = 0) -> None:
        """Give one request to every rank of both sides."""
        for encode in self.encode:
            self.feed(encode.rank_id, EncodeRequest(room, incarnation, total_tokens))
        request = LanguageRequest(room, incarnation, true_tokens=total_tokens)
        for language in self.language:
            self.feed(language.rank_id, request)

    def feed(self, rank_id: RankId, event: object) -> None:
        """Give one input to one rank and note what it asks for."""
        actions = self.ranks[rank_id].handle(event, self.now)  # type: ignore[arg-type]
        self._note(rank_id, actions)

    def _note(self, rank_id: RankId, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Send(to, message):
                    self.channels.setdefault((rank_id, to), deque()).append(message)
                case StartEncode():
                    self.encoding.append((rank_id, action))
                case StartWrite():
                    self.writing[rank_id].append(action)
                case CopyOut(room, _, start_token, tokens, _):
                    self.copied.setdefault((room, rank_id), []).append((start_token, tokens))
                case Deliver():
                    self.delivered.append((rank_id, action))
                case Note():
                    self._record(self.now, rank_id, *fields_of(action))
                case Conclude(room, incarnation):
                    self.concluded.setdefault((room, incarnation), {})[rank_id] = action

    def deliver_message(self, source: RankId, target: RankId) -> None:
        """Deliver the oldest message on one channel."""
        channel = self.channels[source, target]
        message = channel.popleft()
        if not channel:
            del self.channels[source, target]
        self.feed(target, message)

    def finish_encode(self) -> None:
        """Finish the oldest forward pass."""
        rank_id, work = self.encoding.popleft()
        self.feed(rank_id, Encoded(work.room, work.incarnation))

    def finish_write(self, rank_id: RankId, *, ok: bool = True, quiet: bool = True) -> None:
        """Finish the oldest write of one encode rank."""
        work = self.writing[rank_id].popleft()
        reason = "" if ok else "injected"
        done = WriteDone(work.room, work.incarnation, work.epoch, work.destination, ok, quiet, reason)
        self.feed(rank_id, done)

    def iteration(self, side: Side) -> None:
        """Hold one iteration of one side's group."""
        members = self.encode if side is Side.ENCODE else self.language
        agreed = hold_iteration(members)
        for member in members:
            self.feed(member.rank_id, agreed)

    def run_until_quiet(self, max_rounds: int = 1000) -> None:
        """Move everything, in a fixed order, until a whole round changes nothing.

        Raises RuntimeError after ``max_rounds`` rounds.
        """
        for _ in range(max_rounds):
            before = len(self.records)
            busy = bool(self.channels) or bool(self.encoding) or any(self.writing.values())
            for side in Side:
                self.iteration(side)
            for source, target in list(self.channels):
                while (source, target) in self.channels:
                    self.deliver_message(source, target)
            while self.encoding:
                self.finish_encode()
            for rank_id in self.writing:
                while self.writing[rank_id]:
                    self.finish_write(rank_id)
            if not busy and len(self.records) == before and not self.channels:
                return
        raise RuntimeError(f"still busy after {max_rounds} rounds")

    # --- questions ---

    def statuses(self, room: int, side: Side, rank: int = 0) -> list[tuple[Status, int]]:
        """The (status, tokens) path of a room on one rank, repetitions removed."""
        path: list[tuple[Status, int]] = []
        for record in self.records:
            if record.room != room or record.rank_id != RankId(side, 0, rank):
                continue
            if record.status is not None and (not path or path[-1][0] is not record.status):
                path.append((record.status, record.tokens))
        return path

    @property
    def quiescent(self) -> bool:
        """Whether no rank remembers any room and every block is free."""
        return all(not member.rooms and member.pool.free == member.pool.blocks for member in self.ranks.values())
