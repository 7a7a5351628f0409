"""The checker's reductions lose nothing: what the model does is what plain cores do.

A random walk through ``Model.moves`` is played twice more: on *plain* cores, which are made once and then only take
inputs (no copies, no tidying, no table of steps, real reasons), and by ``steps.perform`` from move to move, without the
table. After every move all three agree up to the names of blocks and texts of reasons.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter, deque
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bufferlab.protocol.agreement import hold_iteration
from bufferlab.protocol.allocator import BlockPool
from bufferlab.protocol.checker import snapshot
from bufferlab.protocol.checker.bounds import BLOCK_TOKENS, NEED_TIMERS, Bound, Fault
from bufferlab.protocol.checker.explorer import explore
from bufferlab.protocol.checker.invariants import Local
from bufferlab.protocol.checker.model import Model
from bufferlab.protocol.checker.snapshot import clone, freeze
from bufferlab.protocol.checker.states import DEAD, Move, State
from bufferlab.protocol.checker.steps import NOW, Item, Landed, TimerGoesOff, perform
from bufferlab.protocol.chunks import Chunk
from bufferlab.protocol.disciplines import DISCIPLINES
from bufferlab.protocol.encode import EncodeRank
from bufferlab.protocol.encode_phases import EncodePhase
from bufferlab.protocol.language import LanguageRank
from bufferlab.protocol.messages import (
    Abort,
    Announce,
    Conclude,
    CopyOut,
    Encoded,
    LanguageRequest,
    PeerDown,
    PeerUp,
    Quiet,
    Send,
    StartEncode,
    StartWrite,
    WriteDone,
    WriterQuiet,
)
from bufferlab.protocol.phases import Phase
from bufferlab.protocol.rank import NEVER_S, EarlyMessages, Landing, Room
from bufferlab.protocol.sizing import Fixed, SizingPolicy
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side
from bufferlab.protocol.values import Value, replaced

# --- what two cores must have in common -----------------------------------------------------------------------------

UNSEEN = {
    "_landings",
    "_phases",
    *(
        "_announces",
        "_asks_policy",
        "_releases_before_waiting",
        "_required",
        "_resumes",
        "_writers",
    ),  # what the discipline claims, and names that are kept
    *("_recorder", "_tells_details", "discipline", "layout", "rank_id"),  # fixed
    *(
        "_free",
        "_behind_copy",
        "_timers",
        "_timer_count",
        "ignored_messages",
        "untold",
    ),  # without effect on what follows
}


def outline(record: Any) -> Any:
    """A message or action without the names of its blocks and the text of its reason."""
    if isinstance(record, Send):
        return Send(record.to, outline(record.message))
    if not isinstance(record, Value):
        return record
    named = {"blocks", "source_blocks", "target_blocks"}.intersection(record.__match_args__)
    changes: dict[str, Any] = {name: (0,) * len(getattr(record, name)) for name in named}
    if getattr(record, "reason", ""):
        changes["reason"] = "any"
    return replaced(record, **changes)


def attributes(core: Any) -> dict[str, Any]:
    return {name: getattr(core, name) for name in snapshot.attributes_of(core)}


def room_outline(room: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for slot in snapshot.attributes_of(room):
        if slot in snapshot._TOLD:
            continue  # only for those who look at the core
        value = getattr(room, slot)
        if slot in ("blocks", "source"):
            value = len(value)
        elif slot == "failure":
            value = bool(value)
        elif slot == "landing":
            value = value.phase
        elif slot == "offers":
            value = {peer: outline(offer) for peer, offer in value.items()}
        found[slot] = value
    return found


def core_outline(core: Any, ended: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"unsettled": core.unsettled, "candidates": list(core.candidates())}
    for name, value in attributes(core).items():
        if name in UNSEEN:
            continue
        if name == "rooms":
            value = {key: room_outline(room) for key, room in value.items()}
        elif name in ("_by_number", "_newest"):
            value = {number: room.key for number, room in value.items()}
        elif name == "pool":
            value = value.free, Counter(value._owner), Counter(value._fenced)
        elif isinstance(value, deque):
            value = [room.key for room in value if not room.over]
        elif isinstance(value, EarlyMessages):
            value = {
                key: [outline(message) for _, message in kept] for key, kept in value._kept.items() if key not in ended
            }
        elif name == "_moved":
            value = [room.number for room in value]
        elif name == "_failed":
            value = list(value)
        elif name == "sizing":
            value = vars(value)
        found[name] = value
    return found


def item_outline(item: Item) -> Item:
    return item._replace(content=outline(item.content))


# --- the player ------------------------------------------------------------------------------------------------------


FAULTS = frozenset(map(str, Fault))


class Pair(NamedTuple):
    """The same thing under way in the plain world and in the stepwise one, where its blocks have other names."""

    plain: Item
    stepwise: Item


class Player:
    """Plays the moves of a model on plain cores (``cores``) and, one ``perform`` after the other, on ``locals``."""

    def __init__(self, bound: Bound) -> None:
        self.bound = bound
        self.model = Model(bound)
        self.state, violations = self.model.initial()
        assert violations == ()
        self.ranks = list(self.model.steps.ranks)
        self.cores: dict[RankId, Any] = {rank_id: bound.make_core(rank_id) for rank_id in self.ranks}
        self.memory: dict[RankId, list[Any]] = {
            rank_id: [None] * bound.language_blocks for rank_id in bound.language_ids()
        }
        untouched = Model(msgspec.structs.replace(bound, arrivals_any=True))
        untouched.initial()
        self.locals: dict[RankId, Local] = {
            rank_id: untouched.steps.locals[place][0] for place, rank_id in enumerate(self.ranks)
        }
        self.ended: dict[RankId, dict[Any, Status]] = {rank_id: {} for rank_id in self.ranks}
        self.under_way: list[Pair] = []
        self.caused: list[Pair] = []
        if not bound.arrivals_any:
            for rank_id in self.ranks:
                for request in bound.requests_for(rank_id):
                    self._feed(rank_id, request)
        self.under_way += self.caused
        self._compare()

    def go(self, choice: int, *, idle_iterations: bool) -> None:
        """Take one of the possible moves in all three worlds."""
        found = list(self.model.moves(self.state))
        if idle_iterations:
            self._hold_idle_iterations({move.rank for move, _, _ in found if move.kind == "iteration"})
        if not found:
            return
        faults = [one for one in found if one[0].kind in FAULTS]
        regular = [one for one in found if one[0].kind not in FAULTS]
        wanted = faults if not regular or (faults and not choice % 8) else regular  # else faults come too early
        move, self.state, violations = wanted[choice // 8 % len(wanted)]
        assert violations == ()
        self.caused = []
        self._play(move)
        if self.bound.instant:
            for pair in self.caused:  # which grows meanwhile
                if pair.plain.what != "write":
                    self._arrive(pair)
            self.caused = [pair for pair in self.caused if pair.plain.what == "write"]
        self.under_way += [pair for pair in self.caused if pair.plain.taker in self.cores]
        self._compare()

    def _group(self, member: RankId) -> list[RankId]:
        return [rank_id for rank_id in self.ranks if rank_id[:2] == member[:2]]

    def _hold_idle_iterations(self, due: set[RankId]) -> None:
        """An iteration that is not a move of the model changes nothing."""
        iterating = {plain.taker for plain, _ in self.under_way if plain.what == "iteration"}
        for first in {self._group(rank_id)[0] for rank_id in self.cores} - due:
            members = self._group(first)
            if iterating.intersection(members) or not self.cores.keys() >= set(members):
                continue
            before = [core_outline(self.cores[member], self.ended[member]) for member in members]
            iteration = hold_iteration([self.cores[member] for member in members])
            assert [self.cores[member].handle(iteration, NOW) for member in members] == [[]] * len(members)
            assert [core_outline(self.cores[member], self.ended[member]) for member in members] == before

    def _play(self, move: Move) -> None:
        rank_id, room = move.rank, move.room
        match move.kind:
            case "submit":
                self._feed(rank_id, self.bound.requests_for(rank_id)[self.cores[rank_id]._submitted])
            case "iteration":
                self._begin_iteration(self._group(rank_id))
            case "timer" | Fault.EARLY:
                core = self.cores[rank_id]
                core._arm(core.rooms[room], 0.0, NOW)
                self._perform(rank_id, TimerGoesOff(room))
            case Fault.ABORT:
                self._feed(rank_id, Abort(*room))
            case Fault.DIE | "follow":
                self._die(rank_id)
            case Fault.SUSPECT:
                self._feed(rank_id, PeerDown(move.item.content))
                self._add(move.item._replace(what="up"))
            case Fault.DUPLICATE:
                self.under_way.append(self._find(move.item))
            case Fault.LOSE:
                self._take(move.item)
            case Fault.FAIL | Fault.LATE:
                self._fail_write(self._take(move.item), late=move.kind == Fault.LATE)
            case _:
                self._arrive(self._take(move.item))

    def _begin_iteration(self, members: list[RankId]) -> None:
        iteration = hold_iteration([self.cores[member] for member in members])
        assert hold_iteration([self.locals[member].core for member in members]) == iteration
        for member in members:
            if len(members) > 1 and not self.bound.atomic_iterations:
                self._add(Item("iteration", member, iteration, member))
            else:
                self._feed(member, iteration)

    def _arrive(self, pair: Pair) -> None:
        taker, content = pair.plain.taker, pair.plain.content
        match pair.plain.what:
            case "write" if content.destination not in self.cores:
                self._fail_write(pair, late=False)
            case "write":
                self._land(pair, whole=True)
                key = content.room, content.incarnation
                self._feed(taker, WriteDone(*key, content.epoch, content.destination, ok=True))
            case "late":
                self._land(pair, whole=True)
                self._feed(taker, WriterQuiet(content.room, content.incarnation, content.destination))
            case "encode":
                self._feed(taker, Encoded(content.room, content.incarnation))
            case "down":
                self._feed(taker, PeerDown(content))
            case "up":
                self._feed(taker, PeerUp(content))
            case _:
                self._feed(taker, content, pair.stepwise.content)

    def _fail_write(self, pair: Pair, *, late: bool) -> None:
        write = pair.plain.content
        self._land(pair, whole=False)
        if late:
            self.under_way.append(Pair(*[one._replace(what="late") for one in pair]))
        key = write.room, write.incarnation
        why = "no answer from the network card" if late else "the engine returned -1"
        self._feed(pair.plain.taker, WriteDone(*key, write.epoch, write.destination, False, not late, why))

    def _land(self, pair: Pair, *, whole: bool) -> None:
        write = pair.plain.content
        if write.destination not in self.cores:
            return
        for place, held in enumerate(contents(write, write.chunk.start_token, write.chunk.tokens)):
            self.memory[write.destination][write.target_blocks[place]] = held if whole else None
        self._perform(write.destination, Landed(pair.stepwise.content, whole))

    def _die(self, rank_id: RankId) -> None:
        del self.cores[rank_id], self.locals[rank_id]
        for pair in list(self.under_way):
            what, taker, content, _ = pair.plain
            if taker == rank_id or (what, content) == ("up", rank_id):
                self.under_way.remove(pair)
            if taker == rank_id and what in ("write", "late"):
                self.under_way.append(Pair(*[one._replace(what="late") for one in pair]))
        for peer in self.cores:
            if peer.side is not rank_id.side:
                self._add(Item("down", peer, rank_id, rank_id))

    def _add(self, item: Item) -> None:
        self.under_way.append(Pair(item, item))

    def _find(self, wanted: Item | None) -> Pair:
        assert wanted is not None
        return next(pair for pair in self.under_way if item_outline(pair.plain) == item_outline(wanted))

    def _take(self, wanted: Item | None) -> Pair:
        pair = self._find(wanted)
        self.under_way.remove(pair)
        return pair

    def _feed(self, rank_id: RankId, plain: Any, stepwise: Any = None) -> None:
        """Give one input to a plain core and to its copy; both ask for the same."""
        if rank_id not in self.cores:
            return  # bytes that a dead rank had on the wire
        actions = self.cores[rank_id].handle(plain, NOW)
        theirs = self._perform(rank_id, plain if stepwise is None else stepwise)
        assert [outline(action) for action in actions] == [outline(action) for action in theirs]
        for mine, their in zip(actions, theirs, strict=True):
            match mine:
                case Send(to, message):
                    theirs_told = their.message
                    if getattr(theirs_told, "reason", ""):  # the one thing of a message that the model drops
                        theirs_told = replaced(theirs_told, reason=snapshot.FAILURE)
                    self._cause("message", to, message, theirs_told, rank_id)
                case StartEncode():
                    self._cause("encode", rank_id, mine, their, rank_id)
                case StartWrite():
                    self._cause("write", rank_id, mine, their, rank_id)
                case CopyOut(_, _, start, tokens, blocks):
                    assert [self.memory[rank_id][block] for block in blocks] == contents(mine, start, tokens)
                case Conclude(room, incarnation, status):
                    assert (room, incarnation) not in self.ended[rank_id]
                    self.ended[rank_id][room, incarnation] = status

    def _cause(self, what: str, taker: RankId, mine: Any, their: Any, source: RankId) -> None:
        self.caused.append(Pair(Item(what, taker, mine, source), Item(what, taker, their, source)))

    def _perform(self, rank_id: RankId, given_: Any) -> list[Any]:
        step = perform(self.locals[rank_id], given_)
        assert step.error is None
        self.locals[rank_id] = step.after
        return step.actions

    # --- the comparison ---

    def _compare(self) -> None:
        numbers, under_way, _ = self.state
        names: dict[RankId, dict[int, int]] = {}
        for place, (rank_id, number) in enumerate(zip(self.ranks, numbers, strict=True)):
            assert (number == DEAD) == (rank_id not in self.cores)
            if number == DEAD:
                continue
            plain, modelled, ended = self.cores[rank_id], self.model.steps.locals[place][number], self.ended[rank_id]
            assert (freeze(modelled.core), modelled.ghost) == (
                freeze(self.locals[rank_id].core),
                self.locals[rank_id].ghost,
            )
            assert dict(modelled.ghost.ends) == ended
            assert core_outline(plain, ended) == core_outline(modelled.core, ended)
            deadlines = [room.deadline for room in modelled.core.rooms.values() if room.deadline < NEVER_S]
            assert plain.next_deadline() == min(deadlines, default=None)
            names[rank_id] = block_names(plain, modelled.core)
        items = [self.model.steps.items[number] for number in under_way]
        assert Counter(map(repr, map(item_outline, items))) == Counter(
            repr(item_outline(pair.plain)) for pair in self.under_way
        )
        for item in items:
            if item.what in ("write", "late"):
                mine, their = self._find(item).plain.content, item.content
                for holder, blocks in ((item.taker, "source_blocks"), (their.destination, "target_blocks")):
                    if holder in names:
                        wanted = [names[holder][block] for block in getattr(their, blocks)]
                        assert wanted == list(getattr(mine, blocks))


def contents(record: Any, start_token: int, tokens: int) -> list[Any]:
    """What blocks hold that hold these tokens of a room."""
    first, end = start_token // BLOCK_TOKENS, -(-(start_token + tokens) // BLOCK_TOKENS)
    return [(record.room, record.incarnation, place) for place in range(first, end)]


def block_names(plain: Any, modelled: Any) -> dict[int, int]:
    """The plain core's name for each block a room holds in the model; raises unless it is one for one."""
    names: dict[int, int] = {}
    for key, room in modelled.rooms.items():
        held = "source" if isinstance(modelled, EncodeRank) else "blocks"
        for theirs, mine in zip(getattr(room, held), getattr(plain.rooms[key], held), strict=True):
            assert modelled.pool.owner(theirs) == plain.pool.owner(mine)
            assert modelled.pool.fenced_for(theirs) == plain.pool.fenced_for(mine)
            assert theirs not in names
            names[theirs] = mine
    assert len(set(names.values())) == len(names)
    return names


