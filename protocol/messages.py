"""The messages between the two sides, the inputs that a driver feeds to a rank, and the actions that a rank asks for.

Three families of small immutable records:

* *messages* cross the wire (Announce, Offer, ChunkStatus, Cancel, Quiet). Each carries the room's incarnation and,
  where it concerns one chunk, the epoch (chunk number), so that whatever is stale is recognised and ignored.
* *inputs* are what a driver feeds to a rank: messages that arrived, submissions, completions, the group's agreement.
* *actions* are what a rank asks of its driver. They are carried out in order; one that takes time delays the next.

None of them can be part of a cycle of references, so the garbage collector does not follow them (``gc=False``).
"""

from __future__ import annotations

import msgspec

from protocol.chunks import Chunk
from protocol.recording import Event
from protocol.status import Status
from protocol.topology import RankId

# --- messages ------------------------------------------------------------------------------------------------------


class Announce(msgspec.Struct, frozen=True, gc=False, tag="announce"):
    """Encode to language: the request has this length (exact_announce only)."""

    room: int
    incarnation: int
    total_tokens: int


class Offer(msgspec.Struct, frozen=True, gc=False, tag="offer"):
    """Language to encode: memory for chunk ``epoch``. ``sent_tokens > 0`` marks a resume, and is its only mark."""

    room: int
    incarnation: int
    epoch: int
    receiver: RankId
    blocks: tuple[int, ...]
    capacity_tokens: int
    sent_tokens: int


class ChunkStatus(msgspec.Struct, frozen=True, gc=False, tag="status"):
    """Encode to language, once all destination ranks hold chunk ``epoch``, or when the room failed.

    ``total_tokens``: length of the whole request. ``upto_tokens``: tokens every destination holds now.
    """

    room: int
    incarnation: int
    epoch: int
    status: Status
    total_tokens: int
    upto_tokens: int
    reason: str = ""


class Cancel(msgspec.Struct, frozen=True, gc=False, tag="cancel"):
    """Language to encode: the room is over here. Start no further write, and answer Quiet when none is in flight."""

    room: int
    incarnation: int
    receiver: RankId
    reason: str = ""


class Quiet(msgspec.Struct, frozen=True, gc=False, tag="quiet"):
    """Encode to language: no write of this room to this rank is in flight, and none will start."""

    room: int
    incarnation: int


Message = Announce | Offer | ChunkStatus | Cancel | Quiet

# --- inputs --------------------------------------------------------------------------------------------------------


class EncodeRequest(msgspec.Struct, frozen=True, gc=False, tag="encode_request"):
    """A request as the encode side sees it: its length is known.

    ``encode_s``: how long an encoder pass takes for this request, for drivers that emulate the encoder.
    """

    room: int
    incarnation: int
    total_tokens: int
    language_instance: int = 0
    encode_s: float = 0.0


class LanguageRequest(msgspec.Struct, frozen=True, gc=False, tag="language_request"):
    """A request as the language side sees it: its text and what the router passes on, but not the embedding's length.

    ``true_tokens`` is that length; only the Oracle policy is given it, because it is the bound that no real policy
    reaches. ``prefill_factor`` is for drivers that emulate the prefill: how many times longer than usual it takes.
    """

    room: int
    incarnation: int
    text_tokens: int = 0
    images: int = 0
    image_tokens_hint: int = 0
    client: str = ""
    encode_instance: int = 0
    true_tokens: int | None = None
    prefill_factor: float = 1.0


class Abort(msgspec.Struct, frozen=True, gc=False, tag="abort"):
    """The client of a request went away."""

    room: int
    incarnation: int
    reason: str = "aborted by the client"


class Encoded(msgspec.Struct, frozen=True, gc=False, tag="encoded"):
    """The encoder's forward pass is over and the embedding lies in the source blocks."""

    room: int
    incarnation: int


