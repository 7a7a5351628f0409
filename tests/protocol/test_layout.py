"""Bytes of an embedding, and the copies that move a chunk of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bufferlab.protocol.chunks import Chunk
from bufferlab.protocol.layout import AUX, DEEPSTACK, EMBEDDINGS, FILL_IDS, MROPE, BufferLayout, Segment

MIB = 2**20


@pytest.mark.parametrize(
    ("hidden", "deepstack", "per_token", "block_mib_8192", "block_mib_16384"),
    [
        pytest.param(3584, 0, 7184, 56.1, 112, id="Qwen2.5-VL-7B"),
        pytest.param(8192, 0, 16400, 128, 256, id="Qwen2.5-VL-72B"),
        pytest.param(4096, 3, 32784, 256, 512, id="Qwen3-VL-8B and 235B"),
        pytest.param(2048, 3, 16400, 128, 256, id="Qwen3-VL-30B-A3B"),
    ],
)
def test_sizes_of_known_models(
    hidden: int, deepstack: int, per_token: int, block_mib_8192: float, block_mib_16384: float
) -> None:
    assert BufferLayout(8192, hidden, deepstack).bytes_per_token == per_token
    for tokens, mib in ((8192, block_mib_8192), (16384, block_mib_16384)):
        layout = BufferLayout(tokens, hidden, deepstack)
        assert layout.bytes_per_block == tokens * per_token + 64
        assert layout.bytes_per_block / MIB == pytest.approx(mib, rel=0.003)
        assert layout.chunk_bytes(Chunk(0, 1000, True)) == 1000 * per_token + 64
        assert layout.chunk_bytes(Chunk(tokens, 1000, True)) == 1000 * per_token, "aux travels once"


def test_kinds_and_their_order() -> None:
    layout = BufferLayout(4, hidden=8, deepstack_layers=3)
    assert [(kind.name, kind.bytes_per_token, kind.bytes_per_block) for kind in layout.kinds] == [
        ("embeddings", 16, 64),
        ("fill_ids", 4, 16),
        ("mrope", 12, 48),
        ("aux", 0, 64),
        ("deepstack", 48, 192),
    ]
    assert (EMBEDDINGS, FILL_IDS, MROPE, AUX, DEEPSTACK) == (0, 1, 2, 3, 4)
    assert [kind.name for kind in BufferLayout(4, 8).kinds] == ["embeddings", "fill_ids", "mrope", "aux"]


@pytest.mark.parametrize(("tokens", "blocks"), [(0, 0), (1, 1), (3, 1), (4, 1), (5, 2), (8, 2), (9, 3)])
def test_blocks_for(tokens: int, blocks: int) -> None:
    assert BufferLayout(4, 1).blocks_for(tokens) == blocks


@pytest.mark.parametrize(
    ("arguments", "name"), [((0, 1), "block_tokens"), ((1, 0), "hidden"), ((1, 1, -1), "deepstack_layers")]
)
def test_impossible_sizes_are_refused(arguments: tuple[int, ...], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        BufferLayout(*arguments)


@st.composite
def moves(draw: st.DrawFn) -> tuple[BufferLayout, Chunk, list[int], list[int], int]:
    """A chunk of some request, source and target blocks in a pool, both contiguous or scattered."""
    layout = BufferLayout(draw(st.integers(1, 5)), draw(st.integers(1, 3)), draw(st.integers(0, 2)))
    total = draw(st.integers(1, 30))
    blocks = layout.blocks_for(total)
    pool = blocks + draw(st.integers(0, 4))
    first = draw(st.integers(0, blocks - 1))
    start = first * layout.block_tokens
    end = draw(st.one_of(st.just(total), st.integers(first + 1, blocks).map(lambda n: n * layout.block_tokens)))
    end = min(end, total)
    chunk = Chunk(start, end - start, end == total)

    def pick(count: int) -> list[int]:
        if draw(st.booleans()):
            at = draw(st.integers(0, pool - count))
            return list(range(at, at + count))
        return draw(st.permutations(range(pool)))[:count]

    needed = layout.blocks_for(chunk.tokens)
    return layout, chunk, pick(blocks), pick(draw(st.integers(needed, pool))), pool


@given(moves())
def test_every_byte_lands_once_in_its_place_and_no_other(
    move: tuple[BufferLayout, Chunk, list[int], list[int], int],
) -> None:
    layout, chunk, source_blocks, target_blocks, pool = move
    segments = layout.segments(chunk, source_blocks, target_blocks)
    assert sum(segment.length for segment in segments) == layout.chunk_bytes(chunk)
    assert min(segment.length for segment in segments) > 0
    for index, kind in enumerate(layout.kinds):
        size = pool * kind.bytes_per_block
        source = np.arange(size, dtype=np.int64)  # every byte says where it came from
        landed, expected = np.full(size, -1), np.full(size, -1)
        times = np.zeros(size, dtype=int)
        for segment in segments:
            if segment.kind == index:
                at = slice(segment.target_offset, segment.target_offset + segment.length)
                landed[at] = source[segment.source_offset : segment.source_offset + segment.length]
                times[at] += 1
        if index == AUX:
            if chunk.start_token == 0:
                here, there = source_blocks[0] * 64, target_blocks[0] * 64
                expected[there : there + 64] = source[here : here + 64]
        else:
            width = kind.bytes_per_token
            for offset in range(chunk.tokens):
                block, row = divmod(chunk.start_token + offset, layout.block_tokens)
                here = source_blocks[block] * kind.bytes_per_block + row * width
                block, row = divmod(offset, layout.block_tokens)
                there = target_blocks[block] * kind.bytes_per_block + row * width
                expected[there : there + width] = source[here : here + width]
        assert np.array_equal(landed, expected), kind.name
        assert times.max() <= 1


def test_neighbours_on_both_sides_are_one_segment() -> None:
    layout = BufferLayout(4, hidden=1)
    chunk = Chunk(0, 10, True)
    embeddings = [segment for segment in layout.segments(chunk, [2, 3, 4], [5, 6, 7]) if segment.kind == EMBEDDINGS]
    assert embeddings == [Segment(EMBEDDINGS, 16, 40, 20)]
    assert len(layout.segments(chunk, [2, 3, 4], [5, 6, 7])) == 4


@pytest.mark.parametrize(
    ("source", "target", "segments"),
    [
        ([0, 1, 2], [0, 1, 2], 1),
        ([0, 1, 2], [0, 2, 4], 3),
        ([0, 2, 4], [0, 1, 2], 3),
        ([0, 1, 3], [4, 5, 7], 2),
        ([2, 1, 0], [2, 1, 0], 3),
    ],
)
def test_only_what_is_contiguous_on_both_sides_is_joined(source: list[int], target: list[int], segments: int) -> None:
    found = BufferLayout(4, 1).segments(Chunk(0, 12, True), source, target)
    assert sum(segment.kind == EMBEDDINGS for segment in found) == segments


@pytest.mark.parametrize(
    ("chunk", "source", "target", "reason"),
    [
        (Chunk(2, 2, True), [0], [0], "not a multiple"),
        (Chunk(0, 5, True), [0, 1], [0], "does not fit"),
        (Chunk(0, 5, True), [0], [0, 1], "does not fit"),
        (Chunk(4, 4, True), [0], [0, 1], "does not fit"),
    ],
)
def test_what_does_not_fit_is_refused(chunk: Chunk, source: list[int], target: list[int], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        BufferLayout(4, 1).segments(chunk, source, target)
