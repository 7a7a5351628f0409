"""Files and folders that appear whole or not at all, at places that one process at a time writes.

Everything a user asks to be written goes through here: a ``Claim`` of the place before the work begins, so that a place
that cannot be written or that somebody else is writing is refused while nothing is lost; then ``write_atomically`` or
``new_folder``; and a full disk in the middle is one sentence (``disk_errors``), with nothing half written left behind.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from bufferlab.experiments.errors import RunFailedError, UserError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
DISK = FULL | {
    errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ENOENT,
    errno.EEXIST, errno.ENOTEMPTY, errno.EBUSY, errno.EXDEV, errno.ELOOP, errno.EMLINK, errno.ESTALE, errno.EMFILE,
    errno.ENFILE, errno.ENXIO, errno.ENODEV, errno.ETXTBSY,
}  # fmt: skip
"""What a file system answers when it does not do what it is asked to; sockets and processes answer with others."""

_NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL})
_PARTIAL = ".partial"
LOCK = ".lock"


class BusyError(UserError):
    """Another process is writing there at this moment."""


# --- places ---


class Claim:
    """A place that this process alone may write, until it is released; a context.

    ``target`` is what will be written; missing folders above it are made (``make_parents``), and go again if nothing
    came into them. The
    lock is a file beside the target, or in it for a folder that grows in place (``inside``). It belongs to the process:
    one that was killed holds it no more. What such a process left half written there is removed.
    Raises UserError if the place cannot be written, BusyError if somebody else is writing there, and RunFailedError if
    there is no room.
    """

    def __init__(
        self, target: Path | str, option: str = "--out", *, inside: bool = False, make_parents: bool = True
    ) -> None:
        self.target = Path(target)
        self._option = option
        place = Path(os.path.abspath(target))  # noqa: PTH100 - a link that the user wants to keep stays one
        folder = place if inside else place.parent
        self._made: list[Path] = []
        self._path = folder / (LOCK if inside else f".{place.name}.lock")
        self._descriptor: int | None = None
        try:
            if make_parents:
                self._make(folder)
            self._acquire()
        except OSError as error:
            self.release()
            if error.errno in FULL:
                raise RunFailedError(cannot_be_written(self.target, error)) from None
            raise UserError(f"{option} is {str(target)!r}, which cannot be written: {reason(error)}") from None
        except BaseException:
            self.release()
            raise
        left = re.compile(rf"\.{re.escape(place.name)}\.[a-z0-9_]{{8}}{re.escape(_PARTIAL)}")
        for path in folder.iterdir() if not inside else ():
            if left.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)

    def _make(self, folder: Path) -> None:
        missing = []
        while not folder.exists():
            missing.append(folder)
            folder = folder.parent
        for one in reversed(missing):
            try:
                one.mkdir()
                self._made.append(one)
            except FileExistsError:
                if not one.is_dir():
                    raise

    def _acquire(self) -> None:
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(descriptor, 200).decode(errors="replace").strip()
                os.close(descriptor)
                raise BusyError(
                    f"{self._option} is {str(self.target)!r}, which {holder or 'another process'} is writing; wait for "
                    "it, or give another place"
                ) from None
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    os.close(descriptor)
                    raise
                # A file system without locks: then only what is there already is seen.
            # Whoever held it before may have removed it between our opening and locking it.
            if self._path.exists() and os.fstat(descriptor).st_ino == self._path.stat().st_ino:
                self._descriptor = descriptor
                os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
                return
            os.close(descriptor)

    def release(self) -> None:
        """Let others write there."""
        if self._descriptor is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None
        for folder in reversed(self._made):
            with contextlib.suppress(OSError):  # it holds what was written, or somebody else's files
                folder.rmdir()
        self._made.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        if getattr(self, "_descriptor", None) is not None:  # as a file that is forgotten is closed
            self.release()


def claim_free(path: Path) -> Claim:
    """A claim of ``path``, or of the first of ``path-2``, ``path-3`` … that does not exist and nobody writes."""
    busy: set[Path] = set()
    while True:
        free = free_name(path, busy)
        try:
            claim = Claim(free)
        except BusyError:
            busy.add(free)
            continue
        if not free.exists():
            return claim
        claim.release()  # somebody has finished it meanwhile


def free_name(path: Path, besides: Collection[Path] = ()) -> Path:
    """``path``, or the first of ``path-2``, ``path-3`` … that does not exist and is none of ``besides``."""
    number, free = 1, path
    while free.exists() or free in besides:
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def require_empty_folder(path: Path, option: str = "--out") -> None:
    """Raise UserError unless ``path`` is an empty folder, or nothing yet where a folder can be made."""
    if not path.exists():
        above = next(folder for folder in path.absolute().parents if folder.exists())
        if path.is_symlink() or not above.is_dir() or not os.access(above, os.W_OK):
            raise UserError(f"{option} is {str(path)!r}, it must be in a folder that can be written")
    elif not path.is_dir() or any(path.iterdir()):
        raise UserError(f"{option} is {str(path)!r}, it must be a new or empty folder")
    elif path.is_mount():
        raise UserError(f"{option} is {str(path)!r}, where a file system is mounted; give a folder in it")


# --- writing ---


@contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """Turn what a file system refuses within it into one sentence, a RunFailedError."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK:
            raise
        raise RunFailedError(cannot_be_written(target, error)) from error


