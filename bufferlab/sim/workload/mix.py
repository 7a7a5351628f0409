"""A mix: which kinds of requests there are, how long they are, who sends them and how they arrive.

Mixes are TOML files in ``sim/workloads/``. A file may have ``variants`` (tables that replace some of its fields) and
``options`` (numbers or words that the user may choose and that the file refers to), so a mix is made in three steps:
read the file, take the variant, put in the options.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any, Literal

import msgspec

from bufferlab.protocol.naming import did_you_mean
from bufferlab.sim.workload.arrivals import Arrivals, ClientArrivals
from bufferlab.sim.workload.lengths import Constant, Length, WithQuantiles, check_weights

IMAGE_BOUNDARY_TOKENS = 2
"""Tokens that say where an image starts and ends in the prompt of Qwen models."""

VARIANT = "variant"


class RequestKind(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One kind of request. All lengths are in tokens.

    Either its images are drawn (``images`` of them, each of ``image_tokens``), or the length of the whole request is
    (``total``), as traces give it: then images take what ``text`` leaves, in images of about ``image_size_tokens``.
    ``coupled``: text and number of images are drawn from one uniform number, so long texts come with many images.
    ``client``: who sends all requests of this kind. ``storm_weight``: the weight during a storm, see ``Storm``.
    """

    weight: float
    text: Length
    images: Length = Constant(0)
    image_tokens: Length = Constant(0)
    client: str = ""
    total: Length | None = None
    image_size_tokens: int | None = None
    coupled: bool = False
    storm_weight: float | None = None

    def __post_init__(self) -> None:
        if self.coupled and not (isinstance(self.text, WithQuantiles) and isinstance(self.images, WithQuantiles)):
            raise ValueError("coupled is true, then text and images must be of type constant, choice or quantiles")
        if self.total is not None and (self.images != Constant(0) or self.image_tokens != Constant(0) or self.coupled):
            raise ValueError("total is given, then images, image_tokens and coupled must not be")
        if self.image_size_tokens is not None and (self.total is None or self.image_size_tokens < 1):
            raise ValueError(
                f"image_size_tokens is {self.image_size_tokens}, it must be at least 1, and only where total is given"
            )


class Storm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Episodes in which the kinds have other weights: ``share`` of the time, ``mean_s`` seconds each on average.

    Calm and storm are a Markov chain of two states in time. ``when``: "modulated" by that chain, or "always", "never".
    """

    share: float
    mean_s: float
    when: Literal["modulated", "always", "never"] = "modulated"

    def __post_init__(self) -> None:
        if not (0 < self.share < 1 and 0 < self.mean_s < math.inf):
            raise ValueError(f"share is {self.share} and mean_s is {self.mean_s}, they must be in (0, 1) and above 0")


class Mix(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Kinds of requests by their weights; every length is clipped to ``max_tokens``.

    ``arrivals``: how they come, at ``rate_rps`` a second where nobody says otherwise; None if the
    sources tell no rate. ``clients``: so many clients
    share the requests of kinds without a client of their own, at random. ``own_arrivals``: clients that send on their
    own; then every kind belongs to one of them. ``hint``: whether a router that sees the image sizes can compute the
    image tokens. ``boundary_tokens``: added for every image.
    """

    kinds: tuple[RequestKind, ...]
    max_tokens: int
    description: str = ""
    source: str = ""
    arrivals: Arrivals = Arrivals()
    rate_rps: float | None = None
    clients: int = 0
    own_arrivals: tuple[ClientArrivals, ...] = ()
    storm: Storm | None = None
    hint: Literal["exact", "none"] = "exact"
    boundary_tokens: int = IMAGE_BOUNDARY_TOKENS

    def __post_init__(self) -> None:
        for name, value, least in (
            ("max_tokens", self.max_tokens, 1),
            ("clients", self.clients, 0),
            ("boundary_tokens", self.boundary_tokens, 0),
        ):
            if value < least:
                raise ValueError(f"{name} is {value}, it must be at least {least}")
        check_weights([kind.weight for kind in self.kinds], len(self.kinds), "kinds")
        check_weights(self.storm_weights, len(self.kinds), "kinds")
        if self.rate_rps is not None:
            self.arrivals.check_rate(self.rate_rps)
        if self.own_arrivals:
            own, named = [client.name for client in self.own_arrivals], {kind.client for kind in self.kinds}
            if len(set(own)) != len(own) or set(own) != named:
                raise ValueError("own_arrivals must name every client of the kinds once, and nobody else")
            if self.storm is not None or self.clients:
                raise ValueError("own_arrivals are given, then storm and clients must not be")

    @property
    def storm_weights(self) -> list[float]:
        """Weights of the kinds during a storm."""
        return [kind.weight if kind.storm_weight is None else kind.storm_weight for kind in self.kinds]

    @property
    def client_names(self) -> tuple[str, ...]:
        """Everybody who sends something, in a fixed order; nobody in particular is ""."""
        if self.own_arrivals:
            return tuple(client.name for client in self.own_arrivals)
        named = dict.fromkeys(kind.client for kind in self.kinds if kind.client)
        if all(kind.client for kind in self.kinds):
            return tuple(named)
        digits = len(str(self.clients))
        rest = [f"client-{number:0{digits}}" for number in range(1, self.clients + 1)] or [""]
        return (*named, *rest)