LENGTHS = st.sampled_from([0, 1, 2, 3, 3, 4, 5, 6])


@st.composite
def bounds(draw: st.DrawFn) -> Bound:
    def any_of(*values: Any) -> Any:
        return draw(st.sampled_from(values))

    rooms = any_of((7,), (0, 0), (0, 1), (1, 0), (0, 1, 0), (2, 1, 0))
    language_tp = any_of(1, 2, 3)
    encode_instances = any_of(1, 1, 1, 2)
    language_blocks = any_of(1, 2, 3, 4)
    kinds = tuple(draw(st.lists(st.sampled_from([*Fault, Fault.FAIL, Fault.LATE]), max_size=3, unique=True)))
    instant = not kinds and draw(st.booleans())
    discipline, encode_tp = any_of(*DISCIPLINES), any_of(1, 2)
    may_differ = len(rooms) == encode_tp == 1 and discipline != "alloc_then_free"
    return Bound(
        name="a random one",
        lengths=tuple(draw(st.lists(LENGTHS, min_size=len(rooms), max_size=len(rooms)))),
        discipline=discipline,
        rooms=rooms,
        instances=tuple(any_of(*range(encode_instances)) for _ in rooms),
        encode_tp=encode_tp,
        language_tp=language_tp,
        encode_instances=encode_instances,
        encode_blocks=any_of(1, 2, 3, 4, 5),
        language_blocks=language_blocks,
        default_tokens=tuple(any_of(1, 2, 3, 4) for _ in range(language_tp if may_differ else 1)),
        reserve_blocks=any_of(0, 0, max(0, language_blocks - 2)),
        resume_first=draw(st.booleans()),
        timers=bool(NEED_TIMERS.intersection(kinds)) or draw(st.booleans()),
        arrivals_any=draw(st.booleans()),
        atomic_iterations=instant or draw(st.booleans()),
        instant=instant,
        faults=kinds,
        most_faults=any_of(1, 2, 3) if kinds else 0,
    )


