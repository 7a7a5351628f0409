"""Writes what docs/protocol.md shows of the phases: two tables, two state diagrams, the messages of a resumed transfer.

    python tools/protocol_page.py [--check]

The tables and diagrams are read from protocol/encode_phases.py and protocol/language_phases.py. The message sequence is
that of two real rank cores: a request of two chunks, whose second is a resume. What stands between the marks of the
page is replaced; with --check nothing is written.

Exit status: 0, 1 with --check if the page is out of date, 2 if a mark is missing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bufferlab.protocol.disciplines import make_discipline
from bufferlab.protocol.encode import EncodeRank
from bufferlab.protocol.encode_phases import ENCODE_PHASES, EncodePhase
from bufferlab.protocol.language import LanguageRank
from bufferlab.protocol.language_phases import LANGUAGE_PHASES, LanguagePhase
from bufferlab.protocol.layout import BufferLayout
from bufferlab.protocol.messages import (
    Announce,
    Cancel,
    ChunkStatus,
    CopyOut,
    Deliver,
    Encoded,
    EncodeRequest,
    LanguageRequest,
    Offer,
    Quiet,
    Send,
    StartEncode,
    StartWrite,
    WriteDone,
)
from bufferlab.protocol.phases import Phase, Row, Table, Timer, in_words
from bufferlab.protocol.sizing import Fixed
from bufferlab.protocol.topology import RankId, Side

PAGE = Path(__file__).resolve().parent.parent / "docs" / "protocol.md"
BLOCK_TOKENS, TOKENS = 4, 6
"""Of the shown transfer: one block is set aside, and the request takes two."""


def table(rows: Table) -> str:
    """The phases of one side as a table."""
    lines = ["| phase | what the rank does | timer | inputs that change something | steps |", "|---|---|---|---|---|"]
    for phase, row in rows.items():
        takes = ", ".join(row.takes) or "–"
        steps = "; ".join(f"{in_words(step)} → {in_words(to)}{_on(row, step)}" for step, to in row.steps.items()) or "–"
        timer = "–" if row.timer is Timer.NONE else row.timer.value
        what = row.what.replace("{epoch}", "n")
        lines.append(f"| {in_words(phase)} | {what} | {timer} | {takes} | {steps} |")
    return "\n".join(lines)


def _on(row: Row, step: object) -> str:
    return " (the timer runs on)" if step in row.runs_on else ""


def diagram(rows: Table, first: Sequence[Phase], ended: Phase) -> str:
    """The phases of one side as a Mermaid state diagram; ⏱ marks those with a timer."""
    lines = ["```mermaid", "stateDiagram-v2"]
    for phase, row in rows.items():
        if phase is not ended:
            mark = "" if row.timer is Timer.NONE else " ⏱"
            lines.append(f"    {phase.name} : {in_words(phase)}{mark}")
    lines += [f"    [*] --> {phase.name}" for phase in first]
    for phase, row in rows.items():
        steps: dict[Phase, list[str]] = {}
        for step, to in row.steps.items():
            steps.setdefault(to, []).append(in_words(step))
        for to, names in steps.items():
            lines.append(f"    {phase.name} --> {'[*]' if to is ended else to.name} : {', '.join(names)}")
    return "\n".join([*lines, "```"])


def sequence() -> str:
    """The messages of a resumed transfer as a Mermaid sequence diagram, with the phase that each rank gets to."""
    layout = BufferLayout(hidden=8, block_tokens=BLOCK_TOKENS)
    encode = EncodeRank(RankId(Side.ENCODE, 0, 0), layout=layout, discipline=make_discipline("window"), pool_blocks=2)
    language = LanguageRank(
        RankId(Side.LANGUAGE, 0, 0), layout=layout, discipline=make_discipline("window"),
        sizing=Fixed(tokens=BLOCK_TOKENS), pool_blocks=1,
    )  # fmt: skip
    lines = ["```mermaid", "sequenceDiagram", "    participant L as language rank", "    participant E as encode rank"]
    queue: list[tuple[EncodeRank | LanguageRank, object]] = [
        (encode, EncodeRequest(0, 0, TOKENS)),
        (language, LanguageRequest(0, 0)),
    ]
    before: dict[str, Phase] = {}

    def note(core: EncodeRank | LanguageRank, name: str) -> None:
        room = core.rooms.get((0, 0))
        ended = EncodePhase.ENDED if core is encode else LanguagePhase.ENDED
        phase = ended if room is None else room.phase
        if before.get(name) is not phase:
            before[name] = phase
            lines.append(f"    Note over {name}: {in_words(phase)}")

    while queue or encode.has_news or language.has_news or encode.rooms or language.rooms:
        if not queue:
            queue = [(core, core.lone_iteration()) for core in (language, encode)]
        core, given = queue.pop(0)
        here, there = ("E", "L") if core is encode else ("L", "E")
        actions = core.handle(given, 0.0)  # type: ignore[arg-type]
        for action in actions:
            match action:
                case Send(message=message):
                    lines.append(f"    {here}->>{there}: {said(message)}")
                    queue.append((encode if core is language else language, message))
                case StartEncode():
                    queue.append((encode, Encoded(0, 0)))
                case StartWrite(chunk=chunk):
                    lines.append(f"    {here}-->>{there}: tokens {chunk.start_token} to {chunk.end_token} are written")
                    queue.append((encode, WriteDone(0, 0, action.epoch, action.destination, True)))
                case CopyOut():
                    lines.append(f"    {here}->>{here}: copy {action.tokens} tokens out")
                case Deliver():
                    lines.append(f"    {here}->>{here}: deliver {action.total_tokens} tokens")
        note(core, here)
    return "\n".join([*lines, "```"])


def said(message: Announce | Offer | ChunkStatus | Cancel | Quiet) -> str:
    """A message of the shown transfer in a few words."""
    match message:
        case Offer():
            kind = "a resume: " if message.sent_tokens else ""
            room = f"{message.capacity_tokens} tokens from {message.sent_tokens} on"
            return f"Offer for chunk {message.epoch} ({kind}{room})"
        case ChunkStatus():
            return f"{message.status.name}, {message.upto_tokens} of {message.total_tokens} tokens"
    return type(message).__name__


PARTS: dict[str, Callable[[], str]] = {
    "encode diagram": lambda: diagram(ENCODE_PHASES, [EncodePhase.AWAITING_FIRST_OFFERS], EncodePhase.ENDED),
    "encode table": lambda: table(ENCODE_PHASES),
    "language diagram": lambda: diagram(
        LANGUAGE_PHASES, [LanguagePhase.JOINING, LanguagePhase.AWAITING_LENGTH], LanguagePhase.ENDED
    ),
    "language table": lambda: table(LANGUAGE_PHASES),
    "resumed transfer": sequence,
}


def renewed(page: str) -> str:
    """The page with every part as it is now. Raises ValueError if a mark is not there once."""
    for name, part in PARTS.items():
        begin, end = f"<!-- {name}: begin -->\n", f"\n<!-- {name}: end -->"
        if page.count(begin) != 1 or page.count(end) != 1:
            raise ValueError(f"{PAGE.name} must have the marks of {name!r} once")
        head, rest = page.split(begin)
        page = f"{head}{begin}{part()}{end}{rest.split(end)[1]}"
    return page


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, then write or compare the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if the page is out of date")
    options = parser.parse_args(arguments)
    page = PAGE.read_text(encoding="utf-8")
    try:
        wanted = renewed(page)
    except ValueError as error:
        print(f"protocol_page: {error}", file=sys.stderr)
        return 2
    if options.check:
        if wanted != page:
            print(f"protocol_page: {PAGE.name} is out of date; run python tools/protocol_page.py", file=sys.stderr)
        return int(wanted != page)
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
