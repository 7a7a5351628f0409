"""Fits one law to measured samples, in relative error, so that a short write counts as much as a long one.

For every shape that is tried the costs are those of non-negative least squares, hence no start has to be guessed and
the same samples always give the same fit. Samples that lie far off count less (Huber's weights) and are told as
outliers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bufferlab.experiments.calibration.laws.forms import DISCRETE, Form, Shape, parameters, seconds
from bufferlab.experiments.calibration.laws.nonnegative import coefficients, squares_left
from bufferlab.experiments.calibration.laws.samples import Array, Samples
from bufferlab.experiments.stats.intervals import LEVEL, Estimate, t_quantile, unbounded

ROUNDS = 4
"""How often the weights are set anew; they have settled by then."""
HUBER = 2.0
"""From so many standard deviations on a sample counts less than its square."""
SIGMA = 1.4826
"""Standard deviation of a normal law over its median absolute deviation."""
FEWEST_TO_DOUBT = 4
"""A sample is called an outlier only by so many more samples than there are parameters."""
OUTLIER = 5.0
OUTLIER_LEAST = 0.05
"""An outlier is off by so many standard deviations, and by this part of its value at least."""
SETTLED = 1e-3
"""Weights that move by less have settled."""
NEGLIGIBLE = 1e-4
"""Scatter below this is taken for rounding, and weighs nobody down."""
REFINED = 1e-4
"""How exactly the bend is found between its neighbours on the grid, in its logarithm."""
RESAMPLES = 200
KNEES_NEAR = tuple(float(factor) for factor in np.geomspace(0.5, 2, 15))
"""Where a bend may lie in a fit to residuals drawn anew, over where it was found."""
STEP = 1e-6
RATES = ("bandwidth_Bps", "message_rate_per_s")
INDISTINGUISHABLE = 1e-9
"""Columns whose smallest singular value is this small a part of the largest say the same."""


@dataclass(frozen=True)
class Fit:
    """A law with its numbers. ``errors``: what it says over what was measured, minus 1, for every sample."""

    form: Form
    shape: Shape
    parameters: Mapping[str, float]
    errors: Array
    outliers: tuple[int, ...]

    def seconds(self, samples: Samples) -> Array:
        """What it says for other samples."""
        return seconds(self.form, self.parameters, samples)


def can_tell(form: Form, samples: Samples) -> bool:
    """Whether these samples tell the parameters of ``form`` apart."""
    if len(samples) < form.continuous:
        return False
    shapes = form.shapes(samples)
    if not shapes:
        return False
    scaled = form.columns(samples, shapes[len(shapes) // 2]) / samples.seconds[:, None]
    lengths = np.linalg.norm(scaled, axis=0)
    if not lengths.all():
        return False
    singular = np.linalg.svd(scaled / lengths, compute_uv=False)
    return bool(singular[-1] > INDISTINGUISHABLE * singular[0])


def fit(form: Form, samples: Samples) -> Fit:
    """The best fit of ``form``, which the samples must be able to tell (``can_tell``)."""
    weights = np.ones(len(samples))
    shapes = form.shapes(samples)
    for _ in range(ROUNDS):
        shape = _best(form, samples, weights, shapes)
        # Weights move a bend, but do not make it another one.
        shapes = [one for one in shapes if one.get("sharpness") == shape.get("sharpness")]
        costs, _ = _costs(form, samples, weights, shape)
        errors = form.columns(samples, shape) @ costs / samples.seconds - 1
        sigma = SIGMA * float(np.median(np.abs(errors)))
        if len(samples) - form.size < FEWEST_TO_DOUBT or sigma < NEGLIGIBLE:
            break
        settled = weights
        weights = np.minimum(1.0, HUBER * sigma / np.maximum(np.abs(errors), NEGLIGIBLE))
        if np.allclose(weights, settled, atol=SETTLED):
            break
    shape = _refined(form, samples, weights, shape, shapes)
    costs, _ = _costs(form, samples, weights, shape)
    errors = form.columns(samples, shape) @ costs / samples.seconds - 1
    return Fit(form, shape, parameters(form, costs, shape), errors, _outliers(form, errors))


def _outliers(form: Form, errors: Array) -> tuple[int, ...]:
    if len(errors) - form.size < FEWEST_TO_DOUBT:
        return ()
    sigma = SIGMA * float(np.median(np.abs(errors)))
    return tuple(int(place) for place in np.flatnonzero(np.abs(errors) > max(OUTLIER * sigma, OUTLIER_LEAST)))


def _best(form: Form, samples: Samples, weights: Array, shapes: Sequence[Shape]) -> Shape:
    """The shape with which the law leaves the least weighted squares of the relative errors."""
    if len(shapes) == 1:
        return shapes[0]
    scale = np.sqrt(weights)
    return shapes[int(np.argmin(squares_left(_designs(form, samples, shapes) * scale[:, None], scale)))]


def _refined(form: Form, samples: Samples, weights: Array, shape: Shape, shapes: Sequence[Shape]) -> Shape:
    """The same with its bend where it is best between its neighbours."""
    if "knee_bytes" not in shape:
        return shape
    from scipy.optimize import minimize_scalar

    knees = sorted({one["knee_bytes"] for one in shapes})
    place = knees.index(shape["knee_bytes"])
    low, high = knees[max(place - 1, 0)], knees[min(place + 1, len(knees) - 1)]

    def squares(logarithm: float) -> float:
        return _costs(form, samples, weights, {**shape, "knee_bytes": float(np.exp(logarithm))})[1]

    found = minimize_scalar(
        squares, bounds=(np.log(low), np.log(high)), method="bounded", options={"xatol": REFINED}
    )  # fmt: skip
    better = found.fun < squares(float(np.log(shape["knee_bytes"])))
    return {**shape, "knee_bytes": float(np.exp(found.x))} if better else shape


def _designs(form: Form, samples: Samples, shapes: Sequence[Shape]) -> Array:
    """For every shape the columns of the law, over the measured seconds."""
    return np.stack([form.columns(samples, shape) for shape in shapes]) / samples.seconds[:, None]


def _costs(form: Form, samples: Samples, weights: Array, shape: Shape) -> tuple[Array, float]:
    """The costs for one shape, none of them negative, and the squares that they leave."""
    from scipy.optimize import nnls

    scale = np.sqrt(weights)
    matrix = form.columns(samples, shape) * (scale / samples.seconds)[:, None]
    lengths = np.linalg.norm(matrix, axis=0)
    found, left = nnls(matrix / lengths, scale)
    return np.asarray(found / lengths), float(left) ** 2


# --- how sure it is ---


@dataclass(frozen=True)
class Certainty:
    """What is known of the parameters: 95 % intervals and standard errors by name, and the covariance of ``names``.

    A parameter that is 0, infinite or one of a few (``DISCRETE``) has no standard error.
    """

    intervals: Mapping[str, Estimate]
    standard_errors: Mapping[str, float]
    names: tuple[str, ...]
    covariance: tuple[tuple[float, ...], ...]


def certainty(found: Fit, samples: Samples, draws: np.random.Generator) -> Certainty:
    """Standard errors and covariance from the slopes of the law, intervals from both slopes and resampled residuals.

    Slopes know nothing of bounds and bends, resampling little of tails when samples are few: an interval is the hull of
    the t interval and the central 95 % of ``RESAMPLES`` fits to residuals drawn anew. No upper bound is None.
    """
    free = tuple(
        name
        for name, value in found.parameters.items()
        if name not in DISCRETE and 0 < value < np.inf
    )  # fmt: skip
    spare = len(samples) - len(free) - len(found.shape.keys() & set(DISCRETE))
    if spare < 1:
        return Certainty({name: unbounded(value) for name, value in found.parameters.items()}, {}, (), ())
    slopes = np.column_stack([_slope(found, samples, name) for name in free])
    variance = float(found.errors @ found.errors) / spare
    # In relative units, so that seconds and bytes per second are of a size.
    relative = np.linalg.pinv(slopes.T @ slopes) * variance
    values = np.array([found.parameters[name] for name in free])
    covariance = relative * np.outer(values, values)
    errors = np.sqrt(np.diag(covariance))
    resampled = _resample(found, samples, spare, draws)
    intervals: dict[str, Estimate] = {name: unbounded(value) for name, value in found.parameters.items()}
    for name, error in zip(free, errors, strict=True):
        half = t_quantile(spare) * float(error) / found.parameters[name]
        intervals[name] = _interval(name, found.parameters[name], half, [one[name] for one in resampled])
    return Certainty(
        intervals,
        dict(zip(free, map(float, errors), strict=True)),
        free,
        tuple(tuple(map(float, line)) for line in covariance),
    )


def _interval(name: str, value: float, half: float, resampled: list[float]) -> Estimate:
    """``half``: half the t interval over the value. Of a rate it is that of the time a byte or a segment takes."""
    ordered = sorted(resampled)
    skipped = int(len(ordered) * (1 - LEVEL) / 2)
    low, high = value * (1 - half), value * (1 + half)
    if name in RATES:
        low, high = value / (1 + half), value / (1 - half) if half < 1 else np.inf
    low, high = max(0.0, min(low, ordered[skipped])), max(high, ordered[-1 - skipped])
    return {"value": value, "low": float(low), "high": float(high) if np.isfinite(high) else None}


def _slope(found: Fit, samples: Samples, name: str) -> Array:
    """How the relative error moves with the logarithm of a parameter."""
    moved = [
        seconds(found.form, {**found.parameters, name: found.parameters[name] * factor}, samples)
        for factor in (1 + STEP, 1 - STEP)
    ]
    return np.asarray((moved[0] - moved[1]) / (2 * STEP * samples.seconds))


def _resample(found: Fit, samples: Samples, spare: int, draws: np.random.Generator) -> list[dict[str, float]]:
    said = found.seconds(samples)
    # Residuals of a fit are smaller than the scatter that made them, by what the fit took up.
    residuals = (samples.seconds / said - 1) * np.sqrt(len(samples) / spare)
    shapes: list[Shape] = [found.shape]
    if "knee_bytes" in found.shape:
        # A bend stays near where it was found.
        shapes = [{**found.shape, "knee_bytes": found.shape["knee_bytes"] * factor} for factor in KNEES_NEAR]
    drawn = said * np.maximum(1 + draws.choice(residuals, (RESAMPLES, len(samples))), 0.01)
    matrices = _designs(found.form, samples, shapes) * (samples.seconds / drawn)[:, None, :, None]
    costs, best = coefficients(matrices, np.ones(len(samples)))
    return [parameters(found.form, one, shapes[place]) for one, place in zip(costs, best.tolist(), strict=True)]
