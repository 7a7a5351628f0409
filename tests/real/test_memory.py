"""Block memory and test content, without an engine: what is written comes back, what is not is seen."""

import ctypes
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="torch is not installed (extra real-cpu)")

# ruff: noqa: E402 - torch is wanted first
from bufferlab.protocol.chunks import plan_chunk
from bufferlab.protocol.layout import AUX, EMBEDDINGS, FILL_IDS, MROPE, BufferLayout
from bufferlab.real.engine.content import RoomContent, empty_content, first_difference, room_content
from bufferlab.real.engine.memory import Pool, addresses

pytestmark = pytest.mark.real

rooms = st.integers(0, 2**63 - 1)
incarnations = st.integers(0, 2**31 - 1)
layouts = st.builds(
    BufferLayout,
    block_tokens=st.integers(1, 9),
    hidden=st.integers(1, 40),
    deepstack_layers=st.integers(0, 3),
)
few = settings(max_examples=60, deadline=None)
WIDE = BufferLayout(block_tokens=8, hidden=64, deepstack_layers=2)


def copied(content: RoomContent, layout: BufferLayout) -> RoomContent:
    """A content of its own memory, which a test may spoil."""
    pool = Pool(layout, layout.blocks_for(content.tokens))
    pool.fill(range(pool.blocks), content)
    return pool.gather(range(pool.blocks), content.tokens, start_token=content.start_token)


@given(rooms, incarnations, st.integers(1, 200), layouts)
@few
def test_content_depends_on_its_arguments_alone(room: int, incarnation: int, tokens: int, layout: BufferLayout) -> None:
    first = room_content(room, incarnation, tokens, layout)
    # Another, longer content in between makes the shared stream grow or not: no difference.
    room_content(room + 1, incarnation, tokens + 50, layout)
    assert first_difference(first, room_content(room, incarnation, tokens, layout)) is None
    assert first.aux is not None
    assert int(first.aux[0]) == tokens


@given(rooms, incarnations, rooms, incarnations, st.integers(1, 60))
@few
def test_every_row_differs_from_the_same_row_of_another_room_or_incarnation(
    room: int, incarnation: int, other_room: int, other_incarnation: int, tokens: int
) -> None:
    assume((room, incarnation) != (other_room, other_incarnation))
    ours = room_content(room, incarnation, tokens, WIDE)
    theirs = room_content(other_room, other_incarnation, tokens, WIDE)
    for token in range(tokens):
        for name in ("embeddings", "deepstack"):
            assert not torch.equal(getattr(ours, name)[token], getattr(theirs, name)[token])
    assert first_difference(ours, theirs) is not None
    if tokens > 1:
        assert first_difference(ours.rows(1, tokens), theirs.rows(1, tokens)) is not None


@given(rooms, st.integers(0, 1000), st.integers(1, 5))
@few
def test_neighbouring_rooms_and_incarnations_share_no_row(room: int, incarnation: int, step: int) -> None:
    ours = room_content(room, incarnation, 3, WIDE)
    for other in (room_content(room, incarnation + step, 3, WIDE), room_content(room + step, incarnation, 3, WIDE)):
        assert all(not torch.equal(mine, theirs) for mine in ours.embeddings for theirs in other.embeddings), (
            "a row that landed in the wrong place would pass"
        )


@given(rooms, st.integers(2, 60), st.data())
@few
def test_rows_in_the_wrong_place_are_noticed(room: int, tokens: int, data: st.DataObject) -> None:
    one, other = data.draw(st.lists(st.integers(0, tokens - 1), min_size=2, max_size=2, unique=True))
    expected = room_content(room, 0, tokens, WIDE)
    for name in ("embeddings", "fill_ids", "deepstack"):
        received = copied(expected, WIDE)
        rows = getattr(received, name)
        rows[[one, other]] = rows[[other, one]].clone()
        difference = first_difference(expected, received)
        assert difference is not None
        assert difference.startswith(f"{name} differs first at token {min(one, other)}")
        assert f"2 of {tokens} tokens differ" in difference


