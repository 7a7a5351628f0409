"""What the page about a tuning begins with: the answer, what was asked, how sure it is, and where to set it.

That fits on one sheet, which is meant to be handed on to somebody who saw none of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from bufferlab.experiments.config.schema import Config, parse
from bufferlab.experiments.config.services import INSTANT
from bufferlab.experiments.reports.flags import (
    BLOCK,
    DISCIPLINE,
    ENCODE_POOL,
    POLICY,
    POOL,
    TOKENS,
    WORKERS,
    Answer,
    flag_facts,
)
from bufferlab.experiments.reports.page import (
    Block,
    Cell,
    Fact,
    KeyFigure,
    Notice,
    Part,
    Prose,
    Section,
    estimated,
    plain,
    setting_text,
)
from bufferlab.experiments.reports.ran import facts
from bufferlab.experiments.reports.readings import count, interval_text, kind_of, plural, shown, value_text
from bufferlab.experiments.reports.sources import Source
from bufferlab.experiments.reports.wording import STAGES, figure_name, names_of, upper
from bufferlab.experiments.tuning.missed import floor_text, nearest_text
from bufferlab.experiments.tuning.names import memory_text, same_memory, size_text
from bufferlab.experiments.tuning.relief import relief_sentence
from bufferlab.protocol.layout import BufferLayout

VERDICTS = {
    "recommended": ("recommended", "good"),
    "no-difference": ("no change told to be better", "plain"),
    "over-capacity": ("over capacity", "bad"),
    "slo-missed": ("no setting keeps to the limits", "bad"),
    "not-served": ("no setting serves every request", "bad"),
}
BOUNDARIES = {
    "Times are a model.": "The rules are those of the code that runs for real, but every time here is simulated.",
    "RDMA was predicted, never measured by us.": "The link's times are a fit to published figures.",
    "GPUs are a table.": "Encoder and prefill take as long as published fits say.",
    "Choices hold better than values.": "So trust the order of settings before a difference, and a difference before a "
    "value; measure the chosen setting beside today's before you rely on either.",
}
"""What docs/boundaries.md says first, by its words there, and what follows for an answer."""
LEFT_OUT = (
    "Left out: decoding, caches of embeddings and of prefixes, routing by load, other traffic on the network "
    "(docs/boundaries.md)."
)
SHARES = {"p50": "half of the requests", "p90": "90 of 100 requests", "p99": "99 of 100 requests"}
DEEDS = {
    "ttft": ("have the first token", "the first token is there"),
    "latency": ("are delivered", "a request is delivered"),
    "transfer": ("are transferred", "a request is transferred"),
}
Content = Mapping[str, Any]


def tune_head(source: Source) -> Part:
    """What stands first: the answer, and the few numbers that matter most."""
    content = source.content
    name = str(content["traffic"]["source"])
    name = name.removeprefix("of ") if name.startswith("of ") else f"traffic {name}"
    return Part(
        title=headline(content),
        kicker=f"tuning for {name} ({source.name})",
        verdict=VERDICTS.get(content["verdict"], (str(content["verdict"]), "plain")),
        answer=[one for one in _answer(content) if one],
        lead=0,
        notices=list(_notices(content)),
        figures=list(_key_figures(content)),
        file=source.file,
    )


def front_sections(source: Source) -> Iterator[Section]:
    """What belongs on the first sheet beside the answer."""
    content, config = source.content, _config(source)
    yield Section("What was asked", [facts(list(_asked(content, config)))], front=True)
    of_traffic = " ".join(upper(one.removeprefix("How sure: ")) for one in sure_sentences(content))
    yield Section("How sure", [Prose([*filter(None, [of_traffic]), _of_the_model(config)])], front=True)
    if content["chosen"] is not None:
        yield Section("Where to set it", list(_where(content, config)), front=True)


def _config(source: Source) -> Config:
    import tomllib

    return parse(tomllib.loads((source.path / "config.toml").read_text(encoding="utf-8")))


# --- settings in words ---


def words_of(fields: Mapping[str, Any]) -> str:
    """Settings as a sentence names them; today's where there are none."""
    return names_of([_word(name, value) for name, value in fields.items()]) or "today's setting"


