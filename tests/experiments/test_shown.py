"""Colours only where they are wanted, tables no wider than the window, and nothing of either in a file."""

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bufferlab.experiments.shown import coloured, fitted, for_terminal, wants_colour
from bufferlab.experiments.text import table

ROOT = Path(__file__).resolve().parents[2]
CODES = re.compile(r"\x1b\[[0-9;]*m")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.mark.parametrize(
    ("variables", "watched", "wanted"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),
        ({"TERM": "dumb"}, True, False),
        ({"FORCE_COLOR": "1"}, False, True),
        ({"FORCE_COLOR": "1", "TERM": "dumb"}, True, True),
        ({"FORCE_COLOR": "0"}, True, False),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, True, False),
    ],
)
def test_who_wants_colours(
    variables: dict[str, str], watched: bool, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    stream = Terminal() if watched else io.StringIO()
    assert wants_colour(stream) is wanted
    text = "a  b\n-  -\n1  2"
    assert (for_terminal(text, stream) != text) is wanted


def test_a_closed_stream_wants_none() -> None:
    stream = io.StringIO()
    stream.close()
    assert not wants_colour(stream)


@given(st.text(alphabet="ab -\n\t×µ[]DEADLOCK", max_size=60))
def test_colours_leave_the_text_as_it_is(text: str) -> None:
    assert CODES.sub("", coloured(text)) == text.expandtabs(8) or "\t" in text


CELL = st.text(alphabet="abc 019.×µ±%", max_size=30).map(lambda text: " ".join(text.split()))


@given(st.data(), st.integers(30, 100))
def test_no_table_is_wider_than_the_window_and_no_column_is_lost(data: st.DataObject, width: int) -> None:
    columns = data.draw(st.integers(2, 8))
    # A cell in every place of the first column: what ends a table is an empty line.
    rows = data.draw(st.lists(st.lists(CELL, min_size=columns, max_size=columns), min_size=1, max_size=5))
    for number, row in enumerate(rows):
        row[0] = f"row{number}"
        row[1:] = [cell or "-" for cell in row[1:]]
    heading = ["name", *(f"column{number}" for number in range(1, columns))]
    text = f"before\n{table([heading, *rows])}\n\nbehind, {'x' * 150}"
    shown = fitted(text, width)
    first, *lines, last = shown.split("\n")
    assert (first, last) == ("before", text.rpartition("\n")[2]), "what is no table stays"
    assert max(map(len, lines)) <= max(width, len("name") + 2 + 30)
    if all(len(line) <= width for line in text.split("\n")[:-1]):
        assert shown == text
    assert all(name in shown for name in heading)
    for row in rows:
        for cell in row[1:]:
            assert any(cell in line or (line.count("…") and cell[:5] in line) for line in lines)


def test_a_wide_table_is_in_blocks_beside_its_first_column() -> None:
    rows = [("configuration", "tokens", "mean", "95 % interval"), ("1", "512", "1 s", "0.5 s .. 1.5 s  DEADLOCK")]
    assert fitted(f"{table(rows)}\nand 3 more configurations", 40).split("\n") == [
        "configuration  tokens  mean",
        "-------------  ------  ----",
        "1                 512   1 s",
        "",
        "configuration             95 % interval",
        "-------------  ------------------------",
        "1              0.5 s .. 1.5 s  DEADLOCK",
        "and 3 more configurations",
    ]


def at_a_terminal(*arguments: str, cwd: Path, **variables: str) -> str:
    """What a command writes to a terminal of 60 columns."""
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "FORCE_COLOR", "CI"}}
    process = subprocess.Popen(
        [sys.executable, "-m", "bufferlab", *arguments], cwd=cwd, stdout=theirs, stderr=subprocess.DEVNULL,
        env={**environment, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "60", **variables},
    )  # fmt: skip
    os.close(theirs)
    parts = []
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not part:
            break
        parts.append(part)
    os.close(ours)
    assert process.wait() == 0
    return b"".join(parts).decode().replace("\r\n", "\n")


def test_a_command_at_a_terminal_and_in_a_file(tmp_path: Path, bufferlab: Any) -> None:
    command = ("runs", "compare", "a", "b")
    for name in ("a", "b"):
        assert bufferlab("sim", "seed-resume", "--no-plots", "--out", tmp_path / name).status == 0
    kept = bufferlab(*command).out
    assert not CODES.search(kept)
    seen = at_a_terminal(*command, cwd=tmp_path)
    assert CODES.search(seen)
    plain = at_a_terminal(*command, cwd=tmp_path, NO_COLOR="1")
    assert plain == CODES.sub("", seen)
    assert {word for line in kept.split("\n") for word in line.split()} == set(plain.split())
    assert max(map(len, plain.split("\n")[:-3])) <= 60
