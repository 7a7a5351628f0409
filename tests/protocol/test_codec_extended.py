"""The extended wire: what is encoded comes back, and nothing malformed gets in."""

from __future__ import annotations

import zlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bufferlab.protocol.errors import CodecError
from bufferlab.protocol.messages import Announce, Cancel, ChunkStatus, Message, Offer, Quiet
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side
from bufferlab.protocol.wire.codec import HEADER, LARGEST, decode, encode
from bufferlab.protocol.wire.schema import payload_of

L1 = RankId(Side.LANGUAGE, 0, 1)
NUMBERS = st.one_of(st.integers(0, 40), st.integers(0, LARGEST), st.just(LARGEST))
RECEIVERS = st.builds(RankId, st.just(Side.LANGUAGE), NUMBERS, NUMBERS)
REASONS = st.text(st.characters(codec="utf-8"))


@st.composite
def statuses(draw: st.DrawFn) -> ChunkStatus:
    status = draw(st.sampled_from([Status.Transferring, Status.Success, Status.Failed]))
    total = draw(NUMBERS)
    upto = total if status is Status.Success else draw(st.integers(0, total))
    return ChunkStatus(draw(NUMBERS), draw(NUMBERS), draw(NUMBERS), status, total, upto, draw(REASONS))


MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(Announce, NUMBERS, NUMBERS, st.integers(1, LARGEST)),
    st.builds(
        Offer,
        NUMBERS,
        NUMBERS,
        NUMBERS,
        RECEIVERS,
        st.lists(NUMBERS, min_size=1, unique=True).map(tuple),
        st.integers(1, LARGEST),
        NUMBERS,
    ),
    statuses(),
    st.builds(Cancel, NUMBERS, NUMBERS, RECEIVERS, REASONS),
    st.builds(Quiet, NUMBERS, NUMBERS),
)


def packed(payload: bytes) -> list[bytes]:
    """Frames whose checksum is right, whatever the payload."""
    return [HEADER, payload, zlib.crc32(HEADER + payload).to_bytes(4, "big")]


@given(MESSAGES)
def test_round_trip(message: Message) -> None:
    frames = encode(message)
    back = decode(frames)
    assert back == message
    assert type(back) is type(message)
    assert all(type(frame) is bytes for frame in frames)


def test_golden_bytes_of_an_offer() -> None:
    """Changing these means a new version."""
    frames = encode(Offer(7, 2, 1, L1, (3, 300), 8, 4))
    assert frames == [
        b"BUFL\x01",
        b"\x88\xa4type\xa5offer\xa4room\x07\xabincarnation\x02\xa5epoch\x01\xa8receiver\x93\xa8language\x00\x01"
        b"\xa6blocks\x92\x03\xcd\x01\x2c\xafcapacity_tokens\x08\xabsent_tokens\x04",
        zlib.crc32(frames[0] + frames[1]).to_bytes(4, "big"),
    ]


def test_the_receiver_and_the_status_come_back_as_what_they_were() -> None:
    offer = decode(encode(Offer(7, 2, 1, L1, (3,), 4, 0)))
    assert isinstance(offer, Offer)
    assert type(offer.receiver) is RankId
    assert offer.receiver.side is Side.LANGUAGE
    status = decode(encode(ChunkStatus(7, 2, 1, Status.Success, 4, 4)))
    assert isinstance(status, ChunkStatus)
    assert status.status is Status.Success


@given(MESSAGES, st.data())
def test_any_changed_byte_is_noticed(message: Message, data: st.DataObject) -> None:
    frames = encode(message)
    index = data.draw(st.integers(0, 2))
    frame = bytearray(frames[index])
    at = data.draw(st.integers(0, len(frame) - 1))
    frame[at] ^= data.draw(st.integers(1, 255))
    frames[index] = bytes(frame)
    with pytest.raises(CodecError):
        decode(frames)


@given(MESSAGES, st.data())
def test_a_truncated_frame_is_noticed(message: Message, data: st.DataObject) -> None:
    frames = encode(message)
    index = data.draw(st.integers(0, 2))
    frames[index] = frames[index][: data.draw(st.integers(0, len(frames[index]) - 1))]
    with pytest.raises(CodecError):
        decode(frames)


@given(st.lists(st.binary(max_size=40), max_size=9))
def test_random_frames_give_codec_errors_only(frames: list[bytes]) -> None:
    with pytest.raises(CodecError):
        decode(frames)


JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def decode_or_refuse(payload: bytes) -> Message | None:
    """The message with a right checksum, None for a CodecError; any other exception is the caller's failure."""
    try:
        return decode(packed(payload))
    except CodecError:
        return None


