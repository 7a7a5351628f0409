"""A search of a space that is too large to be raced: trials that Optuna proposes, of which the best go into the race.

Where a field has a range, or the crossed space has more than ``MOST_CROSSED`` settings, not every setting can be run.
Optuna's TPE sampler proposes settings in batches of a fixed size, all of which meet the same requests in few
replications; settings that are unfit or miss a limit count as worse by how much. The best ``FINALISTS`` trials and the
baselines are then what an ordinary tune chooses from. Whatever is promised is promised of the finalists: they were
picked by few replications, and a better setting may never have been proposed. Replications are drawn anew for the race,
so that the luck by which a trial became a finalist has no part in it; a file has none but its own.

The proposals depend on the seed and on what trials came to, in the order of their numbers, and on nothing else. So a
search that was interrupted is begun again with what the ledger has, which costs no run, and the batches see to it that
the number of processes changes nothing. Optuna's own file beside the ledger is for those who want to look into the
search; it is written anew each time, and has the times at which trials began, so it is not the same twice.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bufferlab.experiments.errors import UserError
from bufferlab.experiments.files import disk_errors
from bufferlab.experiments.installing import install_command
from bufferlab.experiments.stats.replicates import ReplicationKind
from bufferlab.experiments.sweeps.grid import plain
from bufferlab.experiments.tuning.base import Base
from bufferlab.experiments.tuning.bounds import Demand, never_served
from bufferlab.experiments.tuning.contest import Runs
from bufferlab.experiments.tuning.folder import SEARCH_FILE
from bufferlab.experiments.tuning.question import Limit, Objective
from bufferlab.experiments.tuning.ranges import Range, Values, ends_of, in_blocks, is_size, label, with_range
from bufferlab.experiments.tuning.space import (
    BLOCK,
    DISCIPLINE,
    POLICY,
    POOL,
    TOKENS,
    Fields,
    Maker,
    Memory,
    Setting,
    Space,
    block_bytes,
    compared_with,
    dimensions_of,
    policies_of,
)
from bufferlab.protocol.disciplines import DISCIPLINES

if TYPE_CHECKING:
    import optuna

GRID, OPTUNA = "grid", "optuna"
SEARCHES = (GRID, OPTUNA)
STAGE = "search"
MOST_CROSSED = 500
"""Settings of a crossed space up to which all of them are raced where nothing is said."""
DEFAULT_TRIALS, MOST_TRIALS = 200, 10_000
AT_RANDOM = 32
"""Trials before the sampler learns from those that are finished."""
BATCH = 8
"""Trials that are proposed before any of them is known."""
FINALISTS = 16
REPLICATIONS: dict[ReplicationKind, int] = {"independent": 2, "resampled": 1}
"""How many replications a trial has; the first one of a file is the file itself."""
FIRST_SEARCHED = 2000
"""The number of the first of these where replications are drawn anew; a race and its fresh look have lower ones."""

Choose = Callable[[str, Values], Any]
"""Chooses one of the values of a field, or a number of the one range that it has."""


@dataclass(frozen=True)
class Search:
    """What is searched, and, once it is over, what was found."""

    base: Base
    policies: Mapping[str, Mapping[str, Values]]
    """Sizing policies with their options."""
    dimensions: Mapping[str, Values]
    """All other fields with their values."""
    trials: int
    why: str
    """Why there is a search."""
    notes: tuple[str, ...]
    baselines: tuple[Fields, ...]
    finalists: tuple[Fields, ...] = ()
    record: Mapping[str, Any] | None = None
    """What tune.json says of it at the end."""

    def values(self) -> dict[str, list[Any]]:
        """Every field with what is looked at, as tune.json has it."""
        found: dict[str, list[Any]] = {POLICY: list(self.policies)}
        for fields in (*self.policies.values(), self.dimensions):
            for name, values in fields.items():
                found[name] = [label(value) if isinstance(value, Range | Memory) else value for value in values]
        return found

    def begin(self) -> tuple[Maker, Space]:
        """Today's setting and the baselines, and what makes the others. Raises UserError."""
        maker = Maker(self.base)
        today = maker.today()
        compared = [({}, today.number, ""), *compared_with(maker, today, self.baselines)]
        values = self.values()
        return maker, Space(values, maker.with_all_fields(values), [], list(self.notes), compared)

    def drawn(self, choose: Choose) -> Fields:
        """The fields of a setting; only those are chosen that make a difference."""
        config = self.base.config
        fields: Fields = {name: choose(name, values) for name, values in self.dimensions.items()}
        block = fields.get(BLOCK, config.protocol.block_tokens)
        block = block if isinstance(block, int) and block > 0 else config.protocol.block_tokens
        pool = fields.get(POOL)
        if isinstance(pool, Memory):
            fields[POOL] = pool.pool(config, block)
        elif is_size(self.dimensions.get(POOL)):
            fields[POOL] = max(int(fields[POOL]) // block_bytes(config, block), 1)
        discipline = DISCIPLINES.get(str(fields.get(DISCIPLINE, config.protocol.discipline)))
        if discipline is not None and discipline.announces_length:
            # Whatever policy there is, it is not asked.
            return {**fields, POLICY: config.protocol.sizing.policy}
        policy = "fixed"
        if discipline is None or not discipline.has_slots:
            policy = choose(POLICY, list(self.policies))
        elif policy not in self.policies:
            return fields
        options = {name: choose(name, values) for name, values in self.policies[policy].items()}
        if TOKENS in options and isinstance(self.policies[policy][TOKENS][0], Range):
            options[TOKENS] = in_blocks(options[TOKENS], block, self.policies[policy][TOKENS][0])
        return {POLICY: policy, **options, **fields}

    def content(self) -> dict[str, Any]:
        """What names the search; more trials go on with the same one."""
        return {
            "policies": {
                policy: {name: list(map(label, values)) for name, values in options.items()}
                for policy, options in self.policies.items()
            },
            "dimensions": {name: list(map(label, values)) for name, values in self.dimensions.items()},
        }

    def plan(self, kind: ReplicationKind | None) -> str:
        """A line of the plan."""
        count = len(replications(kind))
        return (
            f"search: {self.trials} trials by Optuna (TPE), {count} replication{'s' if count > 1 else ''} each, because"
            f" {self.why}; the best {FINALISTS} trials and the baselines are raced, and the certainty is the race's"
        )


def plan_search(
    base: Base,
    demand: Demand,
    *,
    given: Mapping[str, Sequence[Any]],
    baselines: Sequence[Fields],
    method: str | None,
    trials: int | None,
) -> Search | None:
    """The search of the default space with ``given``; None where all settings are to be raced. Raises UserError."""
    if method is not None and method not in SEARCHES:
        raise UserError(f"--search is {method!r}, it must be one of {', '.join(SEARCHES)}")
    chosen = {name: with_range(name, values) for name, values in given.items()}
    ranged = [name for name, values in chosen.items() if isinstance(values[0], Range)]
    if method == GRID and ranged:
        raise UserError(
            f"--search is {GRID!r}, but --space gives {ranged[0]} a range, it must be {OPTUNA!r} then, or values listed"
        )
    if trials is not None and not 1 <= trials <= MOST_TRIALS:
        raise UserError(f"--trials is {trials}, it must be from 1 to {MOST_TRIALS}")
    notes: list[str] = []
    policies = policies_of(base, demand, chosen, notes)
    dimensions = dimensions_of(base, demand, chosen, notes)
    crossed = _crossed(policies, dimensions)
    if method != OPTUNA and not ranged and (method == GRID or crossed <= MOST_CROSSED):
        if trials is not None:
            raise UserError(f"--trials is {trials}, but every setting is raced, it must come with --search {OPTUNA}")
        return None
    why = f"--search is {OPTUNA}" if method == OPTUNA else f"{ranged[0]} has a range" if ranged else ""
    why = why or f"the space has {crossed} settings, more than {MOST_CROSSED}"
    if importlib.util.find_spec("optuna") is None:
        needs = f"that needs Optuna, which is not installed; run: {install_command('optuna')}"
        raise UserError(f"a search is needed, because {why}, and {needs}")
    count = DEFAULT_TRIALS if trials is None else trials
    search = Search(base, policies, dimensions, count, why, tuple(notes), tuple(baselines))
    _check(search, chosen)
    return search


def replications(kind: ReplicationKind | None) -> range:
    """The replications of every trial."""
    if kind == "independent":
        return range(FIRST_SEARCHED, FIRST_SEARCHED + REPLICATIONS[kind])
    return range(1 if kind is None else REPLICATIONS[kind])


@dataclass(frozen=True)
class Scored:
    """What a trial came to: lower is better, and a violation above 0 is worse than any value."""

    value: float | None
    lost: float = 0.0
    late: float = 0.0

    @property
    def order(self) -> tuple[float, float]:
        """By which trials are compared."""
        return self.lost + self.late, math.inf if self.value is None else self.value


def run_search(
    search: Search,
    runs: Runs,
    *,
    objective: Objective,
    limits: Sequence[Limit],
    demand: Demand,
    kind: ReplicationKind | None,
) -> tuple[Search, Space]:
    """Run the trials; the search with what was found, and the space of the finalists and baselines."""
    maker, space = search.begin()
    looked_at = replications(kind)
    study, file = _study(search), _file(search, runs)
    scores: dict[int, Scored] = {}
    proposed: dict[int, tuple[Setting, Fields]] = {}
    refused: dict[str, tuple[Fields, str]] = {}
    for start in range(0, search.trials, BATCH):
        trials = [study.ask() for _ in range(start, min(start + BATCH, search.trials))]
        drawn = [search.drawn(_chooser(trial)) for trial in trials]
        made: list[int | None] = []
        for fields in drawn:
            try:
                setting = maker.add(fields, eligible=True)
            except UserError as error:
                refused[repr(fields)] = (fields, str(error))
                made.append(None)
                continue
            made.append(setting.number)
            proposed.setdefault(setting.number, (setting, fields))
            runs.settings[setting.number] = setting
        new = [number for number in dict.fromkeys(made) if number is not None and number not in scores]
        hopeless = {number for number in new if never_served(proposed[number][0].config, demand)}
        runs.get([(number, one) for one in looked_at for number in new if number not in hopeless], STAGE)
        for number in new:
            lost = number in hopeless
            scores[number] = Scored(None, 1.0) if lost else _score(runs, number, looked_at, objective, limits)
        for trial, found in zip(trials, made, strict=True):
            _tell(study, trial, Scored(None, 2.0) if found is None else scores[found], found)
        if file is not None and runs.folder is not None:
            with disk_errors(runs.folder.folder):
                file.add_trials(study.get_trials(deepcopy=False)[start:])
    if not scores:
        raise UserError(f"none of the {search.trials} trials can be run: {next(iter(refused.values()))[1]}")
    served = [number for number, score in scores.items() if score.lost == 0] or list(scores)
    # Of those that came to exactly the same, the one with the least memory: the others could add nothing to a race.
    least: dict[Scored, int] = {}
    for number in sorted(served, key=lambda number: (proposed[number][0].memory_bytes, number)):
        least.setdefault(scores[number], number)
    best = sorted(least.values(), key=lambda number: (scores[number].order, number))[:FINALISTS]
    # A baseline that was proposed as well is one to choose from only if it is a finalist.
    compared = [number for _, number, _ in space.baselines if number is not None]
    own = {one.number: one for one in space.settings}
    whole = {one.number: one for one in maker.with_all_fields(space.values)}
    settings = [whole[number] if number in best else own[number] for number in sorted({*compared, *best})]
    record = {
        "method": OPTUNA,
        "trials": search.trials,
        "settings": len(scores),
        "replications": [looked_at[0], looked_at[-1]],
        "finalists": sorted(best),
        "promise": f"the best of the {len(best)} finalists and the baselines; the search itself promises nothing",
    }
    finished = replace(search, finalists=tuple(proposed[number][1] for number in best), record=record)
    return finished, Space(space.values, settings, list(refused.values()), space.notes, space.baselines)


def _score(runs: Runs, number: int, looked_at: range, objective: Objective, limits: Sequence[Limit]) -> Scored:
    rows = [row for one in looked_at if (row := runs.row(number, one)) is not None]
    lost = max(1 - row["requests.succeeded"] / row["requests"] for row in rows)
    late = 0.0
    for limit in limits:
        mean = _mean([row.get(limit.of.path) for row in rows])
        late += 1.0 if mean is None else max(mean / limit.limit_s - 1, 0.0)
    return Scored(_mean([row.get(objective.path) for row in rows]), lost, late)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None


# --- Optuna ---


def _study(search: Search) -> optuna.Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    digest = hashlib.sha256(f"search/{search.base.config.run.seed}".encode()).digest()
    with warnings.catch_warnings():
        # Optuna calls some of these experimental; what may change is held by the tests.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(
            seed=int.from_bytes(digest[:4]), n_startup_trials=AT_RANDOM, multivariate=True, group=True,
            constant_liar=True,
        )  # fmt: skip
        return optuna.create_study(sampler=sampler, direction="minimize")


