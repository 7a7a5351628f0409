"""A dry run says what would be done, refuses what would be refused, and leaves nothing behind."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bufferlab.experiments.commands.planning import plans
from bufferlab.experiments.commands.planning.estimate import Estimate
from bufferlab.experiments.runs.diagnosis import examine_real

REAL = not examine_real("tcp")
SMALL = ("--set", "workload.requests=30")
FIXED = ("policy=fixed", "tokens=512,1024,2048,4096")
SPACE = [word for one in FIXED for word in ("--space", f"protocol.sizing.{one}")]
COMMANDS = {
    "sim": ("sim", "quickstart", *SMALL),
    "sweep": ("sweep", "quickstart", *SMALL, "--grid", "protocol.sizing.tokens=512,4096", "--replications", "3"),
    "tune": ("tune", "quickstart", *SMALL, *SPACE),
    **({"real": ("real", "quickstart", *SMALL, "--set", "run.replications=2")} if REAL else {}),
    "demo": ("demo", "--quick"),
}


def everything(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_dry_run_says_what_would_be_done_and_writes_nothing(name: str, folder: Path, bufferlab: Any) -> None:
    ended = bufferlab(*COMMANDS[name], "--dry-run")
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.startswith((f"{name} of quickstart: ", "demo: 3 scenarios; 40 mixed requests"))
    assert "\n  into runs/" in ended.out
    assert ended.out.endswith("\na dry run: nothing was written\n")
    told = json.loads(bufferlab(*COMMANDS[name], "--dry-run", "--json").out)
    assert told["dry_run"] is True
    assert told["exists"] is False
    assert 0 < told["time"]["low_s"] <= told["time"]["high_s"]
    assert told["time"]["basis"]
    assert everything(folder) == []


def test_the_numbers_are_those_of_the_run(folder: Path, bufferlab: Any) -> None:
    for name in ("sim", "sweep"):
        told = json.loads(bufferlab(*COMMANDS[name], "--dry-run", "--json").out)
        done = json.loads(bufferlab(*COMMANDS[name], "--no-plots", "--json").out)
        offered = done["requests"]["offered"] if name == "sim" else 2 * 3 * 30
        assert told["requests"] == {"least": offered, "most": offered}
        assert (folder / told["target"]).is_dir()
        assert json.loads(bufferlab(*COMMANDS[name], "--dry-run", "--json").out)["exists"] is True
    told = json.loads(bufferlab(*COMMANDS["tune"], "--replications", "3", "--dry-run", "--json").out)
    done = json.loads(bufferlab(*COMMANDS["tune"], "--replications", "3", "--no-plots", "--jobs", "1", "--json").out)
    assert told["requests"]["least"] <= done["requests"]
    assert told["requests"]["most"] == 30 * told["runs"]["most"]
    # What a user reads of the command in tune.json is the same question.
    assert "--dry-run" not in " ".join(
        map(str, json.loads((folder / told["target"] / "tune.json").read_text()).values())
    )


def test_what_ifs_and_the_sensitivity_are_in_the_numbers_of_a_tune(folder: Path, bufferlab: Any) -> None:
    words = (*COMMANDS["tune"], "--replications", "3", "--what-if", "rate=2x,pool=0.5x", "--sensitivity")
    shown = bufferlab(*words, "--dry-run").out
    planned = json.loads(bufferlab(*words, "--dry-run", "--json").out)["runs"]
    alone = json.loads(bufferlab(*COMMANDS["tune"], "--replications", "3", "--dry-run", "--json").out)["runs"]
    done = json.loads(bufferlab(*words, "--no-plots", "--jobs", "1", "--json").out)
    others = sum(one["runs"] for one in done["what_if"]), done["sensitivity"]["runs"]
    assert planned["least"] <= done["runs"] + sum(others) <= planned["most"]
    assert alone["least"] <= done["runs"] <= alone["most"] < planned["most"]
    found = re.search(
        r"  (\S+) to (\S+) runs of 30 requests for the answer itself\n  (\S+) to (\S+) more for 2 what-ifs\n"
        r"  (\S+) to (\S+) more for the sensitivity, where a setting is recommended\n",
        shown,
    )
    assert found is not None
    numbers = [int(one.replace(",", "")) for one in found.groups()]
    assert numbers[2] <= others[0] <= numbers[3]
    assert numbers[4] <= others[1] <= numbers[5]
    assert (sum(numbers[::2]), sum(numbers[1::2])) == (planned["least"], planned["most"])


def test_what_takes_long_says_so_before_it_begins(
    monkeypatch: pytest.MonkeyPatch, folder: Path, bufferlab: Any
) -> None:
    assert "  takes " not in bufferlab(*COMMANDS["tune"], "--replications", "3", "--jobs", "1", "--no-plots").out
    monkeypatch.setattr(plans, "LONG_S", 0.0)
    told = bufferlab(*COMMANDS["tune"], "--replications", "3", "--jobs", "1", "--no-plots", "--force").out
    assert re.search(r"\n  takes (about|less than) .*: \d+ of the requests took .* here just now", told)
    told = bufferlab(*COMMANDS["sweep"], "--no-plots").out
    assert "\n  takes " in told.partition("lowest")[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("sim", "quickstart", "--set", "run.seed=x"), "run.seed is 'x'"),
        (("sim", "quickstart", "--out", "taken"), "--out is '"),
        (
            ("sweep", "quickstart", "--grid", "protocol.sizing.tokens=1000", "--out", "o"),
            "protocol.block_tokens is 128",
        ),
        (
            ("sweep", "quickstart", "--grid", "run.seed=1,2", "--out", "taken"),
            "--out is 'taken', which holds other files",
        ),
        (("tune", "quickstart", "--out", "taken"), "--out is 'taken', which holds other files"),
        (("validate", "nowhere", "--profile", "tcp-loopback"), "RUN is 'nowhere'"),
        (("demo", "--out", "taken"), "--out is 'taken', it must be a new or empty folder"),
    ],
)
def test_what_would_be_refused_is_refused(arguments: tuple[str, ...], words: str, folder: Path, bufferlab: Any) -> None:
    (folder / "taken").mkdir()
    (folder / "taken" / "mine.txt").touch()
    before = everything(folder)
    ended = bufferlab(*arguments, "--dry-run")
    assert (ended.status, ended.out) == (2, "")
    assert words in ended.err
    assert everything(folder) == before


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        ((0.2, 0.2), "less than a second"),
        ((12.4, 12.4), "about 12 s"),
        ((118.0, 118.0), "about 120 s"),
        ((45.0, 1500.0), "about 45 s to about 25 min"),
        ((7200.0, 4e5), "about 2 h to about 4.63 days"),
    ],
)
def test_a_time_has_as_many_digits_as_are_known(seconds: tuple[float, float], text: str) -> None:
    assert Estimate(*seconds, "a try").text == f"{text}: a try"
