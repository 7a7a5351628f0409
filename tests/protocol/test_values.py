"""Values are equal, hashed, shown, copied and changed by their fields; each has a form in which it is written down."""

import copy
import pickle

import pytest

from bufferlab.protocol import messages
from bufferlab.protocol.chunks import Chunk
from bufferlab.protocol.messages import Announce, Cancel, Iteration, Offer, Quiet, StartWrite
from bufferlab.protocol.recording import Event
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side
from bufferlab.protocol.values import Value, fields_of, replaced
from bufferlab.protocol.wire import schema

PEER = RankId(Side.LANGUAGE, 1, 2)
WRITE = StartWrite(7, 1, 0, PEER, Chunk(0, 5, True), (3, 4), (8, 9))
EXAMPLES = [
    Announce(1, 2, 3),
    Offer(1, 0, 2, PEER, (1, 2), 8, 0),
    messages.ChunkStatus(1, 0, 2, Status.Transferring, 9, 8),
    Cancel(1, 0, PEER, "why"),
    Quiet(1, 0),
    messages.EncodeRequest(1, 0, 9, 1, 0.5),
    messages.LanguageRequest(1, 0, 2, 3, 4, "me", 5, 6, 0.5),
    messages.Abort(1, 0, "why"),
    messages.Encoded(1, 0),
    messages.WriteDone(1, 0, 2, PEER, True, False, "why"),
    messages.WriterQuiet(1, 0, PEER),
    messages.Prefilled(1, 0),
    messages.PeerDown(PEER),
    messages.PeerUp(PEER),
    Iteration(3, 4, 5, ((1, 2),)),
    messages.Send(PEER, Quiet(1, 0)),
    messages.StartEncode(1, 0, 9, (1,), 0.5),
    WRITE,
    messages.CopyOut(1, 0, 2, 3, (4,)),
    messages.Deliver(1, 0, 9, 0.5),
    messages.Conclude(1, 0, Status.Failed, "why"),
    messages.Note(1, Event.ALLOCATED, None, 2, 3, "why"),
    Chunk(0, 5, True),
]


def test_equal_fields_make_equal_values() -> None:
    assert Announce(1, 0, 9) == Announce(1, 0, total_tokens=9) != Announce(1, 0, 8)
    assert Quiet(1, 0) != messages.Encoded(1, 0), "of another class"
    assert Quiet(1, 0) != (1, 0)
    assert len({Cancel(1, 0, PEER), Cancel(1, 0, PEER, ""), Cancel(1, 0, PEER, "why")}) == 2


def test_a_value_shows_its_fields_and_can_be_matched_by_them() -> None:
    assert repr(Quiet(3, 1)) == "Quiet(room=3, incarnation=1)"
    match WRITE:
        case StartWrite(room, _, epoch, chunk=Chunk(tokens=tokens)):
            assert (room, epoch, tokens) == (7, 0, 5)
        case _:
            pytest.fail("it does not match its own fields")


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_is_equal(copied) -> None:
    assert copied(WRITE) == WRITE
    assert copied(Iteration(3, 4, 5, ((1, 2),))) == Iteration(3, 4, 5, ((1, 2),))


def test_other_fields_make_another_value() -> None:
    assert replaced(Announce(1, 0, 9), total_tokens=4) == Announce(1, 0, 4)
    with pytest.raises(TypeError):
        replaced(Quiet(1, 0), tokens=4)


@pytest.mark.parametrize("value", EXAMPLES, ids=lambda one: type(one).__name__)
def test_fields_are_named_as_the_parameters_are(value: Value) -> None:
    named = dict(zip(value.__match_args__, fields_of(value), strict=True))
    assert type(value)(**named) == replaced(value, **named) == value


def test_there_is_an_example_of_every_message_input_and_action() -> None:
    kinds = {one for one in vars(messages).values() if isinstance(one, type) and issubclass(one, Value)} - {Value}
    assert kinds == {type(one) for one in EXAMPLES}


@pytest.mark.parametrize("kind", schema._FORMS)
def test_the_form_of_a_value_has_its_fields(kind: type[Value]) -> None:
    assert schema._FORMS[kind].__struct_fields__ == kind.__match_args__


@pytest.mark.parametrize("value", [WRITE, Offer(1, 0, 2, PEER, (1, 2), 8, 0), Announce(1, 2, 3)])
def test_what_is_written_down_is_read_again(value: Value) -> None:
    assert schema.value_of(schema.payload_of(value)) == value
