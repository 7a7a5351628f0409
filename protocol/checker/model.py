"""The two sides as a transition system: states, the moves possible in each, and where each leads.

A state is three things: where each rank is (a number in that rank's table of local states), what is under way (a bag of
numbers: messages, forward passes, writes, agreed turns), and which faults have happened. It holds no order of arrival
and no time, so *every* order of arrival and completion is explored, not only those that a network is likely to show.

A rank's step is a function of its local state and its input. So the real core computes it once (``steps``) and it is
looked up ever after: in millions of interleavings the same few thousand local steps come in different combinations.

The environment:

* every message, forward pass and write under way may be the next to arrive. Real channels are first-in first-out; any
  order includes that one;
* requests reach each rank in the order of their submission, whenever they like;
* a group agrees on a turn at one moment and its ranks carry it out one by one. A rank that has agreed takes nothing
  else before it has carried out the turn, as in ``real.run.rank``; with ``atomic_turns`` all do so at once, as in
  ``sim.cluster.cluster``. A turn that would change nothing is not a move;
* time passes only when nothing else can happen; then any timer may be the next to go off. A timer that goes off
  before that is a fault;
* a fault is a move like any other while the bound allows one more. When a rank is gone the others of its group hold no
  turn any more and end as well, each some time after (``protocol.lifecycle``). A peer that stays declared down for a
  whole quarantine is gone, and what it had under way has arrived by then. Once it is up again the quarantine protects
  from nothing, so it may end at any moment.

This module is longer than others because every move reads and makes the same packed state, whose form is known here
only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from protocol.agreement import hold_turn
from protocol.checker.bounds import Bound, Fault
from protocol.checker.invariants import (
    Broken,
    Ghost,
    Hit,
    Local,
    Write,
    check_end,
    check_group,
    check_local,
    check_step,
    check_write,
    held_blocks,
)
from protocol.checker.snapshot import Core, freeze
from protocol.checker.steps import NOW, Item, Landed, TimerGoesOff, perform, started, write_done
from protocol.encode import EncodeRank
from protocol.language import LanguageRank, LanguageRoom
from protocol.messages import (
    Abort,
    Encoded,
    LanguageRequest,
    PeerDown,
    PeerUp,
    StartWrite,
    Turn,
    WriterQuiet,
)
from protocol.rank import RoomKey
from protocol.topology import RankId, Side

DEAD = -1
"""In place of the local state of a rank that is gone."""


class Move(NamedTuple):
    """One step of a schedule.

    ``kind``: "submit" (the next request reaches ``rank``), "take" (``item`` arrives), "turn" (the group of ``rank``,
    its first, agrees on a turn), "timer" (of ``room`` on ``rank``), "follow" (``rank`` ends because another of its
    group has) or the name of a fault, with what it concerns.
    """

    kind: str
    rank: RankId
    item: Item | None = None
    room: RoomKey | None = None


State = tuple[tuple[int, ...], tuple[int, ...], tuple[Hit, ...]]
"""Local states by rank, numbers of the items under way in ascending order, faults that happened."""

Branch = tuple[Move, State, tuple[Broken, ...]]
"""A move, where it leads, and the invariants the step itself breaks."""

Result = tuple[int, tuple[int, ...], tuple[Broken, ...]]
"""Of a local step: the local state it leads to, the items it puts under way, the invariants it breaks."""


class Model:
    """The transition system of one bound. It is the same for every explorer of the same bound."""

    def __init__(self, bound: Bound) -> None:
        self.bound = bound
        self.ranks = [*bound.encode_ids(), *bound.language_ids()]
        self._place = {rank_id: place for place, rank_id in enumerate(self.ranks)}
        groups: dict[tuple[Side, int], list[int]] = {}
        for place, rank_id in enumerate(self.ranks):
            groups.setdefault((rank_id.side, rank_id.instance), []).append(place)
        self.groups = [tuple(members) for members in groups.values()]
        self._peers = [[peer for peer in self.ranks if peer.side is not rank_id.side] for rank_id in self.ranks]
        self._requests = [bound.requests_for(rank_id) for rank_id in self.ranks]
        self.locals: list[list[Local]] = [[] for _ in self.ranks]
        self._local_numbers: list[dict[Any, int]] = [{} for _ in self.ranks]
        self._local_broken: list[list[tuple[Broken, ...]]] = [[] for _ in self.ranks]
        self.items: list[Item] = []
        self._item_numbers: dict[Item, int] = {}
        self._item_taker: list[int] = []
        self._steps: list[dict[Any, Result]] = [{} for _ in self.ranks]
        self._turns: dict[tuple[int, ...], Turn | None] = {}
        self._writes: dict[tuple[int, int, int], tuple[Broken, ...]] = {}
        self._agreements: dict[tuple[int, ...], tuple[Broken, ...]] = {}
        self._armed: list[dict[int, tuple[tuple[RoomKey, ...], tuple[RoomKey, ...]]]] = [{} for _ in self.ranks]
        self._at_rest: list[dict[int, bool]] = [{} for _ in self.ranks]

    # --- the start ---

    def initial(self) -> tuple[State, tuple[Broken, ...]]:
        """The state before anything happened, and what is wrong with it."""
        numbers: list[int] = []
        under_way: list[int] = []
        broken: list[Broken] = []
        for place, rank_id in enumerate(self.ranks):
            blocks = self.bound.language_blocks if rank_id.side is Side.LANGUAGE else 0
            number = self._number(
                place, Local(self.bound, self.bound.make_core(rank_id), Ghost(memory=(None,) * blocks))
            )
            if not self.bound.arrivals_any:
                for request in self._requests[place]:
                    number, items, wrong = self._step(place, number, request, request)
                    under_way += items
                    broken += wrong
            numbers.append(number)
        state = (tuple(numbers), tuple(sorted(under_way)), ())
        return state, (*broken, *self.broken_in(state))

    # --- moves ---

    def moves(self, state: State) -> Iterator[Branch]:
        """Every move possible in ``state``; those that are no faults first."""
        locals_, under_way, hits = state
        blocked = {self._item_taker[number] for number in under_way if self.items[number].what == "turn"}
        idle = True
        for found in self._progress(state, blocked):
            idle = False
            yield found
        if idle:
            for place, key in self._timers(locals_, blocked):
                yield self._after(state, Move("timer", self.ranks[place], room=key), place, TimerGoesOff(key), key)
        if len(hits) < self.bound.most_faults:
            yield from self._faults(state, blocked)

    def _progress(self, state: State, blocked: set[int]) -> Iterator[Branch]:
        locals_, under_way, _ = state
        for place, number in enumerate(locals_):
            if number == DEAD or place in blocked:
                continue
            submitted = self.locals[place][number].core._submitted
            if submitted < len(self._requests[place]):
                request = self._requests[place][submitted]
                yield self._after(state, Move("submit", self.ranks[place]), place, request, request)
        before = -1
        for number in under_way:
            if number == before:
                continue  # two of the same
            before = number
            item = self.items[number]
            place = self._item_taker[number]
            if place in blocked and item.what != "turn":
                continue
            yield self._arrives(state, number)
        for place, number in enumerate(locals_):
            if number != DEAD and place not in blocked:
                for key in self._armed_on(place, number)[1]:
                    yield self._after(state, Move("timer", self.ranks[place], room=key), place, TimerGoesOff(key), key)
        for members in self.groups:
            if any(locals_[place] == DEAD for place in members):
                for place in members:
                    if locals_[place] != DEAD:
                        yield self._dies(state, place, Move("follow", self.ranks[place]), None)
                continue
            if any(place in blocked for place in members):
                continue
            turn = self._turn_of(members, locals_)
            if turn is not None:
                yield self._turns_over(state, members, turn)

    def _timers(self, locals_: tuple[int, ...], blocked: set[int]) -> Iterator[tuple[int, RoomKey]]:
        for members in self.groups:
            if any(locals_[place] == DEAD for place in members):
                continue  # nobody would hold the turn that looks at the timers
            for place in members:
                if place not in blocked:
                    for key in self._armed_on(place, locals_[place])[0]:
                        yield place, key

    def _faults(self, state: State, blocked: set[int]) -> Iterator[Branch]:
        locals_, under_way, hits = state
        kinds = self.bound.faults
        before = -1
        for number in under_way:
            if number == before:
                continue
            before = number
            item = self.items[number]
            if item.what == "write" and self._item_taker[number] not in blocked:
                for fault in (Fault.FAIL, Fault.LATE):
                    if fault in kinds and locals_[self._place[item.content.destination]] != DEAD:
                        yield self._write_fails(state, number, fault, (fault, item.content.room))
            elif item.what == "message":
                room = item.content.room
                if Fault.LOSE in kinds:
                    lost = (locals_, _without(under_way, number), _with_hit(hits, (Fault.LOSE, room)))
                    yield Move(Fault.LOSE, item.taker, item), lost, ()
                if Fault.DUPLICATE in kinds:
                    again = tuple(sorted((*under_way, number)))
                    yield (
                        Move(Fault.DUPLICATE, item.taker, item),
                        (locals_, again, _with_hit(hits, (Fault.DUPLICATE, room))),
                        (),
                    )
        for place, number in enumerate(locals_):
            if number == DEAD:
                continue
            rank_id = self.ranks[place]
            if Fault.DIE in kinds and not any(fault is Fault.DIE for fault, _ in hits):
                yield self._dies(state, place, Move(Fault.DIE, rank_id), (Fault.DIE, None))
            if place in blocked:
                continue
            core = self.locals[place][number].core
            if Fault.ABORT in kinds:
                for key, room in core.rooms.items():
                    if not room.over:
                        move = Move(Fault.ABORT, rank_id, room=key)
                        yield self._after(state, move, place, Abort(*key), key, (Fault.ABORT, key[0]))
            if Fault.EARLY in kinds:
                for key in self._armed_on(place, number)[0]:
                    # A quarantine is as long as it must be.
                    if not getattr(core.rooms[key], "writer_gone", False):
                        move = Move(Fault.EARLY, rank_id, room=key)
                        yield self._after(state, move, place, TimerGoesOff(key), key, (Fault.EARLY, key[0]))
            if Fault.SUSPECT in kinds:
                for peer in self._peers[place]:
                    if peer not in core._down and locals_[self._place[peer]] != DEAD:
                        yield self._suspects(state, place, peer)

    # --- what a move does ---

    def _after(self, state: State, move: Move, place: int, given: Any, code: Any, hit: Hit | None = None) -> Branch:
        """One rank takes one input that was not under way."""
        locals_, under_way, hits = state
        number, items, broken = self._step(place, locals_[place], given, (type(given).__name__, code))
        return (
            move,
            self._state(locals_, {place: number}, under_way, items, _with_hit(hits, hit)),
            broken,
        )

    def _arrives(self, state: State, number: int) -> Branch:
        locals_, under_way, hits = state
        item, place = self.items[number], self._item_taker[number]
        rest = _without(under_way, number)
        move = Move("take", item.taker, item)
        changed: dict[int, int] = {}
        broken: tuple[Broken, ...] = ()
        content = item.content
        match item.what:
            case "write":
                target = self._place[content.destination]
                if locals_[target] == DEAD:
                    return self._write_fails(state, number, Fault.FAIL, None)
                changed[target], _, broken = self._step(
                    target, locals_[target], Landed(content, True), (number, "land")
                )
                given: Any = write_done(content, ok=True)
            case "late":
                target = self._place[content.destination]
                if locals_[target] != DEAD:
                    landed = Landed(content, True)
                    changed[target], _, broken = self._step(target, locals_[target], landed, (number, "land"))
                given = WriterQuiet(content.room, content.incarnation, content.destination)
            case "encode":
                given = Encoded(content.room, content.incarnation)
            case "down":
                given = PeerDown(content)
            case "up":
                given = PeerUp(content)
            case _:
                given = content
        items: tuple[int, ...] = ()
        if locals_[place] != DEAD:  # bytes of a dead rank may still land
            changed[place], items, wrong = self._step(place, locals_[place], given, number)
            broken = (*broken, *wrong)
        return move, self._state(locals_, changed, rest, items, hits), broken

    def _write_fails(self, state: State, number: int, fault: Fault, hit: Hit | None) -> Branch:
        locals_, under_way, hits = state
        item = self.items[number]
        write: StartWrite = item.content
        place, target = self._place[item.taker], self._place[write.destination]
        changed: dict[int, int] = {}
        broken: tuple[Broken, ...] = ()
        rest = _without(under_way, number)
        if locals_[target] != DEAD:
            changed[target], _, broken = self._step(target, locals_[target], Landed(write, False), (number, "spoil"))
        if fault is Fault.LATE:
            rest = (*rest, self._item(Item("late", item.taker, write, item.source)))
        done = write_done(write, ok=False, quiet=fault is not Fault.LATE)
        changed[place], items, wrong = self._step(place, locals_[place], done, (number, fault))
        move = Move(fault if hit else "take", item.taker, item)
        return (
            move,
            self._state(locals_, changed, rest, items, _with_hit(hits, hit)),
            (*broken, *wrong),
        )

    def _turns_over(self, state: State, members: tuple[int, ...], turn: Turn) -> Branch:
        """A group agrees on a turn; it is carried out at once by a lone rank and in an atomic world."""
        locals_, under_way, hits = state
        move = Move("turn", self.ranks[members[0]])
        if len(members) > 1 and not self.bound.atomic_turns:
            agreed = [self._item(Item("turn", self.ranks[place], turn, self.ranks[place])) for place in members]
            return move, self._state(locals_, {}, under_way, tuple(agreed), hits), ()
        changed: dict[int, int] = {}
        items: list[int] = []
        broken: list[Broken] = []
        for place in members:
            changed[place], more, wrong = self._step(place, locals_[place], turn, turn)
            items += more
            broken += wrong
        if len(members) == 1:
            broken += self._unnoticed(members, self._only(members[0], changed[members[0]]), None)
        return move, self._state(locals_, changed, under_way, tuple(items), hits), tuple(broken)

    def _dies(self, state: State, place: int, move: Move, hit: Hit | None) -> Branch:
        locals_, under_way, hits = state
        rank_id = self.ranks[place]
        left = []
        for number in under_way:
            item = self.items[number]
            if item == Item("up", item.taker, rank_id, rank_id):
                continue  # nobody will find it alive now
            if self._item_taker[number] != place:
                left.append(number)
            elif item.what in ("write", "late"):  # what it had on the wire may still land
                left.append(self._item(Item("late", rank_id, item.content, rank_id)))
        told = [
            self._item(Item("down", peer, rank_id, rank_id))
            for peer in self._peers[place]
            if locals_[self._place[peer]] != DEAD
        ]
        return move, self._state(locals_, {place: DEAD}, tuple(left), tuple(told), _with_hit(hits, hit)), ()

    def _suspects(self, state: State, place: int, peer: RankId) -> Branch:
        rank_id = self.ranks[place]
        about = Item("down", rank_id, peer, peer)
        move = Move(Fault.SUSPECT, rank_id, about)
        found, after, broken = self._after(state, move, place, PeerDown(peer), peer, (Fault.SUSPECT, None))
        up = self._item(Item("up", rank_id, peer, peer))
        return found, (after[0], tuple(sorted((*after[1], up))), after[2]), broken

    def _state(
        self,
        locals_: tuple[int, ...],
        changed: dict[int, int],
        under_way: tuple[int, ...],
        items: tuple[int, ...],
        hits: tuple[Hit, ...],
    ) -> State:
        if self.bound.instant and items:
            items = self._delivered(locals_, changed, items)
        if changed:
            locals_ = tuple([changed.get(place, number) for place, number in enumerate(locals_)])
        if DEAD in locals_:
            items = tuple([n for n in items if locals_[self._item_taker[n]] != DEAD or self.items[n].what == "late"])
        return locals_, tuple(sorted(under_way + items)) if items else under_way, hits

    def _delivered(self, locals_: tuple[int, ...], changed: dict[int, int], items: tuple[int, ...]) -> tuple[int, ...]:
        """Hand over messages and passes in order, and what these cause; what is left is under way."""
        left, queue = [], list(items)
        for number in queue:
            item = self.items[number]
            if item.what == "write":
                left.append(number)
                continue
            place = self._item_taker[number]
            given = Encoded(item.content.room, item.content.incarnation) if item.what == "encode" else item.content
            changed[place], more, broken = self._step(place, changed.get(place, locals_[place]), given, number)
            queue += more
            if broken:
                raise ValueError(f"bound {self.bound.name!r}: {broken[0].what}")
        return tuple(left)

    # --- local steps ---

    def _step(self, place: int, number: int, given: Any, code: Any) -> Result:
        """One rank takes one input: looked up, or computed by its core. ``code`` stands for ``given`` in the table."""
        table = self._steps[place]
        result = table.get((number, code))
        if result is None:
            result = table[number, code] = self._compute(place, number, given)
        return result

    def _compute(self, place: int, number: int, given: Any) -> Result:
        before = self.locals[place][number]
        step = perform(before, given)
        if step.error is not None:
            return number, (), check_step(step)
        after = self._number(place, step.after)
        broken = [*check_step(step)]
        if after != number:
            broken += self._local_broken[place][after]
        if not isinstance(given, Turn):
            broken += self._missed_turn(place, number, after, given)
        return after, tuple([self._item(item) for item in started(step)]), tuple(broken)

    def _number(self, place: int, local: Local) -> int:
        key = (freeze(local.core), local.ghost)
        number = self._local_numbers[place].get(key)
        if number is None:
            number = self._local_numbers[place][key] = len(self.locals[place])
            self.locals[place].append(local)
            self._local_broken[place].append(check_local(local))
        return number

    def _item(self, item: Item) -> int:
        number = self._item_numbers.get(item)
        if number is None:
            number = self._item_numbers[item] = len(self.items)
            self.items.append(item)
            self._item_taker.append(self._place[item.taker])
        return number

    def _turn_of(self, members: tuple[int, ...], locals_: tuple[int, ...]) -> Turn | None:
        """The turn a group would hold now; None if it would change nothing."""
        key = (members[0], *[locals_[place] for place in members])
        if key in self._turns:
            return self._turns[key]
        turn = hold_turn([self.locals[place][locals_[place]].core for place in members])
        found: Turn | None = None
        for place in members:
            number, items, broken = self._step(place, locals_[place], turn, turn)
            if number != locals_[place] or items or broken:
                found = turn
        self._turns[key] = found
        return found

    def _armed_on(self, place: int, number: int) -> tuple[tuple[RoomKey, ...], tuple[RoomKey, ...]]:
        """Rooms with a timer; and those of them in quarantine for a peer that is not down any more."""
        known = self._armed[place].get(number)
        if known is None:
            core = self.locals[place][number].core
            armed = [room for room in core.rooms.values() if room.deadline is not None and room.deadline > NOW]
            pointless = [
                room
                for room in armed
                if isinstance(room, LanguageRoom) and room.over and room.writer_gone and room.writer not in core._down
            ]
            known = (tuple([room.key for room in armed]), tuple([room.key for room in pointless]))
            self._armed[place][number] = known
        return known

    # --- what is wrong ---

    def _missed_turn(self, place: int, before: int, after: int, given: Any) -> list[Broken]:
        """Whether a lone rank's input made a turn due without anybody noticing (drivers hold no turn then)."""
        members = next(members for members in self.groups if place in members)
        if len(members) > 1 or isinstance(given, Landed | TimerGoesOff):
            return []
        if self._turn_of(members, self._only(place, before)) is not None:
            return []  # it was due before
        return self._unnoticed(members, self._only(place, after), given)

    def _only(self, place: int, number: int) -> tuple[int, ...]:
        return tuple([number if one == place else DEAD for one in range(len(self.ranks))])

    def _unnoticed(self, members: tuple[int, ...], locals_: tuple[int, ...], given: Any) -> list[Broken]:
        if len(members) > 1 or self._turn_of(members, locals_) is None:
            return []
        core = self.locals[members[0]][locals_[members[0]]].core
        known = core.unsettled or (given is not None and bool(core.candidates()))
        if known or isinstance(given, LanguageRequest) or any(room.deadline == NOW for room in core.rooms.values()):
            return []
        cause = "a turn" if given is None else type(given).__name__
        return [Broken(21, f"{core.rank_id} has a turn due after {cause} and nobody knows")]

    def broken_in(self, state: State) -> tuple[Broken, ...]:
        """What is wrong with a state beyond its ranks' own parts, which the steps into it have told."""
        locals_, under_way, _ = state
        broken: tuple[Broken, ...] = ()
        turning = set()
        for number in under_way:
            item = self.items[number]
            if item.what in ("write", "late"):
                source, target = locals_[self._item_taker[number]], locals_[self._place[item.content.destination]]
                key = (number, source, target)
                found = self._writes.get(key)
                if found is None:
                    found = self._writes[key] = self._check_write(item, source, target)
                broken += found
            elif item.what == "turn":
                turning.add(self._item_taker[number])
        for members in self.groups:
            if len(members) == 1 or any(locals_[place] == DEAD or place in turning for place in members):
                continue
            group_key = (members[0], *[locals_[place] for place in members])
            agreed = self._agreements.get(group_key)
            if agreed is None:
                parts = [self.locals[place][locals_[place]] for place in members]
                agreed = self._agreements[group_key] = check_group(parts)
            broken += agreed
        return broken

    def _check_write(self, item: Item, source: int, target: int) -> tuple[Broken, ...]:
        def at(place: int, number: int) -> Local | None:
            return None if number == DEAD else self.locals[place][number]

        place = self._place[item.taker]
        return check_write(Write(item.content, at(place, source), at(self._place[item.content.destination], target)))

    # --- ends ---

    def is_done(self, state: State) -> bool:
        """Whether everything has come to rest: every request ended, every rank of a living group empty."""
        locals_, under_way, _ = state
        if under_way:
            return False
        return all(self._is_at_rest(place, locals_[place]) for members in self.living(state) for place in members)

    def living(self, state: State) -> list[tuple[int, ...]]:
        """The groups that have all of their ranks."""
        return [members for members in self.groups if all(state[0][place] != DEAD for place in members)]

    def _is_at_rest(self, place: int, number: int) -> bool:
        known = self._at_rest[place].get(number)
        if known is None:
            core: Core = self.locals[place][number].core
            known = (
                core._submitted == len(self._requests[place]) and not core.rooms and core.pool.free == core.pool.blocks
            )
            self._at_rest[place][number] = known
        return known

    def broken_at_end(self, state: State) -> list[Broken]:
        """What is wrong with how everything came to rest in a done state."""
        living = [self.locals[place][state[0][place]] for members in self.living(state) for place in members]
        return check_end(self.bound, living, state[2])

    def standstill(self, state: State, *, for_ever: bool = False) -> Broken:
        """What a state without a way to the end breaks: nothing can happen, or (``for_ever``) nothing that helps."""
        what = "no way leads to an end" if for_ever else "nothing can happen any more"
        number = 23 if self.has_fences(state) else 22 if for_ever else 21
        return Broken(number, f"{what}; {self.waiting(state)}")

    def waits_across(self, state: State) -> bool:
        """Whether some room holds blocks of the language side while it waits for blocks of the encode side.

        Then a standstill is a circular wait across the two sides, else one within the language pool.
        """
        living = [self.locals[place][number].core for place, number in enumerate(state[0]) if number != DEAD]
        waiting = {room.key for core in living if isinstance(core, EncodeRank) for room in core._awaiting_source}
        holding = {
            room.key for core in living if isinstance(core, LanguageRank) for room in core.rooms.values() if room.blocks
        }
        return bool(waiting & holding)

    def has_fences(self, state: State) -> bool:
        """Whether some living rank has fenced blocks."""
        return any(
            number != DEAD and self.locals[place][number].core.pool.fenced for place, number in enumerate(state[0])
        )

    def waiting(self, state: State) -> str:
        """Who holds what and waits for what, as one sentence."""
        parts = []
        for place, number in enumerate(state[0]):
            if number == DEAD:
                parts.append(f"{self.ranks[place]} is gone")
                continue
            core = self.locals[place][number].core
            rooms = [
                f"room {room.key[0]} holds {len(held_blocks(room))} and is {core._doing(room)}"
                for room in core.rooms.values()
            ]
            if rooms:
                parts.append(
                    f"{core.rank_id} has {core.pool.free} of {core.pool.blocks} blocks free: {', '.join(rooms)}"
                )
        return "; ".join(parts)


def _without(under_way: tuple[int, ...], number: int) -> tuple[int, ...]:
    place = under_way.index(number)
    return under_way[:place] + under_way[place + 1 :]


def _with_hit(hits: tuple[Hit, ...], hit: Hit | None) -> tuple[Hit, ...]:
    return hits if hit is None else tuple(sorted((*hits, hit), key=str))
