"""Creates .venv and installs bufferlab into it: `python tools/setup_env.py run|dev [--force]`.

Works with the standard library alone, as it runs before anything is installed. The simulator
must install; the real backend (system libraries, torch, Mooncake) is added where that is
possible. Where it is not, one sentence says why and the simulator still works, except under
CI=true, where it is an error: otherwise CI could lose the real tests without anybody noticing.

Environment: TORCH_SPEC (default torch==2.13.0) and TORCH_INDEX (a wheel index to take it from).
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "bufferlab-setup.json"
PROFILES: dict[str, tuple[str, ...]] = {"run": ("compile",), "dev": ("dev", "docs", "notebooks", "cluster", "tune")}

# What `import mooncake.engine` loads, also for tcp: shared library -> Debian and Ubuntu package.
SYSTEM_LIBRARIES = {
    "libibverbs.so.1": "libibverbs1",
    "librdmacm.so.1": "librdmacm1",
    "libnuma.so.1": "libnuma1",
    "liburing.so.2": "liburing2",
    "libcurl.so.4": "libcurl4",
}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
REAL_IMPORTS = "import aiohttp, mooncake.engine, psutil, torch, zmq"
# A release known to work first, then whatever release has wheels for this Python.
TORCH_SPECS = ("torch==2.13.0", "torch>=2.6")
CUDA_PREFIXES = ("cuda-", "nvidia-", "pytorch-triton", "triton")


class SetupError(Exception):
    """A sentence for the user."""


def say(text: str) -> None:
    print(f"set-up: {text}", flush=True)


def run(*command: str | Path, quiet: bool = False) -> bool:
    """True if the command ends well. It gets no stdin, so nothing can stop to ask."""
    sink = subprocess.DEVNULL if quiet else None
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "PIP_NO_INPUT": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink)
    return done.returncode == 0


def pip(*arguments: str, quiet: bool = False) -> bool:
    return run(PYTHON, "-m", "pip", "--disable-pip-version-check", *arguments, "-qq", quiet=quiet)


def imports(statement: str) -> bool:
    return run(PYTHON, "-c", statement, quiet=True)


def apt_install(packages: list[str]) -> None:
    """Installs Debian packages as root or by passwordless sudo, or says what to type."""
    command = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    advice = f"run: sudo {shlex.join(command)}"
    if shutil.which("apt-get") is None:
        raise SetupError(f"no apt-get here; install what Debian calls {' '.join(packages)}")
    prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if prefix and not (shutil.which("sudo") and run(*prefix, "true", quiet=True)):
        raise SetupError(advice)
    say(f"installing {' '.join(packages)}")
    # An update may fail for one stale source while the packages are still to be had.
    run(*prefix, "apt-get", "-qq", "update", quiet=True)
    if not run(*prefix, *command, quiet=True):
        raise SetupError(advice)


def make_venv(clear: bool) -> None:
    if not clear and PYTHON.exists() and imports("import pip, sys, tomllib"):
        return
    version = platform.python_version()
    if importlib.util.find_spec("ensurepip") is None:  # Debian and Ubuntu ship it apart
        apt_install([f"python{version.rpartition('.')[0]}-venv"])
    say(f"creating {VENV.name} with Python {version}")
    if not run(sys.executable, "-m", "venv", "--clear", VENV):
        raise SetupError(f"{sys.executable} -m venv {VENV} failed")


def resolve(spec: str) -> list[str] | None:
    """The packages that pip would install for a requirement; None if there is no solution."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        if not pip("install", "--dry-run", "--report", str(report), spec, quiet=True):
            return None
        items = json.loads(report.read_text(encoding="utf-8"))["install"]
        return [item["metadata"]["name"].lower() for item in items]


def install_browser() -> None:
    """Chromium, in which tests open pages of reports, if it can be fetched within a minute; they skip without it."""
    if any(map(shutil.which, BROWSERS)):
        return
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        say("no browser: tests that open a page in one are skipped (Debian's package chromium has one)")
        return
    say("installing chromium, in which tests open pages")
    install = ["apt-get", "install", "-y", "--no-install-recommends", "chromium"]
    run("timeout", "30", "apt-get", "-qq", "update", quiet=True)
    # What is fetched may be broken off without harm, what is installed may not.
    if not (run("timeout", "60", *install, "--download-only", quiet=True) and run(*install, quiet=True)):
        say(f"no browser: tests that open a page in one are skipped (`{shlex.join(install)}` installs it)")