def _word(name: str, value: Any) -> str:
    told = setting_text(value)
    match name:
        case _ if name == TOKENS:
            return f"{told} tokens"
        case _ if name == POOL:
            return f"a pool of {told} blocks" if isinstance(value, int) else f"a pool of {told}"
        case _ if name == BLOCK:
            return f"blocks of {told} tokens"
        case _ if name == POLICY:
            return f"the policy {told}"
        case _ if name == DISCIPLINE:
            return f"the discipline {told}"
        case _ if name == WORKERS:
            return f"{told} transfer worker{'' if value == 1 else 's'}"
    return f"{name} {told}"


def _numbered(content: Content) -> dict[int, Content]:
    return {one["number"]: one for one in content["settings"]}


def _today(content: Content) -> Content | None:
    return _numbered(content).get(content["over"][0]["number"])


def _own_words(one: Content, today: Content | None) -> str:
    """A setting by its changes, with its pool as memory where that is another one than today's."""
    changes = _but_pools(one["changes"])
    parts = [_word(name, value) for name, value in changes.items()]
    if POOL in one["changes"] and (today is None or not same_memory(one, today)):
        parts.append(f"a pool of {memory_text(one)}")
    return names_of(parts) or words_of(one["changes"])


def _but_pools(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in (POOL, ENCODE_POOL)}


def varied_words(one: Content, varied: Sequence[str]) -> str:
    """A setting by the fields in which settings differ, its pool aside, which has a column of its own."""
    fields = _but_pools({name: one["fields"][name] for name in varied if name in one["fields"]})
    if one["fields"].get(POLICY, "fixed") != "fixed":
        fields.pop(TOKENS, None)  # the policy decides
    elif TOKENS in fields:
        fields.pop(POLICY, None)
    return ", ".join(_brief(name, value) for name, value in fields.items())


def _brief(name: str, value: Any) -> str:
    """A field in as few words as a table has room for."""
    if name in (POLICY, DISCIPLINE):
        return setting_text(value)
    if name == BLOCK:
        return f"blocks of {setting_text(value)}"
    return _word(name, value) if name in (TOKENS, WORKERS) else f"{name.rpartition('.')[2]} {setting_text(value)}"


def _keeps(one: Content) -> str:
    """What stays, by what most people ask for."""
    fields = one["fields"]
    if fields.get(POLICY, "fixed") == "fixed" and TOKENS in fields:
        return _word(TOKENS, fields[TOKENS])
    return _word(POLICY, fields[POLICY]) if POLICY in fields else "today's setting"


def limit_words(limit: Content) -> str:
    """A limit as a sentence: ``99 of 100 requests have the first token within 1.50 s``."""
    quantity, _, statistic = limit["figure"].partition("_s.")
    within = shown(limit["limit_s"], "time")
    many, one = DEEDS[quantity]
    if statistic not in SHARES:
        return f"on average {one} within {within}"
    return f"{SHARES[statistic]} {many} within {within}"


# --- the answer ---


def headline(content: Content) -> str:
    """What to set, with what that brings: all that most readers read."""
    settings = _numbered(content)
    chosen, today = settings.get(content["chosen"]), _today(content)
    missed = content["verdict"] == "slo-missed"
    if content["verdict"] == "over-capacity":
        stage = STAGES.get(str(content["capacity"]["bottleneck"]), "")
        return f"Over capacity at every setting{f': the {stage} is the bottleneck' if stage else ''}"
    if content["verdict"] == "not-served":
        return "No setting serves every request"
    if missed:
        limits = [limit_words(one) for one in _limits(content)]
        return f"No setting keeps to the limit{f' that {limits[0]}' if len(limits) == 1 else 's'}"
    if chosen is None:
        return VERDICTS.get(content["verdict"], (str(content["verdict"]), ""))[0].capitalize()
    if content["verdict"] == "no-difference":
        if not content["changes"]:
            within = shown(content["indifference"], "time")
            return f"Keep {_keeps(chosen)}: no other setting is told to be better by more than {within}"
        return f"Set {_own_words(chosen, today)}: as good as today's setting, and with less memory"
    brings = _change(content)
    return f"Set {_own_words(chosen, today)}{f': {brings}' if brings else ''}"