@given(st.sampled_from(["embeddings", "fill_ids", "mrope", "deepstack"]), st.integers(0, 29), st.integers(0, 15))
@few
def test_one_flipped_bit_is_named(name: str, token: int, bit: int) -> None:
    expected = room_content(77, 3, 40, WIDE).rows(8, 38)
    received = copied(expected, WIDE)
    tensor = getattr(received, name)
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.view(torch.int16)
    row = tensor[:, token] if name == "mrope" else tensor[token : token + 1].flatten()
    value = (int(row[-1]) ^ 1 << bit) & 0xFFFF if tensor.dtype == torch.int16 else int(row[-1]) ^ 1 << bit
    row[-1] = value - 0x10000 if value > 0x7FFF and tensor.dtype == torch.int16 else value
    difference = first_difference(expected, received)
    assert difference is not None
    assert difference.startswith(f"{name} differs first at token {8 + token}")
    assert "expected" in difference
    assert f"1 of {expected.tokens} tokens differ" in difference


def test_values_are_compared_as_bits() -> None:
    layout = BufferLayout(block_tokens=4, hidden=2)
    one, other = (copied(room_content(1, 1, 4, layout), layout) for _ in range(2))
    one.embeddings[2, 1] = other.embeddings[2, 1] = float("nan")
    assert first_difference(one, other) is None
    one.embeddings[2, 1], other.embeddings[2, 1] = 0.0, -0.0
    assert "0x0000 (0), received 0x8000 (-0)" in str(first_difference(one, other))


def test_differences_of_form_and_aux_are_named() -> None:
    content = room_content(5, 0, 10, WIDE)
    assert first_difference(content, content.rows(0, 9)) == "number of tokens differs: expected 10, received 9"
    assert first_difference(content.rows(0, 5), content.rows(5, 10)) == "first token differs: expected 0, received 5"
    assert "expected 10, received 12" in str(first_difference(content, room_content(5, 0, 12, WIDE).rows(0, 10)))
    assert "aux differs at word 4 (incarnation)" in str(
        first_difference(content, RoomContent(**{**fields(content), "aux": changed(content.aux, 4)}))
    )


def fields(content: RoomContent) -> dict[str, Any]:
    return {name: getattr(content, name) for name in RoomContent.__slots__}


def changed(aux: Any, word: int) -> Any:
    aux = aux.clone()
    aux[word] += 1
    return aux


def test_content_is_finite_so_that_it_can_be_computed_with() -> None:
    assert bool(room_content(9, 9, 1000, WIDE).embeddings.isfinite().all())


@given(layouts, st.integers(1, 60), st.data())
@few
def test_fill_and_gather_round_trip_in_any_block_order(layout: BufferLayout, tokens: int, data: st.DataObject) -> None:
    needed = layout.blocks_for(tokens)
    pool = Pool(layout, needed + 3)
    blocks = data.draw(st.permutations(range(pool.blocks)))[:needed]
    content = room_content(data.draw(rooms), 1, tokens, layout)
    pool.fill(blocks, content)
    assert first_difference(content, pool.gather(blocks, tokens)) is None
    assert pool.total_tokens(blocks[0]) == tokens
    untouched = set(range(pool.blocks)) - set(blocks)
    for kind in range(len(layout.kinds)):
        assert all(not pool.view(kind, block, 1).view(torch.uint8).any() for block in untouched)


