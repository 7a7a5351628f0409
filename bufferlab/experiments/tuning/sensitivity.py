"""How far off a configuration may be before the recommendation changes, and what matters most.

*Break points.* One thing at a time is scaled away from what the configuration says, to either side. Halfway and at the
end of the range every rival runs once on the same requests. Those that look best there are held against the recommended
setting by paired differences, in replications that did not pick them (of a file in the same: there are no others), and
if the interval says that one of them is better by more than the indifference, bisection looks for where that begins.
The break lies between the last factor at which the interval says that the recommendation holds and the first at which
it says that a rival is better. Each interval is at 95 % by itself. The number of runs is bounded (``most_runs``).

*Screening.* The elementary effects of Morris (1991, Technometrics 33(2), 161-174; the mean of their sizes: Campolongo,
Cariboni and Saltelli 2007, Environmental Modelling & Software 22(10)), by SALib: everything is scaled at once, on a
grid of four levels, and what each thing changes in the figure of the recommended setting, and in its lead over the best
rival, from one end of its range to the other, is told with a bootstrap interval.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from bufferlab.experiments.errors import UserError
from bufferlab.experiments.stats.intervals import Estimate, unbounded
from bufferlab.experiments.sweeps.grid import fingerprint, plain
from bufferlab.experiments.text import table
from bufferlab.experiments.tuning.changes import Change, WhatIf, changed_config
from bufferlab.experiments.tuning.contest import Runs, figure_of
from bufferlab.experiments.tuning.estimates import difference
from bufferlab.experiments.tuning.names import short_change
from bufferlab.experiments.tuning.phrases import signed_estimate
from bufferlab.experiments.tuning.space import Setting

if TYPE_CHECKING:
    from bufferlab.experiments.tuning.asking import Question

STAGE = "sensitivity"
RANGES = {
    "bandwidth": (0.1, 10.0),
    "latency": (0.1, 10.0),
    "rate": (0.25, 4.0),
    "service": (0.25, 4.0),
    "lengths": (0.25, 4.0),
}
"""What is scaled, and how far to either side."""
MOST_RIVALS = 24
"""Settings that are tried halfway and at the ends of the ranges: those that came nearest to the best one."""
HELD = 2
"""Of these, how many are held against the recommended setting, there and at each step."""
PICKED_IN = range(1)
"""The replication that picks rivals, and that the screening is made in."""
REPLICATIONS = 8
STEPS = 5
"""Halvings of a range on a logarithmic scale: a break is found to within 1/32 of it."""
TRAJECTORIES = 8
LEVELS = 4
SCREENED = {"bandwidth": 2.0, "latency": 2.0, "rate": 1.25, "service": 1.25, "lengths": 1.25}
"""By what factor each is scaled at most in the screening: the link by twice, what loads the system by a quarter, so
that it does not lose requests, which have no latency."""


@dataclass
class Bench:
    """Runs of settings in which something is scaled; each is made once."""

    question: Question
    runs: Runs
    _numbers: dict[str, int] = field(default_factory=dict)

    def number(self, setting: Setting, what_if: WhatIf | None) -> int:
        """The number under which ``runs`` has a setting so scaled."""
        config = setting.config if what_if is None else changed_config(setting.config, what_if)
        name = fingerprint(config)
        if name not in self._numbers:
            self._numbers[name] = len(self._numbers) + 1
            self.runs.settings[self._numbers[name]] = replace(setting, config=config, fingerprint=name)
        return self._numbers[name]

    def get(self, pairs: Iterable[tuple[Setting, WhatIf | None]], replications: range) -> None:
        """Make all these runs, side by side."""
        numbers = dict.fromkeys(self.number(*pair) for pair in pairs)
        self.runs.get([(number, one) for one in replications for number in numbers], STAGE)

    def values(self, setting: Setting, what_if: WhatIf | None, replications: range) -> list[float | None]:
        """The objective in every replication, None where a request was not served."""
        number = self.number(setting, what_if)
        rows = (self.runs.row(number, one) for one in replications)
        return [None if row is None else figure_of(row, self.question.objective) for row in rows]


def examine(question: Question, runs: Runs, content: Mapping[str, Any]) -> dict[str, Any]:
    """What tune.json says of the sensitivity of this answer."""
    bench = Bench(question, Runs({}, runs.execute, runs.folder, runs.progress, runs.notice))
    chosen = question.settings[content["chosen"]]
    rivals = _rivals(question, content)
    breaks = [
        found
        for word in RANGES
        if _possible(chosen, word)
        for found in (_break(bench, content, chosen, rivals, word, end) for end in RANGES[word])
    ]
    return {
        "breaks": breaks,
        "screening": _screening(bench, chosen, rivals),
        "replications": len(_held_in(question)),
        "most_runs": most_runs(question, len(rivals)),
        "runs": len(bench.runs.all()),
    }


def least_runs(question: Question, rivals: int) -> int:
    """How many runs it takes at least with so many rivals that all serve everything."""
    held = _held_in(question)
    count, again = len(held), len({*held} & {*PICKED_IN})  # what picked a rival is not run again
    both = min(HELD, rivals) + 1
    at_one = rivals + 1 + both * (count - again)
    chosen = question.settings[_today(question)]
    words = [word for word in RANGES if _possible(chosen, word)]
    screening = min(rivals + 1, 2) * (len(words) + 1)  # trajectories may have points in common
    return 2 * len(words) * min(2 * at_one, at_one + STEPS * both * count) + screening


def _today(question: Question) -> int:
    return next(number for _, number, _ in question.space.baselines if number is not None)


def most_runs(question: Question, rivals: int) -> int:
    """How many runs all of it takes at most."""
    count = len(_held_in(question))
    ends = 2 * len(RANGES)
    return ends * (2 * (rivals + 1) + (STEPS + 2) * (HELD + 1) * count) + 2 * TRAJECTORIES * (len(SCREENED) + 1)


def _held_in(question: Question) -> range:
    """The replications in which rivals are held against the recommended setting: others than the one that picked them,
    where replications are drawn anew.
    """
    if question.kind is None:
        return PICKED_IN
    count = min(question.most, REPLICATIONS)
    return range(1, count + 1) if question.kind == "independent" else range(count)


def _rivals(question: Question, content: Mapping[str, Any]) -> list[Setting]:
    """The settings nearest to the best one, of those that may be chosen and served everything."""
    near = [
        (one["difference"]["value"], one["number"])
        for one in content["settings"]
        if one["eligible"] and one["number"] != content["chosen"] and one["difference"]["value"] is not None
    ]
    return [question.settings[number] for _, number in sorted(near)[:MOST_RIVALS]]


def _possible(setting: Setting, word: str) -> bool:
    try:
        changed_config(setting.config, WhatIf((Change(word, 2.0),)))
    except UserError:
        return False  # a closed loop has no rate
    return True


# --- break points ---


@dataclass(frozen=True)
class Standing:
    """How the recommended setting stands at one factor."""

    loss: Estimate
    """chosen − rival, of the rival to which it loses most."""
    rival: Setting | None
    served: bool
    """Whether any of the settings that were looked at serves everything."""
    unserved: bool = False
    """Whether the recommended one does not, and the rival does."""

    def broken(self, indifference_s: float) -> bool:
        """Whether a rival is better by more than the indifference."""
        return self.loss["value"] is not None and self.loss["value"] > indifference_s

    def surely_broken(self, indifference_s: float) -> bool:
        """The same with its interval."""
        low = self.loss["low"] if self.loss["low"] is not None else self.loss["value"]
        return low is not None and low > indifference_s

    def surely_holds(self, indifference_s: float) -> bool:
        """Whether the interval says that no rival is better by more than the indifference."""
        if self.rival is None:
            return True
        high = self.loss["high"] if self.loss["high"] is not None else self.loss["value"]
        return high is not None and high <= indifference_s


def _break(
    bench: Bench, content: Mapping[str, Any], chosen: Setting, rivals: Sequence[Setting], word: str, end: float
) -> dict[str, Any]:
    """Where the recommendation changes between 1 and ``end``."""
    indifference_s = content["indifference"]
    for far in (math.sqrt(end), end):
        there = WhatIf((Change(word, far),))
        bench.get([(one, there) for one in (chosen, *rivals)], PICKED_IN)
        held = _best_at(bench, rivals, there)
        reached = _stand(bench, chosen, held, there)
        if reached.surely_broken(indifference_s):
            break
    found: dict[str, Any] = {
        "name": word, "to": far, "holds_to": far, "breaks_at": None, "between": None, "untold": [], "winner": None,
        "winner_number": None, "by": _finite(reached.loss), "unserved": reached.unserved, "served": reached.served,
    }  # fmt: skip
    if not reached.surely_broken(indifference_s):
        return found
    tried: dict[float, Standing | None] = {1.0: None, far: reached}
    good, bad = 0.0, math.log(far)
    for _ in range(STEPS):
        middle = (good + bad) / 2
        standing = _stand(bench, chosen, held, WhatIf((Change(word, math.exp(middle)),)))
        tried[math.exp(middle)] = standing
        if standing.broken(indifference_s):
            bad = middle
        else:
            good = middle
    sure = [one for one, standing in tried.items() if standing is None or standing.surely_holds(indifference_s)]
    lost = [one for one, standing in tried.items() if standing is not None and standing.surely_broken(indifference_s)]

    def distance(factor: float) -> float:
        return abs(math.log(factor))

    # The last factor that surely holds before the first that is surely lost.
    first_lost = min(lost, key=distance)  # the end itself is one
    before = [one for one in sure if distance(one) < distance(first_lost)]
    return {
        **found,
        "holds_to": math.exp(good),
        "breaks_at": math.exp((good + bad) / 2),
        "between": [max(before, key=distance), first_lost],
        "untold": sorted(
            (one for one in tried if max(map(distance, before)) < distance(one) < distance(first_lost)), key=distance
        ),
        "winner": {} if reached.rival is None else _other(chosen, reached.rival),
        "winner_number": None if reached.rival is None else reached.rival.number,
    }


def _finite(loss: Estimate) -> Estimate:
    return unbounded(None) if loss["value"] == math.inf else loss


def _other(chosen: Setting, rival: Setting) -> dict[str, Any]:
    """The fields in which a rival is another setting."""
    return {name: value for name, value in rival.fields.items() if chosen.fields.get(name) != value}


def _best_at(bench: Bench, rivals: Sequence[Setting], what_if: WhatIf) -> list[Setting]:
    """The rivals that look best there."""
    values = [
        (value, one.number, one) for one in rivals if (value := bench.values(one, what_if, PICKED_IN)[0]) is not None
    ]
    return [one for _, _, one in sorted(values, key=lambda entry: entry[:2])[:HELD]]


def _stand(bench: Bench, chosen: Setting, rivals: Sequence[Setting], what_if: WhatIf) -> Standing:
    """The recommended setting against rivals, by paired differences."""
    question = bench.question
    held_in = _held_in(question)
    bench.get([(one, what_if) for one in (chosen, *rivals)], held_in)
    own = bench.values(chosen, what_if, held_in)
    best: tuple[float, Estimate, Setting] | None = None
    for rival in rivals:
        other = bench.values(rival, what_if, held_in)
        if any(value is None for value in other):
            continue
        if any(value is None for value in own):
            # It does not serve everything, and this one does.
            return Standing(unbounded(math.inf), rival, served=True, unserved=True)
        made = difference(other, own, question.replicates)
        if made["value"] is not None and (best is None or made["value"] > best[0]):
            best = (made["value"], made, rival)
    if best is None:
        return Standing(unbounded(None), None, served=all(value is not None for value in own))
    return Standing(best[1], best[2], served=True)


# --- screening ---


def _screening(bench: Bench, chosen: Setting, rivals: Sequence[Setting]) -> dict[str, Any]:
    """The elementary effects of everything that can be scaled, on the chosen setting's figure and on its lead."""
    import numpy as np
    from SALib.analyze import morris as analysis
    from SALib.sample import morris as sampling

    words = [word for word in SCREENED if _possible(chosen, word)]
    problem = {
        "num_vars": len(words),
        "names": words,
        "bounds": [[-math.log(SCREENED[word]), math.log(SCREENED[word])] for word in words],
    }
    seed = bench.question.base.config.run.seed
    points = sampling.sample(problem, TRAJECTORIES, num_levels=LEVELS, seed=seed)
    scaled = [
        WhatIf(tuple(Change(word, math.exp(value)) for word, value in zip(words, point, strict=True)))
        for point in points.tolist()
    ]
    settings = [chosen, *rivals[:1]]
    bench.get([(one, what_if) for what_if in scaled for one in settings], PICKED_IN)
    figures = [[bench.values(one, what_if, PICKED_IN)[0] for what_if in scaled] for one in settings]
    found: dict[str, Any] = {"runs": len(scaled) * len(settings), "within": {word: SCREENED[word] for word in words}}
    lost = sum(value is None for values in figures for value in values)
    if lost:
        return {**found, "effects": [], "why": f"in {lost} of these runs requests were not served"}

    def effects(outputs: Any) -> Mapping[str, Any]:
        return analysis.analyze(problem, points, outputs, num_levels=LEVELS, seed=seed)

    own = np.array(figures[0], dtype=float)
    on_figure = effects(np.log(own))
    lead = None if len(figures) < 2 else effects((np.array(figures[1], dtype=float) - own) / own)
    listed = []
    for place, word in enumerate(words):
        entry: dict[str, Any] = {
            "name": word,
            "figure": {"value": float(on_figure["mu_star"][place]), "half": float(on_figure["mu_star_conf"][place])},
            "lead": None,
        }
        if lead is not None:
            entry["lead"] = {"value": float(lead["mu_star"][place]), "half": float(lead["mu_star_conf"][place])}
        listed.append(entry)
    listed.sort(key=lambda entry: (-entry["figure"]["value"], entry["name"]))
    rival = settings[1].number if len(settings) > 1 else None
    return {**found, "effects": listed, "rival": rival, "why": ""}


