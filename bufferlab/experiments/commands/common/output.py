"""What a command prints: text, or with ``--json`` one JSON object on stdout and nothing else there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def tell(content: Any, text: str, *, as_json: bool) -> None:
    """Print the content as JSON where that was asked for, else the text."""
    if as_json:
        print_json(content)
    else:
        say(text)


def tell_plan(plan: Any, *, as_json: bool) -> None:
    """Print what ``--dry-run`` asks for."""
    tell(plan.content() if as_json else None, "" if as_json else plan.told(), as_json=as_json)


def say(text: str) -> None:
    """Print a text on stdout, as a terminal shows it best if it is one."""
    from bufferlab.experiments.shown import for_terminal

    print(for_terminal(text))


def print_json(content: Any) -> None:
    """Print one JSON object."""
    from bufferlab.experiments.files import json_text

    print(json_text(content))


@contextmanager
def stdout_kept_for_json(as_json: bool) -> Iterator[None]:
    """Send what a step prints to stderr while JSON is wanted."""
    if not as_json:
        yield
        return
    kept, sys.stdout = sys.stdout, sys.stderr
    try:
        yield
    finally:
        sys.stdout = kept
