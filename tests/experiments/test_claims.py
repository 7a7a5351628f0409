"""An engine or a discipline that somebody adds is asked what it claims: no list of names has to grow for it."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import pytest

pytest.importorskip("zmq", reason="needs pyzmq")

from bufferlab.experiments.calibration.bench_link import make_sweep
from bufferlab.experiments.calibration.input.reading import read_inputs
from bufferlab.experiments.commands.common.registry import find_command
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.options import unused_device
from bufferlab.experiments.validation.lacks import _other_transport
from bufferlab.protocol.disciplines import DISCIPLINES
from bufferlab.protocol.disciplines.slot import Slot
from bufferlab.protocol.disciplines.window import Window
from bufferlab.real.engine import registry
from bufferlab.real.engine.socket_engine import SocketEngine

ROOT = Path(__file__).resolve().parents[2]
LINK = (
    "table,system,link,op,msg_bytes,batch,threads,total_bytes,time_us,bw_GBps\n"
    "bench_link_{0},host,{0},write,4096,1,1,4096,60,0.0683\n"
)


@pytest.fixture
def pigeon(monkeypatch: pytest.MonkeyPatch) -> type[SocketEngine]:
    """A registered engine of somebody's own, whose transport has devices and resembles no other."""

    class Pigeon(SocketEngine):
        transports: ClassVar = MappingProxyType({"pigeon": "birds"})
        called = "the pigeon post"
        device_transports = frozenset({"pigeon"})

    known = {**registry.engines(), "pigeon": Pigeon}
    monkeypatch.setattr(registry, "engines", lambda: known)
    return Pigeon


def metavar(name: str) -> Any:
    command = find_command(name)
    assert command is not None
    command.__dict__.pop("parser", None)  # as it is when a process uses it for the first time
    found = next(one for one in command.parser.params if "--transport" in one.opts)
    command.__dict__.pop("parser", None)
    return found.metavar


@pytest.mark.parametrize("name", ["real", "bench-link"])
def test_the_transports_in_help_are_those_that_engines_run(name: str, pigeon: type[SocketEngine]) -> None:
    assert metavar(name) == "|".join([*(one for one in registry.engines() if one != "pigeon"), "pigeon"])


@pytest.mark.parametrize("name", ["real", "bench-link"])
def test_without_it_they_are_the_shipped_ones(name: str) -> None:
    assert metavar(name) == "|".join(registry.transports())


def test_who_has_devices_is_what_engines_claim(pigeon: type[SocketEngine]) -> None:
    assert unused_device("--device", "x", "pigeon") == ""
    assert unused_device("--device", "x", "tcp").endswith("only rdma and pigeon have devices")
    with pytest.raises(UserError, match="give --transport rdma or pigeon, or leave --device out"):
        make_sweep(
            block="4KiB", batch="1", threads="1", rounds=9, transport="tcp", device="x", seed=0, min_gbps=None
        )  # fmt: skip


@pytest.mark.parametrize(("other", "refused"), [("tcp", True), ("socket", True), ("pigeon", False)])
def test_what_resembles_no_other_is_calibrated_alone(
    tmp_path: Path, pigeon: type[SocketEngine], other: str, refused: bool
) -> None:
    tables = []
    for name in ("pigeon", other):
        tables.append(tmp_path / f"{len(tables)}.csv")
        tables[-1].write_text(LINK.format(name))
    if refused:
        with pytest.raises(UserError, match=f"over {other} and over pigeon, which resembles no other"):
            read_inputs(tables)
    else:
        assert read_inputs(tables).transport == "pigeon"
    (pigeon.resembles_networks, before) = (True, pigeon.resembles_networks)
    if other == "tcp":  # and where it says that it does, together with others
        assert read_inputs(tables).transports == {"pigeon", "tcp"}
    assert before is False


def test_a_profile_that_does_not_describe_it_is_told(pigeon: type[SocketEngine]) -> None:
    (sentence,) = _other_transport("pigeon", "tcp")
    assert "over tcp, and the runs went over pigeon" in sentence
    (sentence,) = _other_transport("rdma", "tcp")
    assert "over tcp, and the runs went over rdma" in sentence
    assert list(_other_transport("rdma", "rdma")) == []
    # Where a profile does not say what it describes, one that resembles no network is surely another one.
    assert list(_other_transport("rdma", "")) == []
    assert len(list(_other_transport("pigeon", ""))) == 1
    pigeon.resembles_networks = True
    assert list(_other_transport("pigeon", "")) == []


class Mine(Window):
    name = "mine"


class Pickier(Slot):
    name = "pickier"


def test_a_discipline_is_counted_and_drawn_by_what_it_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = ROOT / "bufferlab" / "experiments" / "commands" / "checking" / "deadlocks.py"
    tool = ROOT / "tools" / "disciplines.py"
    rows, names = runpy.run_path(str(grid))["GRID_ROWS"], runpy.run_path(str(tool))["NAMES"]
    assert list(rows) == [
        "alloc_then_free", "alloc_then_free, new rooms first", "free_then_alloc", "free_then_alloc, new rooms first",
        "window", "window, new rooms first", "exact_announce",
    ]  # fmt: skip
    assert names == ("slot", "default_fail", "alloc_then_free", "free_then_alloc", "window", "exact_announce")
    monkeypatch.setitem(DISCIPLINES, "mine", Mine)
    monkeypatch.setitem(DISCIPLINES, "pickier", Pickier)
    more, drawn = runpy.run_path(str(grid))["GRID_ROWS"], runpy.run_path(str(tool))["NAMES"]
    assert more.keys() - rows.keys() == {"mine", "mine, new rooms first"}
    assert set(drawn) - set(names) == {"mine", "pickier"}