class WriteDone(msgspec.Struct, frozen=True, gc=False, tag="write_done"):
    """The engine finished a write. ``quiet`` is False when it failed in a way that may still land bytes later."""

    room: int
    incarnation: int
    epoch: int
    destination: RankId
    ok: bool
    quiet: bool = True
    reason: str = ""


class WriterQuiet(msgspec.Struct, frozen=True, gc=False, tag="writer_quiet"):
    """A failed write reported with ``quiet=False`` can no longer land."""

    room: int
    incarnation: int
    destination: RankId


class Prefilled(msgspec.Struct, frozen=True, gc=False, tag="prefilled"):
    """The prefill of a delivered request is over; nothing reads its blocks any more."""

    room: int
    incarnation: int


class PeerDown(msgspec.Struct, frozen=True, gc=False, tag="peer_down"):
    """A rank of the other side is gone: its process ended or its heartbeat stopped."""

    peer: RankId


class PeerUp(msgspec.Struct, frozen=True, gc=False, tag="peer_up"):
    """A rank of the other side registered (again)."""

    peer: RankId


class Iteration(msgspec.Struct, frozen=True, gc=False, tag="iteration"):
    """One iteration of the scheduler loop, with what the ranks of the group agreed on (see ``agreement``)."""

    submitted: int
    free_blocks: int
    failed: int
    progress: tuple[tuple[int, int], ...] = ()


EncodeInput = EncodeRequest | Offer | Cancel | Encoded | WriteDone | WriterQuiet | PeerDown | PeerUp | Abort | Iteration
LanguageInput = LanguageRequest | Announce | ChunkStatus | Quiet | Prefilled | PeerDown | PeerUp | Abort | Iteration

# --- actions -------------------------------------------------------------------------------------------------------


class Send(msgspec.Struct, frozen=True, gc=False, tag="send"):
    """Put ``message`` on the control channel to ``to``."""

    to: RankId
    message: Message


class StartEncode(msgspec.Struct, frozen=True, gc=False, tag="start_encode"):
    """Run the encoder and put the embedding into ``blocks``; answer with Encoded. ``encode_s``: as in EncodeRequest."""

    room: int
    incarnation: int
    total_tokens: int
    blocks: tuple[int, ...]
    encode_s: float = 0.0


class StartWrite(msgspec.Struct, frozen=True, gc=False, tag="start_write"):
    """Write ``chunk`` from ``source_blocks`` (all of the request) to ``target_blocks``; answer with WriteDone."""

    room: int
    incarnation: int
    epoch: int
    destination: RankId
    chunk: Chunk
    source_blocks: tuple[int, ...]
    target_blocks: tuple[int, ...]


class CopyOut(msgspec.Struct, frozen=True, gc=False, tag="copy_out"):
    """Copy ``tokens`` received tokens, the request's tokens from ``start_token`` on, out of ``blocks``."""

    room: int
    incarnation: int
    start_token: int
    tokens: int
    blocks: tuple[int, ...]


class Deliver(msgspec.Struct, frozen=True, gc=False, tag="deliver"):
    """Hand the complete embedding to the language model; if the prefill keeps its blocks, answer with Prefilled."""

    room: int
    incarnation: int
    total_tokens: int
    prefill_factor: float = 1.0


class Conclude(msgspec.Struct, frozen=True, gc=False, tag="conclude"):
    """The room is over on this rank; ``status`` is Success or Failed. Comes exactly once per submission."""

    room: int
    incarnation: int
    status: Status
    reason: str = ""


class Note(msgspec.Struct, frozen=True, gc=False, tag="note"):
    """Record this event when the actions before it are done; one is a CopyOut, so only the driver knows the time.

    The fields are those that follow the rank in ``recording.Record``.
    """

    room: int
    event: Event
    status: Status | None
    tokens: int
    bytes: int
    detail: str


Action = Send | StartEncode | StartWrite | CopyOut | Deliver | Conclude | Note
