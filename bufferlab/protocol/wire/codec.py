"""Messages as frames: the extended wire, and the frames of the SGLang fork.

*Extended* (the default): ``[magic and version, msgpack payload, CRC-32 of both]``. The payload is a tagged map, one tag
per message; a RankId is an array. All numbers are checked in both directions, so nonsense never reaches a core.

*SGLang*: the fork's multipart frames of ASCII fields, as plain structs. Their number of fields is their type. They know
no epoch, no incarnation and no Cancel; whoever turns an init or a resume into an Offer adds epoch 0 or 1 (the fork
resumes once) and finds the receiver by its session. Its status carries no lengths: those come from the aux row.

Whatever cannot be understood raises CodecError with one sentence and no other exception.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Sequence

import msgspec

from bufferlab.protocol.errors import CodecError
from bufferlab.protocol.messages import Announce, Cancel, ChunkStatus, Message, Offer
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side
from bufferlab.protocol.wire.schema import MessagePayload, payload_of, value_of

# --- the extended wire ---------------------------------------------------------------------------------------------

VERSION = 1
HEADER = b"BUFL" + bytes([VERSION])
LARGEST = 2**63 - 1
"""Largest number in any field: the range of the router's room numbers, and what a signed 64-bit word holds."""

_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[MessagePayload] = msgspec.msgpack.Decoder(MessagePayload)
_SENT = frozenset({Status.Transferring, Status.Success, Status.Failed})


def encode(message: Message) -> list[bytes]:
    """The three frames of ``message``. Raises CodecError for values that ``decode`` would refuse."""
    _check(message)
    try:
        payload = _ENCODER.encode(payload_of(message))
    except (TypeError, ValueError, OverflowError) as error:
        raise CodecError(f"the {_tag(message)} cannot be encoded: {error}") from error
    return [HEADER, payload, _checksum(payload)]


def decode(frames: Sequence[bytes]) -> Message:
    """The message in ``frames``. Raises CodecError if they are not what ``encode`` makes."""
    if len(frames) != 3:
        raise CodecError(f"a message has 3 frames, this one has {len(frames)}")
    header, payload, checksum = frames
    if header != HEADER:
        raise CodecError(f"the first frame is {_shown(header)}, this side speaks {HEADER!r} (version {VERSION})")
    if checksum != _checksum(payload):
        raise CodecError("the checksum does not match: the message was damaged on its way")
    try:
        message: Message = value_of(_DECODER.decode(payload))
    # msgspec lets two of Python's own errors through: bad UTF-8 (a ValueError) and absurd nesting.
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise CodecError(f"the payload is not a message: {error}") from error
    _check(message)
    return message


def _checksum(payload: bytes) -> bytes:
    return zlib.crc32(payload, zlib.crc32(HEADER)).to_bytes(4, "big")


def _tag(message: Message) -> str:
    return str(payload_of(message).__struct_config__.tag)


def _check(message: Message) -> None:
    for name in message.__match_args__:
        value = getattr(message, name)
        if name == "blocks":
            numbers: Sequence[int] = value
        elif name == "receiver":
            numbers = value[1:]
        else:
            numbers = () if name in ("reason", "status") else (value,)
        for number in numbers:
            if not 0 <= number <= LARGEST:
                raise CodecError(f"{name} of the {_tag(message)} holds {number}, it must be between 0 and {LARGEST}")
    problem = ""
    match message:
        case Announce(total_tokens=0):
            problem = "announces an empty embedding"
        case Offer(receiver=RankId(side=Side.ENCODE)) | Cancel(receiver=RankId(side=Side.ENCODE)):
            problem = f"comes from {message.receiver}, which does not receive embeddings"
        case Offer(blocks=blocks, capacity_tokens=capacity) if not blocks or not capacity:
            problem = "offers no memory"
        case Offer(blocks=blocks) if len(set(blocks)) != len(blocks):
            problem = "names a block twice"
        case ChunkStatus(status=status) if status not in _SENT:
            problem = f"says {status.name}, which is never sent"
        case ChunkStatus(total_tokens=total, upto_tokens=upto) if upto > total:
            problem = f"says that {upto} of {total} tokens arrived"
        case ChunkStatus(status=Status.Success, total_tokens=total, upto_tokens=upto) if upto < total:
            problem = f"says Success after {upto} of {total} tokens"
    if problem:
        raise CodecError(f"the {_tag(message)} for room {message.room} {problem}")


# --- the wire of the SGLang fork -----------------------------------------------------------------------------------

SGLANG_NUMBER: dict[Status, int] = {
    Status.Failed: 0,
    Status.Bootstrapping: 1,
    Status.WaitingForInput: 2,
    Status.Transferring: 3,
    Status.Success: 4,
}
_SGLANG_STATUS = {number: status for status, number in SGLANG_NUMBER.items()}

REGISTER_MARK = "None"
"""Stands in the room field of a register frame, which belongs to no room."""


