"""docs/sweeps.md: every command and every snippet in it is carried out, in order."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")
BLOCKS = {name: re.findall(rf"```{name}\n(.*?)```", PAGE, re.DOTALL) for name in ("sh", "toml", "python")}
COMMANDS = [line for block in BLOCKS["sh"] for line in block.splitlines() if line.startswith("bufferlab ")]


def test_the_page_does_what_it_says(bufferlab: Any, folder: Path) -> None:
    (configurations,) = BLOCKS["toml"]
    assert len(tomllib.loads(configurations)["sweep"]["configurations"]) == 2
    (folder / "load.toml").write_text(configurations)
    assert len(COMMANDS) >= 6
    said = []
    for command in COMMANDS:
        ended = bufferlab(*shlex.split(command)[1:], "--jobs", 1)
        assert ended.status == 0, (command, ended.err)
        said.append(ended.out)
    plan = said[0][: said[0].index("\n\n")]
    assert "\n".join(f"    {line}" for line in plan.splitlines()) in PAGE
    assert "finished already" not in said[2]
    assert "12 of 12 runs are finished already" in said[3]
    assert "12 of 16 runs are finished already" in said[4]
    assert "16 of 16 runs are finished already" in said[5]
    written = {path.name for path in (folder / "runs" / "load").iterdir()}
    assert written == {"sweep.parquet", "quantiles.parquet", "sweep.json", "plots", "runs.jsonl.gz"}
    assert all(f"`{name}" in PAGE for name in written)
    (snippet,) = BLOCKS["python"]
    scope: dict[str, Any] = {}
    exec(compile(snippet, "docs/sweeps.md", "exec"), scope)
    assert isinstance(scope["p99"], pd.DataFrame)
    assert scope["p99"].shape == (2, 2)


@pytest.mark.slow
def test_the_readme_figure_can_be_drawn(tmp_path: Path) -> None:
    (command,) = re.findall(r"^python (tools/readme_figures.py .*)$", PAGE, re.MULTILINE)
    tool, *arguments = shlex.split(command)
    done = subprocess.run(
        [sys.executable, str(ROOT / tool), *arguments],
        cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "u_shape.png").read_bytes().startswith(b"\x89PNG")
