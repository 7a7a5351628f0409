"""The packages are those of this tree, and the wheel carries all they need."""

import importlib
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("protocol", "sim", "real", "experiments", "api")


def project() -> dict[str, Any]:
    config: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    table: dict[str, Any] = config["project"]
    return table


@pytest.mark.parametrize("package", PACKAGES)
def test_the_package_is_ours(package: str) -> None:
    file = importlib.import_module(f"bufferlab.{package}").__file__
    assert file is not None, f"{package}/ has no __init__.py"
    assert Path(file).resolve() == ROOT / "bufferlab" / package / "__init__.py"


def test_folders_of_the_user_hide_nothing(tmp_path: Path) -> None:
    for name in PACKAGES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("MINE = True\n")
    code = "import sim, bufferlab.experiments.cli, bufferlab.sim.run; print(sim.MINE)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_the_package_is_typed() -> None:
    assert (ROOT / "bufferlab" / "py.typed").is_file()


def test_the_installed_version_is_the_one_of_this_tree() -> None:
    assert importlib.metadata.version("bufferlab") == project()["version"], "run make setup-dev"


def test_no_package_states_another_version() -> None:
    for package in PACKAGES:
        stated = getattr(importlib.import_module(f"bufferlab.{package}"), "__version__", project()["version"])
        assert stated == project()["version"], package


def test_the_distribution_cannot_be_uploaded_by_mistake() -> None:
    assert "Private :: Do Not Upload" in project()["classifiers"]


def test_the_command_exists() -> None:
    module, _, function = project()["scripts"]["bufferlab"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_the_tests_are_no_package() -> None:
    # tests/sim/__init__.py alone would make `import sim` find the tests.
    assert list((ROOT / "tests").rglob("__init__.py")) == []


@pytest.fixture(scope="module")
def wheel_files(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The file names in a pure wheel that hatchling builds here, without network or isolation; tests/test_compiled.py
    has the one with compiled modules."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling is not installed (it is part of the dev extra)")
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        env={**os.environ, "BUFFERLAB_COMPILED": "0"},
        check=True,
    )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_every_file_of_the_packages(wheel_files: set[str]) -> None:
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "bufferlab").rglob("*")
        if path.is_file() and path.suffix in {".py", ".toml", ".typed", ".html", ".css", ".js"}
    }
    assert expected <= wheel_files, "does .gitignore hide these from the build?"
    for pattern in ("bufferlab/experiments/config/examples/*.toml", "bufferlab/sim/profiles/*.toml"):
        assert list(ROOT.glob(pattern)), f"no {pattern} exists, so this test would prove nothing"


def test_the_wheel_holds_nothing_else(wheel_files: set[str]) -> None:
    tops = {name.partition("/")[0] for name in wheel_files}
    assert tops == {"bufferlab", f"bufferlab-{project()['version']}.dist-info"}


MODULES = {"dask": "distributed", "mypy": "mypyc", "mooncake-transfer-engine": "mooncake", "pyzmq": "zmq"}
APPLICATIONS = {"furo", "ipykernel", "ipywidgets", "jupyterlab", "myst-parser", "sphinx"}
"""What an extra brings that people start, or that a library uses where it is there."""


def test_every_extra_is_used_by_some_code() -> None:
    extras = {name: lines for name, lines in project()["optional-dependencies"].items() if name != "dev"}
    assert set(extras) == {
        "real-cpu",
        "real-socket",
        "real-cuda12",
        "real-cuda13",
        "notebooks",
        "cluster",
        "compile",
        "docs",
        "tune",
    }
    folders = ("bufferlab", "tests", "tools")
    text = "\n".join(path.read_text("utf-8") for folder in folders for path in (ROOT / folder).rglob("*.py"))
    for lines in extras.values():
        for line in lines:
            package = re.split(r"[\[<>=]", line)[0]
            package = re.sub(r"-(non-cuda|cuda13)$", "", package)
            module = MODULES.get(package, package)
            used = re.search(rf'(import|from) {module}\b|importorskip\("{module}"', text)
            assert used or module in APPLICATIONS, f"nothing imports {module}"
