"""Folders of results that nobody gave a place: below one folder of this process, which goes when the process ends.

A process that is killed, as notebooks' kernels often are, cannot take its folder away. The next one does: a folder that
has our name, was made by a process that is gone, and whose lock nobody holds any more. The lock is what counts where
processes have other numbers, as in containers that share a folder for temporary files.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import re
import shutil
import tempfile
from pathlib import Path

PREFIX = "bufferlab-"
LOCK = "lock"
_OURS = re.compile(rf"{PREFIX}(\d+)-[a-z0-9_]{{8}}")
_roots: dict[int, Path] = {}
"""By the number of a process: one that was forked has its own."""


def new_folder() -> Path:
    """A new empty folder of this process."""
    root = _roots.get(os.getpid())
    if root is None or not root.is_dir():
        root = _roots[os.getpid()] = _new_root()
    return Path(tempfile.mkdtemp(prefix="", dir=root))


def remove(folder: Path, process: int) -> None:
    """Take a folder away, if this is the process that made it and not one that was forked from it."""
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)


def _new_root() -> Path:
    _remove_stale(Path(tempfile.gettempdir()))
    root = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
    # Held until the process ends, however it ends; a program that it starts does not have it.
    lock = os.open(root / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    atexit.register(remove, root, os.getpid())
    return root


def _remove_stale(folder: Path) -> None:
    """Take away what processes that are gone have left."""
    for path in folder.glob(f"{PREFIX}*"):
        named = _OURS.fullmatch(path.name)
        if named is None or path.is_symlink() or _is_alive(int(named[1])):
            continue
        try:
            lock = os.open(path / LOCK, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:
            continue  # somebody else's, or not begun
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue  # somebody holds it
        finally:
            os.close(lock)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
