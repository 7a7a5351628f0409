"""The messages between the two sides, the inputs that a driver feeds to a rank, and the actions that a rank asks for.

Three families of values:

* *messages* cross the wire (Announce, Offer, ChunkStatus, Cancel, Quiet). Each carries the room's incarnation and,
  where it concerns one chunk, the epoch (chunk number), so that whatever is stale is recognised and ignored.
* *inputs* are what a driver feeds to a rank: messages that arrived, submissions, completions, the group's agreement.
* *actions* are what a rank asks of its driver. They are carried out in order; one that takes time delays the next.

How they are written down, for the wire and for files, is the business of ``protocol.wire.schema`` alone.
"""

from __future__ import annotations

from typing import Final, final

from mypy_extensions import mypyc_attr

from bufferlab.protocol.chunks import Chunk
from bufferlab.protocol.recording import Event
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId
from bufferlab.protocol.values import Value

# --- messages ------------------------------------------------------------------------------------------------------


@mypyc_attr(free_list_len=1)
@final
class Announce(Value):
    """Encode to language: the request has this length (exact_announce only)."""

    __match_args__: Final = ("room", "incarnation", "total_tokens")

    def __init__(self, room: int, incarnation: int, total_tokens: int) -> None:
        self.room: Final = room
        self.incarnation: Final = incarnation
        self.total_tokens: Final = total_tokens


@mypyc_attr(free_list_len=1)
@final
class Offer(Value):
    """Language to encode: memory for chunk ``epoch``. ``sent_tokens > 0`` marks a resume, and is its only mark."""

    __match_args__: Final = ("room", "incarnation", "epoch", "receiver", "blocks", "capacity_tokens", "sent_tokens")

    def __init__(
        self,
        room: int,
        incarnation: int,
        epoch: int,
        receiver: RankId,
        blocks: tuple[int, ...],
        capacity_tokens: int,
        sent_tokens: int,
    ) -> None:
        self.room: Final = room
        self.incarnation: Final = incarnation
        self.epoch: Final = epoch
        self.receiver: Final = receiver
        self.blocks: Final = blocks
        self.capacity_tokens: Final = capacity_tokens
        self.sent_tokens: Final = sent_tokens


@mypyc_attr(free_list_len=1)
@final
class ChunkStatus(Value):
    """Encode to language, once all destination ranks hold chunk ``epoch``, or when the room failed.

    ``total_tokens``: length of the whole request. ``upto_tokens``: tokens every destination holds now.
    """

    __match_args__: Final = ("room", "incarnation", "epoch", "status", "total_tokens", "upto_tokens", "reason")

    def __init__(
        self,
        room: int,
        incarnation: int,
        epoch: int,
        status: Status,
        total_tokens: int,
        upto_tokens: int,
        reason: str = "",
    ) -> None:
        self.room: Final = room
        self.incarnation: Final = incarnation
        self.epoch: Final = epoch
        self.status: Final = status
        self.total_tokens: Final = total_tokens
        self.upto_tokens: Final = upto_tokens
        self.reason: Final = reason


@final
class Cancel(Value):
    """Language to encode: the room is over here. Start no further write, and answer Quiet when none is in flight."""

    __match_args__: Final = ("room", "incarnation", "receiver", "reason")

    def __init__(self, room: int, incarnation: int, receiver: RankId, reason: str = "") -> None:
        self.room: Final = room
        self.incarnation: Final = incarnation
        self.receiver: Final = receiver
        self.reason: Final = reason


@final
class Quiet(Value):
    """Encode to language: no write of this room to this rank is in flight, and none will start."""

    __match_args__: Final = ("room", "incarnation")

    def __init__(self, room: int, incarnation: int) -> None:
        self.room: Final = room
        self.incarnation: Final = incarnation


Message = Announce | Offer | ChunkStatus | Cancel | Quiet

# --- inputs --------------------------------------------------------------------------------------------------------


@mypyc_attr(free_list_len=1)
@final
class EncodeRequest(Value):
    """A request as the encode side sees it: its length is known.

    ``encode_s``: how long an encoder pass takes for this request, for drivers that emulate the encoder.
    """

    __match_args__: Final = ("room", "incarnation", "total_tokens", "language_instance", "encode_s")

    def __init__(
        self, room: int, incarnation: int, total_tokens: int, language_instance: int = 0, encode_s: float = 0.0
    ) -> None:
        self.room: Final = room
        self.incarnation: Final = incarnation
        self.total_tokens: Final = total_tokens
        self.language_instance: Final = language_instance
        self.encode_s: Final = encode_s


