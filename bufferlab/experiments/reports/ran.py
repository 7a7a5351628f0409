"""What was run, for those who want to run it again: versions, profile, seeds, traffic, code, and commands."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tomli_w

from bufferlab.experiments.config.schema import Config
from bufferlab.experiments.reports.page import Block, Commands, Download, Fact, Facts, Prose, setting_text
from bufferlab.experiments.reports.readings import count, plural, shown
from bufferlab.experiments.reports.sources import Source
from bufferlab.experiments.reports.wording import upper
from bufferlab.experiments.runs.rundir import StoredRun
from bufferlab.experiments.units import format_size


def typed(*words: object) -> str:
    """A command line that a shell takes as it is meant."""
    return shlex.join(str(word) for word in words)


def host_facts(environment: Mapping[str, Any]) -> list[Fact]:
    """The machine, the versions, and whether the cores ran compiled."""
    host = environment.get("host", {})
    facts = []
    if host:
        memory = format_size(host["memory_bytes"]) if host.get("memory_bytes") else "unknown memory"
        facts.append(
            Fact("machine", f"{host.get('cpu') or host.get('machine', '')}, {host.get('cpus')} CPUs, {memory}")
        )
        facts.append(Fact("system", str(host.get("platform", ""))))
    versions = {"python": environment.get("python"), **environment.get("packages", {})}
    facts.append(Fact("versions", ", ".join(f"{name} {version}" for name, version in versions.items() if version)))
    if "compiled" in environment:
        build = f"compiled, build {environment['build']}"
        why = environment.get("interpreted_because")
        facts.append(Fact("cores", build if environment["compiled"] else f"interpreted{f': {why}' if why else ''}"))
    return facts


def input_facts(inputs: Mapping[str, str]) -> list[Fact]:
    """The files that were read, with their digests."""
    return [Fact(f"input {Path(path).name}", f"sha256 {digest}", code=True) for path, digest in inputs.items()]


def traffic_facts(workload: Mapping[str, Any] | None) -> list[Fact]:
    """What the requests were, and what was assumed of them."""
    if not workload:
        return []
    sentence = str(workload["sentence"]).removeprefix("workload: ")
    return [Fact("traffic", sentence), *(Fact("", upper(str(note))) for note in workload.get("notes", ()))]


def config_facts(config: Config, transport: str, kind: str) -> list[Fact]:
    """The settings that decide."""
    protocol, encode, language = config.protocol, config.encode, config.language
    options = ", ".join(f"{name} {setting_text(value)}" for name, value in protocol.sizing.options.items())
    pool = config.blocks(language)
    memory = pool * protocol.block_tokens * config.model.shape.embedding_bytes_per_token
    return [
        Fact("discipline", f"{protocol.discipline}, wire {protocol.wire}, blocks of {protocol.block_tokens} tokens"),
        Fact("set aside", f"{protocol.sizing.policy}{f' ({options})' if options else ''}"),
        Fact("encode side", f"{encode.instances} × {encode.tp} ranks, {config.blocks(encode)} blocks each"),
        Fact(
            "language side",
            f"{language.instances} × {language.tp} ranks, {pool} blocks each ({format_size(memory)})",
        ),
        Fact("services", f"encode {encode.profile or 'as configured'}, prefill {language.profile or 'as configured'}"),
        Fact("link profile" if kind == "sim" else "transport", transport),
        Fact("seed", f"{config.run.seed}, {plural(config.run.replications, 'replication')}"),
    ]  # fmt: skip


def facts(*lists: list[Fact]) -> Facts:
    """One list of several."""
    return Facts([one for some in lists for one in some])


def run_blocks(
    source: Source, run: StoredRun, config: Config, environment: Mapping[str, Any], beside: Path
) -> Iterator[Block]:
    """What a run was, how to run it again, its configuration, and where its timeline is."""
    summary = run.summary
    speed = count(summary["requests_per_wall_s"] or 0)
    proof = environment.get("transport_proof")
    told = ", ".join(f"{name} {value}" for name, value in proof.items()) if isinstance(proof, Mapping) else ""
    yield facts(
        traffic_facts(summary.get("workload") or environment.get("workload")),
        config_facts(config, run.transport, run.kind),
        [Fact("transport proof", told)] if told else [],
        host_facts(environment),
        input_facts(environment.get("inputs") or {}),
        [Fact("took", f"{shown(summary['wall_s'], 'time')}, {speed} requests a second")],
    )
    again = ("The same run again", typed("bufferlab", run.kind, source.path, "--out", f"{source.path}-again"))
    if run.kind == "sim":
        more = typed("bufferlab", "sim", source.path, "--timeline", "--out", f"{source.path}-timeline")
        yield Commands([(f"{again[0]}, byte for byte.", again[1]), ("With a trace of its first replication.", more)])
    else:
        more = typed("bufferlab", "sim", source.path, "--out", f"{source.path}-sim")
        yield Commands([(f"{again[0]}.", again[1]), ("The same configuration on the simulator.", more)])
    text = (source.path / "config.toml").read_text(encoding="utf-8")
    yield Download(f"{source.name}.toml", "The resolved configuration (TOML)", text, "application/toml")
    trace = source.path / "timeline.json"
    if trace.is_file():
        size = format_size(trace.stat().st_size)
        yield Prose(
            [
                f"The course of every request is in {os.path.relpath(trace, beside)} ({size}): drag it onto "
                "ui.perfetto.dev, or open it in chrome://tracing."
            ]
        )


def sweep_commands(source: Source) -> Iterator[Block]:
    """How a sweep is repeated: its configurations as a file, over what they have in common."""
    plan = source.content["plan"]
    configurations = {"sweep": {"configurations": [one["settings"] for one in source.content["configurations"]]}}
    listed = tomli_w.dumps(configurations)
    base = plan.get("base")
    name = f"{source.name}-base.toml" if base else plan["name"]
    count_of = ["--replications", plan["replications"], "--seed", plan["seed"]]
    command = typed(
        "bufferlab",
        "sweep",
        name,
        "--configurations",
        f"{source.name}.toml",
        *count_of,
        "--out",
        f"{source.path}-again",
    )
    how = (
        "The same sweep again, with the files below"
        if base
        else (
            "The same sweep again, if nothing but the fields below was set (an older version did not keep the others)"
        )
    )
    yield Commands([(f"{how}.", command)])
    yield Download(f"{source.name}.toml", "The configurations (TOML)", listed, "application/toml")
    if base:
        text = tomli_w.dumps(base)
        yield Download(f"{source.name}-base.toml", "What they have in common (TOML)", text, "application/toml")