def _file(search: Search, runs: Runs) -> optuna.Study | None:
    """The study in a file beside the ledger, which is told of finished trials; None where there is no folder.

    The search itself is in memory: the file is written through to the disk at every step of a trial, which takes longer
    than many a run.
    """
    if runs.folder is None:
        return None
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    path = runs.folder.folder / SEARCH_FILE
    with disk_errors(runs.folder.folder):
        # What is there is of the same search, and is found again from the ledger; a lock may be left of a crash.
        for old in (path, path.with_name(f"{path.name}.lock")):
            old.unlink(missing_ok=True)
        storage = JournalStorage(JournalFileBackend(str(path)))
        return optuna.create_study(study_name=search.base.config.run.name, storage=storage, direction="minimize")


def _chooser(trial: optuna.Trial) -> Choose:
    """Draws values of a trial; a field that has one value is none to draw."""

    def choose(name: str, values: Values) -> Any:
        first = values[0]
        if isinstance(first, Range):
            if first.whole:
                return trial.suggest_int(name, int(first.low), int(first.high), log=first.log)
            return trial.suggest_float(name, first.low, first.high, log=first.log)
        if len(values) == 1:
            return first
        labels = [label(value) for value in values]
        return values[labels.index(trial.suggest_categorical(name, labels))]

    return choose