@mypyc_attr(free_list_len=1)
@final
class LanguageRequest(Value):
    """A request as the language side sees it: its text and what the router passes on, but not the embedding's length.

    ``true_tokens`` is that length; only the Oracle policy is given it, because it is the bound that no real policy
    reaches. ``prefill_factor`` is for drivers that emulate the prefill: how many times longer than usual it takes.
    """

    __match_args__: Final = (
        "room",
        "incarnation",
        "text_tokens",
        "images",
        "image_tokens_hint",
        "client",
        "encode_instance",
        "true_tokens",
        "prefill_factor",
    )

    def __init__(
        self,
        room: int,
        incarnation: int,
        text_tokens: int = 0,
        images: int = 0,
        image_tokens_hint: int = 0,
        client: str = "",
        encode_instance: int = 0,
        true_tokens: int | None = None,
        prefill_factor: float = 1.0,
    ) -> None:
        self.room: Final = room
        self.incarnation: Final = incarnation
        self.text_tokens: Final = text_tokens
        self.images: Final = images
        self.image_tokens_hint: Final = image_tokens_hint
        self.client: Final = client
        self.encode_instance: Final = encode_instance
        self.true_tokens: Final = true_tokens
        self.prefill_factor: Final = prefill_factor


@final
class Abort(Value):
    """The client of a request went away."""

    __match_args__: Final = ("room", "incarnation", "reason")

    def __init__(self, room: int, incarnation: int, reason: str = "aborted by the client") -> None:
        self.room: Final = room
        self.incarnation: Final = incarnation
        self.reason: Final = reason


@mypyc_attr(free_list_len=1)
@final
class Encoded(Value):
    """The encoder's forward pass is over and the embedding lies in the source blocks."""

    __match_args__: Final = ("room", "incarnation")

    def __init__(self, room: int, incarnation: int) -> None:
        self.room: Final = room
        self.incarnation: Final = incarnation


@mypyc_attr(free_list_len=1)
@final
class WriteDone(Value):
    """The engine finished a write. ``quiet`` is False when it failed in a way that may still land bytes later."""

    __match_args__: Final = ("room", "incarnation", "epoch", "destination", "ok", "quiet", "reason")

    def __init__(
        self,
        room: int,
        incarnation: int,
        epoch: int,
        destination: RankId,
        ok: bool,
        quiet: bool = True,
        reason: str = "",
    ) -> None:
        self.room: Final = room
        self.incarnation: Final = incarnation
        self.epoch: Final = epoch
        self.destination: Final = destination
        self.ok: Final = ok
        self.quiet: Final = quiet
        self.reason: Final = reason


@final
class WriterQuiet(Value):
    """A failed write reported with ``quiet=False`` can no longer land."""

    __match_args__: Final = ("room", "incarnation", "destination")

    def __init__(self, room: int, incarnation: int, destination: RankId) -> None:
        self.room: Final = room
        self.incarnation: Final = incarnation
        self.destination: Final = destination


@mypyc_attr(free_list_len=1)
@final
class Prefilled(Value):
    """The prefill of a delivered request is over; nothing reads its blocks any more."""

    __match_args__: Final = ("room", "incarnation")

    def __init__(self, room: int, incarnation: int) -> None:
        self.room: Final = room
        self.incarnation: Final = incarnation


@final
class PeerDown(Value):
    """A rank of the other side is gone: its process ended or its heartbeat stopped."""

    __match_args__: Final = ("peer",)

    def __init__(self, peer: RankId) -> None:
        self.peer: Final = peer


@final
class PeerUp(Value):
    """A rank of the other side registered (again)."""

    __match_args__: Final = ("peer",)

    def __init__(self, peer: RankId) -> None:
        self.peer: Final = peer


@mypyc_attr(free_list_len=1)
@final
class Iteration(Value):
    """One iteration of the scheduler loop, with what the ranks of the group agreed on (see ``agreement``)."""

    __match_args__: Final = ("submitted", "free_blocks", "failed", "progress")

    def __init__(
        self, submitted: int, free_blocks: int, failed: int, progress: tuple[tuple[int, int], ...] = ()
    ) -> None:
        self.submitted: Final = submitted
        self.free_blocks: Final = free_blocks
        self.failed: Final = failed
        self.progress: Final = progress


