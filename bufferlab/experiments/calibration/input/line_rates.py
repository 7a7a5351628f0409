"""Reads the line rate of a link from what people call it: "2x100G", "100G per rail, 2 rails", "25 GB/s", "NDR".

A row that is faster than its line is left out as a slip. So where a description can be read in several ways the
fastest one is taken: a good row must not go because of how somebody spells a link.
"""

from __future__ import annotations

import math
import re

GENERATIONS_GBIT = {
    "QDR": 40, "FDR10": 40, "FDR": 56, "EDR": 100, "HDR100": 100, "HDR": 200, "NDR200": 200, "NDR": 400, "XDR": 800,
}  # fmt: skip
"""InfiniBand's generations, of the usual four lanes."""
_WORDS = {"single": 1, "dual": 2, "twin": 2, "two": 2, "triple": 3, "three": 3, "quad": 4, "four": 4, "eight": 8}
_SCALES = {"M": 1e6, "G": 1e9, "T": 1e12, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}

_COUNT = rf"(?<![\w.-])(\d{{1,3}}|{'|'.join(_WORDS)})"
_DEVICE = r"(?:rail|nic|hca|port|adapter|adaptor|link|lane|plane|card|interface|path|uplink|cable|efa|eni|connectx)s?\b"
_RATE = re.compile(
    r"(?:(?<![\w.])|(?<=\d[xX×*]))(?P<number>\d+(?:\.\d+)?)[ -]?(?:"
    # 25 GB/s, 25 GBps; "gb/s" may be either, and is taken for the faster. 25 GB alone is a size.
    r"(?P<bytes>[MGT]i?)(?:B|Bytes?)(?:/s(?:ec)?|ps)|(?P<unclear>[mgt])b/s"
    # 100G, 100 Gb, 100Gbps, 100 gbit/s, 100GbE, 10GigE
    r"|(?P<bits>[GT])(?:b(?:its?)?(?:/s(?:ec)?|ps)?|bE|BE|E|igE|BASE\S*)?|(?P<slow>M)b(?:it)?(?:/s|ps)"
    r"|(?P<lower>[mgt])(?:b(?:its?/s|ps|e)|bits?)|(?P<word>[Gg])igabits?(?:/s)?"
    r")(?![A-Za-z0-9])"
    rf"|(?<![A-Za-z0-9])(?P<generation>{'|'.join(GENERATIONS_GBIT)})(?![A-Za-z0-9])"
)
_TIMES_BEFORE = re.compile(rf"{_COUNT}(?: ?[A-Za-z]+)? ?[x×*] ?$", re.IGNORECASE)  # 2x100G, 16 EFA × 100G
_TIMES_AFTER = re.compile(rf"(?:(?: ?/ ?| per ){_DEVICE})? ?\(?[xX×*] ?(\d{{1,3}})\b(?! ?[GT])")  # 100G x2
_COUNT_BEFORE = re.compile(rf"{_COUNT}[ -]+$", re.IGNORECASE)  # dual 100G; 2 100G NICs
_DEVICE_AFTER = re.compile(rf"[ -]+(?:[A-Za-z]+ )?{_DEVICE}", re.IGNORECASE)
_DEVICES = re.compile(
    rf"{_COUNT}(?: ?[x×] ?|[ -])(?:(?![mgt](?:i?b|ig|\b))[a-z]+ )?{_DEVICE}(?! ?[x×*])"  # 2 rails; not 100 GbE ports
    rf"|{_DEVICE}(?: count)? ?[:=]? ?(\d{{1,3}})\b(?! ?[gt])",  # rails: 2
    re.IGNORECASE,
)
_EACH = re.compile(r"\b(?:per|each|every|apiece)\b|/ ?" + _DEVICE, re.IGNORECASE)
_IN_ALL = re.compile(r"\b(?:total|aggregated?|altogether|combined|together|in all|overall)\b", re.IGNORECASE)
_BOTH_WAYS = re.compile(r"\bbi-?dir|both (?:directions|ways)|duplex", re.IGNORECASE)
_MEMORY_BEFORE = re.compile(r"\b(?:[ABHLV]|GB|MI)\d{1,3}[A-Z]*[ -]$")  # A100 80G
_MEMORY_AFTER = re.compile(r"[ -]?(?:HBM|[DV]?RAM|memory)", re.IGNORECASE)


def line_rate_Bps(text: str) -> float | None:  # noqa: N802 - bytes, not bits
    """The line rate that a description states, of all its adapters together, bytes per second; else None."""
    devices = [_number(before or after) for before, after in _DEVICES.findall(text)]
    rates: list[float] = []
    until = None
    for match in _RATE.finditer(text):
        rate = _one(match, text)
        if rate is None:
            continue
        times = _times(match, text)
        if not _IN_ALL.search(text):
            # "2x100G, 2 rails" says the same twice; with "per rail" each of them has so much.
            others = devices if _EACH.search(text) else [one for one in dict.fromkeys(devices) if one != times]
            times *= math.prod(others)
        together = until is not None and re.search(r"\+|\band\b|\bplus\b", text[until : match.start()])
        rates.append(rate * times + (rates[-1] if together else 0.0))
        until = match.end()
    return max(rates) * (2 if _BOTH_WAYS.search(text) else 1) if rates else None


def _one(match: re.Match[str], text: str) -> float | None:
    """Bytes per second of one adapter; None for a number that is an amount of memory."""
    if match["generation"]:
        return GENERATIONS_GBIT[match["generation"]] * 1e9 / 8
    before, after = text[: match.start()], text[match.end() :]
    if _MEMORY_BEFORE.search(before) or _MEMORY_AFTER.match(after):
        return None
    of_bytes = match["bytes"] or match["unclear"]
    prefix = of_bytes or match["bits"] or match["slow"] or match["lower"] or match["word"]
    return float(match["number"]) * _SCALES[prefix[:1].upper() + prefix[1:]] / (1 if of_bytes else 8)


def _times(match: re.Match[str], text: str) -> int:
    """How many of them the words right before and after the rate say."""
    before, after = text[: match.start()], text[match.end() :]
    found = _TIMES_BEFORE.search(before)
    if found is None:
        found = _COUNT_BEFORE.search(before)
        if found and found[1].isdigit() and not _DEVICE_AFTER.match(after):
            found = None
    times = _number(found[1]) if found else 1
    if found := _TIMES_AFTER.match(after):
        times *= _number(found[1])
    return times


def _number(text: str) -> int:
    return max(int(text) if text.isdigit() else _WORDS[text.lower()], 1)
