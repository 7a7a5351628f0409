"""What a rank records, and what it reports to the router."""

from __future__ import annotations

from bufferlab.protocol.encode import EncodeRank
from bufferlab.protocol.language import LanguageRank
from bufferlab.protocol.messages import Conclude
from bufferlab.protocol.recording import Event
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId
from bufferlab.real.control.channel import Outbox
from bufferlab.real.control.spec import RankSpec
from bufferlab.real.run.commands import Command, Concluded, Holdings, RecordPayload, Records, command_frames

RECORDS_AT_ONCE = 1000
"""Records are sent on in parts of this size: few messages, and a rank's memory does not grow with the run."""


class Journal:
    """The records of one rank, on their way to the ``router``. ``recorded``: how many there have been."""

    def __init__(self, spec: RankSpec, router: Outbox) -> None:
        self._rank_id = spec.rank_id
        self._generation = spec.generation
        # Where this process may be killed it keeps nothing back.
        self._mortal = spec.mortal
        self._router = router
        self._records: list[RecordPayload] = []
        self._moves: dict[int, int] = {}  # by room, the number of the last record
        self.recorded = 0

    def record(
        self,
        time_s: float,
        rank_id: RankId,
        room: int,
        event: Event,
        status: Status | None,
        tokens: int,
        bytes_: int,
        detail: str,
    ) -> None:
        """Write one event down; a ``protocol.recording.Recorder``."""
        self.recorded += 1
        if event is Event.RELEASED:
            self._moves.pop(room, None)
        else:
            self._moves[room] = self.recorded
        self._records.append((time_s, room, event, status, tokens, bytes_, detail))

    def send_on(self, least: int = RECORDS_AT_ONCE) -> None:
        """Give the router what was recorded if it is at least that much, and at once where this process may be
        killed."""
        if len(self._records) >= (1 if self._mortal else least):
            self.tell(Records(self._rank_id, self._generation, self._records))
            self._records = []

    def conclude(self, over: Conclude) -> None:
        """Tell the router that a room is over, with everything that was recorded until then."""
        self.send_on()
        records, self._records = self._records, []
        self.tell(
            Concluded(self._rank_id, over.room, over.incarnation, over.status, over.reason, self._generation, records)
        )

    def describe(self, core: EncodeRank | LanguageRank, number: int) -> None:
        """Tell the router who holds and who waits for blocks, in answer to the question ``number``."""
        queues = [[(demand.key, demand.blocks) for demand in queue] for queue in core.queues()]
        waiting = [key for queue in queues for key, _ in queue]
        held = core.held_blocks()
        self.tell(
            Holdings(
                rank_id=self._rank_id,
                number=number,
                held=list(held.items()),
                queues=queues,
                usable=[(key, core.usable_blocks(key)) for key in waiting],
                moves=[(key, self._moves.get(key[0], 0)) for key in held],
            )
        )

    def tell(self, command: Command) -> None:
        """Say something to the router."""
        self._router.send(command_frames(command))
