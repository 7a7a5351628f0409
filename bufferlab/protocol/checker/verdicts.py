"""What is wrong with a whole state, how everything came to rest in one, and who waits for whom where nothing helps."""

from __future__ import annotations

from bufferlab.protocol.checker.invariants import (
    Local,
    Violation,
    Write,
    check_end,
    check_group,
    check_write,
    held_blocks,
)
from bufferlab.protocol.checker.localsteps import LocalSteps
from bufferlab.protocol.checker.states import DEAD, State
from bufferlab.protocol.checker.steps import Item
from bufferlab.protocol.encode import EncodeRank
from bufferlab.protocol.language import LanguageRank


class Verdicts:
    """Of the states of one bound. What ranks agree on, and what a write meets, is looked at once."""

    def __init__(self, steps: LocalSteps) -> None:
        self._steps = steps
        self._writes: dict[tuple[int, int, int], tuple[Violation, ...]] = {}
        self._agreements: dict[tuple[int, ...], tuple[Violation, ...]] = {}

    # --- any state ---

    def violations_in(self, state: State) -> tuple[Violation, ...]:
        """What is wrong with a state beyond its ranks' own parts, which the steps into it have told."""
        locals_, under_way, _ = state
        steps = self._steps
        violations: tuple[Violation, ...] = ()
        iterating = set()
        for number in under_way:
            item = steps.items[number]
            if item.what in ("write", "late"):
                source, target = locals_[steps.takers[number]], locals_[steps.places[item.content.destination]]
                key = (number, source, target)
                found = self._writes.get(key)
                if found is None:
                    found = self._writes[key] = self._check_write(item, source, target)
                violations += found
            elif item.what == "iteration":
                iterating.add(steps.takers[number])
        for members in steps.groups:
            if len(members) == 1 or any(locals_[place] == DEAD or place in iterating for place in members):
                continue
            group_key = (members[0], *[locals_[place] for place in members])
            agreed = self._agreements.get(group_key)
            if agreed is None:
                parts = [steps.locals[place][locals_[place]] for place in members]
                agreed = self._agreements[group_key] = check_group(parts)
            violations += agreed
        return violations

    def _check_write(self, item: Item, source: int, target: int) -> tuple[Violation, ...]:
        def at(place: int, number: int) -> Local | None:
            return None if number == DEAD else self._steps.locals[place][number]

        places = self._steps.places
        write = Write(item.content, at(places[item.taker], source), at(places[item.content.destination], target))
        return check_write(write)

    # --- ends ---

    def is_done(self, state: State) -> bool:
        """Whether everything has come to rest: every request ended, every rank of a living group empty."""
        locals_, under_way, _ = state
        if under_way:
            return False
        at_rest = self._steps.is_at_rest
        return all(at_rest(place, locals_[place]) for members in self._living(state) for place in members)

    def _living(self, state: State) -> list[tuple[int, ...]]:
        """The groups that have all of their ranks."""
        return [members for members in self._steps.groups if all(state[0][place] != DEAD for place in members)]

    def violations_at_end(self, state: State) -> list[Violation]:
        """What is wrong with how everything came to rest in a done state."""
        living = [self._steps.locals[place][state[0][place]] for members in self._living(state) for place in members]
        return check_end(self._steps.bound, living, state[2])

    # --- no end ---

    def deadlock(self, state: State, *, for_ever: bool = False) -> Violation:
        """What a state without a way to the end breaks: nothing can happen, or (``for_ever``) nothing that helps."""
        what = "no way leads to an end" if for_ever else "nothing can happen any more"
        number = 23 if self.has_fences(state) else 22 if for_ever else 21
        return Violation(number, f"{what}; {self.waiting(state)}")

    def waits_across(self, state: State) -> bool:
        """Whether some room holds blocks of the language side while it waits for blocks of the encode side.

        Then a deadlock is a circular wait across the two sides, else one within the language pool.
        """
        living = [self._steps.core(place, number) for place, number in enumerate(state[0]) if number != DEAD]
        waiting = {room.key for core in living if isinstance(core, EncodeRank) for room in core._awaiting_source}
        holding = {
            room.key for core in living if isinstance(core, LanguageRank) for room in core.rooms.values() if room.blocks
        }
        return bool(waiting & holding)

    def has_fences(self, state: State) -> bool:
        """Whether some living rank has fenced blocks."""
        return any(
            number != DEAD and self._steps.core(place, number).pool.fenced for place, number in enumerate(state[0])
        )

    def waiting(self, state: State) -> str:
        """Who holds what and waits for what, as one sentence."""
        parts = []
        for place, number in enumerate(state[0]):
            if number == DEAD:
                parts.append(f"{self._steps.ranks[place]} is gone")
                continue
            core = self._steps.core(place, number)
            rooms = [
                f"room {room.key[0]} holds {len(held_blocks(room))} and is {core._doing(room)}"
                for room in core.rooms.values()
            ]
            if rooms:
                parts.append(
                    f"{core.rank_id} has {core.pool.free} of {core.pool.blocks} blocks free: {', '.join(rooms)}"
                )
        return "; ".join(parts)
