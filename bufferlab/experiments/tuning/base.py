"""The configuration that a tune starts from: that of CONFIG, or one that is made around a file of traffic.

For a file everything that it does not say has a default: one instance of either side, the profiles of the model on the
GPU, 8,192 tokens set aside, and the memory of --memory for the pool of a rank on either side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bufferlab.experiments.config.inputs import RUN_CONFIG, client_files, is_workload, why_unreadable
from bufferlab.experiments.config.models import MODELS, usual_name
from bufferlab.experiments.config.overrides import Override
from bufferlab.experiments.config.schema import Config, parse
from bufferlab.experiments.config.sections.protocol import Protocol
from bufferlab.experiments.config.sections.serving import MAX_INSTANCES
from bufferlab.experiments.config.services import INSTANT, kernels
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.tuning.assumed import assumed
from bufferlab.experiments.units import parse_size
from bufferlab.experiments.workloads.configurations import Source, apply_overrides
from bufferlab.experiments.workloads.loading import load
from bufferlab.protocol.naming import did_you_mean

DEFAULT_MODEL, DEFAULT_GPU, DEFAULT_LINK, DEFAULT_MEMORY = "qwen2.5-vl-7b", "h100", "cx7-400g", "4GiB"
FILE_TOKENS = 8192
"""What is set aside at first where nobody says what it is today: the default of the systems that guess."""


@dataclass(frozen=True)
class Asked:
    """What the command line, or a call from Python, says of the system."""

    source: str | Source
    """TRAFFIC or CONFIG; or a configuration that was read already."""
    model: str | None = None
    gpu: str | None = None
    link: str | None = None
    memory: str | None = None
    settings: tuple[Override, ...] = ()
    encode_instances: int | None = None
    language_instances: int | None = None

    @property
    def overrides(self) -> tuple[Override, ...]:
        """The numbers of instances and ``settings``; what --set says of the same field wins, as it comes later."""
        counts = {"encode.instances": self.encode_instances, "language.instances": self.language_instances}
        return (*(f"{name}={number}" for name, number in counts.items() if number is not None), *self.settings)


@dataclass(frozen=True)
class Base:
    """Where a tune starts from."""

    config: Config
    """As it is today: one replication, resolved."""
    budget_bytes: int
    """What the pool of a language rank may take."""
    encode_bytes: int
    """What the pool of an encode rank takes, whatever the size of a block."""
    defaults: tuple[str, ...]
    """What was not said and is assumed, ready to be shown."""
    memory: str | None = None
    """--memory as it was given."""


LARGE_BLOCKS = 10**9
"""No allocation needs as many, whatever it is asked for."""


def make_base(asked: Asked) -> Base:
    """The configuration that TRAFFIC or CONFIG and the options ask for. Raises UserError before anything runs."""
    asked = _usual(asked)
    _check_names(asked)
    path = Path() if isinstance(asked.source, Source) else Path(asked.source)
    is_file = not isinstance(asked.source, Source) and _is_traffic(path)
    if not is_file and is_workload(path):
        raise UserError(f"TRAFFIC is {asked.source!r}, it must be a file that can be read{why_unreadable(path)}")
    config, defaults = _of_file(path, asked) if is_file else (_of_config(asked), ())
    layout = config.layout
    own_bytes = config.blocks(config.language) * layout.bytes_per_block
    budget_bytes = own_bytes if asked.memory is None else _memory(asked.memory)
    if budget_bytes < layout.bytes_per_block:
        raise UserError(
            f"--memory is {asked.memory!r}, it must hold at least one block of {layout.bytes_per_block} bytes"
        )
    encode_bytes = config.blocks(config.encode) * layout.bytes_per_block
    if is_file:
        budget_bytes = encode_bytes = _memory(asked.memory or DEFAULT_MEMORY)
    return Base(config, budget_bytes, encode_bytes, defaults, asked.memory)


def _is_traffic(path: Path) -> bool:
    if path.is_dir():
        return not (path / RUN_CONFIG).is_file() and bool(client_files(path))
    return path.is_file() and is_workload(path)


def _of_file(path: Path, asked: Asked) -> tuple[Config, tuple[str, ...]]:
    model, gpu = asked.model or DEFAULT_MODEL, asked.gpu or DEFAULT_GPU
    link, memory = asked.link or DEFAULT_LINK, asked.memory or DEFAULT_MEMORY
    tree: dict[str, Any] = {
        "run": {"name": _name_of(path)},
        "workload": {},
        "protocol": {"sizing": {"policy": "fixed"}},
        "encode": {"profile": f"{gpu}-{model}", "pool_blocks": memory},
        "language": {"profile": f"{gpu}-{model}", "pool_blocks": memory},
        "link": {"profile": link},
        "model": {"name": model},
    }
    apply_overrides(tree, [f"workload.file={path}", *asked.overrides])
    _set_aside(tree)
    _check_memory(tree, memory)
    config = _checked(tree)
    options = (
        ("--model", asked.model, model), ("--gpu", asked.gpu, gpu), ("--link", asked.link, link),
        ("--memory", asked.memory, memory),
    )  # fmt: skip
    instances = {"encode": asked.encode_instances, "language": asked.language_instances}
    return config, assumed(config, options=options, instances=instances, settings=asked.settings)


def _set_aside(tree: dict[str, Any]) -> None:
    """Put in what is set aside today where nobody says it: ``FILE_TOKENS`` in whole blocks, halved until it fits."""
    sizing = tree["protocol"].get("sizing") if isinstance(tree["protocol"], dict) else None
    if not isinstance(sizing, dict) or "tokens" in sizing:
        return
    config = parse(_with_large_pools(tree, tokens=False))  # it is right in all else, or that is said
    block, pool = config.protocol.block_tokens, tree["language"]["pool_blocks"]
    if isinstance(pool, str):
        try:
            pool = parse_size(pool) // config.layout.bytes_per_block
        except ValueError:
            pool = LARGE_BLOCKS  # which is said where it is checked
    blocks = -(-FILE_TOKENS // block)
    while isinstance(pool, int) and blocks > max(pool - config.protocol.reserve_blocks, 1):
        blocks //= 2
    sizing["tokens"] = blocks * block


def _with_large_pools(tree: Mapping[str, Any], *, tokens: bool = True) -> dict[str, Any]:
    """The same with more memory than any allocation needs; without ``tokens`` set aside one block at a time."""
    large: dict[str, Any] = {side: {**tree[side], "pool_blocks": LARGE_BLOCKS} for side in ("encode", "language")}
    made = {**tree, **large}
    if not tokens:
        protocol = tree["protocol"]
        block = protocol.get("block_tokens")
        one = block if isinstance(block, int) and block > 0 else Protocol().block_tokens
        made["protocol"] = {**protocol, "sizing": {**protocol["sizing"], "tokens": one}}
    return made


def _check_memory(tree: Mapping[str, Any], memory: str) -> None:
    """Raise UserError, in terms of --memory, if it is less than what the pool of a rank must hold at least."""
    config = parse(_with_large_pools(tree))  # it is right in all else, or that is said
    tokens, reserve = config.protocol.sizing.tokens, config.protocol.reserve_blocks
    allocation = f"one allocation of {tokens} tokens" + (f" and of a reserve of {reserve} blocks" if reserve else "")
    needed = (
        ("language", tokens // config.protocol.block_tokens + reserve, allocation),
        ("encode", 1, "one block"),
    )  # the larger one first, so that nobody is refused twice
    for side, blocks, what in needed:
        least_bytes = blocks * config.layout.bytes_per_block
        if tree[side]["pool_blocks"] == memory and _memory(memory) < least_bytes:
            raise UserError(f"--memory is {memory!r}, it must be at least {least_bytes}, the bytes of {what}")


def _of_config(asked: Asked) -> Config:
    overrides: list[Override] = []
    if asked.model is not None:
        overrides.append(f"model.name={asked.model}")
    if asked.model is not None or asked.gpu is not None:
        overrides += _profiles(asked)
    if asked.link is not None:
        overrides.append(f"link.profile={asked.link}")
    # What --set says of the same field wins, as it comes later.
    return load(asked.source, [*overrides, *asked.overrides, "run.replications=1"])


def _profiles(asked: Asked) -> list[str]:
    own = load(asked.source, [*asked.settings, "run.replications=1"])
    model = asked.model or own.model.name or DEFAULT_MODEL
    gpu = asked.gpu or next((name for name in kernels().slowdown if own.encode.profile.startswith(f"{name}-")), None)
    if gpu is None:
        raise UserError(
            f"--model is {model!r}, but encode.profile is {own.encode.profile!r}, which names no GPU; give --gpu too"
        )
    return [f"encode.profile={gpu}-{model}", f"language.profile={gpu}-{model}"]


def _checked(tree: dict[str, Any]) -> Config:
    config = parse(tree).resolved()
    for file in config.input_files():
        if not file.is_file():
            raise UserError(
                f"the configuration names {str(file)!r}, it must be a file that can be read{why_unreadable(file)}"
            )
    return config


def _usual(asked: Asked) -> Asked:
    """The same with the names of model, GPU and link as they are written here, whatever case they were given in."""

    def lower(name: str | None) -> str | None:
        return name if name is None or name.endswith(".toml") else name.lower()

    model = None if asked.model is None else usual_name(asked.model)
    return replace(asked, model=model, gpu=lower(asked.gpu), link=lower(asked.link))


def _check_names(asked: Asked) -> None:
    """Raise UserError for a model, GPU, link or memory that is not known, in the words of its option."""
    from bufferlab.sim.network.link import profile_names

    gpus = [*kernels().slowdown]
    for option, value, names in (("--model", asked.model, [*MODELS]), ("--gpu", asked.gpu, gpus)):
        if value is not None and value not in names:
            hint = did_you_mean(value, names)
            other = "" if option == "--model" else f"; {INSTANT} or a file is given as --set encode.profile={value}"
            raise UserError(f"{option} is {value!r}{hint}, it must be one of {', '.join(names)}{other}")
    links = profile_names()
    if asked.link is not None and asked.link not in links and not asked.link.endswith(".toml"):
        hint = did_you_mean(asked.link, links)
        raise UserError(f"--link is {asked.link!r}{hint}, it must be one of {', '.join(links)}, or a .toml file")
    if asked.memory is not None:
        _memory(asked.memory)
    for option, number in (
        ("--encode-instances", asked.encode_instances),
        ("--language-instances", asked.language_instances),
    ):
        if number is not None and not 1 <= number <= MAX_INSTANCES:
            raise UserError(f"{option} is {number}, it must be from 1 to {MAX_INSTANCES}")


def _memory(text: str) -> int:
    try:
        bytes_ = parse_size(text)
    except ValueError as error:
        raise UserError(f"--memory is {text!r}, it {error}") from None
    if bytes_ < 1:
        raise UserError(f"--memory is {text!r}, it must be more than nothing")
    return bytes_


def _name_of(path: Path) -> str:
    stem = path.name.partition(".")[0]
    kept = "".join(char if char.isascii() and (char.isalnum() or char in "._-") else "-" for char in stem)
    return kept.lstrip("._-")[:80] or "traffic"
