"""A saved schedule, carried out on the cores: ``bufferlab check --replay``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bufferlab.experiments.errors import UserError
from bufferlab.protocol.checker.invariants import STATEMENTS
from bufferlab.protocol.checker.schedule import ScheduleError, from_file, replay, summary


def replay_file(path: Path) -> dict[str, Any]:
    """Carry out a saved schedule on the cores. Raises UserError for a file that is none."""
    try:
        finding, bound = from_file(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(f"--replay is {str(path)!r}, which cannot be read: {error.strerror}") from None
    except (ValueError, ScheduleError) as error:
        raise UserError(f"--replay is {str(path)!r}, it must be a schedule that check has saved: {error}") from None
    try:
        done = replay(bound, finding.moves)
    except ScheduleError as error:
        # The core has changed since: a schedule that it does not go along with any more does no harm.
        return {"configuration": bound.name, "lines": [], "violations": [], "not_possible": str(error)}
    violations = [
        {"invariant": number, "name": STATEMENTS[number][0], "what": what} for number, what in done.violations
    ]
    return {"configuration": f"{bound.name}: {summary(bound)}", "lines": list(done.lines), "violations": violations}


def replay_text(done: dict[str, Any]) -> str:
    """A replay for a terminal."""
    lines = [done["configuration"], *done["lines"], ""]
    if "not_possible" in done:
        lines.append(f"the core does not go along with this schedule: {done['not_possible']}")
    for violation in done["violations"]:
        lines.append(f"invariant {violation['invariant']}, {violation['name']}, is violated: {violation['what']}")
    if not done["violations"]:
        lines.append("no invariant is violated")
    return "\n".join(lines)
