"""What ``--report`` adds to a command: the page about its directory, as ``bufferlab report`` writes it."""

from __future__ import annotations

import sys
from pathlib import Path


def check_report(target: Path, *, wanted: bool) -> None:
    """Raise UserError, before anything runs, where the page about ``target`` could not be written."""
    if wanted:
        from bufferlab.experiments.reports.command import check_target, default_place

        check_target(default_place([target]), "the report")


def add_report(target: Path, *, wanted: bool, as_json: bool) -> None:
    """Write the page about ``target`` and say where; on standard error where standard output is for JSON alone."""
    if wanted:
        from bufferlab.experiments.reports.command import write_report

        print(write_report([target]).told, file=sys.stderr if as_json else sys.stdout)