def check_walk(bound: Bound, choices: list[int], idle_iterations: bool) -> None:
    player = Player(bound)
    for choice in choices:
        player.go(choice, idle_iterations=idle_iterations)


walks = given(
    bound=bounds(),
    choices=st.lists(st.integers(0, 2**16), min_size=40, max_size=150),
    idle_iterations=st.booleans(),
)


@settings(max_examples=40, deadline=None)
@walks
def test_the_model_does_what_plain_cores_do(bound: Bound, choices: list[int], idle_iterations: bool) -> None:
    check_walk(bound, choices, idle_iterations)


@pytest.mark.slow
@pytest.mark.timeout(600)
@settings(max_examples=1500, deadline=None)
@walks
def test_the_model_does_what_plain_cores_do_on_many_walks(
    bound: Bound, choices: list[int], idle_iterations: bool
) -> None:
    check_walk(bound, choices, idle_iterations)


# --- copies and keys -------------------------------------------------------------------------------------------------

RICH = [
    Bound(
        name="late bytes and aborts, one rank each",
        lengths=(5, 3),
        rooms=(4, 4),
        encode_blocks=4,
        faults=(Fault.LATE, Fault.ABORT),
        most_faults=2,
    ),
    Bound(
        name="two writers, a wait for blocks, a false alarm",
        lengths=(3, 3),
        discipline="alloc_then_free",
        encode_tp=2,
        language_tp=2,
        encode_blocks=4,
        language_blocks=3,
        timers=True,
        atomic_iterations=True,
        faults=(Fault.SUSPECT, Fault.FAIL),
        most_faults=2,
    ),
    Bound(name="a length that is announced", lengths=(3, 1), discipline="exact_announce", language_tp=2),
]
"""Their first thousand states have rooms in every phase."""


