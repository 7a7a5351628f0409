"""How messages, requests and actions are written down: on the wire, in the router's commands, in files of schedules.

For each class of ``protocol.messages`` that is written down there is one of the same fields here, which msgspec encodes
and checks. Nothing but these knows of the encoding, and nothing but ``payload_of`` and ``value_of`` of these.
"""

from __future__ import annotations

from typing import Any

import msgspec

from bufferlab.protocol.chunks import Chunk
from bufferlab.protocol.messages import (
    Announce,
    Cancel,
    ChunkStatus,
    EncodeRequest,
    Iteration,
    LanguageRequest,
    Offer,
    Quiet,
    StartEncode,
    StartWrite,
)  # fmt: skip
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId
from bufferlab.protocol.values import Value, fields_of


class Payload(msgspec.Struct, frozen=True, gc=False):
    """The base of all forms in which a value is written down."""


class ChunkPayload(Payload, frozen=True, gc=False):
    """The form of a Chunk."""

    start_token: int
    tokens: int
    is_last: bool


class AnnouncePayload(Payload, frozen=True, gc=False, tag="announce"):
    """The form of an Announce."""

    room: int
    incarnation: int
    total_tokens: int


class OfferPayload(Payload, frozen=True, gc=False, tag="offer"):
    """The form of an Offer."""

    room: int
    incarnation: int
    epoch: int
    receiver: RankId
    blocks: tuple[int, ...]
    capacity_tokens: int
    sent_tokens: int


class ChunkStatusPayload(Payload, frozen=True, gc=False, tag="status"):
    """The form of a ChunkStatus."""

    room: int
    incarnation: int
    epoch: int
    status: Status
    total_tokens: int
    upto_tokens: int
    reason: str = ""


class CancelPayload(Payload, frozen=True, gc=False, tag="cancel"):
    """The form of a Cancel."""

    room: int
    incarnation: int
    receiver: RankId
    reason: str = ""


class QuietPayload(Payload, frozen=True, gc=False, tag="quiet"):
    """The form of a Quiet."""

    room: int
    incarnation: int


class EncodeRequestPayload(Payload, frozen=True, gc=False, tag="encode_request"):
    """The form of an EncodeRequest."""

    room: int
    incarnation: int
    total_tokens: int
    language_instance: int = 0
    encode_s: float = 0.0


class LanguageRequestPayload(Payload, frozen=True, gc=False, tag="language_request"):
    """The form of a LanguageRequest."""

    room: int
    incarnation: int
    text_tokens: int = 0
    images: int = 0
    image_tokens_hint: int = 0
    client: str = ""
    encode_instance: int = 0
    true_tokens: int | None = None
    prefill_factor: float = 1.0


class IterationPayload(Payload, frozen=True, gc=False, tag="iteration"):
    """The form of an Iteration."""

    submitted: int
    free_blocks: int
    failed: int
    progress: tuple[tuple[int, int], ...] = ()


class StartEncodePayload(Payload, frozen=True, gc=False, tag="start_encode"):
    """The form of a StartEncode."""

    room: int
    incarnation: int
    total_tokens: int
    blocks: tuple[int, ...]
    encode_s: float = 0.0


class StartWritePayload(Payload, frozen=True, gc=False, tag="start_write"):
    """The form of a StartWrite."""

    room: int
    incarnation: int
    epoch: int
    destination: RankId
    chunk: ChunkPayload
    source_blocks: tuple[int, ...]
    target_blocks: tuple[int, ...]


MessagePayload = AnnouncePayload | OfferPayload | ChunkStatusPayload | CancelPayload | QuietPayload
RequestPayload = EncodeRequestPayload | LanguageRequestPayload

_FORMS: dict[type[Value], type[Payload]] = {
    Chunk: ChunkPayload,
    Announce: AnnouncePayload,
    Offer: OfferPayload,
    ChunkStatus: ChunkStatusPayload,
    Cancel: CancelPayload,
    Quiet: QuietPayload,
    EncodeRequest: EncodeRequestPayload,
    LanguageRequest: LanguageRequestPayload,
    Iteration: IterationPayload,
    StartEncode: StartEncodePayload,
    StartWrite: StartWritePayload,
}
_VALUES = {form: kind for kind, form in _FORMS.items()}


def payload_of(value: Value) -> Payload:
    """The form of ``value``. Raises KeyError for a value that is never written down."""
    form: Any = _FORMS[type(value)]
    return form(*[payload_of(field) if isinstance(field, Value) else field for field in fields_of(value)])  # type: ignore[no-any-return]


def value_of(payload: Payload) -> Any:
    """The value that ``payload`` is the form of."""
    kind: Any = _VALUES[type(payload)]
    return kind(
        *[value_of(field) if isinstance(field, Payload) else field for field in msgspec.structs.astuple(payload)]
    )
