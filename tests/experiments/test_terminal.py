"""The output never breaks on an encoding: what it lacks is shown by what is nearest."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bufferlab.experiments import terminal

ROOT = Path(__file__).resolve().parents[2]
ENGLISH_ONLY = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
FEW = ("--set", "workload.requests=20", "--no-plots")
SWEEP = ("sweep", "quickstart", *FEW, "--grid", "protocol.sizing.tokens=512,1024", "--replications", "2", "--jobs", "1")


def shell(*arguments: str, cwd: Path, **variables: str) -> tuple[int, bytes, bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    environment.pop("PYTHONIOENCODING", None)
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, timeout=100, check=False
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (SWEEP, b"2 configurations x 2 replications = 4 runs"),
        (("sim", "quickstart", *FEW), b"run directory: "),
        (("workload", "mixed", "--requests", "200", "--replications", "2"), b"length autocorrelation"),
        (("check", "--random", "1", "--jobs", "1"), b" x "),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_commands_on_a_terminal_without_unicode(command: tuple[str, ...], words: bytes, tmp_path: Path) -> None:
    status, out, err = shell("-m", "bufferlab", *command, cwd=tmp_path, **ENGLISH_ONLY)
    assert (status, err) == (0, b"")
    assert words in out
    assert out.isascii()


def test_json_on_a_terminal_without_unicode(tmp_path: Path) -> None:
    status, out, err = shell("-m", "bufferlab", *SWEEP, "--json", cwd=tmp_path, **ENGLISH_ONLY)
    assert status == 0, err
    assert json.loads(out)["configurations"]
    assert b"2 configurations x 2 replications" in err
    assert err.isascii()


def test_what_the_demo_prints_on_a_terminal_without_unicode(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from bufferlab.experiments.terminal import show_what_can_be_shown;"
        "show_what_can_be_shown(); from bufferlab.experiments.commands.demonstration import both_worlds as demo; demo._seeds(Path('.'), ['sim'])"
    )
    status, out, err = shell("-c", code, cwd=tmp_path, **ENGLISH_ONLY)
    assert (status, err) == (0, b"")
    assert b"WaitingForInput -> Transferring -> Success (0, 1024)" in out


def test_a_name_that_is_not_in_the_encoding_is_refused_in_one_sentence(tmp_path: Path) -> None:
    status, out, err = shell("-m", "bufferlab", "sim", "größe-×", cwd=tmp_path, **ENGLISH_ONLY)
    assert (status, out) == (2, b"")
    assert err.count(b"\n") == 1
    status, out, err = shell("-m", "bufferlab", "sim", "größe-×-→", cwd=tmp_path, PYTHONIOENCODING="latin-1")
    assert (status, out) == (2, b"")
    assert err.count(b"\n") == 1


@pytest.mark.parametrize(
    ("text", "encoding", "shown"),
    [
        ("3 × 4 µs – 5 … → ± é ② 中", "ascii", b"3 x 4 us - 5 ... -> +/- e 2 ?"),
        ("3 × 4 µs – é", "latin-1", b"3 \xd7 4 \xb5s - \xe9"),
        ("3 × 4 – 中", "utf-8", "3 × 4 – 中".encode()),
        ("of \udce9t\udce9", "ascii", b"of \xe9t\xe9"),
        ("of \udce9t\udce9", "utf-8", b"of \xe9t\xe9"),
        ("\ud800", "utf-8", b"?"),
    ],
)
def test_what_is_nearest(text: str, encoding: str, shown: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding, errors="strict"))
    terminal.show_what_can_be_shown()
    sys.stdout.write(text)
    sys.stdout.flush()
    assert written.getvalue() == shown


@pytest.mark.parametrize("closed", ["", ">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error(tmp_path: Path, closed: str) -> None:
    command = f"{sys.executable} -m bufferlab sim seed-small --no-plots --out run {closed}"
    done = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
        capture_output=True, timeout=100, check=False,
    )  # fmt: skip
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    assert (tmp_path / "run" / "summary.json").read_text().startswith("{")


@pytest.mark.parametrize("arguments", ["sim seed-small --no-plots --json --out run", "examples"])
def test_whoever_has_read_enough_ends_nothing_badly(tmp_path: Path, arguments: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "bufferlab", *arguments.split()], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as command:  # fmt: skip
        assert command.stdout is not None
        assert command.stderr is not None
        command.stdout.close()
        told = command.stderr.read()
        assert (command.wait(timeout=100), "rror" in told) == (0, False), told
    if "run" in arguments.split():
        assert (tmp_path / "run" / "summary.json").read_text().startswith("{")
