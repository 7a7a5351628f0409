"""The command that installs what is missing, for the Python at hand: by the names of packages, which works from a
checkout and elsewhere (bufferlab itself is on no index)."""

from __future__ import annotations

import shlex
import sys

REQUIREMENTS = {
    "SALib": "SALib>=1.5",
    "optuna": "optuna>=5.0",
    "distributed": "dask[distributed]>=2026.1",
    "torch": "torch>=2.6",
    "pyzmq": "pyzmq>=27.0",
    "aiohttp": "aiohttp>=3.12",
    "psutil": "psutil>=7.0",
    "mooncake": "mooncake-transfer-engine-non-cuda>=0.3.13",
}
"""What is installed for a package that only some commands need, as the extras of pyproject.toml have it."""
REAL = ("mooncake", "torch", "pyzmq", "aiohttp", "psutil")
"""What the real backend needs."""


def install_command(*names: str) -> str:
    """A line to type."""
    return shlex.join([sys.executable, "-m", "pip", "install", *(REQUIREMENTS[name] for name in names)])