EncodeInput = EncodeRequest | Offer | Cancel | Encoded | WriteDone | WriterQuiet | PeerDown | PeerUp | Abort | Iteration
LanguageInput = LanguageRequest | Announce | ChunkStatus | Quiet | Prefilled | PeerDown | PeerUp | Abort | Iteration

# --- actions -------------------------------------------------------------------------------------------------------


@mypyc_attr(free_list_len=1)
@final
class Send(Value):
    """Put ``message`` on the control channel to ``to``."""

    __match_args__: Final = ("to", "message")

    def __init__(self, to: RankId, message: Message) -> None:
        self.to: Final = to
        self.message: Final = message


@mypyc_attr(free_list_len=1)
@final
class StartEncode(Value):
    """Run the encoder and put the embedding into ``blocks``; answer with Encoded. ``encode_s``: as in EncodeRequest."""

    __match_args__: Final = ("room", "incarnation", "total_tokens", "blocks", "encode_s")

    def __init__(
        self, room: int, incarnation: int, total_tokens: int, blocks: tuple[int, ...], encode_s: float = 0.0
    ) -> None:
        self.room: Final = room
        self.incarnation: Final = incarnation
        self.total_tokens: Final = total_tokens
        self.blocks: Final = blocks
        self.encode_s: Final = encode_s


@mypyc_attr(free_list_len=1)
@final
class StartWrite(Value):
    """Write ``chunk`` from ``source_blocks`` (all of the request) to ``target_blocks``; answer with WriteDone."""

    __match_args__: Final = ("room", "incarnation", "epoch", "destination", "chunk", "source_blocks", "target_blocks")

    def __init__(
        self,
        room: int,
        incarnation: int,
        epoch: int,
        destination: RankId,
        chunk: Chunk,
        source_blocks: tuple[int, ...],
        target_blocks: tuple[int, ...],
    ) -> None:
        self.room: Final = room
        self.incarnation: Final = incarnation
        self.epoch: Final = epoch
        self.destination: Final = destination
        self.chunk: Final = chunk
        self.source_blocks: Final = source_blocks
        self.target_blocks: Final = target_blocks


@mypyc_attr(free_list_len=1)
@final
class CopyOut(Value):
    """Copy ``tokens`` received tokens, the request's tokens from ``start_token`` on, out of ``blocks``."""

    __match_args__: Final = ("room", "incarnation", "start_token", "tokens", "blocks")

    def __init__(self, room: int, incarnation: int, start_token: int, tokens: int, blocks: tuple[int, ...]) -> None:
        self.room: Final = room
        self.incarnation: Final = incarnation
        self.start_token: Final = start_token
        self.tokens: Final = tokens
        self.blocks: Final = blocks


@mypyc_attr(free_list_len=1)
@final
class Deliver(Value):
    """Hand the complete embedding to the language model; if the prefill keeps its blocks, answer with Prefilled."""

    __match_args__: Final = ("room", "incarnation", "total_tokens", "prefill_factor")

    def __init__(self, room: int, incarnation: int, total_tokens: int, prefill_factor: float = 1.0) -> None:
        self.room: Final = room
        self.incarnation: Final = incarnation
        self.total_tokens: Final = total_tokens
        self.prefill_factor: Final = prefill_factor


@mypyc_attr(free_list_len=1)
@final
class Conclude(Value):
    """The room is over on this rank; ``status`` is Success or Failed. Comes exactly once per submission."""

    __match_args__: Final = ("room", "incarnation", "status", "reason")

    def __init__(self, room: int, incarnation: int, status: Status, reason: str = "") -> None:
        self.room: Final = room
        self.incarnation: Final = incarnation
        self.status: Final = status
        self.reason: Final = reason


@final
class Note(Value):
    """Record this event when the actions before it are done; one is a CopyOut, so only the driver knows the time.

    The fields are those that follow the rank in ``recording.Record``.
    """

    __match_args__: Final = ("room", "event", "status", "tokens", "bytes", "detail")

    def __init__(
        self,
        room: int,
        event: Event,
        status: Status | None,
        tokens: int,
        bytes: int,  # noqa: A002 - the field's name
        detail: str,
    ) -> None:
        self.room: Final = room
        self.event: Final = event
        self.status: Final = status
        self.tokens: Final = tokens
        self.bytes: Final = bytes
        self.detail: Final = detail


Action = Send | StartEncode | StartWrite | CopyOut | Deliver | Conclude | Note
