"""Which settings a tune chooses from: the values of each field, crossed, and each combination checked as a whole.

The default space has the sizing policies with the defaults around which arithmetic says that good ones lie
(``bounds``), the disciplines that serve any length and cannot deadlock, the whole of the memory, a half and a quarter
of it, and, where a run is short, blocks of half and twice the size. ``--space FIELD=VALUE,…`` replaces the values of a
field or adds a field.

Settings in which nothing can differ from another one are left out by construction: a default that a learning policy
only uses until it has learnt, any size where the length is announced, and threads that have nobody to write to.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bufferlab.experiments.config.schema import Config, parse
from bufferlab.experiments.config.sections.protocol import options_of
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.sweeps.grid import fingerprint, plain
from bufferlab.experiments.tuning.base import Base
from bufferlab.experiments.tuning.bounds import Demand, sizes_to_look_at
from bufferlab.experiments.units import parse_size
from bufferlab.protocol.disciplines import DEFAULT, DISCIPLINES
from bufferlab.protocol.naming import flat, put
from bufferlab.protocol.wire.limits import EXTENDED

POLICY, TOKENS = "protocol.sizing.policy", "protocol.sizing.tokens"
DISCIPLINE, BLOCK = "protocol.discipline", "protocol.block_tokens"
POOL, ENCODE_POOL, WORKERS = "language.pool_blocks", "encode.pool_blocks", "encode.transfer_workers"
SIZING = "protocol.sizing."

POOL_SHARES = (1, 2, 4)
"""The memory is looked at as a whole and divided by these."""
SHORT_RUN = 5_000
"""Requests of a replication up to which other block sizes are looked at by default as well."""
LEAST_BLOCK, MOST_BLOCK = 16, 1024
WORKER_COUNTS = (1, 2, 4)
MOST_SETTINGS = 100_000
MIB, GIB = 2**20, 2**30

Fields = dict[str, Any]
Tree = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """One of the settings that are compared."""

    number: int
    """From 1; today's own is the first."""
    fields: Fields
    """The fields of the space, with the values that it has."""
    changes: Fields
    """Those in which it differs from today's."""
    config: Config = field(repr=False)
    fingerprint: str = field(repr=False)
    memory_bytes: int
    """The pool of one language rank."""
    eligible: bool
    """Whether it is one of those to choose from; others are only compared with."""


@dataclass
class Space:
    """All settings, and what was left out before anything ran."""

    values: dict[str, list[Any]]
    """The values of every field that are looked at."""
    settings: list[Setting]
    refused: list[tuple[Fields, str]]
    """Combinations that no run can have, and why."""
    notes: list[str]
    """What was decided about the space, ready to be shown."""
    baselines: list[tuple[Fields, int | None, str]]
    """What is compared with: its fields, its number (None where it cannot be run), and why not."""


def make_space(
    base: Base,
    demand: Demand,
    *,
    given: Mapping[str, Sequence[Any]] | None = None,
    baselines: Sequence[Fields] = (),
) -> Space:
    """The settings of the default space and of ``given``, which replaces the values of fields, and the baselines.

    ``baselines``: what today's setting is changed in for each of them; without any, 8,192 tokens. Raises UserError for
    a value that no setting may have, and for a baseline of the user's that cannot be run.
    """
    chosen = dict(given or {})
    notes: list[str] = []
    sizings = _sizings(base, demand, chosen, notes)
    dimensions = dimensions_of(base, demand, chosen, notes)
    combinations = _crossed(sizings, dimensions, base)
    if len(combinations) > MOST_SETTINGS:
        raise UserError(f"the space has {len(combinations)} settings, it must have at most {MOST_SETTINGS}")
    return space_of(base, combinations, baselines=baselines, given=chosen, notes=notes)


def space_of(
    base: Base,
    combinations: Sequence[Fields],
    *,
    baselines: Sequence[Fields] = (),
    given: Mapping[str, Sequence[Any]] | None = None,
    notes: Sequence[str] = (),
) -> Space:
    """The settings with these fields, today's and the baselines. Raises UserError as ``make_space`` does."""
    maker = Maker(base)
    today = maker.today()
    refused: list[tuple[Fields, str]] = []
    for fields in combinations:
        try:
            maker.add(fields, eligible=True)
        except UserError as error:
            refused.append((fields, str(error)))
    _refuse_what_none_has(given or {}, combinations, refused)
    if combinations and len(refused) == len(combinations):
        given_memory = (
            "" if base.memory is None or POOL in (given or {}) else f"--memory is {base.memory!r}, with which "
        )
        raise UserError(f"{given_memory}no setting of the space can be run: {refused[0][1]}")
    compared = [({}, today.number, ""), *compared_with(maker, today, baselines)]
    values: dict[str, list[Any]] = {}
    for fields in combinations:
        for name, value in fields.items():
            known = values.setdefault(name, [])
            if value not in known:
                known.append(value)
    settings = maker.with_all_fields(values)
    return Space(values, settings, refused, list(notes), compared)


