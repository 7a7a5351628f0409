"""The checks that the options of several policies share. Each raises ValueError: the option, its value, what may be."""

from __future__ import annotations

import math


def check_tokens(tokens: int) -> None:
    """A number of tokens to allocate."""
    if tokens < 1:
        raise ValueError(f"tokens is {tokens}, it must be at least 1")


def check_share(name: str, value: float) -> None:
    """A share that is not empty."""
    if not 0 < value <= 1:
        raise ValueError(f"{name} is {value}, it must be above 0 and at most 1")


def check_warmup(warmup: int, window: int) -> None:
    """How many of a window's values are enough to answer from."""
    if not 1 <= warmup <= window:
        raise ValueError(f"warmup is {warmup}, it must be between 1 and the window of {window}")


def check_count(name: str, value: int) -> None:
    """A number of things of which there is at least one."""
    if value < 1:
        raise ValueError(f"{name} is {value}, it must be at least 1")


def check_amount(name: str, value: float) -> None:
    """A cost, a time or a factor."""
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} is {value}, it must be at least 0 and finite")