def cannot_be_written(target: Path, error: OSError) -> str:
    """The sentence for it; it names the file that was refused where that is another one."""
    named = error.filename if isinstance(error.filename, str) else ""
    if not named or Path(named).is_relative_to(target) or _PARTIAL in named:
        return f"{str(target)!r} cannot be written: {reason(error)}"
    return f"{named!r} cannot be read or written: {reason(error)}"


def reason(error: OSError) -> str:
    """What the system says, without what libraries put around it."""
    return os.strerror(error.errno) if error.errno else str(error)


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Yields the path of another file beside ``path``, to be written; it takes its place when the block is through."""
    partial = path.with_name(f".{path.name}.{os.getpid()}{_PARTIAL}")
    try:
        yield partial
        partial.replace(path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file."""
    with write_atomically(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write a whole file of UTF-8 text."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write readable JSON. NaN is refused: what is kept must have said what is not known."""
    with write_atomically(path) as partial, partial.open("w", encoding="utf-8") as file:
        # Piece by piece: the pieces of a long one take far more memory than its text.
        json.dump(content, file, indent=2, allow_nan=False)
        file.write("\n")


def json_text(content: Any, *, indent: int | None = 2) -> str:
    """JSON that every reader takes: a number that is none (NaN, infinity) is null, as is all that is not known."""
    separators = None if indent is not None else (",", ":")
    try:
        return json.dumps(content, indent=indent, separators=separators, allow_nan=False, default=_plain)
    except ValueError:
        return json.dumps(_finite(content), indent=indent, separators=separators, allow_nan=False, default=_plain)


def _plain(value: Any) -> Any:
    """NumPy's numbers and paths."""
    if hasattr(value, "item") and hasattr(value, "dtype"):
        return _finite(value.item())
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is nothing that JSON has")


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def start_folder(target: Path) -> Path:
    """A hidden folder beside ``target``, in which it is gathered; see ``put_in_place``."""
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=_PARTIAL, dir=target.parent))
    folder.chmod(0o777 & ~_umask())
    return folder


def put_in_place(folder: Path, target: Path) -> None:
    """Move a gathered folder to its place in one step; what stands there gives way, and is back if that fails."""
    aside: Path | None = None
    if target.exists():
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.parent))
        try:
            target.rename(aside / "run")
        except BaseException:
            aside.rmdir()
            raise
    try:
        folder.rename(target)
    except BaseException:
        if aside is not None:
            (aside / "run").rename(target)
            aside.rmdir()
        raise
    if aside is not None:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yields a folder to be filled, which becomes ``target`` when the block is through; within a claim of it."""
    with disk_errors(target):
        folder = start_folder(target)
        try:
            yield folder
            put_in_place(folder, target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