# --- in words ---

TITLES = {
    "bandwidth": "bandwidth of the link",
    "latency": "latency of the link",
    "rate": "load",
    "service": "times of encoder and prefill",
    "lengths": "tokens of an image",
}


def sensitivity_text(content: Mapping[str, Any]) -> str:
    """Both tables in words; empty where nothing was asked."""
    found = content["sensitivity"]
    if not found:
        return ""
    lines = ["How far off may it be before the recommendation changes (1× is as configured):"]
    for word in dict.fromkeys(one["name"] for one in found["breaks"]):
        sides = [side_text(one) for one in found["breaks"] if one["name"] == word]
        lines.append(f"  {TITLES[word]}: {'; '.join(sides)}")
    screening = found["screening"]
    if not screening["effects"]:
        lines.append(f"What matters most was not told: {screening['why']}")
        return "\n".join(lines)
    return "\n".join(lines) + "\n\n" + table([EFFECTS, *effects_rows(screening)])


EFFECTS = ("what matters most", "within", "changes the figure by", "and the lead by")


def effects_rows(screening: Mapping[str, Any]) -> list[Sequence[str]]:
    """A row for everything that was scaled, what matters most first."""
    return [
        (
            TITLES[one["name"]],
            f"/ × {screening['within'][one['name']]:g}",
            _effect(one["figure"]),
            "" if one["lead"] is None else _effect(one["lead"]),
        )
        for one in screening["effects"]
    ]


