"""What an answer says of limits: by how much they are missed, whether anything keeps them, and what comes nearest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bufferlab.experiments.tuning.floor import out_of_reach
from bufferlab.experiments.tuning.names import setting_text
from bufferlab.experiments.tuning.phrases import estimate_text, joined, signed_estimate
from bufferlab.experiments.tuning.question import parse_objective
from bufferlab.experiments.units import format_duration

WOULD = "A faster GPU (--gpu), another model (--model) or shorter requests would."
"""What changes the work of a request, where waiting is not what is too long."""
Content = Mapping[str, Any]


def missed_lines(content: Content) -> Iterator[str]:
    """What stands first where no setting keeps to the limits."""
    limits = content["slo"]["limits"]
    missed = [limit for limit in limits if limit["met"] is not True]
    for limit in missed:
        yield from (
            line for line in (_by_how_much(limit), floor_text(content, limit), nearest_text(content, limit)) if line
        )
    if not missed:
        # The race took them for missed, and other replications do not.
        titles = joined([_at_most(limit) for limit in limits])
        yield f"No setting kept to the limit ({titles}) in the race; in those that tell what is below, it does."


def _by_how_much(limit: Content) -> str:
    title, most = parse_objective(limit["figure"]).title, format_duration(limit["limit_s"])
    if limit["value"] is None:
        return f"No setting keeps to the limit: {title} is not known and may be at most {most}."
    above = format_duration(limit["value"] - limit["limit_s"])
    return (
        f"No setting keeps to the limit: {title} is {estimate_text(limit)} with what is best, at most {most} is "
        f"allowed, so it is {above} too long."
    )


def _at_most(limit: Content) -> str:
    return f"{parse_objective(limit['figure']).title} at most {format_duration(limit['limit_s'])}"


def _floor_of(content: Content, limit: Content) -> Content | None:
    """The figure of a limit as it is without any waiting; None where that is not known."""
    floor = content["floor"]
    found: Content | None = None if floor is None else floor["figures"][limit["figure"]]
    return None if found is None or found["value"] is None else found


def floor_text(content: Content, limit: Content) -> str:
    """What of a figure that is too long is there without any waiting; empty where that is not known."""
    found = _floor_of(content, limit)
    if found is None:
        return ""
    title = parse_objective(limit["figure"]).title
    is_ = f"one request at a time, without any waiting, {title} is"
    if out_of_reach(content, limit):
        surely = found["low"] is None or found["low"] > limit["limit_s"]
        sure = "" if surely else "; the interval of that does not leave out the limit"
        none = "No buffer size and no number of instances reaches it"
        return f"{none}: {is_} already {estimate_text(found)}{_parts(found)}{sure}. {WOULD}"
    waits = (limit["value"] or found["value"]) - found["value"]
    waiting = f", so {format_duration(waits)} of the {format_duration(limit['value'])} are waiting" if waits > 0 else ""
    return f"What is too long is waiting: {is_} {estimate_text(found)}{_parts(found)}{waiting}."


def _parts(found: Content) -> str:
    parts = [f"{format_duration(seconds)} to {name}" for name, seconds in found["parts"].items()]
    return f", {joined(parts)}" if len(parts) > 1 else ""


def nearest_text(content: Content, limit: Content) -> str:
    """Which setting comes nearest, as far as it is told from today's; empty where that is what is recommended."""
    near, today = limit["nearest"], content["over"][0]["number"]
    if near is None or near["number"] == content["chosen"] != today:
        return ""
    change = near["difference"]
    known = change["value"] is not None
    nearer = not known or (change["value"] if change["high"] is None else change["high"]) < 0
    if near["number"] == today or not nearer:
        return "No setting is nearer to it than today's by more than chance."
    settings = {one["number"]: one for one in content["settings"]}
    fields = setting_text(settings[near["number"]], settings[today]) or "as today"
    than = f", {signed_estimate(change)} over today's" if known else ""
    return f"The nearest is setting {near['number']} ({fields}): {estimate_text(near)}{than}."


def floor_note(content: Content, limit: Content) -> str:
    """What of a figure that keeps to its limit is there without any waiting."""
    found = _floor_of(content, limit)
    return (
        ""
        if found is None
        else f"; {format_duration(found['value'])} of it is there without any waiting{_parts(found)}"
    )