class SglangRegister(msgspec.Struct, frozen=True):
    """Language to encode, once per connection: where the pools of each buffer kind begin (M5).

    ``base_pointers`` are in the order of ``BufferLayout.kinds``: 4, or 5 with deepstack.
    """

    ip: str
    status_port: int
    session: str
    base_pointers: tuple[int, ...]


class SglangInit(msgspec.Struct, frozen=True):
    """Language to encode: memory for the first part (M6). ``allocated_tokens`` is that of all ``blocks``."""

    room: int
    ip: str
    status_port: int
    session: str
    blocks: tuple[int, ...]
    required_destinations: int
    allocated_tokens: int


class SglangResume(msgspec.Struct, frozen=True):
    """Language to encode: memory for the rest (M7). ``sent_tokens`` comes before the allocation, in its place."""

    room: int
    ip: str
    status_port: int
    session: str
    blocks: tuple[int, ...]
    required_destinations: int
    sent_tokens: int
    allocated_tokens: int


class SglangStatus(msgspec.Struct, frozen=True):
    """Encode to language: the room's status (M8)."""

    room: int
    status: Status


SglangFrame = SglangRegister | SglangInit | SglangResume | SglangStatus


def encode_sglang(message: SglangFrame) -> list[bytes]:
    """The fork's frames of ``message``. Raises CodecError for values that ``decode_sglang`` would refuse."""
    fields: list[object]
    match message:
        case SglangStatus(room, status):
            fields = [room, SGLANG_NUMBER[status]]
        case SglangRegister(ip, port, session):
            fields = [REGISTER_MARK, ip, port, session]
        case SglangInit(room, ip, port, session, blocks, required, allocated):
            fields = [room, ip, port, session, ",".join(map(str, blocks)), required, allocated]
        case SglangResume(room, ip, port, session, blocks, required, sent, allocated):
            fields = [room, ip, port, session, ",".join(map(str, blocks)), required, sent, allocated]
    frames = [str(field).encode("ascii", "backslashreplace") for field in fields]
    if isinstance(message, SglangRegister):
        try:
            frames.append(struct.pack(f"<{len(message.base_pointers)}Q", *message.base_pointers))
        except struct.error as error:
            raise CodecError(f"a base pointer does not fit 64 bits: {error}") from error
    if decode_sglang(frames) != message:
        raise CodecError(f"the {type(message).__name__} does not survive its own encoding")
    return frames


def decode_sglang(frames: Sequence[bytes]) -> SglangFrame:
    """The fork's message in ``frames``, known by their number. Raises CodecError if it is none."""
    count = len(frames)
    if count == 2:
        number = _number(frames, 1, "status", 0, max(_SGLANG_STATUS))
        return SglangStatus(_number(frames, 0, "room"), _SGLANG_STATUS[number])
    if count == 5:
        if frames[0] != REGISTER_MARK.encode():
            raise CodecError(f"a register frame begins with {REGISTER_MARK!r}, not with {_shown(frames[0])}")
        packed = frames[4]
        if len(packed) not in (4 * 8, 5 * 8):
            raise CodecError(f"a register frame has 4 or 5 base pointers of 8 bytes, not {len(packed)} bytes")
        pointers = struct.unpack(f"<{len(packed) // 8}Q", packed)
        return SglangRegister(*_address(frames), base_pointers=pointers)
    if count not in (7, 8):
        raise CodecError(f"a frame of the SGLang wire has 2, 5, 7 or 8 fields, this one has {count}")
    room = _number(frames, 0, "room")
    address = _address(frames)
    listed = _text(frames, 4, "block list").split(",")
    blocks = tuple(_number([block.encode()], 0, "block") for block in listed)
    if len(set(blocks)) != len(blocks):
        raise CodecError("the block list names a block twice")
    required = _number(frames, 5, "required_dst_info_num", 1)
    allocated = _number(frames, count - 1, "allocated_tokens", 1)
    if count == 7:
        return SglangInit(room, *address, blocks, required, allocated)
    # sent_tokens > 0 is what makes it a resume.
    return SglangResume(room, *address, blocks, required, _number(frames, 6, "sent_tokens", 1), allocated)


def _address(frames: Sequence[bytes]) -> tuple[str, int, str]:
    return _text(frames, 1, "ip"), _number(frames, 2, "status port", 1, 65535), _text(frames, 3, "session")


def _text(frames: Sequence[bytes], index: int, name: str) -> str:
    if not re.fullmatch(rb"[!-~]+", frames[index]):
        raise CodecError(f"{name} is {_shown(frames[index])}, it must be printable ASCII without blanks")
    return frames[index].decode("ascii")


def _number(frames: Sequence[bytes], index: int, name: str, least: int = 0, largest: int = LARGEST) -> int:
    frame = frames[index]
    # At most 19 digits: int() takes time that grows with the square of their number.
    if not re.fullmatch(rb"[0-9]{1,19}", frame) or not least <= int(frame) <= largest:
        raise CodecError(f"{name} is {_shown(frame)}, it must be a number from {least} to {largest}")
    return int(frame)


def _shown(frame: bytes) -> str:
    return repr(frame if len(frame) <= 40 else frame[:40] + b"...")
