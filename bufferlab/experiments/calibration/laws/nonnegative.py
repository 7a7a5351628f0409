"""Linear least squares with no coefficient below 0, for many matrices at once.

Laws have at most four parts, so all sets of parts can be tried: the best of those solutions that are positive is the
one sought (Lawson and Hanson's algorithm visits some of these sets, one matrix at a time).
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from bufferlab.experiments.calibration.laws.samples import Array

RIDGE = 1e-13
"""Keeps columns that say the same from having no solution; it moves no other one by more than rounding does."""


def squares_left(matrices: Array, target: Array) -> Array:
    """The least squares that coefficients of at least 0 leave of ``target`` (rows), one for each of ``matrices``.

    ``matrices`` has three dimensions: which one, rows, columns. What is left is exact to some 1e-15 of the target's.
    """
    return _solve(matrices, target)[1]


def coefficients(matrices: Array, target: Array) -> tuple[Array, NDArray[np.intp]]:
    """For each group of matrices the coefficients for the one that leaves the least squares, and which one it is.

    ``matrices`` has four dimensions: which group, which one, rows, columns.
    """
    groups, members, rows, columns = matrices.shape
    found, left = _solve(matrices.reshape(groups * members, rows, columns), target)
    best = np.argmin(left.reshape(groups, members), axis=1)
    return found.reshape(groups, members, columns)[np.arange(groups), best], best


def _solve(matrices: Array, target: Array) -> tuple[Array, Array]:
    lengths = np.linalg.norm(matrices, axis=1)
    scaled = matrices / lengths[:, None, :]
    products = np.matmul(scaled.transpose(0, 2, 1), scaled)
    right = np.matmul(scaled.transpose(0, 2, 1), target)
    columns = matrices.shape[2]
    found = np.zeros((len(matrices), columns))
    gained = np.zeros(len(matrices))
    for count in range(1, columns + 1):
        for chosen in combinations(range(columns), count):
            parts = list(chosen)
            own = products[:, parts][:, :, parts] + RIDGE * np.eye(count)
            solved = np.linalg.solve(own, right[:, parts, None])[:, :, 0]
            gain = np.where((solved > 0).all(axis=1), (solved * right[:, parts]).sum(axis=1), -1.0)
            better = gain > gained
            gained[better] = gain[better]
            spread = np.zeros((len(matrices), columns))
            spread[:, parts] = solved
            found[better] = spread[better]
    return found / lengths, float(target @ target) - gained
