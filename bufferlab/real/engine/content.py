"""Test content that both sides can compute alone, and how a difference is told.

`room_content` makes the embedding of a request from its room and incarnation, so that the receiver
knows every bit it must find: an unwritten, stale, foreign or misplaced row is noticed by
`first_difference`.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bufferlab.protocol.layout import AUX_MROPE_DELTA, AUX_TOTAL_TOKENS, AUX_WORDS, BufferLayout

# Words of aux that the protocol leaves free carry the identity of our test content, so that a
# foreign aux says whose it is.
_AUX_ROOM_LOW, _AUX_ROOM_HIGH, _AUX_INCARNATION = 2, 3, 4
_AUX_NAMES = {
    AUX_TOTAL_TOKENS: "total tokens",
    AUX_MROPE_DELTA: "mrope delta",
    _AUX_ROOM_LOW: "room, low word",
    _AUX_ROOM_HIGH: "room, high word",
    _AUX_INCARNATION: "incarnation",
}
_WORD = 0x7FFF_FFFF

_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


@dataclass(frozen=True, slots=True, eq=False)
class RoomContent:
    """The rows of a request from ``start_token`` on; tensors on one device.

    ``embeddings``: tokens × hidden, bfloat16. ``fill_ids``: tokens, int32. ``mrope``: 3 × tokens,
    int32. ``aux``: 16 × int32, present only where ``start_token`` is 0. ``deepstack``: tokens ×
    layers × hidden, bfloat16, or None for a model without it.
    """

    embeddings: Tensor
    fill_ids: Tensor
    mrope: Tensor
    aux: Tensor | None
    deepstack: Tensor | None = None
    start_token: int = 0

    @property
    def tokens(self) -> int:
        """Number of rows."""
        return int(self.fill_ids.shape[0])

    @property
    def end_token(self) -> int:
        """First token after the last row."""
        return self.start_token + self.tokens

    def rows(self, start_token: int, end_token: int) -> RoomContent:
        """Views of the tokens [start_token, end_token), counted in the whole request."""
        if not self.start_token <= start_token <= end_token <= self.end_token:
            raise ValueError(
                f"tokens [{start_token}, {end_token}) are not within [{self.start_token}, {self.end_token})"
            )
        first, last = start_token - self.start_token, end_token - self.start_token
        return RoomContent(
            embeddings=self.embeddings[first:last],
            fill_ids=self.fill_ids[first:last],
            mrope=self.mrope[:, first:last],
            aux=self.aux if start_token == 0 else None,
            deepstack=None if self.deepstack is None else self.deepstack[first:last],
            start_token=start_token,
        )


def empty_content(tokens: int, layout: BufferLayout, *, start_token: int = 0, device: str = "cpu") -> RoomContent:
    """Uninitialised memory for ``tokens`` rows, to gather chunks into."""
    layers = layout.deepstack_layers
    bf16, int32 = torch.bfloat16, torch.int32
    return RoomContent(
        embeddings=torch.empty(tokens, layout.hidden, dtype=bf16, device=device),
        fill_ids=torch.empty(tokens, dtype=int32, device=device),
        mrope=torch.empty(3, tokens, dtype=int32, device=device),
        aux=torch.empty(AUX_WORDS, dtype=int32, device=device) if start_token == 0 else None,
        deepstack=torch.empty(tokens, layers, layout.hidden, dtype=bf16, device=device) if layers else None,
        start_token=start_token,
    )


class _Stream:
    """An endless periodic sequence of random elements; any stretch of it costs no copy.

    The period is a prime, so that rows of any length repeat only after ``period`` rows, and the
    tensor is repeated behind its end as far as anybody has asked. The bits come straight from
    PCG64, whose raw stream numpy promises not to change: both processes get the same.
    """

    def __init__(self, seed: int, period: int, *, words: bool) -> None:
        raw = np.random.PCG64(seed).random_raw(-(-period // (2 if words else 4)))
        # bf16 without the top exponent bit and int32 without the sign: finite and not negative, so
        # that whoever computes with the content does not meet an overflow.
        bits = (
            raw.view(np.int32)[:period] & np.int32(_WORD) if words else raw.view(np.int16)[:period] & ~np.int16(0x4000)
        )
        self.period = period
        self._elements = torch.from_numpy(bits)

    def take(self, start: int, count: int) -> Tensor:
        """``count`` elements from ``start`` on: a view; writing to it spoils the stream."""
        start %= self.period
        elements = self._elements
        # For any start at once: the copy of 40 MB is not to come in the middle of a run.
        if self.period + count > elements.numel():
            repeats = -(-(self.period + count) // self.period)
            # Replaced at once and never changed in place: other threads keep their views.
            elements = self._elements[: self.period].repeat(repeats)
            self._elements = elements
        return elements[start : start + count]


_streams: dict[str, _Stream] = {}


def _stream(name: str) -> _Stream:
    # Made at first use: importing this module costs neither the time nor the memory.
    if name not in _streams:
        if name == "rows":
            _streams[name] = _Stream(20_251_028, 8_388_593, words=False)
        else:
            _streams[name] = _Stream(20_251_113, 1_048_573, words=True)
    return _streams[name]


def room_content(room: int, incarnation: int, total_tokens: int, layout: BufferLayout) -> RoomContent:
    """The content of a request, the same in every process. Treat it as read-only.

    Different rooms or incarnations read the random streams from different places; the incarnations
    of a room never share one. The tensors are views of memory shared by all contents of a process
    (40 MB, and more for contents of more than 16 MB), so making them takes microseconds.
    """
    if room < 0 or incarnation < 0 or total_tokens < 1:
        raise ValueError(
            f"room {room} and incarnation {incarnation} must not be negative, "
            f"total_tokens {total_tokens} must be at least 1"
        )
    rows, words = _stream("rows"), _stream("words")
    # The odd multipliers spread neighbouring rooms and incarnations over the prime period.
    place = room * 0x9E37_79B9 + incarnation * 0x85EB_CA77
    hidden, layers = layout.hidden, layout.deepstack_layers
    aux = torch.zeros(AUX_WORDS, dtype=torch.int32)
    aux[AUX_TOTAL_TOKENS] = total_tokens
    aux[AUX_MROPE_DELTA] = -(place % 4096)
    aux[_AUX_ROOM_LOW] = room & _WORD
    aux[_AUX_ROOM_HIGH] = room >> 31 & _WORD
    aux[_AUX_INCARNATION] = incarnation & _WORD
    deepstack = None
    if layers:
        # Elsewhere in the stream than the embeddings, so that swapped kinds are noticed too.
        flat = rows.take(place + rows.period // 2, total_tokens * layers * hidden)
        deepstack = flat.view(torch.bfloat16).view(total_tokens, layers, hidden)
    return RoomContent(
        embeddings=rows.take(place, total_tokens * hidden).view(torch.bfloat16).view(total_tokens, hidden),
        fill_ids=words.take(place, total_tokens),
        mrope=words.take(place + words.period // 2, 3 * total_tokens).view(3, total_tokens),
        aux=aux,
        deepstack=deepstack,
    )


def first_difference(expected: RoomContent, received: RoomContent, aux_words: int = AUX_WORDS) -> str | None:
    """None when both hold the same bits, else one sentence about the first kind that differs; of aux, the first
    ``aux_words`` words count.

    It names the kind, the first differing token (counted in the whole request) and element, the
    expected and received value, and how many tokens of that kind differ. Values are compared as
    bits: a NaN equals itself, −0.0 differs from 0.0.
    """
    for name, one, other in (
        ("first token", expected.start_token, received.start_token),
        ("number of tokens", expected.tokens, received.tokens),
    ):
        if one != other:
            return f"{name} differs: expected {one}, received {other}"
    start = expected.start_token
    return (
        _aux_difference(expected.aux, received.aux, aux_words)
        or _difference("embeddings", expected.embeddings, received.embeddings, start)
        or _difference("fill_ids", expected.fill_ids, received.fill_ids, start)
        or _difference("mrope", expected.mrope, received.mrope, start, token_axis=1)
        or _difference("deepstack", expected.deepstack, received.deepstack, start)
    )


def _aux_difference(expected: Tensor | None, received: Tensor | None, words: int) -> str | None:
    if expected is None or received is None:
        return None if expected is received else "aux is present on one side only"
    for word, (one, other) in enumerate(zip(expected[:words].tolist(), received[:words].tolist(), strict=True)):
        if one != other:
            name = f" ({_AUX_NAMES[word]})" if word in _AUX_NAMES else ""
            return f"aux differs at word {word}{name}: expected {one}, received {other}"
    return None


def _difference(
    name: str, expected: Tensor | None, received: Tensor | None, start: int, token_axis: int = 0
) -> str | None:
    if expected is None or received is None:
        return None if expected is received else f"{name} is present on one side only"
    if expected.shape != received.shape or expected.dtype != received.dtype:
        return (
            f"{name} differs in form: expected {tuple(expected.shape)} {expected.dtype}, "
            f"received {tuple(received.shape)} {received.dtype}"
        )
    # Unequal bits are what counts, so bf16 is compared as int16: as numbers NaN is not itself.
    bits = torch.int16 if expected.dtype == torch.bfloat16 else expected.dtype
    one = expected.detach().to(received.device)
    if _same_bits(one.view(bits), received.view(bits)):
        return None
    unequal = (one.view(bits) != received.view(bits)).movedim(token_axis, 0)
    unequal = unequal.reshape(unequal.shape[0], -1)
    bad_tokens = unequal.any(1).nonzero()[:, 0]
    token = int(bad_tokens[0])
    element = int(unequal[token].to(torch.uint8).argmax())

    def show(tensor: Tensor) -> str:
        row = tensor.movedim(token_axis, 0)[token].flatten()[element : element + 1]
        if bits == torch.int16:
            return f"0x{int(row.view(bits)) & 0xFFFF:04x} ({float(row):g})"
        return str(int(row))

    at = f", element {element}" if expected.ndim > 1 else ""
    return (
        f"{name} differs first at token {start + token}{at}: expected {show(one)}, received "
        f"{show(received)} ({len(bad_tokens)} of {expected.shape[token_axis]} tokens differ)"
    )


def _same_bits(one: Tensor, other: Tensor) -> bool:
    if one.device.type == "cpu" and one.is_contiguous() and other.is_contiguous():
        # memcmp runs at the speed of memory on one thread and allocates nothing.
        return not _memcmp(one.data_ptr(), other.data_ptr(), one.numel() * one.element_size())
    return torch.equal(one, other)