def _change(content: Content) -> str:
    """What the recommended setting has in place of what today's has."""
    over, name = content["over"][0], content["objective"]["name"]
    now, then = over["value"], content["objective"]
    if now["value"] is None or then["value"] is None or over["difference"]["value"] is None:
        return ""
    kind = kind_of(name)
    spread = interval_text(over["difference"], kind, signed=True)
    change = f"{value_text(over['difference'], kind, signed=True)}{f', 95 % interval {spread}' if spread else ''}"
    return f"{figure_name(name)} {shown(then['value'], kind)} instead of {shown(now['value'], kind)} ({change})"


def _limits(content: Content) -> list[Content]:
    found: list[Content] = content["slo"]["limits"]
    return found


def _answer(content: Content) -> Iterator[str]:
    yield _what_to_set(content)
    yield " ".join(_limit_sentences(content))
    yield _capacity(content)
    yield relief_sentence(content)
    yield _brings(content)
    less = content["cheaper"]
    if less:
        high = less["difference"]["high"]
        worse = (
            "by how much it may be worse is not known" if high is None else f"it may be worse by {shown(high, 'time')}"
        )
        one = _numbered(content)[less["number"]]
        what = "" if set(less["changes"]) <= {POOL, ENCODE_POOL} else f", {words_of(_but_pools(less['changes']))}"
        yield f"With less memory, a pool of {memory_text(one)}{what} may be as good, but that is not told: {worse}."
    yield from sure_sentences(content)


def sure_sentences(content: Content) -> list[str]:
    """How sure the answer is of the traffic: which settings are as good, and with what certainty."""
    alike = _alike(content) if content["chosen"] is not None else ""
    return [one for one in (alike, content["sure"]) if one]


def _what_to_set(content: Content) -> str:
    """The first sentence below the headline: all of the setting, or why there is none."""
    settings = _numbered(content)
    if content["verdict"] == "not-served":
        reasons = "; ".join(content["not_served"]["reasons"])
        return upper(f"of every setting some requests were lost: {reasons}") if reasons else ""
    if content["chosen"] is None:
        return ""
    one = settings[content["chosen"]]
    own = "" if one["changes"] else " That is today's setting."
    return f"{upper(_whole_words(one))}{own}"


def _whole_words(one: Content) -> str:
    """All of a setting, the part that most people ask for first."""
    fields = dict(one["fields"])
    policy, tokens = fields.pop(POLICY, "fixed"), fields.pop(TOKENS, None)
    parts = [f"{setting_text(tokens)} tokens set aside for every request" if policy == "fixed" and tokens else
             f"room set aside by the policy {policy}"]  # fmt: skip
    parts += [_word(name, value) for name, value in fields.items() if name not in (POOL, ENCODE_POOL)]
    return names_of([*parts, f"a pool of {memory_text(one)} on a language rank"], len(parts) + 1)


def _limit_sentences(content: Content) -> Iterator[str]:
    """Every limit, and whether it is kept; where nothing keeps to it, what comes nearest."""
    for limit in _limits(content):
        value, high = limit["value"], limit["high"]
        lead = f"Asked was that {limit_words(limit)}"
        if value is None:
            yield f"{lead}. {_nearest(content, limit)}".strip()
            continue
        spread, kept = interval_text(limit, "time"), bool(limit["met"])
        lies = high is not None and (high <= limit["limit_s"]) != kept
        bound = f", though its 95 % interval ({spread}) reaches beyond the limit" if lies and kept else (
            f" ({spread})" if spread else "")  # fmt: skip
        name = figure_name(limit["figure"])
        yield f"{lead}. That is {'kept' if kept else 'not kept'}: the {name} is {value_text(limit, 'time')}{bound}."
        if not kept:
            yield from filter(None, (floor_text(content, limit), nearest_text(content, limit)))


