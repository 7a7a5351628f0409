"""The length from what the router passes on: the text, a guess from the image sizes, the number of images."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import ClassVar, Final

from bufferlab.protocol.messages import LanguageRequest
from bufferlab.protocol.sizing.base import SizingPolicy
from bufferlab.protocol.sizing.options import check_share, check_tokens, check_warmup
from bufferlab.protocol.sizing.views import CompletedView, RequestView
from bufferlab.protocol.sizing.window import Window

Row = tuple[int, int, int, int]
"""1, text tokens, hinted image tokens, images."""

SCALES = (1.0, 1024.0, 1024.0, 1.0)
"""What the columns are divided by, so that one penalty suits tokens and images. Powers of two: nothing is rounded."""

EXPECTED = (0.0, 1.0, 1.0, 0.0)
"""The weights before anything is learnt, towards which the penalty pulls: the text and the hint add up."""

_COLUMNS = range(len(SCALES))
_PAIRS = [(row, column) for row in _COLUMNS for column in range(row + 1)]


class HintRegression(SizingPolicy):
    """length ≈ w · (1, text, hint, images), plus the ``q`` quantile of what that was lately wrong by.

    The weights are those of a ridge regression on the last ``window`` completed requests: they minimise
    Σ (length - w · x)² + ``ridge`` · |w - (0, 1, 1, 0)|², the columns scaled by (1, 1024, 1024, 1). The penalty decides
    only what the requests leave open, such as the weight of the images when every request has one. The sums behind the
    weights are whole numbers, so a request that leaves the window leaves no trace, and the 4 × 4 system is solved in
    plain arithmetic of a fixed order: a linear-algebra library may round differently from machine to machine, and the
    ranks of a group must answer alike.

    The margin is the order statistic of rank ceil(q (n + 1)) of the last ``window`` errors, each made before the
    request was learnt. For exchangeable errors it covers the next one with a probability of at least q (split conformal
    prediction: Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World, 2005). With exact hints it is 0.

    ``warmup``: requests that the weights need before errors count, and errors that are needed before answers do;
    ``tokens`` until then.
    """

    name: ClassVar[str] = "hint_regression"

    def __init__(
        self, tokens: int = 8192, q: float = 0.9, window: int = 512, warmup: int = 16, ridge: float = 1e-3
    ) -> None:
        check_tokens(tokens)
        check_share("q", q)
        check_warmup(warmup, window)
        if not 1e-6 <= ridge < math.inf:  # less would leave an open weight to rounding errors
            raise ValueError(f"ridge is {ridge}, it must be at least 1e-06 and finite")
        self.tokens: Final = tokens
        self.q: Final = q
        self.warmup: Final = warmup
        self.ridge: Final = ridge
        self._rows: deque[tuple[Row, int]] = deque(maxlen=window)
        self._products = [0] * len(_PAIRS)  # Σ x xᵀ, the lower triangle row by row
        self._moments = [0] * len(SCALES)  # Σ length · x
        self._weights: tuple[float, ...] | None = EXPECTED  # None when they are to be solved for anew
        self._errors = Window(window)

    def first_tokens(self, view: RequestView) -> int:
        """The predicted length and its margin, or the default during warm-up."""
        known = len(self._errors)
        if known < self.warmup:
            return self.tokens
        margin = self._errors.order(math.ceil(self.q * (known + 1)))
        return max(1, self._predicted(_row_of(view.request)) + margin)

    def completed(self, view: CompletedView) -> None:
        """Note how wrong the prediction would have been, then learn; the oldest request leaves a full window."""
        row, length = _row_of(view.request), view.total_tokens
        if len(self._rows) >= self.warmup:
            self._errors.add(length - self._predicted(row))
        if len(self._rows) == self._rows.maxlen:
            self._count(*self._rows[0], sign=-1)
        self._rows.append((row, length))
        self._count(row, length, sign=1)
        self._weights = None

    def _predicted(self, row: Row) -> int:
        if self._weights is None:
            self._weights = solved(self._products, self._moments, self.ridge)
        return math.floor(dot(self._weights, row) + 0.5)

    def _count(self, row: Row, length: int, *, sign: int) -> None:
        products, moments = self._products, self._moments
        for index, (one, other) in enumerate(_PAIRS):
            products[index] += sign * row[one] * row[other]
        for column in _COLUMNS:
            moments[column] += sign * row[column] * length


def dot(one: Sequence[float], other: Sequence[float]) -> float:
    """The sum of products, in order."""
    return sum([left * right for left, right in zip(one, other, strict=True)])


def _row_of(request: LanguageRequest) -> Row:
    return 1, request.text_tokens, request.image_tokens_hint, request.images


def solved(products: list[int], moments: list[int], ridge: float) -> tuple[float, ...]:
    """The ridge weights, one per column, by Cholesky's decomposition of the scaled and penalised system.

    ``products``: the lower triangle of Σ x xᵀ row by row; ``moments``: Σ length · x. The penalty keeps the system
    positive definite.
    """
    size = len(SCALES)
    lower = [[0.0] * size for _ in range(size)]
    for (row, column), product in zip(_PAIRS, products, strict=True):
        entry = product / (SCALES[row] * SCALES[column]) + (ridge if row == column else 0.0)
        entry -= dot(lower[row][:column], lower[column][:column])
        lower[row][column] = math.sqrt(max(entry, ridge)) if row == column else entry / lower[column][column]
    # The target is what is left of the lengths when the expected weights have had their part, so that the penalty pulls
    # towards these and not to 0. Whole numbers, hence no loss.
    left = [
        moments[row] - sum(int(EXPECTED[column]) * products[_index(row, column)] for column in _COLUMNS)
        for row in _COLUMNS
    ]
    solution = [0.0] * size
    for row in _COLUMNS:  # forwards, then backwards
        solution[row] = (left[row] / SCALES[row] - dot(lower[row][:row], solution[:row])) / lower[row][row]
    for row in reversed(_COLUMNS):
        below = sum(lower[other][row] * solution[other] for other in range(row + 1, size))
        solution[row] = (solution[row] - below) / lower[row][row]
    return tuple([expected + found / scale for expected, found, scale in zip(EXPECTED, solution, SCALES, strict=True)])


def _index(row: int, column: int) -> int:
    row, column = max(row, column), min(row, column)
    return row * (row + 1) // 2 + column
