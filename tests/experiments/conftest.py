"""Fixtures for the command line: every test works in an empty folder of its own."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from bufferlab.experiments.cli import main


class Ended(NamedTuple):
    status: int
    out: str
    err: str


Command = Callable[..., Ended]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def bufferlab(folder: Path, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs one command in this process as the shell would."""

    def run(*arguments: object) -> Ended:
        capfd.readouterr()
        status = main([str(one) for one in arguments])
        return Ended(status, *capfd.readouterr())

    return run