def _nearest(content: Content, limit: Content) -> str:
    path = limit["figure"]
    known = [one for one in content["settings"] if one["figures"].get(path, {}).get("value") is not None]
    if not known:
        return ""
    best, today = min(known, key=lambda one: one["figures"][path]["value"]), _today(content)
    told = f"The lowest {figure_name(path)} is {_estimate(best['figures'][path])}, with {_own_words(best, today)}"
    if today is None or today["number"] == best["number"] or today["figures"][path]["value"] is None:
        return f"{told}."
    return f"{told}; today's setting has {_estimate(today['figures'][path])}."


def _estimate(estimate: Content) -> str:
    spread = interval_text(estimate, "time")
    return f"{value_text(estimate, 'time')}{f' ({spread})' if spread else ''}"


def _capacity(content: Content) -> str:
    """What holds the setting back that is recommended; where there is none, what would mend it."""
    capacity = content["capacity"]
    if content["verdict"] == "over-capacity":
        return " ".join(
            upper(one) for one in (capacity["sentence"], f"What would mend it: {capacity['remedy']}") if one
        )
    return upper(capacity["sentence"]) if capacity["verdict"] in {"over", "near"} else ""


def _brings(content: Content) -> str:
    """What the recommended setting has over every baseline, and why over some of them that is not known."""
    over, left = [], []
    for one in content["over"]:
        difference = one["difference"]
        name = one["name"] or words_of(one["baseline"])
        if one.get("why"):
            left.append(f"{name} is not compared: {one['why']}")
        if difference["value"] is None or not any(difference[side] for side in ("value", "low", "high")):
            continue  # not known, or that baseline is the recommended setting itself
        spread = interval_text(difference, "time", signed=True)
        none = difference["low"] is None or difference["low"] <= 0 <= difference["high"]
        sure = f" ({spread}{', may be none' if none else ''})" if spread else ""
        over.append(f"against {name} {value_text(difference, 'time', signed=True)}{sure}")
    said = [f"{figure_name(content['objective']['name']).capitalize()}: {'; '.join(over)}"] if over else []
    return " ".join(upper(one) for one in [*said, *left])


def _alike(content: Content) -> str:
    """Which settings are as good as the best as far as is known; the best need not be what is recommended."""
    best, chosen = content["best"], content["chosen"]
    alike = [one["number"] for one in content["settings"] if one["state"] == "kept" and one["number"] != best]
    which = f"the best (setting {best}{'' if best == chosen else ', which is not the recommended one'})"
    many = f"{plural(len(alike), 'other setting')}" if alike else "None of the other settings"
    if content["certainty"] is None:
        verb = "is" if len(alike) < 2 else "are"
        return f"{many} {verb} within {shown(content['indifference'], 'time')} of {which}."
    said = f"{many} cannot be told apart from {which}." if alike else f"{which.capitalize()} is told from all others."
    if next(one["state"] for one in content["settings"] if one["number"] == chosen) == "kept":
        return said
    within = shown(content["indifference"], "time")
    return (
        f"{said} The recommended one is not among these: another one is better, but not told to be so by more than "
        f"{within}."
    )


def _notices(content: Content) -> Iterator[Notice]:
    for one in _limits(content):
        if one["met"] is False and content["verdict"] != "slo-missed":
            yield Notice(
                f"The limit {one['figure']} of {shown(one['limit_s'], 'time')} is not met by the recommended setting "
                f"in the replications that tell what it brings: {value_text(one, 'time')}.",
                "bad",
            )


def _key_figures(content: Content) -> Iterator[KeyFigure]:
    objective = content["objective"]
    if objective["value"] is not None:
        yield KeyFigure(figure_name(objective["name"]), estimated(objective, "objective", kind_of(objective["name"])))
    for place, one in enumerate(content["over"][:3]):
        if one["difference"]["value"]:
            cell = estimated(one["difference"], f"over.{place}.difference", "time", signed=True)
            yield KeyFigure(f"against {one['name'] or words_of(one['baseline'])}", cell)
    if content["memory_bytes"] is not None:
        told = plain(content["memory_bytes"], "bytes", "memory_bytes")
        for one in content["settings"]:
            if one["number"] == content["chosen"]:
                # As the headline has it: 512 MiB, not the 511 of whole blocks.
                told = replace(told, text=memory_text(one))
        yield KeyFigure("memory of a language rank", told)
    attained = content["slo"]["attainment"]
    if attained["value"] is not None:
        promised = [one for one in _limits(content) if not one["figure"].startswith("transfer")]
        within = (
            f"{figure_name(promised[0]['figure'].partition('.')[0])} within {shown(promised[0]['limit_s'], 'time')}"
        )
        label = f"requests with the {within}" if len(promised) == 1 else "requests within all limits"
        yield KeyFigure(label, estimated(attained, "slo.attainment", "share"))
    yield KeyFigure(
        "runs spent",
        Cell(count(content["runs"]), content["runs"], path="runs", interval=f"{count(content['requests'])} requests"),
    )