@given(layouts, st.integers(1, 80), st.integers(1, 4), st.data())
@few
def test_chunks_moved_by_the_protocols_segments_arrive(
    layout: BufferLayout, tokens: int, window_blocks: int, data: st.DataObject
) -> None:
    """The wire replaced by memmove: source pool, segments of each chunk, reused target blocks."""
    source, target = Pool(layout, layout.blocks_for(tokens) + 2), Pool(layout, window_blocks + 2)
    source_blocks = data.draw(st.permutations(range(source.blocks)))[: source.blocks - 2]
    expected = room_content(data.draw(rooms), 0, tokens, layout)
    source.fill(source_blocks, expected)
    assembled = empty_content(tokens, layout)
    sent = 0
    while sent < tokens:
        target_blocks = data.draw(st.permutations(range(target.blocks)))[:window_blocks]
        chunk = plan_chunk(
            total_tokens=tokens,
            sent_tokens=sent,
            capacities_tokens=[window_blocks * layout.block_tokens],
            block_tokens=layout.block_tokens,
        )
        segments = layout.segments(chunk, source_blocks, target_blocks)
        for source_address, target_address, length in addresses(segments, source.bases, target.bases):
            ctypes.memmove(target_address, source_address, length)
        received = target.gather(target_blocks, chunk.tokens, start_token=sent)
        assert first_difference(expected.rows(sent, chunk.end_token), received) is None
        target.gather(target_blocks, chunk.tokens, start_token=sent, into=assembled)
        sent = chunk.end_token
    assert first_difference(expected, assembled) is None


def test_a_partial_block_holds_mrope_as_three_times_its_tokens() -> None:
    layout = BufferLayout(block_tokens=4, hidden=1)
    pool = Pool(layout, 2)
    content = room_content(3, 0, 6, layout)
    pool.fill([0, 1], content)
    rows = pool.view(MROPE)
    assert torch.equal(rows[0], content.mrope[:, :4].flatten())
    assert torch.equal(rows[1, :6], content.mrope[:, 4:].flatten())
    assert rows[1, 6:].tolist() == [0] * 6


def test_missing_and_stale_blocks_are_noticed() -> None:
    layout = BufferLayout(block_tokens=4, hidden=8)
    pool = Pool(layout, 3)
    old, new = room_content(8, 0, 12, layout), room_content(8, 1, 12, layout)
    assert "word 0 (total tokens): expected 12, received 0" in str(first_difference(new, pool.gather([0, 1, 2], 12)))
    pool.fill([0, 1, 2], old)
    pool.fill([0, 1], new, 0, 8)
    assert str(first_difference(new, pool.gather([0, 1, 2], 12))).startswith("embeddings differs first at token 8")


def test_views_have_the_documented_shapes() -> None:
    pool = Pool(WIDE, 5)
    shapes = [tuple(pool.view(kind, 1, 3).shape) for kind in range(5)]
    assert shapes == [(3, 8, 64), (3, 8), (3, 24), (3, 16), (3, 8, 2, 64)]
    assert pool.view(EMBEDDINGS).dtype == torch.bfloat16
    assert {pool.view(kind).dtype for kind in (FILL_IDS, MROPE, AUX)} == {torch.int32}
    assert pool.sizes_bytes == tuple(5 * kind.bytes_per_block for kind in WIDE.kinds)
    assert pool.view(MROPE, 2).data_ptr() == pool.bases[MROPE] + 2 * WIDE.kinds[MROPE].bytes_per_block
    assert not pool.registered


def test_what_cannot_fit_is_refused() -> None:
    pool, content = Pool(WIDE, 4), room_content(1, 0, 20, WIDE)
    with pytest.raises(ValueError, match="20 tokens do not fit 2 blocks of 8"):
        pool.fill([0, 1], content)
    with pytest.raises(ValueError, match="block 4 is not in a pool of 4"):
        pool.gather([4], 3)
    with pytest.raises(ValueError, match=r"tokens \[8, 24\) are not within \[0, 20\)"):
        pool.fill([0, 1], content, 8, 16)
    with pytest.raises(ValueError, match="disagree about deepstack"):
        Pool(BufferLayout(block_tokens=8, hidden=64), 4).fill([0, 1, 2], content)
    with pytest.raises(ValueError, match=r"blocks \[3, 5\) are not in a pool of 4"):
        pool.view(EMBEDDINGS, 3, 2)
    with pytest.raises(ValueError, match="at least 1"):
        Pool(WIDE, 0)
