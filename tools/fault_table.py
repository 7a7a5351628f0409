"""Runs every fault drill over Mooncake on this host and prints what came of each.

    python tools/fault_table.py [--only WORDS] [--json]

A row says which rooms failed (and which the router refused while their instance was starting), how long after the fault
the last of them was over, how many of the others finished, and how many bytes were compared with what had been sent.

Exit status: 0, 1 if anything was not as required, 2 for bad input.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bufferlab.real.drills import DrillResult, all_drills, run_drill
from bufferlab.real.errors import EngineError

COLUMNS = (
    f"{'fault':<54}{'failed':>7}{'refused':>9}{'to conclude':>13}{'others':>9}"
    f"{'bytes verified':>16}{'fenced':>8}{'wall':>7}"
)


def row(result: DrillResult) -> str:
    """One line of the table."""
    outcome = result.outcome
    concluded = f"{result.concluded_s:.2f} s" if result.failed else "-"
    others = f"{result.others_finished}/{result.others}"
    return (
        f"{result.drill.name:<54}{len(result.failed):>7}{len(result.refused):>9}{concluded:>13}{others:>9}"
        f"{outcome.verified_bytes:>16,}{outcome.blocks_fenced:>8}{result.wall_s:>5.0f} s"
    )


def as_json(result: DrillResult) -> dict[str, object]:
    """The same with everything that was noted."""
    return {
        "fault": result.drill.name,
        "failed": result.failed,
        "refused": result.refused,
        "concluded_s": result.concluded_s,
        "others": result.others,
        "others_finished": result.others_finished,
        "bytes_verified": result.outcome.verified_bytes,
        "mismatches": result.outcome.mismatches,
        "blocks_lost": result.outcome.blocks_lost,
        "blocks_fenced": result.outcome.blocks_fenced,
        "messages_stale": result.outcome.messages_stale,
        "frames_dropped": result.outcome.frames_dropped,
        "deadlocks": result.outcome.deadlocks,
        "incidents": [str(incident) for incident in result.outcome.incidents],
        "problems": result.problems,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the fault drills over Mooncake and print the table.")
    parser.add_argument("--only", default="", help="only drills with these words in their name")
    parser.add_argument("--json", action="store_true", help="one JSON list on standard output, the table on error")
    options = parser.parse_args()
    drills = [drill for drill in all_drills() if options.only in drill.name]
    if not drills:
        print(f"--only is {options.only!r}, it must be part of a drill's name", file=sys.stderr)
        return 2
    shown = sys.stderr if options.json else sys.stdout
    print(COLUMNS, file=shown)
    results = []
    for drill in drills:
        try:
            result = run_drill(drill)
        except EngineError as error:
            print(f"fault_table: {drill.name}: {error}", file=sys.stderr)
            return 1
        results.append(result)
        print(row(result), file=shown, flush=True)
        for line in (*result.outcome.deadlocks, *(f"PROBLEM: {problem}" for problem in result.problems)):
            print(f"    {line}", file=shown, flush=True)
    if options.json:
        print(json.dumps([as_json(result) for result in results]))
    return 1 if any(result.problems for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