# --- what was asked ---


def _asked(content: Content, config: Config) -> Iterator[Fact]:
    yield Fact("traffic", str(content["traffic"]["sentence"]).removeprefix("workload: "))
    yield Fact("model, GPU and link", f"{_model(config)}; {config.link.profile}")
    yield Fact("instances", _instances(config))
    yield Fact("today's setting", _of_today(config))
    limits = "; ".join(limit_words(one) for one in _limits(content))
    yield Fact("to be low", figure_name(content["objective"]["name"]))
    pool = f"at most {size_text(content['budget_bytes'])} for the pool of a language rank"
    yield Fact("limits", "; ".join(filter(None, [limits, pool])))
    if content["assumed"]:
        yield Fact("not given, so taken", "; ".join(str(one) for one in content["assumed"]))


def _model(config: Config) -> str:
    name = config.model.name or f"embeddings of {config.layout.hidden:,} elements"
    sides = {"encoder": config.encode.profile, "prefill": config.language.profile}
    gpus = {side: profile.removesuffix(f"-{config.model.name}") for side, profile in sides.items()}
    if len(set(gpus.values())) == 1:
        return f"{name} on {gpus['encoder']}" + (
            f", {config.encode.profile} encoder" if gpus["encoder"] == INSTANT else ""
        )
    return f"{name}; encoder {gpus['encoder']}, prefill {gpus['prefill']}"


def _instances(config: Config) -> str:
    return names_of(
        [
            f"{plural(section.instances, f'{side} instance')} of {plural(section.tp, 'rank')}"
            for side, section in (("encode", config.encode), ("language", config.language))
        ]
    )


def _of_today(config: Config) -> str:
    sizing, own = config.protocol.sizing, config.protocol
    aside = (
        f"{setting_text(sizing.tokens)} tokens set aside"
        if sizing.policy == "fixed"
        else f"set aside by the policy {sizing.policy}"
    )
    layout = config.layout
    pool = size_text(config.blocks(config.language) * layout.bytes_per_block)
    return (
        f"{aside}, blocks of {own.block_tokens:,} tokens, discipline {own.discipline}, a pool of {pool} "
        f"({config.blocks(config.language):,} blocks), {plural(config.encode.transfer_workers, 'transfer worker')}"
    )


def _of_the_model(config: Config) -> str:
    """What no number above holds: how far the model itself may be off."""
    told = []
    for words, follows in BOUNDARIES.items():
        if words.startswith("RDMA") and "tcp" in config.link.profile:
            continue
        if words.startswith("GPUs") and config.encode.profile == config.language.profile == INSTANT:
            continue
        told.append(f"{words} {follows}")
    return f"Of the model: {' '.join(told)} {LEFT_OUT}"


def _where(content: Content, config: Config) -> Iterator[Block]:
    chosen = _numbered(content)[content["chosen"]]
    block = chosen["fields"].get(BLOCK, config.protocol.block_tokens)
    layout = BufferLayout(block, config.layout.hidden, config.layout.deepstack_layers)
    fields = {TOKENS: config.protocol.sizing.tokens, BLOCK: block, **chosen["fields"]}
    answer = Answer(fields, chosen["memory_bytes"], frozenset(chosen["changes"]), layout)
    yield facts([Fact(one.name, one.value, code=True) for one in flag_facts(answer)])
    yield Prose(
        [
            "Only the fork sets memory aside before it knows the length; the others need the pool alone, and work by "
            "rules of their own. docs/from-your-system.md has where these names were read, and when: look them up in "
            "your version."
        ]
    )
