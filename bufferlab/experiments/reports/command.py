"""``bufferlab report``: from directories to one file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bufferlab.experiments.errors import UserError
from bufferlab.experiments.figures.pages import check_place
from bufferlab.experiments.files import Claim, disk_errors, write_text
from bufferlab.experiments.reports.page import Figure, Page, Part, Table
from bufferlab.experiments.reports.rendering import render
from bufferlab.experiments.reports.sources import Source, read_source
from bufferlab.experiments.runs.environment import package_version
from bufferlab.experiments.units import format_size

MARK = '<meta name="generator" content="bufferlab report">'
MARK_WITHIN = 1_000
"""Characters of a file within which it says that it is a report."""


@dataclass(frozen=True)
class Written:
    """A report that was written."""

    path: Path
    size: int
    sources: tuple[Source, ...]
    page: Page

    @property
    def told(self) -> str:
        """The line that says where it is."""
        return f"report: {self.path} ({format_size(self.size)})"

    def content(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        blocks = list(self.page.blocks())
        return {
            "report": str(self.path),
            "bytes": self.size,
            "sources": [{"path": str(one.path), "kind": one.told} for one in self.sources],
            "figures": sum(len(block.panels) for block in blocks if isinstance(block, Figure)),
            "tables": sum(isinstance(block, Table) for block in blocks),
        }


def write_report(paths: Sequence[Path], out: Path | None = None) -> Written:
    """One page about all of these directories; without ``out`` beside the first, named after it.

    Raises UserError in one sentence, and writes nothing then, for a directory that is none of ours or a place that
    holds anything but a report.
    """
    if len({path.absolute() for path in paths}) < len(paths):
        raise UserError("RUN is given twice, each directory may be given once")
    target = default_place(paths) if out is None else out
    option = "--out" if out is not None else "the report"
    check_target(target, option)
    sources = tuple(read_source(path) for path in paths)
    page = page_of(sources, target.absolute().parent)
    with Claim(target, option), disk_errors(target):
        text = render(page, package_version("bufferlab") or "")
        write_text(target, text)
    return Written(target, len(text.encode()), sources, page)


def page_of(sources: Sequence[Source], beside: Path) -> Page:
    """The page about these directories. ``beside``: the folder that it is to lie in."""
    parts = [part_of(source, beside) for source in sources]
    if len(parts) == 1:
        return Page(parts[0].title, parts)
    runs = [source for source in sources if source.kind == "run"]
    if len(runs) > 1:
        from bufferlab.experiments.reports.compared import comparison_part

        parts.insert(0, comparison_part(runs))
    return Page(f"{len(sources)} results beside each other", parts)


def part_of(source: Source, beside: Path) -> Part:
    """The part of the page about one directory."""
    match source.kind:
        case "sweep":
            from bufferlab.experiments.reports.sweeps import sweep_part

            return sweep_part(source)
        case "validation":
            from bufferlab.experiments.reports.validations import validation_part

            return validation_part(source)
        case "tune":
            from bufferlab.experiments.reports.tunings import tune_part

            return tune_part(source)
        case _:
            from bufferlab.experiments.reports.runs import run_part

            return run_part(source, beside)


def head_of(source: Source) -> Part:
    """What the page about one directory begins with, without its sections."""
    match source.kind:
        case "sweep":
            from bufferlab.experiments.reports.sweeps import sweep_head

            return sweep_head(source)
        case "validation":
            from bufferlab.experiments.reports.validations import validation_head

            return validation_head(source)
        case "tune":
            from bufferlab.experiments.reports.tuninghead import tune_head

            return tune_head(source)
        case _:
            from bufferlab.experiments.reports.runs import run_head

            return run_head(source)


def default_place(paths: Sequence[Path]) -> Path:
    """Beside the first directory."""
    first = paths[0].absolute()
    more = f"-and-{len(paths) - 1}-more" if len(paths) > 1 else ""
    place = paths[0].parent if paths[0].name not in {"", "..", "."} else first.resolve().parent
    return place / f"{first.resolve().name}{more}.report.html"


def check_target(target: Path, option: str) -> None:
    """Raise UserError where no report can be written, or where something stands that is none."""
    if target.suffix != ".html":
        raise UserError(f"{option} is {str(target)!r}, it must be the name of an .html file")
    check_place(target, option)
    if target.exists():
        with disk_errors(target), target.open(encoding="utf-8", errors="replace") as file:
            begin = file.read(MARK_WITHIN)
        if MARK not in begin:
            raise UserError(f"{option} is {str(target)!r}, which is no report and would be lost; give another name")
