"""What validate says first: that the profile does not say what a measured run had need of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from bufferlab.experiments.config.schema import Config
from bufferlab.experiments.validation.frozen import FrozenProfile, freeze
from bufferlab.experiments.validation.lacks import all_lacks
from bufferlab.experiments.workloads.loading import load
from bufferlab.sim.host.costs import HostCosts


@dataclass
class Run:
    """As much of a stored run as counts."""

    config: Config
    kind: str = "real"
    processors: int | None = 2
    path: Path = Path("run")


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
    chosen = FrozenProfile("mine", "0", freeze("tcp-loopback").link, described)
    sentences = said(Run(config, processors=8), chosen)
    assert len(sentences) == bool(part)
    assert all(part in sentence for sentence in sentences)


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
