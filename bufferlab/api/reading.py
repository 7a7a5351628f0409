"""``bl.read``: what a folder holds, whatever wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar, overload

from bufferlab.api.results import PathLike, Place
from bufferlab.api.runs import Run
from bufferlab.api.speech import must_be, spoken
from bufferlab.api.sweeps import Sweep
from bufferlab.api.tunings import Tuning
from bufferlab.api.validations import Validation
from bufferlab.experiments.config.problems import shown
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.reports.sources import FILES

KINDS: dict[str, type[Run | Sweep | Tuning | Validation]] = {
    "run": Run,
    "sweep": Sweep,
    "tune": Tuning,
    "validation": Validation,
}
Kind = TypeVar("Kind", Run, Sweep, Tuning, Validation)


@overload
def read(path: PathLike) -> Run | Sweep | Tuning | Validation: ...
@overload
def read(path: PathLike, kind: type[Kind]) -> Kind: ...


@spoken
def read(path: PathLike, kind: type[Any] | None = None) -> Any:
    """Read a finished result that a command or one of these functions wrote.

    ``path``: the folder of a run (simulated or measured), a sweep, a tune or a validation. ``kind``: what it must be,
    such as ``bl.Run``, which is also what type checkers take it for. Raises UserError if it is nothing of ours, not
    finished, or of another kind.
    """
    must_be("path", path, (str, Path), "the folder of a finished result")
    if kind is not None and kind not in KINDS.values():
        names = ", ".join(f"bl.{one.__name__}" for one in KINDS.values())
        raise UserError(f"kind is {shown(kind)}, it must be one of {names}")
    folder = Path(path)
    found = next((name for name, file in FILES.items() if (folder / file).is_file()), None)
    if found is None:
        raise UserError(
            f"RUN is {str(path)!r}, it must be the directory of a finished run, sweep, validation or tuning"
        )
    if kind is not None and KINDS[found] is not kind:
        raise UserError(f"RUN is {str(path)!r}, which holds a {KINDS[found].__name__}, it must be a {kind.__name__}")
    return KINDS[found](Place(path))
