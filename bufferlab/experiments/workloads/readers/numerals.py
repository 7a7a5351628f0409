"""Numbers as texts write them, and where a sign in them may separate decimals as well as thousands.

A point separates decimals and a comma thousands, but where semicolons separate the columns (as spreadsheets write them
in countries with decimal commas) it may be the other way round. What ``1,500`` is there is decided by the whole column:
if some number in it can only be read one way, such as ``0,5``, all of it is read that way.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?inf|nan", re.IGNORECASE)
DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+")
COMMAS = re.compile(r"[+-]?\d*(,\d+)+(\.\d*)?")
GROUPED = {sign: re.compile(rf"[+-]?[1-9]\d{{0,2}}({re.escape(sign)}\d{{3}})+") for sign in ",."}


def number(text: str, *, decimal_comma: bool) -> int | float | None:
    """What a text says; None if it is no number."""
    if decimal_comma and DECIMAL_COMMA.fullmatch(text):
        text = text.replace(",", ".")
    if not NUMBER.fullmatch(text):
        return None
    try:
        return int(text)
    except ValueError:
        return float(text)


def with_commas(texts: Sequence[str]) -> int | None:
    """The first of these that is a number with commas."""
    return next((row for row, text in enumerate(texts) if COMMAS.fullmatch(text)), None)


def grouped(texts: Sequence[str], sign: str, *, some_without: bool = False) -> int | None:
    """The first of these in which ``sign`` may separate thousands, if it may in all that have it.

    ``some_without``: only if there are some that do not have it. Decimals are mostly written in all or in none.
    """
    having = [row for row, text in enumerate(texts) if sign in text]
    if some_without and all(sign in text for text in texts if text):
        return None
    if having and all(GROUPED[sign].fullmatch(texts[row]) for row in having):
        return having[0]
    return None
