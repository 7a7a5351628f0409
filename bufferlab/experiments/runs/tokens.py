"""The token of a run on several hosts: where it lies, who makes it, and who may read it.

The coordinator makes it; its ranks must have it. It is in the file of ``--token``, which the coordinator makes if it is
not there, or in the environment variable BUFFERLAB_TOKEN. Without either it is in a file of the user's own, named after
the coordinator's address, which is there as long as the coordinator: that is enough where all hosts share the home
folder, and on one machine.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bufferlab.experiments.errors import UserError

VARIABLE = "BUFFERLAB_TOKEN"
LEAST_CHARACTERS = 32


@contextmanager
def offered(file: Path | None, say: Callable[[str], None]) -> Iterator[Callable[[str], str]]:
    """The coordinator's token, by its HOST:PORT; ``say`` is told where ranks find it. Raises UserError."""
    if file is not None:
        if not file.exists():
            _make(file)
        token = _read(file)
        say(f"the run's token is in {file.absolute()}; its ranks need --token with a copy of it, or {VARIABLE}")
        yield lambda _address: token
        return
    if VARIABLE in os.environ:
        token = _checked(os.environ[VARIABLE], VARIABLE)
        yield lambda _address: token
        return
    made: list[Path] = []

    def make(address: str) -> str:
        own = _own_file(address)
        try:
            own.unlink(missing_ok=True)  # of a coordinator that was killed
        except OSError as error:
            raise UserError(f"cannot write the token to {own} ({error.strerror}); give --token FILE") from None
        _make(own)
        made.append(own)
        say(f"the run's token is in {own}; ranks that do not find it there need --token and a copy, or {VARIABLE}")
        return _read(own)

    try:
        yield make
    finally:
        for one in made:
            one.unlink(missing_ok=True)


def held(file: Path | None, address: str) -> str:
    """A rank's token for the run of the coordinator at this HOST:PORT. Raises UserError."""
    if file is not None:
        return _read(file)
    if VARIABLE in os.environ:
        return _checked(os.environ[VARIABLE], VARIABLE)
    own = _own_file(address)
    if not own.exists():
        raise UserError(
            f"the token of the run at {address} is not in {own}; give --token and a copy of the coordinator's file, or "
            f"set {VARIABLE}"
        )
    return _read(own)


def _own_file(address: str) -> Path:
    state = os.environ.get("XDG_STATE_HOME")
    folder = Path(state) if state else Path.home() / ".local" / "state"
    return folder / "bufferlab" / f"token-{address.replace(':', '-')}"


def _make(file: Path) -> None:
    from bufferlab.real.control.guard import new_token

    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as opened:
            opened.write(new_token() + "\n")
    except OSError as error:
        raise UserError(f"cannot write the token to {file} ({error.strerror}); give --token FILE") from None


def _read(file: Path) -> str:
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
        text = file.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UserError(f"cannot read the token in {file} ({reason})") from None
    if mode & 0o077:
        raise UserError(f"the token in {file} can be read by others (mode {mode:04o}); run: chmod 600 {file}")
    return _checked(text, str(file))


def _checked(text: str, where: str) -> str:
    token = text.strip()
    if len(token) < LEAST_CHARACTERS or not token.isprintable() or not token.isascii() or " " in token:
        raise UserError(f"the token in {where} must be one word of at least {LEAST_CHARACTERS} ASCII characters")
    return token
