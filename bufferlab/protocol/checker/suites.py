"""The bounds that are searched: quick (seconds), standard (what CI runs), deep (as long as it takes), and the grid.

Each standard bound is there for rows of the hazard catalogue, named in ``hazards``; together they seed the search with
every adversarial schedule of the list that ends the protocol's specification. They are small on purpose: what goes
wrong goes wrong with two rooms, two chunks and a pool that is full.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations_with_replacement, permutations, product

import msgspec

from bufferlab.protocol.checker.bounds import BLOCK_TOKENS, CONTAINED, Bound, Fault
from bufferlab.protocol.disciplines import DEFAULT, DISCIPLINES

SAFE = tuple(name for name, one in DISCIPLINES.items() if not one.may_deadlock)
WAITING = tuple(name for name, one in DISCIPLINES.items() if one.may_deadlock)
COMPLETE = tuple(name for name in SAFE if DISCIPLINES[name].resumes or DISCIPLINES[name].announces_length)
"""Those that serve every length and wait for nothing while they hold something: most is asked of them."""
ONE_TRANSFER = tuple(name for name in SAFE if name not in COMPLETE)
"""Those that fail what does not fit at once."""
ANNOUNCING = tuple(name for name in SAFE if DISCIPLINES[name].announces_length)
SHAPES = ((1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3))
EVERY = tuple(Fault)
ONE_ROOM = tuple(fault for fault in Fault if fault in CONTAINED)
ALL_BUT_ALARMS = tuple(fault for fault in Fault if fault is not Fault.SUSPECT)
"""A false alarm may last as long as anything else, which makes many states of few."""


def quick() -> list[Bound]:
    """A few seconds: every discipline and every kind of fault, at the smallest size that has two chunks."""
    return [
        *(_fault_free(discipline, 1, 2, (3, 1)) for discipline in SAFE),
        *(_fault_free(discipline, 1, 1, (3,)) for discipline in WAITING),
        _fault_free(DEFAULT, 2, 2, (3,)),
        *(_fault_free(discipline, 2, 3, (3,)) for discipline in ANNOUNCING),
        _one_fault(DEFAULT, 1, 1, (3, 1), ONE_ROOM),
        _one_fault(DEFAULT, 1, 1, (3,), EVERY),
        *(_one_fault(discipline, 1, 1, (3,), EVERY) for discipline in ANNOUNCING),
        _one_fault(DEFAULT, 1, 2, (3,), (*ONE_ROOM, Fault.LOSE), together=True),
        _one_fault(DEFAULT, 2, 2, (1,), (Fault.FAIL, Fault.LATE), together=True),
        _one_fault(DEFAULT, 1, 2, (1, 1), (Fault.LATE,), together=True, atomic=True),
        _one_fault(DEFAULT, 2, 1, (1,), (Fault.EARLY,), atomic=True),
        _faults(DEFAULT, (1,), (Fault.SUSPECT, Fault.LOSE), 2),
        *_special(),
    ]


def standard() -> list[Bound]:
    """What is known to hold: all of it is searched in one to two minutes on two cores."""
    bounds = [_fault_free(discipline, *shape, (3, 1)) for discipline in SAFE for shape in SHAPES]
    bounds += [_fault_free(discipline, 1, 1, (3, 1, 5)) for discipline in SAFE]
    bounds += [_fault_free(DEFAULT, 2, 2, (3, 1, 1), together=True)]
    bounds += [_fault_free(discipline, *shape, (5,)) for discipline in WAITING for shape in SHAPES]
    for discipline in COMPLETE:
        bounds += [
            _one_fault(
                discipline, 1, 1, (3, 1), ALL_BUT_ALARMS, hazards=("N3", "N4", "N6", "B10", "S1", "S10", "S11", "S12")
            ),
            _one_fault(discipline, 1, 2, (3,), ALL_BUT_ALARMS, hazards=("S5", "S6", "T5", "T6")),
            # One block for two rooms, so that the one that is fenced is the one that is wanted.
            _with(_one_fault(discipline, 1, 1, (1, 1), (Fault.SUSPECT,), hazards=("B10",)), language_blocks=1),
            _one_fault(discipline, 1, 2, (1,), (Fault.SUSPECT,), hazards=("B10",)),
            _one_fault(discipline, 2, 1, (3, 1), ALL_BUT_ALARMS, hazards=("T1",)),
            _one_fault(discipline, 2, 2, (3,), ALL_BUT_ALARMS, together=True, hazards=("B11", "T5")),
            _one_fault(discipline, 2, 3, (1,), ONE_ROOM, together=True, atomic=True, hazards=("T2", "T5")),
            _one_fault(discipline, 1, 3, (3,), (Fault.FAIL, Fault.LOSE), together=True, hazards=("T5",)),
            _one_fault(discipline, 1, 1, (3, 1, 1), ONE_ROOM, together=True, hazards=("N3",)),
            _faults(discipline, (3,), EVERY, 2),
        ]
    bounds += [_one_fault(DEFAULT, 2, 2, (1, 1), (Fault.DIE,), atomic=True, hazards=("N8", "N9"))]
    bounds += [_one_fault(DEFAULT, 1, 2, (3, 1), (Fault.FAIL, Fault.DIE), together=True, hazards=("B10", "N8", "N9"))]
    bounds += [
        _one_fault(discipline, 1, 1, (3,), EVERY, hazards=("B10", "S14")) for discipline in WAITING + ONE_TRANSFER
    ]
    bounds += [
        _one_fault(discipline, 1, 1, (3, 3), (Fault.FAIL, Fault.ABORT, Fault.LOSE), hazards=("B1", "B2"))
        for discipline in WAITING
    ]
    return [*bounds, *_special()]


def deep() -> list[Bound]:
    """Larger groups, more rooms and more faults at once: some ten minutes and several GB."""
    bounds = standard()
    pairs = ((Fault.FAIL, Fault.LATE), (Fault.DUPLICATE, Fault.LOSE), (Fault.ABORT,), (Fault.DIE,))
    for discipline in COMPLETE:
        bounds += [_fault_free(discipline, *shape, (3, 1, 1), together=True) for shape in SHAPES[1:]]
        for faults in pairs:
            bounds.append(_one_fault(discipline, 1, 2, (3, 1), faults, together=True))
            bounds.append(_one_fault(discipline, 2, 3, (3,), faults, together=True))
        bounds.append(_faults(discipline, (3, 1), ALL_BUT_ALARMS, 2))
        bounds.append(_faults(discipline, (3,), EVERY, 3))
    return list({bound.name: bound for bound in bounds}.values())


SUITES = {"quick": quick, "standard": standard, "deep": deep}


def _with(bound: Bound, **changes: int) -> Bound:
    return msgspec.structs.replace(bound, **changes)


def _name(discipline: str, encode_tp: int, language_tp: int, lengths: tuple[int, ...], rest: str) -> str:
    rooms = "+".join(map(str, lengths))
    return f"{discipline} {encode_tp}x{language_tp}, {rooms} tokens, {rest}"


def _pools(discipline: str, lengths: tuple[int, ...]) -> dict[str, object]:
    """The tightest pools in which each request alone succeeds and two can be under way, and the first allocation."""
    longest = -(-max(lengths) // BLOCK_TOKENS)
    claims = DISCIPLINES[discipline]
    one_transfer = discipline in ONE_TRANSFER
    held_at_once = longest if claims.waits_holding or not claims.resumes else max(1, longest - 1)
    return {
        "encode_blocks": longest,
        "language_blocks": max(held_at_once, min(2, len(lengths))),
        "default_tokens": (longest * BLOCK_TOKENS if one_transfer else BLOCK_TOKENS,),
    }


def _fault_free(
    discipline: str, encode_tp: int, language_tp: int, lengths: tuple[int, ...], *, together: bool = False
) -> Bound:
    # Three ranks have more orders of arrival than they have rooms' worth of news in them.
    many = encode_tp * language_tp >= 4 and len(lengths) > 1
    return Bound(
        name=_name(discipline, encode_tp, language_tp, lengths, "nothing goes wrong"),
        discipline=discipline,
        encode_tp=encode_tp,
        language_tp=language_tp,
        lengths=lengths,
        arrivals_any=not (together or many),
        hazards=("S2", "S3", "S4", "S5", "S6", "S7", "S8", "T1", "T2", "T6", "T7", "B4", "B5"),
        **_pools(discipline, lengths),  # type: ignore[arg-type]
    )


def _one_fault(
    discipline: str,
    encode_tp: int,
    language_tp: int,
    lengths: tuple[int, ...],
    faults: tuple[Fault, ...],
    *,
    together: bool = False,
    atomic: bool = False,
    hazards: tuple[str, ...] = (),
) -> Bound:
    bound = _faults(discipline, lengths, faults, 1)
    name = _name(discipline, encode_tp, language_tp, lengths, f"one of {', '.join(faults)}")
    return msgspec.structs.replace(
        bound,
        name=name,
        encode_tp=encode_tp,
        language_tp=language_tp,
        arrivals_any=not together,
        atomic_iterations=atomic,
        hazards=hazards,
    )


def _faults(discipline: str, lengths: tuple[int, ...], faults: tuple[Fault, ...], most: int) -> Bound:
    return Bound(
        name=_name(discipline, 1, 1, lengths, f"{most} of {', '.join(faults)}"),
        discipline=discipline,
        lengths=lengths,
        timers=not set(faults) <= CONTAINED or discipline not in SAFE,
        faults=faults,
        most_faults=most,
        **_pools(discipline, lengths),  # type: ignore[arg-type]
    )


def _special() -> list[Bound]:
    """Configurations for one hazard each."""
    edges = {"no tokens": 0, "all of the first allocation": 2, "one more": 3, "more than the pool": 5}
    return [
        *(
            Bound(
                name=f"{discipline}, {what}",
                discipline=discipline,
                lengths=(tokens, 1),
                encode_blocks=2,
                language_blocks=2,
                hazards=("B3", "B13", "B14", "B17"),
            )
            for discipline in SAFE
            for what, tokens in edges.items()
        ),
        *(
            Bound(
                name=f"{discipline}, more than a language pool can give",
                discipline=discipline,
                lengths=(5,),
                encode_blocks=3,
                language_blocks=1,
                hazards=("B3",),
            )
            for discipline in DISCIPLINES
        ),
        Bound(name="a room number used again", lengths=(3, 3), rooms=(0, 0), hazards=("S13",)),
        Bound(
            name="a room number used again after a fault",
            lengths=(1, 1),
            rooms=(0, 0),
            faults=(Fault.ABORT, Fault.DUPLICATE, Fault.FAIL),
            most_faults=1,
            hazards=("S11", "S12", "S13"),
        ),
        Bound(
            name="two encode instances",
            lengths=(3, 1),
            encode_instances=2,
            instances=(0, 1),
            hazards=("T3",),
        ),
        Bound(
            name="unequal grants", lengths=(5,), language_tp=2, encode_blocks=3, default_tokens=(4, 2), hazards=("S7",)
        ),
        Bound(name="blocks reserved for resumes", lengths=(3, 3), language_blocks=3, encode_blocks=4, reserve_blocks=1),
        Bound(name="new rooms first", lengths=(3, 1), resume_first=False, encode_blocks=3, hazards=("B5",)),
        Bound(name="many chunks", lengths=(9,), encode_blocks=5, language_blocks=1, hazards=("S9", "B12")),
        Bound(
            name="the pool full of first parts",
            lengths=(3, 3, 3),
            encode_blocks=6,
            language_blocks=2,
            arrivals_any=False,
            instant=True,
            atomic_iterations=True,
            hazards=("B1",),
        ),
    ]


# --- the grid of deadlocks -----------------------------------------------------------------------------------------

GRID_REQUESTS = (2, 3, 4)
GRID_BLOCKS = (1, 2, 3)
GRID_FIRST = (1, 2)
GRID_LANGUAGE = (2, 3, 4, 5, 6)
GRID_ENCODE = (3, 4, 5, 6)


class GridCase(msgspec.Struct, frozen=True):
    """One configuration of the grid: which requests (blocks each, ascending), in which pools.

    ``orders``: a bound for each order in which they can be submitted.
    """

    requests: tuple[int, ...]
    first_blocks: int
    language_blocks: int
    encode_blocks: int

    @property
    def oversized(self) -> int:
        """Requests that do not fit the first allocation."""
        return sum(blocks > self.first_blocks for blocks in self.requests)

    @property
    def contended(self) -> bool:
        """Whether any request may ever have to wait; where none does, none can wait for another."""
        needed = sum(max(self.first_blocks, blocks) for blocks in self.requests)
        return needed > self.language_blocks or sum(self.requests) > self.encode_blocks

    def bounds(self, discipline: str, *, resume_first: bool) -> list[Bound]:
        """One bound for each order of submission."""
        orders = sorted(set(permutations(self.requests)))
        return [
            Bound(
                name=f"{discipline}, requests of {order} blocks, first {self.first_blocks}, "
                f"pools of {self.encode_blocks} and {self.language_blocks}",
                discipline=discipline,
                lengths=tuple(blocks * BLOCK_TOKENS for blocks in order),
                encode_blocks=self.encode_blocks,
                language_blocks=self.language_blocks,
                default_tokens=(self.first_blocks * BLOCK_TOKENS,),
                resume_first=resume_first,
                arrivals_any=False,
                atomic_iterations=True,
                instant=True,
            )
            for order in orders
        ]


def grid(most_requests: int = max(GRID_REQUESTS)) -> Iterator[GridCase]:
    """All cases in which every request alone succeeds under every discipline that resumes or announces."""
    for count in GRID_REQUESTS:
        if count > most_requests:
            return
        for requests in combinations_with_replacement(GRID_BLOCKS, count):
            for first, language, encode in product(GRID_FIRST, GRID_LANGUAGE, GRID_ENCODE):
                if max(requests) <= min(language, encode) and first <= language:
                    yield GridCase(requests, first, language, encode)
