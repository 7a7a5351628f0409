"""What all parts of a cluster share: what it runs, its ranks, what they are connected by, and the records of it all."""

from __future__ import annotations

from collections.abc import Iterator

from protocol.emulation.scenario import Scenario
from protocol.lifecycle import Instances
from protocol.messages import Note
from protocol.recording import Recorder
from protocol.topology import RankId, Side
from sim.clock import Clock
from sim.cluster.group import Core, Group, Rank
from sim.faults import Faults
from sim.network.adapters import Network
from sim.network.link import Contacts, LinkProfile


class State:
    """One cluster's. ``copied_s``: when the last of the copies and prefills begun so far ends."""

    def __init__(
        self, scenario: Scenario, link: LinkProfile, clock: Clock, recorder: Recorder | None, faults: Faults | None
    ) -> None:
        self.scenario = scenario
        self.link = link
        self.clock = clock
        self.recorder = recorder
        self.faults = faults
        self.instances = Instances()
        self.ranks: dict[RankId, Rank] = {}
        self.groups: dict[tuple[Side, int], Group] = {}
        self.contacts = Contacts(link.first_contact_s) if link.first_contact_s else None
        self.network = Network(clock, link) if link.contended and self._may_share() else None
        self.copied_s = 0.0
        self._noted = 0

    def _may_share(self) -> bool:
        """Whether two writes can be on the same adapters at a time."""
        scenario = self.scenario
        # Of the workers of a rank, as many are ever busy as there are instances to write to.
        writing = min(scenario.transfer_workers, scenario.language_instances)
        if self.link.shared_by == "instance":
            writing *= min(scenario.encode_tp, scenario.language_tp)
        return writing > 1 or scenario.encode_instances > 1

    @property
    def living(self) -> Iterator[Core]:
        """The cores whose processes have not ended."""
        return (rank.core for rank in self.ranks.values() if not rank.gone)

    # --- records ---

    def note(self, rank_id: RankId, note: Note) -> None:
        """Record what a rank asks to have recorded, now. There must be a recorder."""
        assert self.recorder is not None
        self.recorder(
            self.clock._now, rank_id, note.room, note.event, note.status, note.tokens, note.bytes, note.detail
        )

    def note_later(self, rank: Rank, note: Note, late_s: float) -> None:
        """Record it when the copies before it are over, in ``late_s``, or when the rank's process ends."""
        self._noted += 1
        rank.group.notes[self._noted] = (self.clock._now + late_s, rank.core.rank_id, note)
        self.clock.call_after(late_s, self._note_now, rank.group, self._noted)

    def note_all(self, group: Group) -> None:
        """Record now whatever is to come on the ranks of a group."""
        for number, _ in sorted(group.notes.items(), key=lambda item: (item[1][0], item[0])):
            self._note_now(group, number)

    def _note_now(self, group: Group, number: int) -> None:
        if number in group.notes:
            _, rank_id, note = group.notes.pop(number)
            self.note(rank_id, note)