def compared_with(maker: Maker, today: Setting, baselines: Sequence[Fields]) -> list[tuple[Fields, int | None, str]]:
    """The baselines beside today's setting. Raises UserError for one of the user's that cannot be run."""
    compared: list[tuple[Fields, int | None, str]] = []
    for one in baselines or [{POLICY: "fixed", TOKENS: 8192}]:
        try:
            made = maker.add(one, eligible=False)
        except UserError as error:
            if baselines:
                text = ",".join(f"{name}={plain(value)}" for name, value in one.items())
                raise UserError(f"--baseline {text}: {error}") from None
            compared.append((one, None, str(error)))
            continue
        if made.number not in [today.number, *(number for _, number, _ in compared)]:
            compared.append((one, made.number, ""))
    return compared


def _refuse_what_none_has(
    chosen: Mapping[str, Sequence[Any]], combinations: Sequence[Fields], refused: Sequence[tuple[Fields, str]]
) -> None:
    """Raise UserError for a value that the user gave and with which every combination is refused."""
    for name, values in chosen.items():
        for value in values:
            having = [fields for fields in combinations if name in fields and fields[name] == value]
            reasons = [why for fields, why in refused if name in fields and fields[name] == value]
            if reasons and len(reasons) == len(having):
                raise UserError(f"--space {name}={plain(value)}: {reasons[0]}")


class Maker:
    """Makes settings of changes, each once and in the order of their numbers."""

    def __init__(self, base: Base) -> None:
        self._base = base
        self._tree = base.config.tree()
        self._made: list[Setting] = []
        self._known: dict[str, int] = {}

    def today(self) -> Setting:
        """What is set today, which is no choice where it takes more than the memory."""
        return self.add({}, eligible=self._base.budget_bytes >= self.memory(self._base.config))

    def add(self, fields: Fields, *, eligible: bool) -> Setting:
        """The setting with these fields; the same one as before where nothing differs. Raises UserError."""
        config = changed(self._base, self._tree, fields)
        print_ = fingerprint(config)
        place = self._known.get(print_)
        if place is not None:
            known = self._made[place]
            if place == 0:
                # Today's setting is written as the others are: its pool as the memory that it has.
                known = self._made[place] = replace(known, fields={**known.fields, **fields})
            if eligible and not known.eligible and known.memory_bytes <= self._base.budget_bytes:
                known = self._made[place] = replace(known, eligible=True)
            return known
        made = Setting(
            number=len(self._made) + 1,
            fields=dict(fields),
            changes=differences(self._base.config, config, fields),
            config=config,
            fingerprint=print_,
            memory_bytes=self.memory(config),
            eligible=eligible,
        )
        self._known[print_] = len(self._made)
        self._made.append(made)
        return made

    def memory(self, config: Config) -> int:
        """Bytes of the pool of a language rank."""
        return config.blocks(config.language) * config.layout.bytes_per_block

    def with_all_fields(self, values: Mapping[str, Sequence[Any]]) -> list[Setting]:
        """The settings, each with its value of every field of the space that it has."""
        whole = []
        for one in self._made:
            own = dict(flat(one.config.tree()))
            own[POOL] = _as_written(one.config, values.get(POOL, ()))
            shown = {name: one.fields.get(name, own.get(name)) for name in values}
            shown = {name: value for name, value in shown.items() if value is not None}
            more = {name: value for name, value in one.changes.items() if name not in shown}
            whole.append(replace(one, fields={**shown, **more}))
        return whole


def _as_written(config: Config, values: Sequence[Any]) -> Any:
    """The pool of a rank as the others of the space are written: as the size that it has when cut into whole blocks."""
    blocks = config.blocks(config.language)
    for value in values:
        try:
            size = parse_size(value) if isinstance(value, str) else 0
        except ValueError:
            continue  # the words for a range, or what is refused elsewhere
        if size and size // config.layout.bytes_per_block == blocks:
            return value
    return blocks


