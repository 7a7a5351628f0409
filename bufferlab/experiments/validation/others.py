"""What others took of the processors while the runs were measured, beside what they took while the profile was: a
prediction of a busy host with the profile of an idle one, or the other way round, is off for that alone."""

from __future__ import annotations

from collections.abc import Sequence

from bufferlab.experiments.runs.busy import LEAST_S, TOO_BUSY, Busy
from bufferlab.experiments.validation.cases import CaseScore
from bufferlab.experiments.validation.frozen import FrozenProfile


def others_sentence(case: CaseScore, profile: FrozenProfile) -> str:
    """Both shares, where that of the runs is known; else ""."""
    return _sentence(case.busy, profile.busy)


def told_of_others(runs: Busy, profile: Busy | None) -> str:
    """Both shares and what follows from them."""
    return _sentence(runs, profile) + _warning(runs, profile)


def warnings_of(cases: Sequence[CaseScore], profile: FrozenProfile) -> list[str]:
    """A sentence for each case that met another host than its profile, or a busy one."""
    found = []
    for case in cases:
        if case.busy is None:
            continue
        said = _warning(case.busy, profile.busy)
        if said:
            found.append(f"{case.name}: {_sentence(case.busy, profile.busy)}{said}")
    if not found and profile.busy is not None and profile.busy.too_busy:
        found.append(
            f"others took {_percent(profile.busy)} of the processors while the profile was measured: it describes its "
            "host while that is as busy as it was then"
        )
    return found


def _sentence(runs: Busy | None, profile: Busy | None) -> str:
    if runs is None:
        return ""
    told = f"others took {_percent(runs)} of the processors while these ran"
    return f"{told}, {_percent(profile)} while the profile was measured" if profile is not None else told


def _warning(runs: Busy, profile: Busy | None) -> str:
    """What follows from it; "" for runs in which others took little, and too short ones to tell."""
    if runs.lasts_s < LEAST_S:
        return ""
    if profile is None:
        return ": what the prediction is off by may be the others' work" if runs.too_busy else ""
    if runs.taken > profile.taken + TOO_BUSY:
        return ": the host was busier than the one that is predicted, so measured times are longer"
    if runs.taken < profile.taken - TOO_BUSY:
        return ": the host had more time than the one that is predicted, so measured times are shorter"
    if runs.too_busy:
        return ": both hold for a host that is as busy, and for no other"
    return ""


def _percent(busy: Busy) -> str:
    return f"{100 * busy.taken:.0f} %"