def install_torch() -> None:
    """A default PyTorch wheel for Linux may bring gigabytes of CUDA, which nothing here needs."""
    if imports("import torch"):
        return  # also a CUDA build that somebody chose by hand
    wish = os.environ.get("TORCH_SPEC")
    specs = (wish,) if wish else TORCH_SPECS
    index = os.environ.get("TORCH_INDEX")
    if index:
        if pip("install", "--index-url", index, specs[0]):
            return
        raise SetupError(f"{specs[0]} could not be installed from TORCH_INDEX")
    # Before 23.3 pip's dry run downloads the very wheels that we want to avoid.
    if not pip("install", "--upgrade", "pip>=23.3"):
        raise SetupError("pip could not be updated")
    for spec in specs:
        names = resolve(spec)
        if names is None:
            continue
        if not any(name.startswith(CUDA_PREFIXES) for name in names):
            installed = pip("install", spec)
        else:  # uv knows where PyTorch keeps its CPU builds
            arguments = ("pip", "install", "-q", "--python", PYTHON, "--torch-backend=cpu", spec)
            installed = pip("install", "uv") and run(VENV / "bin" / "uv", *arguments)
        if installed:
            return
    raise SetupError(f"no CPU build of {' or '.join(specs)} could be installed")


def install_real(requirements: list[str]) -> None:
    if imports(REAL_IMPORTS):
        return
    missing = []
    for library, package in SYSTEM_LIBRARIES.items():
        try:
            ctypes.CDLL(library)
        except OSError:
            missing.append(package)
    if missing:
        apt_install(missing)
    install_torch()
    find = "import importlib.metadata as m, sys; sys.exit(not any("
    find += "'mooncake-transfer-engine' in (d.name or '') for d in m.distributions()))"
    if imports(find):  # its variants overwrite each other's files, so keep the one that is there
        requirements = [one for one in requirements if not one.startswith("mooncake")]
    if not pip("install", *requirements):
        raise SetupError("Mooncake's wheel or its companions could not be installed")
    if not run(PYTHON, "-c", REAL_IMPORTS):
        raise SetupError(f"`{REAL_IMPORTS}` fails, see the lines above")


def wanted_state(config: dict[str, Any]) -> str:
    """Changes when set-up must run again: not for linter settings, but for a moved folder."""
    parts = [
        *(config["project"], config["build-system"], str(ROOT), sys.version),
        *(os.environ.get("TORCH_SPEC"), os.environ.get("TORCH_INDEX")),
        Path(__file__).read_text(encoding="utf-8"),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def main(arguments: list[str]) -> None:
    profile = next((word for word in arguments if word in PROFILES), "run")
    on_ci = os.environ.get("CI", "").lower() in {"1", "true"}
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    state = wanted_state(config)
    old = json.loads(STAMP.read_text(encoding="utf-8")) if STAMP.exists() else {}
    fresh = old.get("state") == state and old["profile"] in {profile, "dev"}
    if fresh and "--force" not in arguments and not (on_ci and old["no_real"]):
        if old["no_real"]:
            say(f"simulator only: {old['no_real']} (`make setup FORCE=1` tries again)")
        return

    started = time.monotonic()
    make_venv(clear=old.get("root", str(ROOT)) != str(ROOT))  # its scripts hold the old path
    extras = ",".join(PROFILES[profile])
    say(f"installing bufferlab[{extras}], which takes a minute or two")
    if not pip("install", "--editable", f".[{extras}]"):
        raise SetupError("bufferlab could not be installed, see pip's lines above")
    if profile == "dev":
        install_browser()
    no_real = ""
    try:
        say("adding torch (CPU) and Mooncake")
        install_real(config["project"]["optional-dependencies"]["real-cpu"])
    except SetupError as error:
        if on_ci:
            raise
        no_real = str(error)
        say(f"simulator only: {no_real}")
    stamp = {"state": state, "profile": profile, "root": str(ROOT), "no_real": no_real}
    STAMP.write_text(json.dumps(stamp) + "\n", encoding="utf-8")
    say(f"done in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except SetupError as error:
        sys.exit(f"set-up: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