def changed(base: Base, tree: Tree, fields: Fields) -> Config:
    """Today's configuration with these fields; the encode side's memory stays what it is. Raises UserError."""
    made: Tree = {name: dict(value) if isinstance(value, dict) else value for name, value in tree.items()}
    made["protocol"]["sizing"] = _sizing(made["protocol"]["sizing"], fields)
    for name, value in fields.items():
        if not name.startswith(SIZING):
            _put(made, name, value)
    block = made["protocol"]["block_tokens"]
    own = base.config.protocol.block_tokens
    if block != own and ENCODE_POOL not in fields and isinstance(block, int) and block > 0:
        made["encode"]["pool_blocks"] = max(base.encode_bytes // block_bytes(base.config, block), 1)
        if POOL not in fields:
            own_bytes = base.config.blocks(base.config.language) * base.config.layout.bytes_per_block
            made["language"]["pool_blocks"] = max(own_bytes // block_bytes(base.config, block), 1)
    return parse(made).resolved()


def _put(tree: Tree, name: str, value: Any) -> None:
    *sections, _ = name.split(".")
    table = tree
    for section in sections:
        inner = table.get(section)
        # A copy, since the tree of today's setting has it too.
        table[section] = dict(inner) if isinstance(inner, dict) else {}
        table = table[section]
    put(tree, name.split("."), value)


def _sizing(today: Mapping[str, Any], fields: Mapping[str, Any]) -> Tree:
    """The table [protocol.sizing]: another policy does not keep the options of today's."""
    own = {name.removeprefix(SIZING): value for name, value in fields.items() if name.startswith(SIZING)}
    policy = own.get("policy", today["policy"])
    kept = dict(today) if policy == today["policy"] else {"tokens": today["tokens"]}
    return {**kept, "policy": policy, **own}


def block_bytes(config: Config, block_tokens: int) -> int:
    """Memory of a block of so many tokens."""
    from bufferlab.protocol.layout import BufferLayout

    return BufferLayout(block_tokens, *config.model.shape).bytes_per_block


def differences(today: Config, other: Config, fields: Fields) -> Fields:
    """The fields in which a configuration is another than today's, as ``fields`` write them."""
    own, new = dict(flat(today.tree())), dict(flat(other.tree()))
    found = {name: value for name, value in new.items() if name not in own or own[name] != value}
    return {name: fields.get(name, value) for name, value in found.items()}


def changes_that_count(today: Config, setting: Setting) -> int:
    """How many fields somebody would have to think about: pools of the same memory in other blocks are none."""
    memory = today.blocks(today.language) * today.layout.bytes_per_block
    same = abs(setting.memory_bytes - memory) < max(today.layout.bytes_per_block, setting.config.layout.bytes_per_block)
    derived = {ENCODE_POOL} if BLOCK in setting.changes else set()
    derived |= {POOL} if same else set()
    return len(setting.changes.keys() - derived)


# --- the values of fields ---


def _sizings(base: Base, demand: Demand, chosen: dict[str, Sequence[Any]], notes: list[str]) -> list[Fields]:
    """Policies crossed with their options."""
    return [
        {POLICY: policy, **dict(zip(options, values, strict=True))}
        for policy, options in policies_of(base, demand, chosen, notes).items()
        for values in itertools.product(*options.values())
    ]


def policies_of(
    base: Base, demand: Demand, chosen: Mapping[str, Sequence[Any]], notes: list[str]
) -> dict[str, dict[str, Sequence[Any]]]:
    """Policies with the values of their options, and sizes for those that have no other answer than their default."""
    config = base.config
    best, around = sizes_to_look_at(config, demand, math.lcm(*_blocks(config, demand, chosen)))
    own = config.protocol.sizing
    if TOKENS not in chosen:
        notes.append(
            f"a starting point by arithmetic (a resume against a wait for the pool): {best} tokens; "
            f"{', '.join(map(str, around))} are looked at"
        )
    sizes = list(chosen.get(TOKENS, sorted({*around, *([own.tokens] if own.policy == "fixed" else [])})))
    if POLICY in chosen:
        policies = list(chosen[POLICY])
    else:
        policies = ["fixed", "quantile", "newsvendor"]
        policies += ["per_client_quantile"] if demand.clients > 1 else []
        policies += ["hint_regression"] if demand.hints else []
        policies += [own.policy] if own.policy not in policies else []
    options = {name: values for name, values in chosen.items() if name.startswith(SIZING)}
    found: dict[str, dict[str, Sequence[Any]]] = {}
    for policy in policies:
        if not isinstance(policy, str):
            raise UserError(f"--space {POLICY}={plain(policy)}: {POLICY} is {policy!r}, it must be text in quotes")
        accepted = _accepted(policy)
        fitting = {
            name: values
            for name, values in options.items()
            if name not in (POLICY, TOKENS) and name.removeprefix(SIZING) in accepted
        }
        found[policy] = {TOKENS: sizes, **fitting} if policy == "fixed" else fitting
    unused = [
        name
        for name in options
        if name not in (POLICY, TOKENS) and not any(name in fitting for fitting in found.values())
    ]
    if unused:
        raise UserError(
            f"--space names {unused[0]}, which none of the policies {', '.join(policies)} has; "
            f"give --space {POLICY}=NAME with it"
        )
    return found


def _accepted(policy: str) -> set[str]:
    try:
        return set(options_of(policy))
    except ValueError as error:
        raise UserError(f"--space {POLICY}={policy}: {POLICY} is {policy!r}, it {error}") from None


def dimensions_of(
    base: Base, demand: Demand, chosen: Mapping[str, Sequence[Any]], notes: list[str]
) -> dict[str, Sequence[Any]]:
    """Every other field of the space with its values."""
    config = base.config
    own_block, own_workers = config.protocol.block_tokens, config.encode.transfer_workers
    found: dict[str, Sequence[Any]] = {}
    if DISCIPLINE not in chosen:
        names = [config.protocol.discipline]
        if config.protocol.wire == EXTENDED:
            names += [DEFAULT, *(name for name, one in DISCIPLINES.items() if one.announces_length)]
        found[DISCIPLINE] = list(dict.fromkeys(names))
    if BLOCK not in chosen:
        found[BLOCK] = _blocks(config, demand, chosen)
        if demand.requests > SHORT_RUN:
            notes.append(f"blocks stay of {own_block} tokens: runs of more than {SHORT_RUN} requests take long")
    if POOL not in chosen:
        found[POOL] = [Memory(base.budget_bytes // share) for share in POOL_SHARES]
    if WORKERS not in chosen:
        useful = [count for count in WORKER_COUNTS if count <= config.language.instances]
        found[WORKERS] = sorted({min(own_workers, max(config.language.instances, 1)), *useful, own_workers})
        if len(found[WORKERS]) == 1:
            notes.append("one transfer worker: all writes to one language instance are one thread's")
    for name, values in chosen.items():
        if not name.startswith(SIZING):
            found[name] = list(values)
    return found


def _blocks(config: Config, demand: Demand, chosen: Mapping[str, Sequence[Any]]) -> list[int]:
    """The sizes of blocks that are looked at, as far as they are such; what else was given is refused elsewhere."""
    own = config.protocol.block_tokens
    if BLOCK in chosen:
        return [own, *(one for one in chosen[BLOCK] if isinstance(one, int) and 0 < one <= MOST_BLOCK)]
    around = (own // 2, own * 2) if demand.requests <= SHORT_RUN else ()
    return [own, *(size for size in around if LEAST_BLOCK <= size <= MOST_BLOCK)]


@dataclass(frozen=True)
class Memory:
    """A pool of so many bytes, whatever the size of a block."""

    bytes_: int

    def pool(self, config: Config, block: Any) -> int | str:
        """How a configuration has it: as people write memory where it is whole, else in blocks."""
        for unit, name in ((GIB, "GiB"), (MIB, "MiB")):
            if self.bytes_ % unit == 0:
                return f"{self.bytes_ // unit}{name}"
        whole = isinstance(block, int) and block > 0
        return max(self.bytes_ // block_bytes(config, block if whole else config.protocol.block_tokens), 1)


def _crossed(sizings: Sequence[Fields], dimensions: Mapping[str, Sequence[Any]], base: Base) -> list[Fields]:
    """Every combination in which something can differ."""
    found: list[Fields] = []
    for values in itertools.product(*dimensions.values()):
        others = dict(zip(dimensions, values, strict=True))
        pool = others.get(POOL)
        if isinstance(pool, Memory):
            others[POOL] = pool.pool(base.config, others.get(BLOCK))
        discipline = DISCIPLINES.get(str(others.get(DISCIPLINE)))
        if discipline is not None and discipline.announces_length:
            # Whatever policy there is, it is not asked.
            own = base.config.protocol.sizing
            found.append({**others, POLICY: own.policy})
        elif discipline is not None and discipline.has_slots:
            found += [{**sizing, **others} for sizing in sizings if sizing[POLICY] == "fixed"] or [dict(others)]
        else:
            found += [{**sizing, **others} for sizing in sizings]
    return found