class Option(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something a workload file lets the user choose: a number from ``least`` to ``most``, or one of ``choices``."""

    default: int | float | str
    help: str
    least: float = -math.inf
    most: float = math.inf
    choices: tuple[str, ...] = ()

    def wrong(self, value: Any) -> str:
        """What ``value`` must be, as the end of a sentence; empty if it is that."""
        if self.choices:
            if value in self.choices:
                return ""
            return f"must be one of {', '.join(self.choices)}{did_you_mean(value, self.choices)}"
        whole = isinstance(self.default, int)
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            return "must be a whole number" if whole else "must be a number"
        if not self.least <= value <= self.most:
            return f"must be from {self.least:.10g} to {self.most:.10g}"
        return ""


def constant_mix(tokens: int) -> Mix:
    """Every request has exactly ``tokens`` tokens, all of them text."""
    return Mix(kinds=(RequestKind(1.0, Constant(tokens)),), max_tokens=max(tokens, 1))


@cache
def _texts() -> dict[str, str]:
    found = {
        entry.name.removesuffix(".toml"): entry.read_text(encoding="utf-8")
        for entry in files("bufferlab.sim").joinpath("workloads").iterdir()
        if entry.name.endswith(".toml")
    }
    return dict(sorted(found.items()))


def mix_names() -> list[str]:
    """Names of the shipped mixes."""
    return list(_texts())


@cache
def mix_options(name: str) -> Mapping[str, Option]:
    """What the shipped mix ``name`` lets one choose. Raises ValueError for an unknown mix."""
    return _options(_table(name))


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Raise ValueError, starting with the option's name, for one that the mix ``name`` does not have or allow."""
    check_chosen(f"the preset {name}", mix_options(name), options)


def check_chosen(what: str, known: Mapping[str, Option], options: Mapping[str, Any]) -> None:
    """Raise ValueError, starting with the option's name, for one that is not ``known`` or has a wrong value."""
    for option, value in options.items():
        if option not in known:
            has = f"which has {', '.join(known)}" if known else "which has no options"
            raise ValueError(f"{option} is not an option of {what}, {has}{did_you_mean(option, known)}")
        problem = known[option].wrong(value)
        if problem:
            raise ValueError(f"{option} is {value!r}, it {problem}")


def load_mix(name: str, options: Mapping[str, Any] | None = None) -> Mix:
    """A shipped mix by its name. Raises ValueError listing the known ones, or for a wrong option."""
    chosen = dict(options or {})
    check_options(name, chosen)
    return _load(name, tuple(sorted(chosen.items())))


@lru_cache(maxsize=64)
def _load(name: str, chosen: tuple[tuple[str, Any], ...]) -> Mix:
    table = _table(name)
    values = {option: spec.default for option, spec in _options(table).items()} | dict(chosen)
    values.pop(VARIANT, None)
    variants = table.pop("variants", {})
    base = table.pop("variant", "")
    table.pop("options", None)
    variant = dict(chosen).get(VARIANT, base)
    if variant != base:
        table |= variants[variant]
    return mix_from(_put_in(table, values), name=name)


def mix_from(table: Mapping[str, Any], *, name: str) -> Mix:
    """The mix in a table of fields. Raises ValueError in one sentence that names the field."""
    try:
        return msgspec.convert(table, Mix)
    except msgspec.ValidationError as error:
        raise ValueError(f"workload {name}: {error}") from error


def _table(name: str) -> dict[str, Any]:
    texts = _texts()
    if name not in texts:
        raise ValueError(f"unknown workload {name!r}; known: {', '.join(texts)}")
    return tomllib.loads(texts[name])


def _options(table: Mapping[str, Any]) -> dict[str, Option]:
    found = msgspec.convert(table.get("options", {}), dict[str, Option])
    variants = table.get("variants", {})
    base = table.get("variant", "")
    if base:
        told = "; ".join(f"{variant}: {fields['description']}" for variant, fields in variants.items())
        found[VARIANT] = Option(default=base, choices=(base, *variants), help=f"{base}: {table['description']}; {told}")
    return found


def _put_in(tree: Any, values: Mapping[str, Any]) -> Any:
    """``tree`` with every ``{ option = NAME, times = 1, plus = 0 }`` replaced by what it comes to, rounded."""
    if isinstance(tree, list):
        return [_put_in(item, values) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if "option" in tree:
        value = values[tree["option"]]
        return value if isinstance(value, str) else round(value * tree.get("times", 1) + tree.get("plus", 0))
    return {key: _put_in(item, values) for key, item in tree.items()}
