"""Settings by their old names: they work, one line says the new one, and both at once are refused."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from bufferlab import sim
from bufferlab.experiments.commands.examples import examples
from bufferlab.experiments.config.renamed import OLD_NAMES, with_new_options
from bufferlab.experiments.config.schema import parse
from bufferlab.experiments.config.shipped import example_text
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.sweeps.grid import read_configurations
from bufferlab.experiments.sweeps.plan import make_plan
from bufferlab.experiments.workloads.loading import load
from bufferlab.protocol.naming import Renamed
from bufferlab.sim.network.link import profile_from
from bufferlab.sim.network.renamed import OLD_FIELDS, OLD_HOST_FIELDS


@pytest.mark.parametrize(("section", "old"), OLD_NAMES)
def test_an_old_name_is_the_new_one(section: str, old: str, tmp_path: Path) -> None:
    new = OLD_NAMES[section, old]
    expected = load("quickstart", [f"{section}.{new}=7ms"])
    assert getattr(getattr(expected, section), new) == 0.007
    with pytest.warns(Renamed, match=rf"^{section}\.{old} is called {section}\.{new} now") as told:
        assert load("quickstart", [f"{section}.{old}=7ms"]) == expected
    assert len(told) == 1
    assert old not in type(getattr(expected, section)).model_fields
    file = tmp_path / "quickstart.toml"
    file.write_text(f'[workload]\npreset = "mixed"\nrate_rps = 1\n[{section}]\n{old} = "7ms"\n')
    with pytest.warns(Renamed):
        assert getattr(getattr(load(str(file)), section), new) == 0.007


def test_both_names_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"^encode has poll_interval_s and turn_s, its old name; it must have only poll_"
    ):
        parse({"encode": {"turn_s": 0.001, "poll_interval_s": 0.001}})


def test_a_command_says_it_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bufferlab", "sim", "seed-small", "--set", "language.turn_s=2ms", "--out", "run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=_environment())
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stderr.splitlines() if "turn_s" in line]
    assert told == [
        "bufferlab: language.turn_s is called language.poll_interval_s now; the old name works until the next release"
    ]
    assert "poll_interval_s = 0.002" in (tmp_path / "run" / "config.toml").read_text()


SHIPPED = tomllib.loads((Path(sim.__file__).parent / "profiles" / "tcp-loopback.toml").read_text())
SHIPPED = {name: value for name, value in SHIPPED.items() if name not in {"host", *OLD_FIELDS.values()}}


def test_a_profile_with_old_names_is_the_one_with_the_new() -> None:
    new = dict.fromkeys(OLD_FIELDS.values(), 1e-4) | {"host": dict.fromkeys(OLD_HOST_FIELDS.values(), 2e-4)}
    old = dict.fromkeys(OLD_FIELDS, 1e-4) | {"host": dict.fromkeys(OLD_HOST_FIELDS, 2e-4)}
    with pytest.warns(Renamed) as told:
        assert profile_from(SHIPPED | old, name="mine") == profile_from(SHIPPED | new, name="mine")
    assert [str(one.message) for one in told] == [
        "link profile mine: per_piece_s is called per_segment_s now, turn_s is called iteration_s now, order_s is called "
        "command_s now; the old names work until the next release"
    ]
    with pytest.raises(ValueError, match="link profile mine: per_segment_s is there, and per_piece_s, its old name"):
        profile_from(SHIPPED | new | {"per_piece_s": 0.0}, name="mine")


def test_options_and_tables_and_examples_have_their_old_names() -> None:
    with pytest.warns(Renamed, match="^sweep --cells is called sweep --configurations now; the old name works until"):
        assert with_new_options(["sweep", "demo", "--cells=load.toml"]) == [
            "sweep",
            "demo",
            "--configurations=load.toml",
        ]
    with pytest.warns(Renamed, match="^calibrate --accounts is called calibrate --cpu-usage now"):
        assert with_new_options(["calibrate", "a", "--accounts", "b"]) == ["calibrate", "a", "--cpu-usage", "b"]
    assert with_new_options(["sim", "--cells", "x"]) == ["sim", "--cells", "x"]
    with pytest.warns(Renamed, match="^the example validation-cell is called validation-case now"):
        assert load("validation-cell") == load("validation-case")


def test_a_file_of_configurations_with_its_old_name_is_read(tmp_path: Path) -> None:
    file = tmp_path / "load.toml"
    file.write_text("[[sweep.cells]]\nworkload.rate_rps = 2\n[[sweep.cells]]\nworkload.rate_rps = 3\n")
    with pytest.warns(Renamed, match=r"^sweep\.cells is called sweep\.configurations now"):
        assert read_configurations(file)[0] == [{"workload.rate_rps": 2}, {"workload.rate_rps": 3}]


def _environment() -> dict[str, str]:
    import os

    return os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}


def test_the_grid_of_a_sweep_has_the_new_names() -> None:
    with pytest.warns(Renamed, match=r"^encode\.turn_s is called encode\.poll_interval_s now"):
        plan = make_plan("seed-small", grid={"encode.turn_s": ["1ms", "2ms"]}, baseline=[("encode.turn_s", "2ms")])
    assert plan.fields == ["encode.poll_interval_s"]
    assert [one.value("encode.poll_interval_s") for one in plan.configurations] == [0.001, 0.002]
    assert plan.baselines == {1: 2}
    assert plan.identity == make_plan("seed-small", grid={"encode.poll_interval_s": ["1ms", "2ms"]}).identity


@pytest.mark.filterwarnings("ignore::bufferlab.protocol.naming.Renamed")
def test_a_sweep_that_names_a_setting_twice_is_refused() -> None:
    both = {"encode.turn_s": "1ms", "encode.poll_interval_s": "2ms"}
    with pytest.raises(UserError, match=r"^configuration 1 has encode\.poll_interval_s and its old name; it must have"):
        make_plan("seed-small", configurations=[both])
    with pytest.raises(UserError, match=r"^the grid has encode\.poll_interval_s and its old name; it must have only"):
        make_plan("seed-small", grid={name: [value] for name, value in both.items()})


def test_an_old_profile_is_told_once_by_a_command_and_its_workers(tmp_path: Path) -> None:
    text = (Path(sim.__file__).parent / "profiles" / "tcp-loopback.toml").read_text()
    (tmp_path / "mine.toml").write_text(text.replace("per_segment_s", "per_piece_s"))
    (tmp_path / "old.toml").write_text('[workload]\nlengths = [500]\n[encode]\nturn_s = "5ms"\n')
    command = ["sweep", "old.toml", "--set", "link.profile=mine.toml", "--set", "encode.turn_s=2ms", "--jobs", "2"]
    command += ["--grid", "protocol.sizing.tokens=512,1024", "--no-plots", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "bufferlab", *command],
        cwd=tmp_path, capture_output=True, text=True, check=False, env=_environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sorted(line.partition(" now")[0] for line in done.stderr.splitlines() if " is called " in line) == [
        "bufferlab: encode.turn_s is called encode.poll_interval_s",
        "bufferlab: link profile mine: per_piece_s is called per_segment_s",
    ]
    assert "Renamed" not in done.stderr
    assert json.loads(done.stdout)["plan"]["configurations"] == 2


def test_an_example_is_written_by_its_old_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.warns(Renamed, match="^the example validation-cell is called validation-case now"):
        examples(write=("validation-cell", Path("mine.toml")))
    assert Path("mine.toml").read_text() == example_text("validation-case")


def test_a_file_of_configurations_with_both_names_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "load.toml"
    file.write_text("[[sweep.cells]]\nworkload.rate_rps = 2\n[[sweep.configurations]]\nworkload.rate_rps = 3\n")
    with pytest.raises(UserError, match=r"^sweep has configurations and cells, its old name; it must have only conf"):
        read_configurations(file)
