"""The SGLang fork's frames, byte for byte."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bufferlab.protocol.errors import CodecError
from bufferlab.protocol.status import Status
from bufferlab.protocol.wire.codec import (
    LARGEST,
    SglangFrame,
    SglangInit,
    SglangRegister,
    SglangResume,
    SglangStatus,
    decode_sglang,
    encode_sglang,
)

ADDRESS = ("10.0.0.7", 31000, "10.0.0.7:14567")
FRAMED = (b"10.0.0.7", b"31000", b"10.0.0.7:14567")

GOLDEN: list[tuple[SglangFrame, list[bytes]]] = [
    (
        SglangRegister(*ADDRESS, (1, 0x7F00_0000_1000, 3, 2**64 - 1)),
        [b"None", *FRAMED, b"\1\0\0\0\0\0\0\0\0\x10\0\0\0\x7f\0\0\3\0\0\0\0\0\0\0" + b"\xff" * 8],
    ),
    (
        SglangRegister(*ADDRESS, (1, 2, 3, 4, 5)),
        [b"None", *FRAMED, b"".join(bytes([number, 0, 0, 0, 0, 0, 0, 0]) for number in (1, 2, 3, 4, 5))],
    ),
    (
        SglangInit(9001, *ADDRESS, blocks=(4, 17, 2), required_destinations=2, allocated_tokens=384),
        [b"9001", *FRAMED, b"4,17,2", b"2", b"384"],
    ),
    (
        SglangResume(
            9001, *ADDRESS, blocks=(5,), required_destinations=2, sent_tokens=384, allocated_tokens=128
        ),
        [b"9001", *FRAMED, b"5", b"2", b"384", b"128"],
    ),
    (SglangStatus(9001, Status.Transferring), [b"9001", b"3"]),
]  # fmt: skip


@pytest.mark.parametrize(("message", "frames"), GOLDEN)
def test_golden_bytes(message: SglangFrame, frames: list[bytes]) -> None:
    assert encode_sglang(message) == frames
    assert decode_sglang(frames) == message


def test_the_number_of_fields_is_the_type() -> None:
    assert [len(frames) for _, frames in GOLDEN] == [5, 5, 7, 8, 2]


def test_field_six_is_the_allocation_of_an_init_but_the_progress_of_a_resume() -> None:
    init = decode_sglang([b"1", *FRAMED, b"0", b"1", b"64"])
    resume = decode_sglang([b"1", *FRAMED, b"0", b"1", b"64", b"128"])
    assert isinstance(init, SglangInit)
    assert init.allocated_tokens == 64
    assert isinstance(resume, SglangResume)
    assert (resume.sent_tokens, resume.allocated_tokens) == (64, 128)


WORDS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1)
COUNTS = st.integers(1, LARGEST)
BLOCKS = st.lists(st.integers(0, LARGEST), min_size=1, unique=True).map(tuple)
ADDRESSES = (WORDS, st.integers(1, 65535), WORDS)
POINTERS = st.lists(st.integers(0, 2**64 - 1), min_size=4, max_size=5).map(tuple)
FRAMES: st.SearchStrategy[SglangFrame] = st.one_of(
    st.builds(SglangRegister, *ADDRESSES, POINTERS),
    st.builds(SglangInit, st.integers(0, LARGEST), *ADDRESSES, BLOCKS, COUNTS, COUNTS),
    st.builds(SglangResume, st.integers(0, LARGEST), *ADDRESSES, BLOCKS, COUNTS, COUNTS, COUNTS),
    st.builds(SglangStatus, st.integers(0, LARGEST), st.sampled_from(Status)),
)


@given(FRAMES)
def test_round_trip(message: SglangFrame) -> None:
    assert decode_sglang(encode_sglang(message)) == message


FIELDS = st.one_of(st.binary(max_size=12), st.sampled_from([b"None", b"1", b"0", b"7,8", b"-1", b"1_0", b" 1", b"+1"]))


def decode_or_refuse(frames: list[bytes]) -> SglangFrame | None:
    """The message, None for a CodecError; any other exception is the caller's failure."""
    try:
        return decode_sglang(frames)
    except CodecError:
        return None


