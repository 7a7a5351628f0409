"""What validate says first: that the profile does not say what a measured run had need of."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from bufferlab.experiments.config.schema import Config
from bufferlab.experiments.validation.frozen import FrozenProfile, freeze
from bufferlab.experiments.validation.lacks import all_lacks
from bufferlab.experiments.validation.origin import of_profile, of_runs, told
from bufferlab.experiments.workloads.loading import load
from bufferlab.sim.host.costs import HostCosts
from bufferlab.sim.network.link import profile_names


@dataclass
class Run:
    """As much of a stored run as counts."""

    config: Config
    kind: str = "real"
    processors: int | None = 2
    path: Path = Path("run")
    date: str = ""


def profile(**fields: Any) -> FrozenProfile:
    shipped = freeze("tcp-loopback")
    return FrozenProfile("mine", "0", structs.replace(shipped.link, **fields))


def said(run: Run, chosen: FrozenProfile) -> list[str]:
    return all_lacks([run, run], chosen)  # type: ignore[list-item]


def test_processes_that_shared_processors_need_a_host() -> None:
    config = load("validation-case", ["encode.tp=2", "language.tp=2", "language.instances=2"])
    (sentence,) = said(Run(config), profile())
    assert sentence.startswith("this profile has no [host]: 7 processes shared 2 processors")
    assert "bufferlab calibrate --here --out my.toml" in sentence
    assert said(Run(config, processors=8), profile()) == []
    assert said(Run(config, processors=None), profile()) == []
    assert said(Run(config, kind="sim"), profile()) == []


@pytest.mark.parametrize(
    ("measured", "described", "part"),
    [
        ("tcp", "rdma", "over rdma, and the runs went over tcp: it does not describe them"),
        ("rdma", "tcp", "over tcp, and the runs went over rdma"),
        ("socket", "socket", ""),
        ("tcp", "tcp", ""),
        ("tcp", "", ""),
        ("socket", "", "of Mooncake's transports or of data sheets, and the runs went over socket"),
        ("socket", "tcp", "over tcp, and the runs went over socket"),
        ("tcp", "socket", "over socket, and the runs went over tcp"),
    ],
)
def test_the_socket_engine_and_mooncake_say_nothing_about_each_other(measured: str, described: str, part: str) -> None:
    config = load("validation-case", [f"real.transport={measured}"])
    chosen = FrozenProfile("mine", "0", freeze("tcp-loopback").link, transport=described)
    sentences = said(Run(config, processors=8), chosen)
    assert len(sentences) == bool(part)
    assert all(part in sentence for sentence in sentences)


def test_every_shipped_profile_says_what_it_was_measured_over() -> None:
    found = {name: freeze(name).transport for name in profile_names()}
    assert found == {
        "cx7-400g": "rdma", "efa-p5en": "efa", "roce-4x400g": "rdma", "tcp-loopback": "tcp", "thor2-400g": "rdma",
    }  # fmt: skip
    run = Run(load("validation-case"), processors=8)
    wrong = [name for name in found if any("it does not describe them" in one for one in said(run, freeze(name)))]
    assert wrong == [name for name, transport in found.items() if transport != "tcp"]


@pytest.mark.parametrize(
    ("made", "measured", "part"),
    [
        ("2024-01-01", "2026-12-01", "made on 2024-01-01, 1065 days before the runs (2026-12-01)"),
        ("2026-12-01", "2026-10-01", "61 days after the runs"),
        ("2026-12-01", "2026-12-20", ""),
        ("2024-01-01", "", ""),
        ("", "2026-12-01", ""),
        ("last spring", "2026-12-01", ""),
    ],
)
def test_a_profile_from_long_before_the_runs_is_told(made: str, measured: str, part: str) -> None:
    chosen = replace(profile(), date=made)
    sentences = said(Run(load("validation-case"), processors=8, date=measured), chosen)
    assert len(sentences) == bool(part)
    assert all(part in one for one in sentences)


@pytest.mark.parametrize(
    ("described", "could_use", "part"),
    [(64.0, 2, "made on 64 processors, and the runs could use 2"), (2.0, 2, ""), (math.inf, 2, ""), (64.0, None, "")],
)
def test_a_profile_of_another_host_is_told(described: float, could_use: int | None, part: str) -> None:
    sentences = said(Run(load("validation-case"), processors=could_use), profile(host=HostCosts(processors=described)))
    assert len(sentences) == bool(part)
    assert all(part in one for one in sentences)


def test_whence_a_profile_and_its_runs_come_is_said_in_one_line() -> None:
    assert told(of_profile(freeze("cx7-400g"))) == "over rdma, processors not known, date not known"
    several = [Run(load("validation-case"), processors=n, date=f"2026-12-0{n}") for n in (2, 1)]
    simulated = Run(load("validation-case"), kind="sim")
    assert told(of_runs([*several, simulated])) == (  # type: ignore[list-item]
        "over tcp, 1 and 2 processors, 2026-12-01 to 2026-12-02"
    )


@pytest.mark.parametrize(
    ("settings", "fields", "part"),
    [
        (["language.tp=2"], {"host": HostCosts()}, "no all-reduces"),
        (["language.tp=2"], {"host": HostCosts(collective_quantiles_s=(1e-4, 1e-3))}, ""),
        (["language.poll_interval_s=15ms"], {"host": HostCosts()}, "loops iterated every 15 ms"),
        (["language.poll_interval_s=15ms"], {"host": HostCosts(), "wakeup_s": 4e-4}, ""),
        ([], {"host": HostCosts()}, ""),
    ],
)
def test_groups_need_all_reduces_and_slow_loops_wake_ups(
    settings: list[str], fields: dict[str, Any], part: str
) -> None:
    found = said(Run(load("validation-case", settings)), profile(**fields))
    assert len(found) == bool(part)
    assert all(part in one for one in found)
