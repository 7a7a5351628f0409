"""A command is one file of experiments/commands/ and a row of docs/commands.md: nothing else lists the commands."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bufferlab.experiments import commands
from bufferlab.experiments.commands.common import registry
from bufferlab.experiments.commands.common.registry import all_commands, command, find_command

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "bufferlab" / "experiments" / "commands"
PAGE = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
NAMES = [one.name for one in all_commands()]


def test_every_module_is_a_command() -> None:
    modules = {path.stem for path in FOLDER.glob("*.py")} - {"__init__"}
    assert {name.replace("-", "_") for name in NAMES} == modules
    for one in all_commands():
        assert one.function.__module__ == f"{commands.__name__}.{one.name.replace('-', '_')}"
        assert find_command(one.name) is one


def test_help_lists_the_commands_in_their_places(bufferlab: Any) -> None:
    listed = re.findall(r"(?m)^  ([a-z-]+)  +\S", bufferlab("--help").out.partition("Commands:")[2])
    assert listed == NAMES
    places = [one.place for one in all_commands()]
    assert places == sorted(set(places)), "two commands have the same place"


def test_the_page_has_a_row_for_every_command() -> None:
    rows = re.findall(r"(?m)^\| `bufferlab ([a-z-]+)` \| (\S.*?) \|", PAGE)
    assert [name for name, _ in rows] == NAMES


@pytest.fixture
def with_rooms(tmp_path: Path) -> Any:
    """Runs a command where a folder of commands has one more file: the example of the page."""
    (tmp_path / "more").mkdir()
    source = re.search(r'```python\n(""".*?)```', PAGE, re.DOTALL)
    assert source is not None
    (tmp_path / "more" / "rooms.py").write_text(source[1], encoding="utf-8")
    code = (
        f"import sys; from bufferlab.experiments import commands; commands.__path__.append({str(tmp_path / 'more')!r});"
        "from bufferlab.experiments.cli import main; sys.exit(main())"
    )

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


def test_a_new_command_is_one_file(with_rooms: Any) -> None:
    listed = re.findall(r"(?m)^  ([a-z-]+)  +\S", with_rooms("--help").stdout.partition("Commands:")[2])
    at = next(number for number, one in enumerate(all_commands()) if one.place > 65)
    assert listed == [*NAMES[:at], "rooms", *NAMES[at:]]
    assert "Example: bufferlab rooms runs/sim-run" in with_rooms("rooms", "--help").stdout
    assert with_rooms("sim", "seed-resume", "--out", "run", "--no-plots").returncode == 0
    told = with_rooms("rooms", "run")
    assert (told.returncode, told.stdout, told.stderr) == (0, "1 rooms\n", "")
    assert with_rooms("rooms", "run", "--json").stdout == '{\n  "rooms": 1\n}\n'
    refused = with_rooms("rooms", "nothing")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("bufferlab: RUN is 'nothing', it must be a finished run directory")
    missed = with_rooms("room")
    assert (missed.returncode, "No such command 'room' (did you mean rooms?)" in missed.stderr) == (2, True)


def test_naming_a_command_imports_no_other() -> None:
    code = (
        "import sys; from bufferlab.experiments.cli import main; main(['compare', '--help']);"
        f"print(sorted(name for name in sys.modules if name.startswith('{commands.__name__}.') and name.count('.') == 3))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    expected = [f"{commands.__name__}.common", f"{commands.__name__}.compare"]
    assert done.stdout.splitlines()[-1] == str(expected)


@pytest.mark.parametrize("name", ["common", "bench_link", "checking.searches", "__init__", "", "nothing"])
def test_only_commands_are_found(name: str) -> None:
    assert find_command(name) is None


def test_a_module_is_one_command() -> None:
    def again() -> None: ...

    again.__module__ = "bufferlab.experiments.commands.bench_link"
    with pytest.raises(ValueError, match="registers a second command"):
        command(place=1, example="bufferlab bench-link")(again)
    assert registry.find_command("bench-link") is not None


def test_replications_are_overridden_as_the_seed_is(bufferlab: Any, folder: Path) -> None:
    given = ("sim", "seed-small", "--set", "run.replications=5", "--no-plots", "--out", "r", "--json")
    ended = bufferlab(*given, "--replications", "2", "--set", "workload.service_log_sd=0.1")
    assert ended.status == 0, ended.err
    assert len(json.loads(ended.out)["replications"]) == 2
    wrong = bufferlab(*given, "--replications", "some")
    assert wrong.status == 2
    assert wrong.err.startswith("bufferlab: run.replications is 'some', it must be")
