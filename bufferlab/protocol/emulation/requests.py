"""Requests of a workload, and what the ranks of both sides are told of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from bufferlab.protocol.messages import EncodeRequest, LanguageRequest
from bufferlab.protocol.values import Value

if TYPE_CHECKING:
    from bufferlab.protocol.emulation.scenario import ServiceTimes


@final
class Request(Value):
    """One request of a workload. ``arrival_s`` counts from the run's start.

    ``total_tokens``: length of the whole embedding, text included; the language side is not told.
    ``image_tokens_hint``: what a router that looks at the image sizes would guess, 0 if it does not.
    ``image_squares``: sum over the images of the square of their tokens, which the encoder's attention costs; 0 for
    images of equal size. ``encode_factor``, ``prefill_factor``: how much longer this request's part of a pass takes
    than the service times say. They are drawn with the request, so every policy meets the same ones.
    """

    __match_args__: Final = (
        "room",
        "arrival_s",
        "total_tokens",
        "text_tokens",
        "images",
        "image_tokens_hint",
        "client",
        "incarnation",
        "encode_instance",
        "language_instance",
        "image_squares",
        "encode_factor",
        "prefill_factor",
    )

    def __init__(
        self,
        room: int,
        arrival_s: float,
        total_tokens: int,
        text_tokens: int = 0,
        images: int = 0,
        image_tokens_hint: int = 0,
        client: str = "",
        incarnation: int = 0,
        encode_instance: int = 0,
        language_instance: int = 0,
        image_squares: int = 0,
        encode_factor: float = 1.0,
        prefill_factor: float = 1.0,
    ) -> None:
        self.room: Final = room
        self.arrival_s: Final = arrival_s
        self.total_tokens: Final = total_tokens
        self.text_tokens: Final = text_tokens
        self.images: Final = images
        self.image_tokens_hint: Final = image_tokens_hint
        self.client: Final = client
        self.incarnation: Final = incarnation
        self.encode_instance: Final = encode_instance
        self.language_instance: Final = language_instance
        self.image_squares: Final = image_squares
        self.encode_factor: Final = encode_factor
        self.prefill_factor: Final = prefill_factor

    def arriving(self, time_s: float) -> Request:
        """The same request at another time."""
        return Request(
            self.room,
            time_s,
            self.total_tokens,
            self.text_tokens,
            self.images,
            self.image_tokens_hint,
            self.client,
            self.incarnation,
            self.encode_instance,
            self.language_instance,
            self.image_squares,
            self.encode_factor,
            self.prefill_factor,
        )

    @property
    def image_tokens(self) -> int:
        """Tokens that the vision encoder makes, those around the images included."""
        return max(self.total_tokens - self.text_tokens, 0)


@final
class Intake:
    """What ranks are told of requests, and how much work each is before the encoder, in it and in the prefill.

    ``tells_length``: whether the language side is told a request's true length, as the bound that sees it needs.
    """

    def __init__(self, services: ServiceTimes, *, tells_length: bool) -> None:
        self._per_image_s: Final = services.encode_per_image_s
        self._per_token_s: Final = services.encode_per_token_s
        self._per_token2_s: Final = services.encode_per_token2_s
        self._preprocess_per_token_s: Final = services.preprocess_per_token_s
        self._prefill_per_token_s: Final = services.prefill_per_token_s
        self._prefill_per_token2_s: Final = services.prefill_per_token2_s
        self._tells_length: Final = tells_length

    def encode_s(self, request: Request) -> float:
        """The part of an encoder pass that is this request's, the pass's own base not included."""
        tokens = request.image_tokens
        images = max(request.images, 1) if tokens else 0
        squares = float(request.image_squares) or (tokens * tokens / images if images else 0.0)
        return request.encode_factor * (
            self._per_image_s * images + self._per_token_s * tokens + self._per_token2_s * squares
        )

    def preprocess_s(self, request: Request) -> float:
        """How long one processor prepares the request's images."""
        return request.encode_factor * self._preprocess_per_token_s * request.image_tokens

    def prefill_s(self, tokens: int, factor: float) -> float:
        """The part of a prefill pass that is one request's, the pass's own base not included."""
        return factor * (self._prefill_per_token_s + self._prefill_per_token2_s * tokens) * tokens

    def encode_request(self, request: Request) -> EncodeRequest:
        """What the encode ranks are told about ``request``."""
        return EncodeRequest(
            request.room,
            request.incarnation,
            request.total_tokens,
            request.language_instance,
            self.encode_s(request),
        )

    def language_request(self, request: Request) -> LanguageRequest:
        """What the language ranks are told: not the length, unless the policy is the bound that sees it."""
        return LanguageRequest(
            request.room,
            request.incarnation,
            request.text_tokens,
            request.images,
            request.image_tokens_hint,
            request.client,
            request.encode_instance,
            request.total_tokens if self._tells_length else None,
            request.prefill_factor,
        )
