"""The SGLang fork's wire: its frames, and nothing else, between the two sides.

A language rank says register (once per connection), init and resume; an encode rank says a status. What the extended
messages do beyond that is done otherwise here, and never at the price of a late write:

* *Who a message is from.* A language rank is its engine session. Which of a request's destinations a session is, nobody
  says and nothing depends on: the first one that comes is the first destination. Any session that has registered can be
  one. If there are more than the configuration has ranks (a new process whose predecessor nobody has missed yet), a
  *surplus* one takes the place of a destination that has not asked for the room.
* *Which chunk it is about.* An init is chunk 0, a resume chunk 1; a status is about the chunk that is outstanding.
* *How much has come.* The length lies in the aux row of the first chunk, the rest follows from what was offered.
* *That a room is over (Cancel), and that its writer is quiet (Quiet).* The language side cannot call a room off. Its
  blocks stay fenced until the encode side's status shows that no write is left: Transferring and Success come after the
  writes of a chunk. Failed comes after the last write was begun, but one that was given up may still land: then a
  quarantine follows. Time alone never frees a block, for the encode side may begin a write however late.
* Our own encode rank says Failed only when nothing of the room is in flight to that destination, and is known by its
  answer to the health probe; then there is no quarantine.

No sockets and no clock here but those that are handed in. ``real.control.sglang_language`` and
``real.control.sglang_encode`` have the two sides, ``real.control.sglang_peers`` has the look-ups.
"""

from __future__ import annotations

from collections.abc import Sequence

from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.protocol.wire.codec import (
    SglangFrame,
)
from bufferlab.protocol.wire.limits import sglang_problem
from bufferlab.real.faults import CorruptFrame, RealFault, RefuseRegistration, Restart

INCARNATION = 0
"""Of every room: the fork's frames have none, so a room's number may not be used again."""


def check_sglang(scenario: Scenario, requests: Sequence[Request], plan: Sequence[RealFault]) -> None:
    """Raise ValueError, one sentence, for what a run over this wire cannot have."""
    name, problem = sglang_problem(
        discipline=scenario.discipline, resume_tokens=scenario.resume_tokens, timeout_s=scenario.timeout_s
    )
    if name:
        raise ValueError(f"{name} is {getattr(scenario, name)!r}, it {problem}")
    rooms: set[int] = set()
    for request in requests:
        if request.incarnation or request.room in rooms:
            raise ValueError(
                f"room {request.room} is used again, which the sglang wire cannot tell from the first time"
            )
        rooms.add(request.room)
    for fault in plan:
        if isinstance(fault, Restart | CorruptFrame | RefuseRegistration):
            # A new process cannot say whose place it takes, a frame has no checksum, a look-up knows no refusal.
            raise ValueError(f"the plan has a {type(fault).__name__}, which the sglang wire does not allow")


def shown(frame: SglangFrame) -> str:
    """A frame as a message names it."""
    return f"a {type(frame).__name__.removeprefix('Sglang').lower()} frame"