def _tell(study: optuna.Study, trial: optuna.Trial, score: Scored, number: int | None) -> None:
    from optuna.trial import TrialState

    trial.set_constraint("requests not served", score.lost)
    trial.set_constraint("over the limits", score.late)
    if number is not None:
        trial.set_user_attr("setting", number)
    if score.value is None:
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, score.value)


def _crossed(policies: Mapping[str, Mapping[str, Values]], dimensions: Mapping[str, Values]) -> int:
    """How many settings all combinations make."""
    sizes = {policy: math.prod(len(values) for values in options.values()) for policy, options in policies.items()}
    others = math.prod(len(values) for name, values in dimensions.items() if name != DISCIPLINE)
    found = 0
    for name in dimensions.get(DISCIPLINE, [None]):
        discipline = DISCIPLINES.get(str(name))
        if discipline is not None and discipline.announces_length:
            found += 1
        elif discipline is not None and discipline.has_slots:
            found += sizes.get("fixed", 1)
        else:
            found += sum(sizes.values())
    return found * others


def _check(search: Search, chosen: Mapping[str, Values]) -> None:
    """Raise UserError for a value that the user gave and that no setting may have, or a range with two such ends.

    It is tried with the first and with the last values of all other fields, and with those of today.
    """
    for name, values in chosen.items():
        ends = [end for value in values for end in (ends_of(value) if isinstance(value, Range) else [value])]
        problems = {plain(end): _problem(search, name, end) for end in ends}
        if isinstance(values[0], Range):
            if all(problems.values()):
                raise UserError(f"--space {name}={values[0].text}: {next(iter(problems.values()))}")
            continue
        for text, problem in problems.items():
            if problem:
                raise UserError(f"--space {name}={text}: {problem}")


