"""What a tool writes at its end is checked when it begins."""

import errno
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bufferlab.experiments.errors import RunFailedError, UserError
from bufferlab.experiments.figures.pages import MarkedPage, check_figure

TOOLS = Path(__file__).parents[2] / "tools"


def load_tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"bufferlab_{name}", TOOLS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_a_table_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    page = MarkedPage(tmp_path / "page.md", "<a>\n", "\n<b>")
    page.path.write_text("above\n<a>\nold\n<b>\nbelow\n", encoding="utf-8")
    page.check()
    page.put("new")
    assert page.path.read_text(encoding="utf-8") == "above\n<a>\nnew\n<b>\nbelow\n"
    assert [path.name for path in tmp_path.iterdir()] == ["page.md"]


def test_a_page_stays_where_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = MarkedPage(tmp_path / "docs" / "page.md", "<a>\n", "\n<b>")
    page.make()
    page.put("old")
    page.make()  # there is one already
    kept = page.path.read_bytes()
    assert kept == b"<a>\nold\n<b>\n"

    def full(self: Path, content: bytes) -> None:
        self.touch()
        raise OSError(errno.ENOSPC, "full", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RunFailedError, match=r"^'.*page.md' cannot be written: No space left on device$"):
        page.put("new")
    assert {path.name: path.read_bytes() for path in page.path.parent.iterdir()} == {"page.md": kept}


@pytest.mark.parametrize("text", ["", "<a>\n", "\n<b>", "\n<b> <a>\n"])
def test_a_page_without_a_place_is_refused_and_stays(tmp_path: Path, text: str) -> None:
    page = MarkedPage(tmp_path / "page.md", "<a>\n", "\n<b>", "--page")
    page.path.write_text(text, encoding="utf-8")
    for attempt in (page.check, lambda: page.put("new")):
        with pytest.raises(UserError, match=r"^--page is .*page.md', it must have the marks <a> and <b>$"):
            attempt()
    assert page.path.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("name", ["u.svg", "u", "file/u.png", "folder.png"])
def test_a_figure_that_cannot_be_written_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UserError, match="--out is"):
        check_figure(tmp_path / name, "--out")
    check_figure(tmp_path / "new" / "u.png", "--out")


@pytest.mark.parametrize(("name", "out"), [("readme_figures", "u.svg"), ("disciplines", "file")])
def test_a_study_looks_where_it_will_write_before_it_runs(
    name: str, out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tool = load_tool(name)

    def run(*_: Any, **__: Any) -> None:
        raise AssertionError("it runs")

    monkeypatch.setattr(tool, "make_plan", run)
    monkeypatch.setattr(tool, "run_sweep", run)
    (tmp_path / "file").touch()
    assert tool.main(["--out", str(tmp_path / out)]) == 2
    assert "--out is" in capsys.readouterr().err
    # A page of the study whose marks are gone.
    if name == "disciplines":
        (tmp_path / "disciplines.md").write_text("no marks", encoding="utf-8")
        assert tool.main(["--out", str(tmp_path)]) == 2
        assert "it must have the marks <!-- table: begin --> and <!-- table: end -->" in capsys.readouterr().err


def test_verification_looks_at_its_page_before_two_minutes_of_simulation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tool = load_tool("verification_table")
    monkeypatch.setattr(tool, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(tool, "table", lambda *_: pytest.fail("it simulates"))
    assert tool.main([]) == 2
    assert "which cannot be read: No such file or directory" in capsys.readouterr().err
