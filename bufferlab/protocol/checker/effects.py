"""Where each move leads: the ranks that take a step in it, what arrives and is sent, and the fault it may be."""

from __future__ import annotations

from typing import Any

from bufferlab.protocol.checker.bounds import Fault
from bufferlab.protocol.checker.invariants import Hit, Violation
from bufferlab.protocol.checker.localsteps import LocalSteps
from bufferlab.protocol.checker.states import DEAD, Branch, Move, State, with_hit, without
from bufferlab.protocol.checker.steps import Item, Landed, write_done
from bufferlab.protocol.messages import Encoded, Iteration, PeerDown, PeerUp, StartWrite, WriterQuiet
from bufferlab.protocol.topology import RankId


class Effects:
    """The effects of all moves on the states of one bound."""

    def __init__(self, steps: LocalSteps) -> None:
        self.bound = steps.bound
        self._steps = steps
        self._items = steps.items
        self._takers = steps.takers
        self._places = steps.places

    # --- one rank takes an input ---

    def after(self, state: State, move: Move, place: int, given: Any, code: Any, hit: Hit | None = None) -> Branch:
        """One rank takes one input that was not under way."""
        locals_, under_way, hits = state
        number, items, violations = self._steps.step(place, locals_[place], given, (type(given).__name__, code))
        return (
            move,
            self._state(locals_, {place: number}, under_way, items, with_hit(hits, hit)),
            violations,
        )

    def arrives(self, state: State, number: int) -> Branch:
        """Something under way reaches its taker."""
        locals_, under_way, hits = state
        item, place, step = self._items[number], self._takers[number], self._steps.step
        rest = without(under_way, number)
        move = Move("take", item.taker, item)
        changed: dict[int, int] = {}
        violations: tuple[Violation, ...] = ()
        content = item.content
        match item.what:
            case "write":
                target = self._places[content.destination]
                if locals_[target] == DEAD:
                    return self.write_fails(state, number, Fault.FAIL, None)
                changed[target], _, violations = step(target, locals_[target], Landed(content, True), (number, "land"))
                given: Any = write_done(content, ok=True)
            case "late":
                target = self._places[content.destination]
                if locals_[target] != DEAD:
                    landed = Landed(content, True)
                    changed[target], _, violations = step(target, locals_[target], landed, (number, "land"))
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
            changed[place], items, wrong = step(place, locals_[place], given, number)
            violations = (*violations, *wrong)
        return move, self._state(locals_, changed, rest, items, hits), violations

    def iterations_over(self, state: State, members: tuple[int, ...], iteration: Iteration) -> Branch:
        """A group agrees on an iteration; it is carried out at once by a lone rank and in an atomic world."""
        locals_, under_way, hits = state
        ranks = self._steps.ranks
        move = Move("iteration", ranks[members[0]])
        if len(members) > 1 and not self.bound.atomic_iterations:
            agreed = [self._steps.item(Item("iteration", ranks[place], iteration, ranks[place])) for place in members]
            return move, self._state(locals_, {}, under_way, tuple(agreed), hits), ()
        changed: dict[int, int] = {}
        items: list[int] = []
        violations: list[Violation] = []
        for place in members:
            changed[place], more, wrong = self._steps.step(place, locals_[place], iteration, iteration)
            items += more
            violations += wrong
        if len(members) == 1:
            violations += self._steps.unnoticed(members[0], changed[members[0]], None)
        return move, self._state(locals_, changed, under_way, tuple(items), hits), tuple(violations)

    # --- faults ---

    def write_fails(self, state: State, number: int, fault: Fault, hit: Hit | None) -> Branch:
        """A write under way ends in an error; its bytes may still be on their way."""
        locals_, under_way, hits = state
        item, step = self._items[number], self._steps.step
        write: StartWrite = item.content
        place, target = self._places[item.taker], self._places[write.destination]
        changed: dict[int, int] = {}
        violations: tuple[Violation, ...] = ()
        rest = without(under_way, number)
        if locals_[target] != DEAD:
            changed[target], _, violations = step(target, locals_[target], Landed(write, False), (number, "spoil"))
        if fault is Fault.LATE:
            rest = (*rest, self._steps.item(Item("late", item.taker, write, item.source)))
        done = write_done(write, ok=False, quiet=fault is not Fault.LATE)
        changed[place], items, wrong = step(place, locals_[place], done, (number, fault))
        move = Move(fault if hit else "take", item.taker, item)
        return (
            move,
            self._state(locals_, changed, rest, items, with_hit(hits, hit)),
            (*violations, *wrong),
        )

    def lost(self, state: State, number: int, hit: Hit) -> Branch:
        """A message under way never arrives."""
        locals_, under_way, hits = state
        item = self._items[number]
        return Move(Fault.LOSE, item.taker, item), (locals_, without(under_way, number), with_hit(hits, hit)), ()

    def duplicated(self, state: State, number: int, hit: Hit) -> Branch:
        """A message under way will arrive twice."""
        locals_, under_way, hits = state
        item = self._items[number]
        again = tuple(sorted((*under_way, number)))
        return Move(Fault.DUPLICATE, item.taker, item), (locals_, again, with_hit(hits, hit)), ()

    def dies(self, state: State, place: int, move: Move, hit: Hit | None) -> Branch:
        """A rank is gone, and its peers will learn of it."""
        locals_, under_way, hits = state
        rank_id = self._steps.ranks[place]
        left = []
        for number in under_way:
            item = self._items[number]
            if item == Item("up", item.taker, rank_id, rank_id):
                continue  # nobody will find it alive now
            if self._takers[number] != place:
                left.append(number)
            elif item.what in ("write", "late"):  # what it had on the wire may still land
                left.append(self._steps.item(Item("late", rank_id, item.content, rank_id)))
        told = [
            self._steps.item(Item("down", peer, rank_id, rank_id))
            for peer in self._steps.peers[place]
            if locals_[self._places[peer]] != DEAD
        ]
        return move, self._state(locals_, {place: DEAD}, tuple(left), tuple(told), with_hit(hits, hit)), ()

    def suspects(self, state: State, place: int, peer: RankId) -> Branch:
        """A rank takes a peer for dead that is not, and will find it alive again."""
        rank_id = self._steps.ranks[place]
        about = Item("down", rank_id, peer, peer)
        move = Move(Fault.SUSPECT, rank_id, about)
        found, after, violations = self.after(state, move, place, PeerDown(peer), peer, (Fault.SUSPECT, None))
        up = self._steps.item(Item("up", rank_id, peer, peer))
        return found, (after[0], tuple(sorted((*after[1], up))), after[2]), violations

    # --- the state that comes of it ---

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
            items = tuple([n for n in items if locals_[self._takers[n]] != DEAD or self._items[n].what == "late"])
        return locals_, tuple(sorted(under_way + items)) if items else under_way, hits

    def _delivered(self, locals_: tuple[int, ...], changed: dict[int, int], items: tuple[int, ...]) -> tuple[int, ...]:
        """Hand over messages and passes in order, and what these cause; what is left is under way."""
        left, queue = [], list(items)
        for number in queue:
            item = self._items[number]
            if item.what == "write":
                left.append(number)
                continue
            place = self._takers[number]
            given = Encoded(item.content.room, item.content.incarnation) if item.what == "encode" else item.content
            changed[place], more, violations = self._steps.step(
                place, changed.get(place, locals_[place]), given, number
            )
            queue += more
            if violations:
                raise ValueError(f"bound {self.bound.name!r}: {violations[0].what}")
        return tuple(left)
