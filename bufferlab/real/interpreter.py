"""How this backend starts processes of its own: our modules, and not what lies about in the folder of the user."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path


def ours(module: str, *arguments: str) -> list[str]:
    """The command that runs one of our modules in a fresh process, to be started in ``our_environment``.

    The working folder is left out of the places where modules are looked for: a user's own ``torch.py`` there is not
    torch.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


def our_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The same environment, in which a process finds this source tree, wherever it is started."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
    return {**environment, "PYTHONPATH": path}
