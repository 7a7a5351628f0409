"""Chooses a law by its error on samples that it was not fitted to, among the samples it may be fitted to.

Every law is fitted with some samples left out and asked for them. The simplest law wins whose mean error is within one
standard error of the best one's. Where no law does well, and only one of size, segments and threads varies, what a law
leaves may be filled in by interpolation between the samples. That is told, since it says nothing of other samples;
beyond the last of them the law keeps the factor that it had there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bufferlab.experiments.calibration.laws.fitting import Fit, can_tell, fit
from bufferlab.experiments.calibration.laws.forms import FORMS, Form
from bufferlab.experiments.calibration.laws.samples import Array, Samples

FOLDS = 10
"""Samples are left out one by one up to this many, and every tenth at a time where there are more."""
EXACT = 1e-6
"""Mean errors this small are rounding: no law is better than another."""
FEWEST_TO_FILL = 4
WELL = 0.03
"""A law whose mean error on samples left out is at most this needs no filling in."""


class Filling:
    """Interpolates what a law leaves, in logarithms, over the one dimension that varies."""

    def __init__(self, law: Fit, samples: Samples) -> None:
        (along,) = samples.varying()
        left = np.log(samples.seconds / law.seconds(samples))
        places = sorted(set(along))
        self._at = np.log(places)
        self._left = np.array([left[along == place].mean() for place in places])

    def factor(self, along: Array) -> Array:
        """What the law's times are to be multiplied with."""
        return np.asarray(np.exp(np.interp(np.log(along), self._at, self._left)))


@dataclass(frozen=True)
class Chosen:
    """The law that was chosen. ``filling``: what is added by interpolation, if anything.

    ``cross_error``: its mean error on samples left out; None where there were too few to leave any out.
    ``tried``: the mean error on samples left out of every law that could be asked.
    """

    fit: Fit
    filling: Filling | None
    cross_error: float | None
    tried: dict[str, float]

    @property
    def name(self) -> str:
        """The law's name, and whether it is filled in."""
        return self.fit.form.title + (FILLED if self.filling is not None else "")

    def seconds(self, samples: Samples, along: int | None) -> Array:
        """What it says for other samples; ``along``: which of size, segments, threads (0, 1, 2) is filled in."""
        said = self.fit.seconds(samples)
        if self.filling is None or along is None:
            return said
        return said * self.filling.factor((samples.size_bytes, samples.segments, samples.threads)[along])


FILLED = ", filled in by interpolation"


def dimension(samples: Samples) -> int | None:
    """Which of size, segments, threads (0, 1, 2) is the only one that varies; None if not exactly one does."""
    varying = [
        place
        for place, one in enumerate((samples.size_bytes, samples.segments, samples.threads))
        if len(set(one)) > 1
    ]  # fmt: skip
    return varying[0] if len(varying) == 1 else None


def choose(samples: Samples, forms: Sequence[Form] = FORMS, *, may_fill: bool = True) -> Chosen | None:
    """The law for these samples, or None where they are too few or all the same for any."""
    variants = [variant for form in forms for variant in form.variants(samples)] if len(samples) else []
    able = sorted((form for form in variants if can_tell(form, samples)), key=lambda form: form.size)
    if not able or len(samples) < 2:
        return None
    along = dimension(samples) if may_fill else None
    errors: dict[str, Array] = {}
    candidates: dict[str, tuple[Form, bool]] = {}

    def ask(*, filled: bool) -> None:
        for form in able:
            asked = _left_out_errors(form, samples, along if filled else None)
            if asked is not None:
                name = form.title + FILLED * filled
                errors[name], candidates[name] = asked, (form, filled)

    ask(filled=False)
    if not errors:
        return Chosen(fit(able[0], samples), None, None, {})
    if (
        along is not None
        and len(samples) >= FEWEST_TO_FILL
        and min(float(one.mean()) for one in errors.values()) > WELL
    ):
        ask(filled=True)
    name = simplest(errors, {name: form.size + filled * len(samples) for name, (form, filled) in candidates.items()})
    form, filled = candidates[name]
    law = fit(form, samples)
    return Chosen(
        law,
        Filling(law, samples) if filled else None,
        float(errors[name].mean()),
        {name: float(one.mean()) for name, one in errors.items()},
    )


def simplest(errors: dict[str, Array], sizes: dict[str, int]) -> str:
    """The smallest of those whose mean error is within one standard error of the least; of equal ones the better."""
    best = min(errors, key=lambda name: float(errors[name].mean()))
    scatter = float(errors[best].std()) / np.sqrt(len(errors[best]))
    enough = float(errors[best].mean()) + scatter + EXACT
    able = [name for name in errors if float(errors[name].mean()) <= enough]
    return min(able, key=lambda name: (sizes[name], float(errors[name].mean())))


def _left_out_errors(form: Form, samples: Samples, along: int | None) -> Array | None:
    """The absolute relative error at every sample when it was left out; None where too few samples are left to fit."""
    folds = min(len(samples), FOLDS)
    number = np.arange(len(samples)) % folds
    found = np.empty(len(samples))
    for fold in range(folds):
        kept, out = (
            samples.at(np.flatnonzero(number != fold).tolist()),
            samples.at(np.flatnonzero(number == fold).tolist()),
        )
        if not can_tell(form, kept):
            return None
        law = fit(form, kept)
        said = law.seconds(out)
        if along is not None:
            if len(kept.varying()) != 1:
                return None
            said = said * Filling(law, kept).factor((out.size_bytes, out.segments, out.threads)[along])
        found[number == fold] = np.abs(said / out.seconds - 1)
    return found