def _problem(search: Search, name: str, value: Any) -> str:
    """Why no setting may have this value; empty where one may."""
    maker = Maker(search.base)
    first_why = ""
    for fields in _tried(search, name, value):
        try:
            maker.add(fields, eligible=False)
        except UserError as error:
            first_why = first_why or str(error)
        else:
            return ""
    return first_why


def _tried(search: Search, name: str, value: Any) -> Iterator[Fields]:
    in_bytes = name == POOL and is_size(search.dimensions.get(POOL))
    config = search.base.config
    own = max(value // block_bytes(config, config.protocol.block_tokens), 1) if in_bytes else value
    fitting = [policy for policy, options in search.policies.items() if name in options]
    yield from ({POLICY: policy, name: own} for policy in fitting) if fitting else [{name: own}]
    for place, policy, discipline in itertools.product(
        (0, -1), fitting or search.policies, search.dimensions.get(DISCIPLINE, [config.protocol.discipline])
    ):

        def pick(field: str, values: Values, place: int = place, policy: str = policy, kind: Any = discipline) -> Any:
            if field == name:
                return value
            if field in (POLICY, DISCIPLINE):
                return policy if field == POLICY else kind
            one = values[place]
            return ends_of(one)[place] if isinstance(one, Range) else one

        fields = search.drawn(pick)
        if name in fields:
            yield fields
