"""What must hold: the 27 invariants of the protocol as predicates over states, steps and ends of runs.

Each number has its statement in ``STATEMENTS`` and one or more predicates in the modules of this folder. A predicate
yields a sentence for everything it finds wrong and nothing when all is well. They see the cores from outside: what a
core holds, what it was given and what it asked for, and a *ghost*, which is the explorer's own account of what really
happened (what landed where, what was copied, acknowledged, concluded). None of them uses a core's own judgement of
itself.

Predicates are pure functions of local states and steps, so the explorer evaluates each once per local state or step
and not once per global state.
"""

from bufferlab.protocol.checker.invariants import states, steps, writes  # noqa: F401 - their predicates register themselves
from bufferlab.protocol.checker.invariants.base import (
    Content,
    Ghost,
    Hit,
    Local,
    Step,
    Violation,
    Write,
    check_group,
    check_local,
    check_step,
    check_write,
    held_blocks,
)
from bufferlab.protocol.checker.invariants.ends import check_end
from bufferlab.protocol.checker.invariants.statements import STATEMENTS

__all__ = [
    "STATEMENTS",
    "Content",
    "Ghost",
    "Hit",
    "Local",
    "Step",
    "Violation",
    "Write",
    "check_end",
    "check_group",
    "check_local",
    "check_step",
    "check_write",
    "held_blocks",
]