@given(st.one_of(st.binary(), JSON_LIKE.map(msgspec.msgpack.encode)))
def test_payloads_with_a_right_checksum_give_codec_errors_only(payload: bytes) -> None:
    message = decode_or_refuse(payload)
    assert message is None or decode(encode(message)) == message


@given(MESSAGES, st.data())
def test_a_field_with_another_value_is_refused_or_harmless(message: Message, data: st.DataObject) -> None:
    """Replace or remove one field of a good message: what is accepted can be encoded again."""
    fields: dict[str, Any] = msgspec.msgpack.decode(msgspec.msgpack.encode(payload_of(message)))
    name = data.draw(st.sampled_from(sorted(fields)))
    if data.draw(st.booleans()):
        fields[name] = data.draw(JSON_LIKE)
    else:
        del fields[name]
    decoded = decode_or_refuse(msgspec.msgpack.encode(fields))
    if decoded is not None:
        assert decode(encode(decoded)) == decoded


ABSURD = [
    (Quiet(-1, 0), "room of the quiet holds -1"),
    (Quiet(LARGEST + 1, 0), "room of the quiet holds"),
    (Quiet(1, -1), "incarnation"),
    (Announce(1, 0, -5), "total_tokens"),
    (Announce(1, 0, 0), "announces an empty embedding"),
    (Offer(1, 0, -1, L1, (0,), 4, 0), "epoch"),
    (Offer(1, 0, 0, L1, (0, -1), 4, 0), "blocks"),
    (Offer(1, 0, 0, L1, (0, 0), 8, 0), "names a block twice"),
    (Offer(1, 0, 0, L1, (), 4, 0), "offers no memory"),
    (Offer(1, 0, 0, L1, (0,), 0, 0), "offers no memory"),
    (Offer(1, 0, 0, L1, (0,), 4, -4), "sent_tokens"),
    (Offer(1, 0, 0, RankId(Side.LANGUAGE, 0, -1), (0,), 4, 0), "receiver"),
    (Offer(1, 0, 0, RankId(Side.ENCODE, 0, 0), (0,), 4, 0), "comes from encode0.0"),
    (Cancel(1, 0, RankId(Side.ENCODE, 0, 0)), "comes from encode0.0"),
    (ChunkStatus(1, 0, 0, Status.Bootstrapping, 4, 4), "says Bootstrapping, which is never sent"),
    (ChunkStatus(1, 0, 0, Status.WaitingForInput, 4, 0), "says WaitingForInput, which is never sent"),
    (ChunkStatus(1, 0, 0, Status.Transferring, 4, 5), "says that 5 of 4 tokens arrived"),
    (ChunkStatus(1, 0, 0, Status.Success, 4, 3), "says Success after 3 of 4 tokens"),
    (ChunkStatus(1, 0, 0, Status.Failed, -4, -4), "total_tokens"),
]


@pytest.mark.parametrize(("message", "reason"), ABSURD)
def test_nonsense_is_refused_in_both_directions(message: Message, reason: str) -> None:
    with pytest.raises(CodecError, match=reason):
        encode(message)
    with pytest.raises(CodecError, match=reason):
        decode(packed(msgspec.msgpack.encode(payload_of(message))))


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([], "has 3 frames, this one has 0"),
        ([HEADER, b""], "has 3 frames, this one has 2"),
        ([HEADER, b"", b"", b""], "has 3 frames, this one has 4"),
        ([b"BUFL\x02", b"", b""], "version 1"),
        ([b"x" * 1000, b"", b""], "the first frame is"),
        ([HEADER, b"", b"\0\0\0\0"], "checksum"),
        (packed(b""), "not a message"),
        (packed(msgspec.msgpack.encode({"type": "hello"})), "not a message"),
        (packed(b"\x84\xa4type\xa5quiet\xa4room\x01\xabincarnation\x00\xa1x" + b"\x91" * 200_000 + b"\x01"), "not a"),
        (packed(b"\x84\xa4type\xa6cancel\xa4room\x01\xabincarnation\x00\xa6reason\xa2\xff\xfe"), "not a message"),
    ],
)
def test_each_refusal_says_why_in_one_short_sentence(frames: list[bytes], reason: str) -> None:
    with pytest.raises(CodecError, match=reason) as caught:
        decode(frames)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_a_reason_that_is_no_text_cannot_be_sent() -> None:
    with pytest.raises(CodecError, match="the cancel cannot be encoded"):
        encode(Cancel(1, 0, L1, "\ud800"))
