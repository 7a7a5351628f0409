"""``calibrate --here``: the runs that it measures make the profile, and what others took of the host is said."""

from __future__ import annotations

import json
import os
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bufferlab.experiments.calibration import here
from bufferlab.experiments.calibration.report import busy_text
from bufferlab.experiments.config.schema import Config
from bufferlab.experiments.runs import busy
from bufferlab.experiments.runs.busy import TOO_BUSY, Busy, BusyWatch, Spent, between
from bufferlab.experiments.runs.simulate import run_sim
from bufferlab.sim.network.link import load_profile

Command = Callable[..., Any]

TRUTH = """
latency_s = 0.4e-3
per_segment_s = 0.1e-3
bandwidth_Bps = 1.5e9
control_latency_s = 0.3e-3
copy_bandwidth_Bps = 6e9
copy_latency_s = 0.2e-3
submit_latency_s = 1e-3
wakeup_s = 0.4e-3
shared_by = "rank"
[host]
asleep_after_s = 3e-3
cold_copy_s = 0.3e-3
"""


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The simulator in the place of Mooncake, and a link that is ten times as fast without the software around it."""
    truth = tmp_path / "truth.toml"
    truth.write_text(TRUTH, encoding="utf-8")
    names: list[str] = []

    def simulate(config: Config, target: Path) -> object:
        names.append(config.run.name)
        link = config.link.model_copy(update={"profile": str(truth)})
        return run_sim(config.model_copy(update={"link": link}), target)

    def bench(folder: Path) -> None:
        names.append("link")
        folder.mkdir()
        shapes = [(size, batch) for size in (65_536, 1_048_576) for batch in (1, 8)]
        rows = [(size, batch, size * batch, 1e6 * (4e-5 + size * batch / 15e9)) for size, batch in shapes]
        lines = [f"bench,{size},{batch},1,{total},{us!r},{total / us / 1e3!r}" for size, batch, total, us in rows]
        head = "table,msg_bytes,batch,threads,total_bytes,time_us,bw_GBps"
        (folder / "link.csv").write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")

    monkeypatch.setattr(here, "run_measured", simulate)
    monkeypatch.setattr(here, "_measure_link", bench)
    monkeypatch.setattr("bufferlab.experiments.calibration.here.examine_real", lambda: "")
    return names


def test_the_writes_of_its_runs_make_the_profile_and_not_a_link_without_software(
    measured: list[str], tmp_path: Path
) -> None:
    told: list[str] = []
    out, keep = tmp_path / "mine.toml", tmp_path / "kept"
    result = here.calibrate_here(out=out, keep=keep, progress=told.append)
    assert measured == ["link", *(name for name, _ in here.HERE)]
    assert len(told) == here.STEPS
    profile = load_profile(str(out))
    assert profile.bandwidth_Bps == pytest.approx(1.5e9, rel=1e-3)
    assert profile.per_segment_s == pytest.approx(0.1e-3, rel=1e-2)
    assert profile.wakeup_s == pytest.approx(0.4e-3, rel=1e-3)
    assert profile.submit_latency_s == pytest.approx(1e-3, rel=1e-3)
    assert [one["name"] for one in result["tables"]] == ["bench"]
    content = tomllib.loads(out.read_text(encoding="utf-8"))["calibration"]
    assert content["busy"]["processors"] == len(busy.usable())
    assert content["runs"] == ["calibrate-32/00", "calibrate-128/00"]
    assert {path.name for path in keep.iterdir()} == {"link", "runs"}


def test_an_interruption_leaves_no_half_filled_folder(
    measured: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupt(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(here, "_measure_link", interrupt)
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        here.calibrate_here(keep=tmp_path / "kept")
    assert {path.name for path in tmp_path.iterdir()} == before


def test_from_the_command_line_with_what_stands_in_its_way_refused(
    measured: list[str], bufferlab: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = bufferlab("calibrate", "--here", "--out", "mine.toml", "--json")
    assert ended.status == 0, ended.err
    assert json.loads(ended.out)["profile"]["path"] == "mine.toml"
    assert {path.name for path in tmp_path.iterdir()} == {"mine.toml", "truth.toml"}  # the runs are gone
    measured.clear()
    for arguments, part in (
        (("--here", "some.csv"), "MEASUREMENTS is given with --here"),
        (("--here", "--table", "x"), "--table is given with --here"),
        (("--here", "--holdout", "odd"), "--holdout is 'odd'"),
        (("--here", "--out", "mine.toml"), "a .toml file that does not exist yet"),
        (("--here", "--keep", str(tmp_path)), "a folder that does not exist yet"),
        (("--here", "--base", "nothing", "--out", "new.toml"), "--base is 'nothing'"),
        (("--keep", "here"), "--keep is given without --here"),
        ((), "bufferlab calibrate --here --out my.toml"),
    ):
        ended = bufferlab("calibrate", *arguments)
        assert ended.status == 2, arguments
        assert part in ended.err
    assert measured == []
    monkeypatch.setattr("bufferlab.experiments.calibration.here.examine_real", lambda: "Mooncake is not installed")
    ended = bufferlab("calibrate", "--here", "--out", "other.toml")
    assert ended.status == 2
    assert "--here measures over Mooncake, but Mooncake is not installed" in ended.err


# --- a host that others use ---


def test_the_shares_are_of_all_the_time_of_the_processors_and_without_our_own() -> None:
    before = Spent(at_s=100.0, busy_s=50.0, stolen_s=1.0, own_s=20.0)
    now = Spent(at_s=110.0, busy_s=63.0, stolen_s=2.0, own_s=28.0)
    found = between(before, now, 2)
    assert found == Busy(processors=2, lasts_s=10.0, others=pytest.approx(0.25), stolen=pytest.approx(0.05))
    assert found.too_busy
    # The kernel counts in ticks: what we spent may be more than all that was.
    assert between(before, now._replace(busy_s=55.0), 2).others == 0.0
    assert between(before, before, 2) == Busy(2, 0.0, 0.0, 0.0)


def test_a_busy_host_is_said_to_be_too_busy_and_by_how_much() -> None:
    idle, loaded = (Busy(2, 30.0, share, 0.0).content() for share in (TOO_BUSY / 2, 0.43))
    assert busy_text(idle).startswith("measured in 30 s; other programs took 5%")
    assert "TOO BUSY" not in busy_text(idle)
    assert busy_text(loaded).startswith("THIS HOST IS TOO BUSY TO BE MEASURED: other programs took 43% of the time")
    assert "virtual machine took 20%" in busy_text(Busy(2, 30.0, 0.0, 0.2).content())


def test_what_this_process_spends_is_its_own() -> None:
    pytest.importorskip("psutil")
    watch = BusyWatch()
    own_s = time.process_time()
    ends_s = time.monotonic() + 0.3
    while time.monotonic() < ends_s:
        pass
    spent_s = time.process_time() - own_s
    found = watch.so_far()
    assert found.processors == len(os.sched_getaffinity(0))
    assert found.lasts_s >= 0.3
    # All processors together cannot have done more for others than what we left of them, but for a tick of each.
    assert found.others * found.lasts_s * found.processors <= found.lasts_s * found.processors - spent_s + 0.1