def _effect(one: Mapping[str, float]) -> str:
    return f"{100 * one['value']:.1f} % ± {100 * one['half']:.1f}"


def side_text(one: Mapping[str, Any]) -> str:
    """How far one thing may be off to one side."""
    down = one["to"] < 1
    if one["breaks_at"] is None:
        more = "" if one["served"] else ", where no setting serves everything"
        way = f"{'down' if down else 'up'} to {one['to']:.3g}×"
        return f"no rival can be told to be better {way}, as far as was tried{more}"
    sure, lost = one["between"]
    fields = ", ".join(f"{short_change(name)} {plain(value)}" for name, value in (one["winner"] or {}).items())
    won = "serves what it does not" if one["unserved"] else f"wins by {signed_estimate(one['by']).lstrip('+')}"
    where = ", where" if lost == one["to"] else f"; at {one['to']:.3g}×"
    holds = "" if sure == 1 else f"surely holds to {sure:.3g}×, "
    untold = [f"{factor:.3g}×" for factor in one["untold"]]
    if len(untold) > 1:
        untold = [f"{untold[0]} to {untold[-1]}"]
    open_ = f"cannot be told {'at' if len(one['untold']) == 1 else 'from'} {untold[0]}, " if untold else ""
    return f"{holds}{open_}surely lost at {lost:.3g}×{where} {fields} {won}"
