"""Sentences that several parts of the page have in common: what was asked, how sure something is, what went wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bufferlab.experiments.reports.page import Cell, KeyFigure, Notice, estimated, whole
from bufferlab.experiments.reports.readings import count, interval_text, known_to, plural, shown, value_text
from bufferlab.experiments.text import is_lopsided

VERDICTS = {
    "within": ("within capacity", "good"),
    "near": ("near capacity", "warn"),
    "over": ("over capacity", "bad"),
    "closed": ("closed loop", "plain"),
    "unknown": ("capacity unknown", "plain"),
}
STAGES = {
    "preprocessing": "image preparation",
    "encoder": "encoder",
    "writers": "writing threads",
    "adapters": "network adapters",
    "prefill": "prefill",
    "language_pool": "language pool",
    "encode_pool": "encode pool",
}
"""In the order in which a request meets them."""
FIGURES = {
    "latency_s": "latency",
    "ttft_s": "first token",
    "transfer_s": "transfer",
    "throughput_rps": "throughput",
    "failure_rate": "requests not served",
    "slo": "kept to the limit of",
    "resume.rate": "resumed requests",
    "resume.mean_chunks": "chunks a request",
    "mean_occupancy": "mean use",
    "peak_occupancy": "peak use",
    "wasted_fraction": "held but empty",
    "blocked_s": "waits in all",
    "blocked_per_request_s": "wait a request",
    "language_pool": "language pool",
    "encode_pool": "encode pool",
    "utilisation": "busy",
    "all": "all limits",
    "ttft": "first token",
}


def upper(sentence: str) -> str:
    """The same with a capital letter and a full stop."""
    words = sentence.strip()
    if not words:
        return ""
    return f"{words[0].upper()}{words[1:]}" + ("" if words.endswith((".", "!", "?")) else ".")


def figure_name(path: str) -> str:
    """What a figure of summary.json is called, by its path."""
    head, _, last = path.partition(".")
    if path in FIGURES:
        return FIGURES[path]
    if head == "utilisation":
        return f"{STAGES.get(last, last)}, busy"
    words = FIGURES.get(head, head)
    return (
        words
        if not last
        else f"{words}, {FIGURES.get(last, last)}"
        if head.endswith("_pool")
        else f"{words} {FIGURES.get(last, last)}"
    )


def served_sentence(requests: Mapping[str, Any], failures: Mapping[str, int]) -> str:
    """How many of the requests were served, and why the others were not."""
    offered, succeeded = requests["offered"], requests["succeeded"]
    if not offered:
        return "No request was offered."
    if succeeded == offered:
        return "The one request was served." if offered == 1 else f"All {count(offered)} requests were served."
    lost = offered - succeeded
    ended = [f"{count(requests['failed'])} failed"] if requests["failed"] else []
    ended += [f"{count(requests['unfinished'])} never came to an end"] if requests["unfinished"] else []
    words = f"{count(lost)} ({shown(lost / offered, 'share')}) were not: {' and '.join(ended)}."
    first = f"{count(succeeded)} of {count(offered)} requests were served" if succeeded else ""
    said = (
        f"{first}, {words}"
        if succeeded
        else f"None of the {plural(offered, 'request')} was served: {' and '.join(ended)}."
    )
    if offered == 1:
        said = "The one request was not served."
    reason = next(iter(failures), "")
    return f"{said} The most frequent reason: {reason} ({count(failures[reason])})." if reason else said


def times_sentence(latency: Mapping[str, Any], whom: str = "those served", averaged: int = 1) -> str:
    """The median and the tail in words; nothing where nothing was served.

    ``averaged``: over how many replications the figures are means, which says nothing of all their requests together.
    """
    if latency["p50"]["value"] is None:
        return ""
    p50, p99 = latency["p50"], latency["p99"]
    spread = interval_text(p99, "time")
    sure = f" (95 % interval {spread})" if spread else ""
    half, most = value_text(p50, "time"), value_text(p99, "time")
    if averaged > 1:
        return (
            f"Of one replication, on average over {count(averaged)} of them, the median latency is {half} and the p99 "
            f"{most}{sure}."
        )
    return f"Half of {whom} were delivered within {half}, 99 % within {most}{sure}."


def sure_sentence(
    estimate: Mapping[str, Any], what: str, replications: int, requests: int, kind: str = "", *, file: bool = False
) -> str:
    """How sure a time is, and what would make it surer. ``file``: the requests are those of a file."""
    width = known_to(estimate)
    if estimate["value"] is None:
        return ""
    if width is None:
        if replications > 1:
            return f"The {replications} replications do not say how sure the {what} is."
        advice = "; a longer file has one" if file else ", and repeat the run with --set run.replications=10"
        return (
            f"One run of {plural(requests, 'request')} is too short to say how sure the {what} is, so it has no "
            f"interval: take it for a first look{advice}."
        )
    if kind == "resampled":
        source = (
            f"its value is the file's own, its interval comes from {plural(replications - 1, 'resample')} of the file "
            "and says how far other traffic of its kind may be off"
        )
    elif replications > 1:
        source = f"a t interval across {replications} independent replications"
    else:
        source = "from batches of one long run"
    if is_lopsided(estimate):  # of a file: half of it would be too much on one side and too little on the other
        return f"The 95 % interval of the {what} is {interval_text(estimate, 'time')}: {source}."
    return f"The {what} is known to ± {100 * width:.2g} %: {source}."


def trouble(content: Mapping[str, Any], where: str = "") -> list[Notice]:
    """What must not be overlooked of a run or of a configuration of a sweep."""
    found = []
    of = f" {where}" if where else ""
    if content.get("invariant_violations"):
        found.append(
            Notice(f"{plural(content['invariant_violations'], 'violation')} of the protocol's invariants{of}: the "
                   "figures cannot be trusted.", "bad")
        )  # fmt: skip
    if content.get("deadlock"):
        rooms = [text for one in content.get("replications", ()) for text in one.get("deadlocks", ())]
        cycle = f" The first: {rooms[0]}." if rooms else ""
        found.append(Notice(f"The system stood still with requests unfinished (deadlock){of}.{cycle}", "bad"))
    found += [Notice(upper(fault), "warn") for fault in content.get("faults") or ()]
    if content.get("ended_early"):
        found.append(Notice(upper(f"the run ended early: {content['ended_early']}"), "warn"))
    return found


def state_of(content: Mapping[str, Any]) -> tuple[str, str]:
    """A word or two and its tone for a run or a configuration: what forbids to rely on it before its capacity."""
    if content.get("invariant_violations"):
        return "invariants violated", "bad"
    if content.get("deadlock"):
        return "deadlock", "bad"
    return VERDICTS[content["capacity"]["verdict"]]


def cautions(contents: Sequence[Mapping[str, Any]]) -> list[Notice]:
    """Where intervals of a resampled file hold the truth less often than they say: of all of them in one notice."""
    told = [one["replicates"]["caution"] for one in contents if one.get("replicates")]
    told = [one for one in told if one]
    if not told:
        return []
    if len(told) == len(contents) and len(set(told)) == 1:
        return [Notice(upper(told[0]))]
    return [
        Notice(
            f"Intervals are too narrow in {count(len(told))} of {plural(len(contents), 'configuration')}; "
            f"of the first of them {told[0]}."
        )
    ]


def key_figures(content: Mapping[str, Any]) -> list[KeyFigure]:
    """The few numbers that stand first."""
    requests = content["requests"]
    served = requests["succeeded"] / requests["offered"] if requests["offered"] else None
    found = [
        KeyFigure(
            "requests served",
            Cell(
                f"{count(requests['succeeded'])}",
                requests["succeeded"],
                interval=f"of {count(requests['offered'])}, {shown(served, 'share')}" if served is not None else "",
                path="requests.succeeded",
            ),
        )
    ]
    wanted = [("latency_s.p50", "median latency"), ("latency_s.p99", "p99 latency")]
    if content["ttft_s"] != content["latency_s"]:
        wanted.append(("ttft_s.p99", "p99 first token"))
    wanted += [
        ("throughput_rps", "throughput"),
        ("resume.rate", "resumed"),
        ("language_pool.wasted_fraction", "held but empty"),
    ]
    if content["slo"]["all"]["value"] is not None:
        wanted.insert(0, ("slo.all", "within all limits"))
    found += [KeyFigure(label, estimated(at(content, path), path)) for path, label in wanted]
    return [one for one in found if one.cell.value is not None]


def at(content: Mapping[str, Any], path: str) -> Any:
    """What stands at a path of nested tables."""
    found: Any = content
    for name in path.split("."):
        found = found[name]
    return found


def utilisation_rows(content: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any], bool, str]]:
    """The stages in the order a request meets them; the one that holds everything up stands out."""
    bottleneck = content["capacity"]["bottleneck"]
    stages = content["utilisation"]
    return [
        (name, stages[stage], stage == bottleneck, "no such stage, or it cannot be seen")
        for stage, name in STAGES.items()
        if stage in stages
    ]


def bottleneck_sentence(capacity: Mapping[str, Any]) -> str:
    """The verdict in words, with the stage named."""
    return upper(str(capacity["sentence"]))


def names_of(values: Sequence[str], most: int = 8) -> str:
    """``1, 2 and 3``; long lists end in how many more there are, which is never a single one."""
    if len(values) == most + 1:
        most += 1
    shown_names = list(values[:most])
    if len(values) > most:
        return f"{', '.join(shown_names)} and {len(values) - most} more"
    if len(shown_names) < 2:
        return "".join(shown_names)
    return f"{', '.join(shown_names[:-1])} and {shown_names[-1]}"


def requests_cell(requests: Mapping[str, Any], path: str) -> Cell:
    """How many requests were not served; nothing to see where all were."""
    lost = requests["offered"] - requests["succeeded"]
    return whole(lost, path, badge="bad" if lost else "")
