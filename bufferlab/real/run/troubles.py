"""What befalls a measured run that nobody planned, and which requests it cost."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass, field

from bufferlab.protocol.topology import RankId, Side

Group = tuple[Side, int]
RequestKey = tuple[int, int]
"""Room and incarnation."""


@dataclass
class _Trouble:
    """``group``: whose later requests it costs as well; None if they are served again. ``harmless``: it is none if it
    cost nothing. ``follows``: it is none if something else befell the group."""

    time_s: float
    what: str
    group: Group | None
    struck: set[RequestKey] = field(default_factory=set)
    harmless: bool = False
    follows: bool = False


class Troubles:
    """The troubles of one run, in order. A fault that was planned is none, nor is what follows from one."""

    def __init__(self) -> None:
        self._found: list[_Trouble] = []

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(
        self,
        time_s: float,
        what: str,
        *,
        rank_id: RankId | None = None,
        struck: Iterable[RequestKey] = (),
        passed: bool = False,
        follows: bool = False,
    ) -> None:
        """Something happened to ``rank_id``, or to all, while these requests were under way.

        ``passed``: it is over and costs no later requests, and if it cost none at all it was no trouble. ``follows``:
        it comes of something else that befell the same instance, and is told only if nobody finds out what that was.
        """
        group = None if rank_id is None or passed else (rank_id.side, rank_id.instance)
        self._found.append(_Trouble(time_s, what, group, set(struck), passed, follows))

    def befell(self, group: Group) -> bool:
        """Whether one of them took this instance out of the run."""
        return any(one.group == group for one in self._found)

    def strike(self, group: Group, key: RequestKey) -> None:
        """A request came for this instance."""
        for one in self._found:
            if one.group == group:
                one.struck.add(key)

    def sentences(self, lost: Set[RequestKey]) -> tuple[str, ...]:
        """One for each, without a full stop; ``lost`` are the requests that did not succeed."""
        told = []
        causes = {one.group for one in self._found if not one.follows}
        for one in self._found:
            if one.follows and one.group in causes:
                continue
            count = len(one.struck & lost)
            if count or not one.harmless:
                costs = f"; {count} {'request' if count == 1 else 'requests'} failed by it" if count else ""
                told.append(f"at {one.time_s:.1f} s {one.what}{costs}")
        return tuple(told)