def reached(bound: Bound, most_states: int = 1000) -> Model:
    """A model that has seen so many states."""
    model = Model(bound)
    known: dict[State, None] = dict.fromkeys([model.initial()[0]])
    queue = deque(known)
    while queue and len(known) < most_states:
        for _, after, _ in model.moves(queue.popleft()):
            if after not in known:
                known[after] = None
                queue.append(after)
    return model


@pytest.fixture(scope="module", params=RICH, ids=lambda bound: bound.name)
def model(request: pytest.FixtureRequest) -> Model:
    return reached(request.param)


def cores_of(model: Model, most: int) -> list[Any]:
    """Cores of all ranks in many states, those with many fields in use among them."""
    found = []
    for locals_ in model.steps.locals:
        found += [local.core for local in locals_[:: len(locals_) // most + 1]]
    return found


def inputs_for(model: Model, core: Any) -> list[Any]:
    """Everything that ever came to a rank and some more; much of it makes no sense in this state, which is fine."""
    found: list[Any] = [hold_iteration([core]), *model.bound.requests_for(core.rank_id)]
    for key in model.bound.keys:
        found += [Abort(*key), Encoded(*key), Quiet(*key)]
    for peer in model.steps.ranks:
        found += [PeerDown(peer), PeerUp(peer)]
    for item in model.steps.items:
        if item.taker == core.rank_id and item.what in ("message", "iteration"):
            found.append(item.content)
        elif item.taker == core.rank_id and item.what == "write":
            write = item.content
            key = write.room, write.incarnation
            found.append(WriterQuiet(*key, write.destination))
            for ok, quiet in ((True, True), (False, True), (False, False)):
                found.append(WriteDone(*key, write.epoch, write.destination, ok, quiet))
    return [given_ for given_ in found if core.takes(given_)]


def taken(core: Any, given_: Any) -> Any:
    """What a core asks for, or what it raises."""
    try:
        return core.handle(given_, NOW)
    except Exception as error:
        return repr(error)


def everything(core: Any) -> str:
    """All of a core, scratch fields included, without the functions it is made of."""
    return repr({name: spelled(value) for name, value in attributes(core).items()})


def spelled(value: Any) -> Any:
    if isinstance(value, dict):
        return [(spelled(key), spelled(one)) for key, one in value.items()]
    if isinstance(value, set):
        return sorted(map(spelled, value))
    if isinstance(value, list | tuple | deque):
        return [spelled(one) for one in value]
    if isinstance(value, Room | BlockPool | EarlyMessages | SizingPolicy):
        return [(name, spelled(getattr(value, name))) for name in snapshot.attributes_of(value)]
    return repr(value)


def test_what_a_copy_takes_leaves_the_original_alone(model: Model) -> None:
    for core in cores_of(model, 15):
        before, key = everything(core), freeze(core)
        for given_ in inputs_for(model, core):
            taken(clone(core), given_)
        assert everything(core) == before
        assert freeze(core) == key


def test_a_copy_behaves_like_its_original(model: Model) -> None:
    for core in cores_of(model, 10):
        assert everything(clone(core)) == everything(core)
        assert freeze(clone(core)) == freeze(core)
        for given_ in inputs_for(model, core):
            original, twin = clone(core), clone(clone(core))
            assert taken(twin, given_) == taken(original, given_)
            assert everything(twin) == everything(original)


def test_scratch_fields_decide_nothing(model: Model) -> None:
    for core in cores_of(model, 10):
        for given_ in inputs_for(model, core):
            original, scribbled = clone(core), clone(core)
            scribbled._timer_count += 1000
            scribbled.ignored_messages += 7
            if isinstance(scribbled, LanguageRank):
                scribbled._free = 99
                scribbled._behind_copy = []
            assert taken(scribbled, given_) == taken(original, given_)
            assert freeze(scribbled) == freeze(original)


STRANGER = RankId(Side.LANGUAGE, 9, 9)


def other(value: Any) -> Any:
    """Another value that a field could have as well."""
    match value:
        case None:
            return 1
        case bool():
            return not value
        case Status():
            return Status((value + 1) % len(Status))
        case Phase():
            every = list(type(value))
            return every[(every.index(value) + 1) % len(every)]
        case float() if value == NEVER_S:
            return 1.0
        case int() | float():
            return value + 1
        case str():
            return value + "."
        case RankId():
            return value._replace(instance=value.instance + 1)
        case Chunk() | LanguageRequest():
            first = value.__match_args__[0]
            return replaced(value, **{first: getattr(value, first) + 1})
        case tuple():
            return (*value, 99)
        case Landing():
            return Landing(other(value.phase), value.over, value.delay_s, value.runs_on, value.steps)
        case set() | frozenset():
            return value ^ {STRANGER}
        case dict():
            return dict(list(value.items())[1:]) if value else {STRANGER: None}
        case list():
            return [*value, 99]
        case deque():
            return deque([*value, Room((9, 9), 9, Landing(EncodePhase.ENDED, True, NEVER_S, False, {}))])
    raise TypeError(f"no other value for {value!r}")


@pytest.mark.interpreted  # a compiled room takes no value of another type
def test_the_key_tells_every_field_of_a_room(model: Model) -> None:
    seen = set()
    for core in cores_of(model, 40):
        for key, room in core.rooms.items():
            for slot in snapshot.attributes_of(room):
                if slot in snapshot._TOLD:
                    continue
                changed = clone(core)
                setattr(changed.rooms[key], slot, other(getattr(room, slot)))
                assert freeze(changed) != freeze(core), slot
                seen.add((type(room), slot))
    assert len({kind for kind, _ in seen}) == 2


def test_the_key_tells_every_field_of_a_core(model: Model) -> None:
    for core in cores_of(model, 40):
        for name in attributes(core).keys() - snapshot._FIXED - snapshot._SCRATCH:
            changes: list[Any] = [lambda twin, name=name: setattr(twin, name, other(getattr(twin, name)))]
            if name == "pool":
                changes = [
                    lambda twin, name=name: setattr(twin.pool, name, other(getattr(twin.pool, name)))
                    for name in ("_starts", "_ends", "free", "_owner", "_fenced")
                ]
            elif name == "_early":
                changes = [lambda twin: twin._early.keep((9, 9), Announce(9, 9, 1), NOW)]
            elif name == "sizing":
                changes = [lambda twin: setattr(twin, "sizing", Fixed(99))]
            for change in changes:
                changed: Any = clone(core)
                change(changed)
                assert freeze(changed) != freeze(core), name


def test_what_the_key_leaves_out_is_there() -> None:
    """A field that is renamed does not silently stay on the list of those that do not count."""
    names = {
        name for side in RICH[0].encode_ids() + RICH[0].language_ids() for name in attributes(RICH[0].make_core(side))
    }
    assert names > snapshot._FIXED | snapshot._SCRATCH
    assert snapshot._FIXED | snapshot._SCRATCH == UNSEEN


def test_the_order_of_messages_and_rooms_that_moved_is_told() -> None:
    core: Any = RICH[0].make_core(RICH[0].language_ids()[0])
    twin: Any = clone(core)
    for one, first, second in ((core, 1, 2), (twin, 2, 1)):
        one._moved = [first, second]
    assert freeze(core) != freeze(twin)
    core, twin = clone(RICH[0].make_core(core.rank_id)), clone(RICH[0].make_core(core.rank_id))
    for one, first, second in ((core, 1, 2), (twin, 2, 1)):
        one._early.keep((0, 0), Announce(0, 0, first), NOW)
        one._early.keep((0, 0), Announce(0, 0, second), NOW)
    assert freeze(core) != freeze(twin)


# --- the same again --------------------------------------------------------------------------------------------------

SMALL = [
    Bound(name="messages twice", lengths=(3,), language_tp=2, faults=(Fault.DUPLICATE,), most_faults=1),
    Bound(name="a deadlock", lengths=(3, 3), discipline="alloc_then_free", encode_blocks=4),
]

PROGRAM = """
import sys
import msgspec
from bufferlab.protocol.checker.bounds import Bound
from bufferlab.protocol.checker.explorer import explore
for bound in msgspec.json.decode(sys.stdin.buffer.read(), type=list[Bound]):
    print(repr(explore(bound)))
"""


def explored_elsewhere(hash_seed: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=msgspec.json.encode(SMALL),
        capture_output=True,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        check=True,
    )
    return done.stdout.decode().splitlines()


def test_the_same_bound_gives_the_same_exploration_in_any_process() -> None:
    here = [explore(bound) for bound in SMALL]
    again = [explore(bound) for bound in SMALL]
    assert again == here
    assert here[0].findings == ()
    assert here[1].deadlock is not None
    assert explored_elsewhere("1") == explored_elsewhere("2") == [repr(result) for result in here]
