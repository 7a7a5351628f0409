"""What a shell is told when somebody presses the tab key, and that bash makes words of it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bufferlab.experiments.commands.common.registry import all_commands
from bufferlab.experiments.commands.completing.line import Line, complete, parse_line
from bufferlab.experiments.commands.completing.scripts import SCRIPTS
from bufferlab.experiments.commands.completing.values import settings
from bufferlab.experiments.config.schema import Config
from bufferlab.experiments.config.sections.base import Section
from bufferlab.experiments.config.shipped import example_names
from bufferlab.protocol.disciplines import DISCIPLINES
from bufferlab.sim.network.link import profile_names

ROOT = Path(__file__).resolve().parents[2]


def words(text: str) -> list[str]:
    return [one.word for one in complete(parse_line(text))]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("bufferlab ", Line((), "")),
        ("bufferlab sim qu", Line(("sim",), "qu")),
        ("bufferlab sim 'my fi", Line(("sim",), "my fi")),
        ('bufferlab sim "my file.toml" --set a.b=', Line(("sim", "my file.toml", "--set"), "a.b=")),
        ("bufferlab sim it\\'s ", Line(("sim", "it's"), "")),
    ],
)
def test_a_line_is_split_as_a_shell_does(text: str, line: Line) -> None:
    assert parse_line(text) == line


def test_commands_are_completed() -> None:
    assert words("bufferlab ") == [one.name for one in all_commands()]
    assert words("bufferlab swe") == ["sweep"]
    assert words("bufferlab --ver") == ["--version"]
    assert words("bufferlab nothing ") == []


@pytest.mark.parametrize("name", [one.name for one in all_commands()])
def test_every_option_of_every_command_is_completed(name: str, bufferlab: Any) -> None:
    offered = words(f"bufferlab {name} -")
    assert len(set(offered)) == len(offered)
    told = bufferlab(name, "--help").out
    assert all(option in told for option in offered)
    parameters = next(one for one in all_commands() if one.name == name).parser.params
    assert {option for one in parameters for option in one.opts if option.startswith("--")} <= {*offered}


def test_an_option_is_offered_again_only_where_it_may_be_given_again() -> None:
    again = words("bufferlab sim quickstart --seed 3 --set run.seed=1 --no-plots --s")
    assert again == ["--set"]
    assert "--plots" not in words("bufferlab sim quickstart --no-plots --")


def test_configurations_and_files_stand_where_one_is_meant(folder: Path) -> None:
    (folder / "quick.toml").touch()
    (folder / "quiet").mkdir()
    assert words("bufferlab sim qui") == ["quickstart", "quick.toml", "quiet/"]
    assert set(example_names()) <= set(words("bufferlab sweep "))
    assert words("bufferlab report qui") == ["quiet/"], "a run is a folder"
    (folder / "quiet" / "traffic.csv").touch()
    assert words("bufferlab tune quiet/tr") == ["quiet/traffic.csv"]
    assert words("bufferlab sim x --set workload.file=quiet/") == ["workload.file=quiet/traffic.csv"]
    assert words("bufferlab compare one two qui") == [], "there is no third"
    assert words("bufferlab validate one two qui") == ["quiet/"], "there is any number"


def keys(section: type[Section], path: str = "") -> set[str]:
    """Every setting with a place of its own, told by the schema."""
    found = set()
    for name, field in section.model_fields.items():
        kind = field.annotation
        is_section = isinstance(kind, type) and issubclass(kind, Section)
        found |= keys(kind, f"{path}{name}.") if is_section and isinstance(kind, type) else {f"{path}{name}"}
    return found


def test_every_setting_is_completed_and_explained() -> None:
    offered = settings("")
    # What is a list, such as incidents, has no key of its own on a command line.
    assert {one.word for one in offered} >= {f"{key}=" for key in keys(Config) if "." in key}
    assert all(one.help for one in offered)
    for option in ("sim quickstart --set", "sweep quickstart --grid", "tune x --space", "tune x --baseline"):
        assert words(f"bufferlab {option} protocol.sizing.t") == ["protocol.sizing.tokens="]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("sim x --set protocol.discipline=", [f"protocol.discipline={one}" for one in DISCIPLINES]),
        ("sweep x --grid protocol.wire=extended,s", ["protocol.wire=extended,sglang"]),
        ("sim x --set real.memory=g", ["real.memory=gpu"]),
        ("sim x --set protocol.resume_first=", ["protocol.resume_first=true", "protocol.resume_first=false"]),
        ("sim x --set protocol.block_tokens=", []),
        ("sim x --set nothing.at.all=", []),
        ("tune x --executor ", ["local", "dask"]),
        ("tune x --gpu=h1", ["--gpu=h100"]),
        ("tune x --objective ttft_p9", ["ttft_p90", "ttft_p99"]),
        ("tune x --slo latency_p99", ["latency_p99="]),
        ("tune x --what-if rate=2x,po", ["rate=2x,pool="]),
        ("real x --transport t", ["tcp"]),
        ("validate run --profile ", profile_names()),
        ("check --discipline slo", ["slot"]),
        ("sim x --json=", []),
    ],
)
def test_values_that_have_names_are_completed(text: str, found: list[str], folder: Path) -> None:
    assert words(f"bufferlab {text}") == found


@pytest.mark.parametrize("shell", SCRIPTS)
def test_the_script_of_a_shell_is_printed(shell: str, bufferlab: Any) -> None:
    ended = bufferlab("completion", shell)
    assert (ended.status, ended.out) == (0, SCRIPTS[shell])
    assert json.loads(bufferlab("completion", shell, "--json").out) == {"shell": shell, "script": SCRIPTS[shell]}


@pytest.mark.parametrize(("arguments", "told"), [((), "the shell is missing"), (("bsh",), "(did you mean bash?)")])
def test_a_shell_that_is_not_known_is_refused(arguments: tuple[str, ...], told: str, bufferlab: Any) -> None:
    ended = bufferlab("completion", *arguments)
    assert (ended.status, ended.out) == (2, "")
    assert told in ended.err


def test_a_completion_loads_nothing_heavy() -> None:
    code = (
        "import sys; from bufferlab.experiments.cli import main;"
        "main(['completion', '--line', 'bufferlab sim quickstart --set protocol.siz']);"
        "print(sorted({'numpy', 'scipy', 'pandas', 'pyarrow', 'matplotlib', 'simpy', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
def test_bash_completes_with_it(tmp_path: Path) -> None:
    """The whole way: the script as it is printed, the line as bash hands it over, the words that replace its end."""
    (tmp_path / "my runs").mkdir()
    source = """
        bufferlab() { "$PYTHON" -m bufferlab "$@"; }
        command() { "$@"; }
        eval "$(bufferlab completion bash)"
        complete -p bufferlab
        for line in 'bufferlab sw' 'bufferlab sim x --set protocol.sizing.pol' \
            'bufferlab sim x --set protocol.sizing.policy=fi' 'bufferlab report my' 'bufferlab report "my'; do
            COMP_LINE="$line" COMP_POINT=${#line}
            _bufferlab
            printf '%s|' "${COMPREPLY[@]}"; echo
        done
    """
    done = subprocess.run(
        ["bash", "-c", source], cwd=tmp_path, env={"PYTHON": sys.executable, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    complete_line, *found = done.stdout.splitlines()
    assert complete_line.endswith("-F _bufferlab bufferlab")
    assert found == ["sweep|", "protocol.sizing.policy=|", "fixed|", "my\\ runs/|", "my runs/|"]