@given(st.lists(FIELDS, max_size=9))
def test_random_fields_give_codec_errors_only(frames: list[bytes]) -> None:
    message = decode_or_refuse(frames)
    assert message is None or decode_sglang(encode_sglang(message)) == message


@given(FRAMES, st.data())
def test_a_good_message_with_one_bad_field_gives_codec_errors_only(message: SglangFrame, data: st.DataObject) -> None:
    frames = encode_sglang(message)
    frames[data.draw(st.integers(0, len(frames) - 1))] = data.draw(st.binary(max_size=50))
    decoded = decode_or_refuse(frames)
    assert decoded is None or decode_sglang(encode_sglang(decoded)) == decoded


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([], "2, 5, 7 or 8 fields, this one has 0"),
        ([b"1"] * 6, "2, 5, 7 or 8 fields, this one has 6"),
        ([b"1", b"5"], "status is b'5'"),
        ([b"1", b"-1"], "status is b'-1'"),
        ([b"", b"1"], "room is b''"),
        ([b"1_0", b"1"], "room is b'1_0'"),
        ([b"9223372036854775808", b"1"], "room is"),
        ([b"9" * 100_000, b"1"], "room is"),
        ([b"\xd9\xa1", b"1"], "room is"),
        ([b"1", *FRAMED, b"\0" * 32], "begins with 'None'"),
        ([b"None", *FRAMED, b"\0" * 24], "4 or 5 base pointers of 8 bytes, not 24 bytes"),
        ([b"None", *FRAMED, b"\0" * 33], "not 33 bytes"),
        ([b"1", b"", b"1", b"s", b"0", b"1", b"64"], "ip is b''"),
        ([b"1", b"ip", b"0", b"s", b"0", b"1", b"64"], "status port is b'0'"),
        ([b"1", b"ip", b"65536", b"s", b"0", b"1", b"64"], "status port"),
        ([b"1", b"ip", b"1", b"s s", b"0", b"1", b"64"], "session is b's s'"),
        ([b"1", *FRAMED, b"", b"1", b"64"], "block list is b''"),
        ([b"1", *FRAMED, b"1,,2", b"1", b"64"], "block is b''"),
        ([b"1", *FRAMED, b"1,2,1", b"1", b"64"], "names a block twice"),
        ([b"1", *FRAMED, b"1", b"0", b"64"], "required_dst_info_num is b'0'"),
        ([b"1", *FRAMED, b"1", b"1", b"0"], "allocated_tokens is b'0'"),
        ([b"1", *FRAMED, b"1", b"1", b"0", b"64"], "sent_tokens is b'0'"),
        ([b"1", *FRAMED, b"1", b"1", b"64", b"0"], "allocated_tokens is b'0'"),
    ],
)
def test_each_refusal_says_why_in_one_short_sentence(frames: list[bytes], reason: str) -> None:
    with pytest.raises(CodecError, match=reason) as caught:
        decode_sglang(frames)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "message",
    [
        SglangStatus(-1, Status.Failed),
        SglangRegister("fe80::1 eth0", 1, "s", (1, 2, 3, 4)),
        SglangRegister("höst", 1, "s", (1, 2, 3, 4)),
        SglangRegister("ip", 1, "s", (1, 2, 3)),
        SglangRegister("ip", 1, "s", (1, 2, 3, -4)),
        SglangRegister("ip", 1, "s", (1, 2, 3, 2**64)),
        SglangInit(1, *ADDRESS, (), 1, 64),
        SglangInit(1, *ADDRESS, (1, 1), 1, 64),
        SglangInit(1, "ip", 0, "s", (1,), 1, 64),
        SglangResume(1, *ADDRESS, (1,), 1, 0, 64),
    ],
)
def test_what_the_other_side_would_refuse_is_not_sent(message: SglangFrame) -> None:
    with pytest.raises(CodecError):
        encode_sglang(message)


def test_the_pointers_are_little_endian_words() -> None:
    frames = encode_sglang(SglangRegister("ip", 1, "s", (10, 20, 30, 40)))
    assert struct.unpack("<4Q", frames[4]) == (10, 20, 30, 40)
