"""What single ranks do: their local states and the items between them, each with a number, and every step just once.

A rank's step is a function of its local state and its input. So the real core computes it once and it is looked up ever
after: in millions of interleavings the same few thousand local steps come in different combinations.
"""

from __future__ import annotations

from typing import Any

from bufferlab.protocol.agreement import hold_iteration
from bufferlab.protocol.checker.bounds import Bound
from bufferlab.protocol.checker.invariants import Ghost, Local, Violation, check_local, check_step
from bufferlab.protocol.checker.snapshot import Core, freeze
from bufferlab.protocol.checker.states import DEAD
from bufferlab.protocol.checker.steps import NOW, Item, Landed, TimerGoesOff, perform, started
from bufferlab.protocol.language import LanguageRoom
from bufferlab.protocol.messages import Iteration, LanguageRequest
from bufferlab.protocol.rank import NEVER_S, RoomKey
from bufferlab.protocol.topology import Side

Result = tuple[int, tuple[int, ...], tuple[Violation, ...]]
"""Of a local step: the local state it leads to, the items it puts under way, the invariants it breaks."""


class LocalSteps:
    """The ranks of one bound, with all that was ever seen of them. A rank is called by its *place*, a number.

    ``groups``: the places of each instance. ``locals``: by place, the local states by number. ``items``: by number;
    ``takers``: the places of those who will get them.
    """

    def __init__(self, bound: Bound) -> None:
        self.bound = bound
        self.ranks = [*bound.encode_ids(), *bound.language_ids()]
        self.places = {rank_id: place for place, rank_id in enumerate(self.ranks)}
        groups: dict[tuple[Side, int], list[int]] = {}
        for place, rank_id in enumerate(self.ranks):
            groups.setdefault((rank_id.side, rank_id.instance), []).append(place)
        self.groups = [tuple(members) for members in groups.values()]
        self.peers = [[peer for peer in self.ranks if peer.side is not rank_id.side] for rank_id in self.ranks]
        self.requests = [bound.requests_for(rank_id) for rank_id in self.ranks]
        self.locals: list[list[Local]] = [[] for _ in self.ranks]
        self.items: list[Item] = []
        self.takers: list[int] = []
        self._numbers: list[dict[Any, int]] = [{} for _ in self.ranks]
        self._violations: list[list[tuple[Violation, ...]]] = [[] for _ in self.ranks]
        self._item_numbers: dict[Item, int] = {}
        self._steps: list[dict[Any, Result]] = [{} for _ in self.ranks]
        self._iterations: dict[tuple[int, ...], Iteration | None] = {}
        self._armed: list[dict[int, tuple[tuple[RoomKey, ...], tuple[RoomKey, ...]]]] = [{} for _ in self.ranks]
        self._at_rest: list[dict[int, bool]] = [{} for _ in self.ranks]

    @property
    def count(self) -> int:
        """How many distinct steps there were."""
        return sum(map(len, self._steps))

    # --- numbers ---

    def untouched(self, place: int) -> int:
        """The local state of a rank before anything happened."""
        rank_id = self.ranks[place]
        blocks = self.bound.language_blocks if rank_id.side is Side.LANGUAGE else 0
        return self._number(place, Local(self.bound, self.bound.make_core(rank_id), Ghost(memory=(None,) * blocks)))

    def _number(self, place: int, local: Local) -> int:
        key = (freeze(local.core), local.ghost)
        number = self._numbers[place].get(key)
        if number is None:
            number = self._numbers[place][key] = len(self.locals[place])
            self.locals[place].append(local)
            self._violations[place].append(check_local(local))
        return number

    def item(self, item: Item) -> int:
        """The number of something under way."""
        number = self._item_numbers.get(item)
        if number is None:
            number = self._item_numbers[item] = len(self.items)
            self.items.append(item)
            self.takers.append(self.places[item.taker])
        return number

    # --- steps ---

    def step(self, place: int, number: int, given: Any, code: Any) -> Result:
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
        violations = [*check_step(step)]
        if after != number:
            violations += self._violations[place][after]
        if not isinstance(given, Iteration):
            violations += self._missed_iteration(place, number, after, given)
        return after, tuple([self.item(item) for item in started(step)]), tuple(violations)

    # --- iterations ---

    def iteration_of(self, members: tuple[int, ...], locals_: tuple[int, ...]) -> Iteration | None:
        """The iteration a group would hold now; None if it would change nothing."""
        key = (members[0], *[locals_[place] for place in members])
        if key in self._iterations:
            return self._iterations[key]
        iteration = hold_iteration([self.locals[place][locals_[place]].core for place in members])
        found: Iteration | None = None
        for place in members:
            number, items, violations = self.step(place, locals_[place], iteration, iteration)
            if number != locals_[place] or items or violations:
                found = iteration
        self._iterations[key] = found
        return found

    def _missed_iteration(self, place: int, before: int, after: int, given: Any) -> list[Violation]:
        """Whether a lone rank's input made an iteration due that nobody noticed (drivers hold none then)."""
        members = next(members for members in self.groups if place in members)
        if len(members) > 1 or isinstance(given, Landed | TimerGoesOff):
            return []
        if self.iteration_of(members, self._only(place, before)) is not None:
            return []  # it was due before
        return self.unnoticed(place, after, given)

    def unnoticed(self, place: int, number: int, given: Any) -> list[Violation]:
        """Whether a lone rank has an iteration due and nobody knows, after ``given`` or (None) after an iteration."""
        if self.iteration_of((place,), self._only(place, number)) is None:
            return []
        core = self.locals[place][number].core
        known = core.unsettled or (given is not None and bool(core.candidates()))
        if known or isinstance(given, LanguageRequest) or any(room.deadline == NOW for room in core.rooms.values()):
            return []
        cause = "an iteration" if given is None else type(given).__name__
        return [Violation(21, f"{core.rank_id} has an iteration due after {cause} and nobody knows")]

    def _only(self, place: int, number: int) -> tuple[int, ...]:
        return tuple([number if one == place else DEAD for one in range(len(self.ranks))])

    # --- what is known of a local state ---

    def core(self, place: int, number: int) -> Core:
        """The core of a rank in a local state; nobody may change it."""
        return self.locals[place][number].core

    def armed(self, place: int, number: int) -> tuple[tuple[RoomKey, ...], tuple[RoomKey, ...]]:
        """Rooms with a timer; and those of them in quarantine for a peer that is not down any more."""
        known = self._armed[place].get(number)
        if known is None:
            core = self.locals[place][number].core
            armed = [room for room in core.rooms.values() if NOW < room.deadline < NEVER_S]
            pointless = [
                room
                for room in armed
                if isinstance(room, LanguageRoom) and room.over and room.writer_gone and room.writer not in core._down
            ]
            known = (tuple([room.key for room in armed]), tuple([room.key for room in pointless]))
            self._armed[place][number] = known
        return known

    def is_at_rest(self, place: int, number: int) -> bool:
        """Whether a rank has had all of its requests and holds nothing more."""
        known = self._at_rest[place].get(number)
        if known is None:
            core: Core = self.locals[place][number].core
            known = (
                core._submitted == len(self.requests[place]) and not core.rooms and core.pool.free == core.pool.blocks
            )
            self._at_rest[place][number] = known
        return known
