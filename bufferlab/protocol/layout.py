"""How an embedding lies in memory: buffer kinds, bytes, and the segments one chunk is moved in.

Every kind has its own registered pool of equal blocks. A block holds ``block_tokens`` tokens. The kinds and their order
are those of the SGLang fork (embeddings, fill_ids, mrope positions, aux, optional deepstack); aux travels only with the
first block of the first chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

from bufferlab.protocol.chunks import Chunk
from bufferlab.protocol.values import Value

BF16_BYTES: Final = 2
INT32_BYTES: Final = 4
AUX_WORDS: Final = 16
AUX_TOTAL_TOKENS = 0
AUX_MROPE_DELTA = 1
AUX_DEFINED_WORDS = 2
"""The first words of a row of aux, whose meaning the protocol defines; the others belong to whoever writes them."""

EMBEDDINGS: Final = 0
FILL_IDS: Final = 1
MROPE: Final = 2
AUX: Final = 3
DEEPSTACK: Final = 4


@final
class BufferKind(Value):
    """One kind of buffer. ``bytes_per_block`` is the stride of a block in this kind's pool."""

    __match_args__: Final = ("name", "bytes_per_token", "bytes_per_block")

    def __init__(self, name: str, bytes_per_token: int, bytes_per_block: int) -> None:
        self.name: Final = name
        self.bytes_per_token: Final = bytes_per_token
        self.bytes_per_block: Final = bytes_per_block


@final
class Segment(Value):
    """One contiguous copy: ``length`` bytes between byte offsets within the pools of buffer kind ``kind``."""

    __match_args__: Final = ("kind", "source_offset", "target_offset", "length")

    def __init__(self, kind: int, source_offset: int, target_offset: int, length: int) -> None:
        self.kind: Final = kind
        self.source_offset: Final = source_offset
        self.target_offset: Final = target_offset
        self.length: Final = length


@final
class BufferLayout:
    """Sizes of every buffer kind for one model. ``hidden`` is the row width in bf16 elements.

    ``kinds``: the buffer kinds in wire order; aux counts per block only, the others per token.
    ``bytes_per_token``: payload bytes of one token over all kinds. ``bytes_per_block``: memory of one block over all
    kinds, aux included. Raises ValueError for a size below its least.
    """

    __slots__ = ("block_tokens", "bytes_per_block", "bytes_per_token", "deepstack_layers", "hidden", "kinds")

    def __init__(self, block_tokens: int, hidden: int, deepstack_layers: int = 0) -> None:
        for name, value, least in (
            ("block_tokens", block_tokens, 1), ("hidden", hidden, 1), ("deepstack_layers", deepstack_layers, 0)
        ):  # fmt: skip
            if value < least:
                raise ValueError(f"{name} is {value}, it must be at least {least}")
        self.block_tokens: Final = block_tokens
        self.hidden: Final = hidden
        self.deepstack_layers: Final = deepstack_layers
        kinds = [
            _kind("embeddings", BF16_BYTES * hidden, block_tokens),
            _kind("fill_ids", INT32_BYTES, block_tokens),
            _kind("mrope", 3 * INT32_BYTES, block_tokens),
            BufferKind("aux", 0, AUX_WORDS * INT32_BYTES),
        ]
        if deepstack_layers:
            kinds.append(_kind("deepstack", BF16_BYTES * hidden * deepstack_layers, block_tokens))
        self.kinds: Final = tuple(kinds)
        self.bytes_per_token: Final = sum([kind.bytes_per_token for kind in kinds])
        self.bytes_per_block: Final = sum([kind.bytes_per_block for kind in kinds])

    def blocks_for(self, tokens: int) -> int:
        """Blocks that hold ``tokens`` tokens (rounded up)."""
        return -(-tokens // self.block_tokens)

    def chunk_bytes(self, chunk: Chunk) -> int:
        """Bytes one destination receives for ``chunk``."""
        aux = AUX_WORDS * INT32_BYTES if chunk.start_token == 0 else 0
        return chunk.tokens * self.bytes_per_token + aux

    def segments(self, chunk: Chunk, source_blocks: Sequence[int], target_blocks: Sequence[int]) -> list[Segment]:
        """The copies that move ``chunk`` to one destination, kind by kind; neighbouring blocks are one segment.

        ``source_blocks``: all blocks of the request on the encode side; token t lies in block t // block_tokens.
        ``target_blocks``: the granted blocks; the chunk's first token goes to the start of the first one.
        Raises ValueError if the chunk does not start on a block boundary or does not fit either list.
        """
        size = self.block_tokens
        if chunk.start_token % size:
            raise ValueError(f"chunk starts at token {chunk.start_token}, not a multiple of {size}")
        first = chunk.start_token // size
        needed = self.blocks_for(chunk.tokens)
        if needed > len(target_blocks) or first + needed > len(source_blocks):
            raise ValueError(
                f"chunk of {needed} blocks from block {first} does not fit "
                f"{len(source_blocks)} source and {len(target_blocks)} target blocks"
            )
        segments: list[Segment] = []
        for index, kind in enumerate(self.kinds):
            if index == AUX:
                if chunk.start_token == 0:
                    stride = kind.bytes_per_block
                    segments.append(Segment(AUX, source_blocks[0] * stride, target_blocks[0] * stride, stride))
                continue
            segments.extend(_joined(index, kind, chunk.tokens, size, source_blocks[first:], target_blocks))
        return segments


def _kind(name: str, bytes_per_token: int, block_tokens: int) -> BufferKind:
    return BufferKind(name, bytes_per_token, bytes_per_token * block_tokens)


def _joined(
    index: int,
    kind: BufferKind,
    tokens: int,
    block_tokens: int,
    source: Sequence[int],
    target: Sequence[int],
) -> list[Segment]:
    segments: list[Segment] = []
    stride = kind.bytes_per_block
    start = target_start = length = 0
    for number, done in enumerate(range(0, tokens, block_tokens)):
        size = min(block_tokens, tokens - done) * kind.bytes_per_token
        from_offset, to_offset = source[number] * stride, target[number] * stride
        # Only full blocks precede, so a neighbour on both sides continues the segment without a gap.
        if length and from_offset == start + length and to_offset == target_start + length:
            length += size
            continue
        if length:
            segments.append(Segment(index, start, target_start, length))
        start, target_start, length = from_offset, to_offset, size
    segments.append(Segment(index, start, target_start, length))
    return segments
