"""Buffer disciplines: how a room acquires, keeps and returns language-side blocks. This is the research variable.

A discipline answers three questions with numbers of blocks, nothing else: how many blocks a new room asks for, what a
room may take for its next chunk, and whether a request can ever be served. The language core does the rest. A new one
is a class in a module of this folder, which has the discipline's name; it is found there. Those that are here:

| name             | a new room takes       | when the first chunk was too small                | deadlock |
|------------------|------------------------|---------------------------------------------------|----------|
| slot             | a slot, all are alike  | fails                                             | no       |
| default_fail     | the default            | fails                                             | no       |
| alloc_then_free  | the default            | waits for all the rest while holding what it has  | possible |
| free_then_alloc  | the default            | copies out, frees, waits for all the rest         | possible |
| window           | the default            | reuses its own blocks, grows only into free ones  | no       |
| exact_announce   | exactly the length     | cannot happen: encode announces the length first  | no       |
"""

from __future__ import annotations

import pkgutil

from bufferlab.protocol.disciplines.base import Discipline, ResumeGrant

__all__ = ["DEFAULT", "DISCIPLINES", "Discipline", "ResumeGrant", "make_discipline"]


def _found() -> list[type[Discipline]]:
    """All of this folder as help and errors list them: what serves any length, what may deadlock, what fails."""
    modules = [pkgutil.resolve_name(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    values = [value for module in modules for value in vars(module).values()]
    found = {value for value in values if isinstance(value, type) and issubclass(value, Discipline)} - {Discipline}
    return sorted(
        found,
        key=lambda one: (
            not (one.resumes or one.announces_length),
            one.may_deadlock,
            one.announces_length,
            one.name,
        ),
    )


DISCIPLINES: dict[str, type[Discipline]] = {discipline.name: discipline for discipline in _found()}
DEFAULT = "window"
"""What a configuration has that names none."""


def make_discipline(name: str, slot_blocks: int | None = None) -> Discipline:
    """The discipline called ``name``. Raises ValueError listing the known ones.

    ``slot_blocks``: the size of a slot for those that have slots, None for the whole pool; others have no use for it.
    """
    if name not in DISCIPLINES:
        raise ValueError(f"unknown discipline {name!r}; known: {', '.join(DISCIPLINES)}")
    return DISCIPLINES[name].made(slot_blocks)
