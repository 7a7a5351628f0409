"""What all parts of a cluster share: its scenario, its ranks, the link between them, and the records of the run."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush
from typing import Final, final

from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.protocol.lifecycle import Instances
from bufferlab.protocol.messages import Note
from bufferlab.protocol.recording import Recorder, listening
from bufferlab.protocol.topology import RankId, Side
from bufferlab.sim.clock import Clock
from bufferlab.sim.cluster.group import Core, Group, Rank
from bufferlab.sim.faults import Faults
from bufferlab.sim.network.adapters import Network
from bufferlab.sim.network.link import LinkProfile
from bufferlab.sim.network.transfer import Contacts

ENCODE: Final = Side.ENCODE


@final
class Later:
    """A record that comes when a copy is over, at ``due_s``; of equal times the lower ``number`` comes first."""

    __slots__ = ("due_s", "is_told", "note", "number", "rank")

    def __init__(self, due_s: float, number: int, rank: Rank, note: Note) -> None:
        self.due_s = due_s
        self.number = number
        self.rank = rank
        self.note = note
        self.is_told = False

    def __lt__(self, other: Later) -> bool:
        return self.number < other.number if self.due_s == other.due_s else self.due_s < other.due_s


@final
class State:
    """One cluster's. ``copied_s``: when the last of the copies and prefills begun so far ends.

    ``later``: records that wait for the end of a copy, as a heap.
    """

    def __init__(
        self, scenario: Scenario, link: LinkProfile, clock: Clock, recorder: Recorder | None, faults: Faults | None
    ) -> None:
        self.scenario = scenario
        self.link = link
        self.clock = clock
        self.recorder = None if recorder is None else listening(recorder)
        self.faults = faults
        self.instances = Instances()
        self.ranks: dict[RankId, Rank] = {}
        self.groups: dict[tuple[Side, int], Group] = {}
        self.encode_groups: list[Group] = []  # by instance
        self.language_groups: list[Group] = []
        self.contacts = Contacts(link.first_contact_s) if link.first_contact_s else None
        self.network = Network(clock, link) if link.contended and self._may_share() else None
        self.copied_s = 0.0
        self.untold = 0  # details of which no recorder was told, on ranks whose processes have ended
        self.later: list[Later] = []
        self._noted = 0

    def _may_share(self) -> bool:
        """Whether two writes can be on the same adapters at a time."""
        scenario = self.scenario
        # Of the workers of a rank, as many are ever busy as there are instances to write to.
        writing = min(scenario.transfer_workers, scenario.language_instances)
        if self.link.shared_by == "instance":
            writing *= min(scenario.encode_tp, scenario.language_tp)
        return writing > 1 or scenario.encode_instances > 1

    def add_group(self, group: Group) -> None:
        """An instance has started, for the first time or anew."""
        self.groups[group.key] = group
        self.ranks.update((rank.id, rank) for rank in group.ranks)
        groups = self.encode_groups if group.encodes else self.language_groups
        if group.instance < len(groups):
            groups[group.instance] = group
        else:
            groups.append(group)

    def rank_of(self, rank_id: RankId) -> Rank:
        """The rank that has a name now."""
        groups = self.encode_groups if rank_id.side is ENCODE else self.language_groups
        return groups[rank_id.instance].ranks[rank_id.rank]

    @property
    def living(self) -> Iterator[Core]:
        """The cores whose processes have not ended."""
        return (rank.core for rank in self.ranks.values() if not rank.gone)

    # --- records ---

    def note(self, rank_id: RankId, note: Note) -> None:
        """Record what a rank asks to have recorded, now. There must be a recorder."""
        now = self.clock._now
        if self.later and self.later[0].due_s <= now:
            self.note_due(now)
        self._record(now, rank_id, note)

    def note_later(self, rank: Rank, note: Note, late_s: float) -> None:
        """Record it when the copies before it are over, in ``late_s``, or when the rank's process ends.

        That costs the clock nothing: it waits in ``later``, and whoever gives a core its next input sees to it that
        what is due is recorded before.
        """
        self._noted += 1
        heappush(self.later, Later(self.clock._now + late_s, self._noted, rank, note))

    def note_due(self, time_s: float) -> None:
        """Record what was to be recorded up to ``time_s``, in order."""
        later = self.later
        while later and later[0].due_s <= time_s:
            one = heappop(later)
            if not one.is_told:
                self._record(one.due_s, one.rank.id, one.note)

    def note_all(self, group: Group) -> None:
        """Record now whatever is to come on the ranks of a group."""
        now = self.clock._now
        self.note_due(now)
        for one in sorted([one for one in self.later if one.rank.group is group and not one.is_told]):
            self._record(now, one.rank.id, one.note)
            one.is_told = True

    def _record(self, time_s: float, rank_id: RankId, note: Note) -> None:
        assert self.recorder is not None  # asked before anything was to be noted
        self.recorder.tell(time_s, rank_id, note.room, note.event, note.status, note.tokens, note.bytes, note.detail)
