"""Tunings side by side: what each was asked, what it answers, and in what they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bufferlab.experiments.errors import UserError
from bufferlab.experiments.sweeps.grid import plain
from bufferlab.experiments.text import table
from bufferlab.experiments.tuning.folder import read_answer
from bufferlab.experiments.tuning.names import size_text
from bufferlab.experiments.tuning.phrases import signed_estimate, time_estimate
from bufferlab.experiments.tuning.question import parse_objective
from bufferlab.experiments.tuning.relief import needs_text, stages_text
from bufferlab.experiments.units import format_duration
from bufferlab.experiments.workloads.loading import load

KEPT = (
    "verdict", "objective", "recommendation", "changes", "over", "memory_bytes", "slo", "capacity", "traffic", "runs",
    "assumed", "seed",
)  # fmt: skip


def tuning_of(path: Path) -> dict[str, Any]:
    """What ``--json`` prints of one. Raises UserError where it is not finished."""
    content = read_answer(path)
    if content is None or not content.get("finished"):
        raise UserError(f"RUN is {str(path)!r}, it must be a finished tuning; the same command goes on with it")
    config = load(str(path))
    return {
        "path": str(path), "kind": "tune", **{name: content[name] for name in KEPT}, "relief": content.get("relief"),
        "instances": {"encode": config.encode.instances, "language": config.language.instances},
        "profiles": {
            "encode": config.encode.profile, "language": config.language.profile, "link": config.link.profile,
        },
    }  # fmt: skip


def tunings_text(tunings: Sequence[Mapping[str, Any]]) -> str:
    """A row for each part of the answers, a column for each tuning."""
    told = [_rows(one) for one in tunings]
    labels = list(dict.fromkeys(label for one in told for label in one))
    rows = [("", *(Path(one["path"]).name or str(one["path"]) for one in tunings))]
    rows += [(label, *(one.get(label, "") for one in told)) for label in labels]
    differ = [label for label in labels if label in ASKED and len({one.get(label, "") for one in told}) > 1]
    asked = f"they were not asked the same: {', '.join(differ)} differ" if differ else "they were asked the same"
    fields = dict.fromkeys(name for one in tunings for name in one["recommendation"])
    other = [name for name in fields if len({plain(one["recommendation"].get(name)) for one in tunings}) > 1]
    same = f"what they recommend differs in {', '.join(other)}" if other else "they recommend the same"
    return f"{table(rows)}\n\n{asked}; {same}; intervals are at 95 %"


ASKED = ("traffic", "instances", "encode", "language", "link", "objective", "limits")


def _rows(one: Mapping[str, Any]) -> dict[str, str]:
    """The cells of a column by their labels."""
    objective, over = one["objective"], one["over"][0]
    today = over["value"]
    rows = {
        "traffic": str(one["traffic"]["sentence"]).splitlines()[0].removeprefix("workload: "),
        "instances": f"{one['instances']['encode']} encode, {one['instances']['language']} language",
        **one["profiles"],
        "objective": parse_objective(objective["name"]).title,
        "limits": "; ".join(
            f"{parse_objective(limit['figure']).title} at most {format_duration(limit['limit_s'])}"
            for limit in one["slo"]["limits"]
        )
        or "none",
        "verdict": one["verdict"],
        "as recommended": time_estimate(objective),
        "today's setting": time_estimate(today),
        "over today's setting": _change(over["difference"]),
        **{name: plain(value) for name, value in one["recommendation"].items()},
        "memory of a pool": "" if one["memory_bytes"] is None else size_text(one["memory_bytes"]),
        "capacity": _capacity(one),
        "would mend it": needs_text(one["relief"]),
        "runs": f"{one['runs']:,}",
    }
    return {label: value for label, value in rows.items() if value}


def _change(difference: Mapping[str, Any]) -> str:
    same = difference["value"] == 0 and difference["low"] in (None, 0.0)
    return "the same" if same else signed_estimate(difference)


def _capacity(one: Mapping[str, Any]) -> str:
    capacity, relief = one["capacity"], one["relief"]
    stages = stages_text(relief["stages"]) if relief else (capacity["bottleneck"] or "").replace("_", " ")
    said = capacity["verdict"] or ""
    return f"{said}: {stages}" if said in ("over", "near") and stages else said
