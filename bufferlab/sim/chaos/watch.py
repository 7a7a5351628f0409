"""Faults that look over everybody's shoulder: what lands where, what is copied, and how rooms end."""

from __future__ import annotations

from collections.abc import Sequence

from bufferlab.protocol.lifecycle import PROCESS_ENDED
from bufferlab.protocol.messages import Action, Conclude, CopyOut, Deliver, EncodeRequest, LanguageRequest, StartWrite
from bufferlab.protocol.rank import RoomKey
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side
from bufferlab.sim.cluster.group import Core
from bufferlab.sim.faults import (
    FaultPlan,
    FaultyCluster,
    PlannedFaults,
    WriteEnd,
)

MOST_VIOLATIONS = 20
"""Kept of one run; what is violated once tends to be so often."""


class Watch(PlannedFaults):
    """Carries out the plan and looks over everybody's shoulder.

    ``memory`` models what the language ranks' blocks hold, as (room, first token): whatever lands is written down, and
    whatever is copied out must be what its room was sent.
    """

    def __init__(self, plan: FaultPlan) -> None:
        super().__init__(plan)
        self.violations: list[str] = []
        self.progress_s = 0.0
        self.concluded: dict[RoomKey, dict[RankId, Conclude]] = {}
        self.landed_tokens: dict[tuple[RoomKey, RankId], int] = {}
        self.copied_tokens: dict[tuple[RoomKey, RankId], int] = {}
        self.memory: dict[tuple[RankId, int], tuple[RoomKey, int]] = {}
        self.outlived: set[tuple[RoomKey, int, RankId, RankId]] = set()  # writes whose writer ended before them

    def begin(self, cluster: FaultyCluster) -> None:
        """Watch the cores and schedule the incidents."""
        self.cores: dict[RankId, Core] = {core.rank_id: core for core in cluster.cores}
        self._block_tokens = cluster.scenario.block_tokens
        cluster.watch(self._see)
        super().begin(cluster)

    def report(self, what: str) -> None:
        """Note a violation."""
        if len(self.violations) < MOST_VIOLATIONS:
            self.violations.append(f"{self._clock.now:.6f} s: {what}")

    # --- processes ---

    def lost(self, rank_id: RankId, key: RoomKey) -> None:
        """A room that ended with its process counts as concluded there, unless it was before."""
        if rank_id not in self.concluded.get(key, {}):
            self._note_conclusion(rank_id, Conclude(*key, Status.Failed, PROCESS_ENDED))

    def _start_processes(self, side: Side, instance: int, ranks: Sequence[RankId]) -> None:
        super()._start_processes(side, instance, ranks)
        self.cores = {core.rank_id: core for core in self._cluster.cores}

    # --- writes ---

    def write_ends(self, writer: RankId, write: StartWrite) -> WriteEnd:
        """A write that fails may have landed in part, so whatever is in flight must lie where its room is."""
        self._check_write(writer, write, "in flight")
        end = super().write_ends(writer, write)
        key = (write.room, write.incarnation)
        here = self.landed_tokens.get((key, write.destination), 0)
        if end.ok and write.chunk.start_token == here:
            owners = {self.cores[write.destination].pool.owner(block) for block in self._targets(write)}
            if owners == {key}:
                self.landed_tokens[key, write.destination] = write.chunk.end_token
        return end

    def outlives(self, writer: RankId, write: StartWrite) -> float | None:
        """What is read of the memory of a process that has ended is nobody's any more."""
        late_s = super().outlives(writer, write)
        if late_s is not None:
            self.outlived.add(_name_of(writer, write))
        return late_s

    def landed(self, writer: RankId, write: StartWrite) -> None:
        """Bytes, late ones too, land in memory that is their room's, or fenced for it."""
        self._check_write(writer, write, "landing")
        for number, block in enumerate(self._targets(write)):
            start_token = write.chunk.start_token + number * self._block_tokens
            self.memory[write.destination, block] = ((write.room, write.incarnation), start_token)

    def _targets(self, write: StartWrite) -> tuple[int, ...]:
        return write.target_blocks[: -(-write.chunk.tokens // self._block_tokens)]

    def _check_write(self, writer: RankId, write: StartWrite, what: str) -> None:
        if self._cluster.is_lost(write):
            return  # it goes to memory of a process that has ended, and nothing of it can land
        key = (write.room, write.incarnation)
        here = f"the write of room {write.room}, chunk {write.epoch}, from {writer} to {write.destination} is {what}"
        target = self.cores[write.destination].pool
        for block in self._targets(write):
            owner, fenced_for = target.owner(block), target.fenced_for(block)
            if key not in (owner, fenced_for):
                self.report(f"{here}, but block {block} there is {_described(owner, fenced_for)}")
        if _name_of(writer, write) in self.outlived:
            return
        first = write.chunk.start_token // self._block_tokens
        source = self.cores[writer].pool
        for block in write.source_blocks[first : first + len(self._targets(write))]:
            if source.owner(block) != key:
                self.report(f"{here}, but its source block {block} is {_described(source.owner(block), None)}")

    # --- inputs and actions ---

    def _see(self, rank_id: RankId, event: object, actions: list[Action]) -> None:
        if isinstance(event, EncodeRequest | LanguageRequest):
            self.progress_s = self._clock.now
        for action in actions:
            if isinstance(action, StartWrite):
                self._check_write(rank_id, action, "started")
            elif isinstance(action, CopyOut):
                self._check_copy(rank_id, action)
            elif isinstance(action, Deliver):
                copied = self.copied_tokens.get(((action.room, action.incarnation), rank_id), 0)
                if copied != action.total_tokens:
                    self.report(
                        f"room {action.room} delivers {action.total_tokens} tokens on {rank_id}, {copied} copied"
                    )
            elif isinstance(action, Conclude):
                self._note_conclusion(rank_id, action)

    def _check_copy(self, rank_id: RankId, copy: CopyOut) -> None:
        key = (copy.room, copy.incarnation)
        before = self.copied_tokens.get((key, rank_id), 0)
        if copy.start_token != before:
            self.report(f"room {copy.room} copies from token {copy.start_token} on {rank_id}, {before} are copied")
        self.copied_tokens[key, rank_id] = copy.start_token + copy.tokens
        for number, block in enumerate(copy.blocks):
            wanted = (key, copy.start_token + number * self._block_tokens)
            found = self.memory.get((rank_id, block))
            if found != wanted:
                self.report(f"room {copy.room} copies block {block} of {rank_id}, which holds {found}, not {wanted}")

    def _note_conclusion(self, rank_id: RankId, conclusion: Conclude) -> None:
        key = (conclusion.room, conclusion.incarnation)
        ranks = self.concluded.setdefault(key, {})
        if rank_id in ranks:
            self.report(
                f"room {conclusion.room} concludes {conclusion.status.name} on {rank_id}, "
                f"it was {ranks[rank_id].status.name}"
            )
        ranks[rank_id] = conclusion
        self.progress_s = self._clock.now


def _name_of(writer: RankId, write: StartWrite) -> tuple[RoomKey, int, RankId, RankId]:
    return (write.room, write.incarnation), write.epoch, writer, write.destination


def _described(owner: object, fenced_for: object) -> str:
    if owner is not None:
        return f"owned by {owner}"
    return "free" if fenced_for is None else f"fenced for {fenced_for}"
