"""Distributions of lengths, as they are written in data files: each is a table with a ``type`` and its parameters.

Lengths are whole numbers of tokens (or of images, where they count images). What is drawn comes from the generator that
is passed in, so the caller decides on the stream.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import pairwise
from typing import Protocol

import msgspec
import numpy
from numpy.typing import NDArray

from bufferlab.sim.workload.vision import (
    QWEN_MODELS,
    QWEN_UTILS_VIDEO_CELLS,
    VIDEO_FPS,
    VideoTokens,
    image_tokens,
    parse_size,
    qwen_video_tokens,
    video_frames,
)

Counts = NDArray[numpy.int64]
Reals = NDArray[numpy.float64]

QUANTILE_LEVELS = (0.0, 0.01, 0.05, 0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.85, 0.9, 0.95, 0.98, 0.99, 0.995, 1.0)
"""Levels of ``Quantiles`` where none are given: denser towards the long requests, which decide about buffers."""


class _Draws(Protocol):
    """What every distribution has of its own."""

    def draw(self, generator: numpy.random.Generator, count: int) -> Counts:
        """``count`` values."""


class _Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all distributions."""

    def draw_visual(self: _Draws, generator: numpy.random.Generator, count: int) -> tuple[Counts, Counts]:
        """Tokens of ``count`` images, and for each the tokens that its tokens attend to, summed over its tokens.

        The encoder attends within an image, so the second is the square of the first, but for videos.
        """
        tokens = self.draw(generator, count)
        return tokens, tokens * tokens


class Constant(_Model, frozen=True, tag="constant"):
    """Always ``value``."""

    value: int

    def __post_init__(self) -> None:
        if self.value < 0:
            raise ValueError(f"value is {self.value}, it must be at least 0")

    def at(self, levels: Reals) -> Counts:
        """Quantiles at ``levels``, which are in [0, 1)."""
        return numpy.full(len(levels), self.value, dtype=numpy.int64)

    def draw(self, generator: numpy.random.Generator, count: int) -> Counts:
        """``count`` values."""
        return numpy.full(count, self.value, dtype=numpy.int64)


class Uniform(_Model, frozen=True, tag="uniform"):
    """Every integer from ``low`` to ``high``, both included, alike."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high:
            raise ValueError(f"low is {self.low} and high is {self.high}, it must be 0 <= low <= high")

    def draw(self, generator: numpy.random.Generator, count: int) -> Counts:
        """``count`` values."""
        return generator.integers(self.low, self.high, count, endpoint=True)


class LogNormal(_Model, frozen=True, tag="lognormal"):
    """Lognormal by its median and the standard deviation of its logarithm, rounded, at least 1."""

    median: float
    log_sd: float

    def __post_init__(self) -> None:
        if not (0 < self.median < math.inf and 0 <= self.log_sd < math.inf):
            raise ValueError(
                f"median is {self.median} and log_sd is {self.log_sd}, they must be above 0 and at least 0"
            )

    def draw(self, generator: numpy.random.Generator, count: int) -> Counts:
        """``count`` values."""
        values = numpy.rint(generator.lognormal(math.log(self.median), self.log_sd, count))
        return numpy.maximum(values, 1).astype(numpy.int64)


class Geometric(_Model, frozen=True, tag="geometric"):
    """Trials until the first success of probability ``probability``, at most ``most``."""

    probability: float
    most: int

    def __post_init__(self) -> None:
        if not 0 < self.probability <= 1 or self.most < 1:
            raise ValueError(
                f"probability is {self.probability} and most is {self.most}, they must be in (0, 1] and >= 1"
            )

    def draw(self, generator: numpy.random.Generator, count: int) -> Counts:
        """``count`` values."""
        return numpy.minimum(generator.geometric(self.probability, count), self.most)


class Choice(_Model, frozen=True, tag="choice"):
    """One of ``values`` by their ``weights``, which need not add up to 1."""

    values: tuple[int, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        check_weights(self.weights, len(self.values), "values")
        if min(self.values) < 0:
            raise ValueError(f"values hold {min(self.values)}, they must be at least 0")

    def at(self, levels: Reals) -> Counts:
        """Quantiles at ``levels``, which are in [0, 1)."""
        order = sorted(range(len(self.values)), key=self.values.__getitem__)
        picked = pick_at(levels, [self.weights[place] for place in order])
        return numpy.asarray([self.values[place] for place in order], dtype=numpy.int64)[picked]

    def draw(self, generator: numpy.random.Generator, count: int) -> Counts:
        """``count`` values."""
        return numpy.asarray(self.values, dtype=numpy.int64)[pick(generator, self.weights, count)]


class Quantiles(_Model, frozen=True, tag="quantiles"):
    """What lies between measured quantiles: ``values[i]`` is the quantile at ``levels[i]``, a repeated value an atom.

    Between two of them the quantile function is a straight line, or one in the logarithm of the value, which suits
    long gaps in a tail. Drawn values are rounded.
    """

    values: tuple[float, ...]
    levels: tuple[float, ...] = QUANTILE_LEVELS
    logarithmic: bool = False

    def __post_init__(self) -> None:
        if len(self.values) != len(self.levels):
            raise ValueError(
                f"values are {len(self.values)}, there must be one for each of the {len(self.levels)} levels"
            )
        if self.levels[0] != 0 or self.levels[-1] != 1 or not _rises(self.levels):
            raise ValueError("levels must rise from 0 to 1")
        least = 1 if self.logarithmic else 0
        if not (self.values[0] >= least and self.values[-1] < math.inf and _rises(self.values)):
            raise ValueError(f"values must not fall, the first must be at least {least}")

    def at(self, levels: Reals) -> Counts:
        """Quantiles at ``levels``, which are in [0, 1]."""
        values = numpy.asarray(self.values, dtype=float)
        if self.logarithmic:
            found = numpy.exp(numpy.interp(levels, self.levels, numpy.log(values)))
        else:
            found = numpy.interp(levels, self.levels, values)
        return numpy.rint(found).astype(numpy.int64)

    def draw(self, generator: numpy.random.Generator, count: int) -> Counts:
        """``count`` values."""
        return self.at(generator.random(count))


class Pictures(_Model, frozen=True, tag="pictures"):
    """Tokens of images of some ``sizes`` ("1920x1080"), by their ``weights``, as ``model`` counts them.

    ``most_tokens``: the deployment's own cap on the tokens of an image.
    """

    model: str
    sizes: tuple[str, ...]
    weights: tuple[float, ...]
    most_tokens: int | None = None

    def __post_init__(self) -> None:
        check_weights(self.weights, len(self.sizes), "sizes")
        self.tokens()

    def tokens(self) -> tuple[int, ...]:
        """Tokens of every size."""
        return tuple(image_tokens(self.model, *parse_size(size), self.most_tokens) for size in self.sizes)

    def draw(self, generator: numpy.random.Generator, count: int) -> Counts:
        """``count`` values."""
        return numpy.asarray(self.tokens(), dtype=numpy.int64)[pick(generator, self.weights, count)]


class Video(_Model, frozen=True, tag="video"):
    """Tokens of Qwen videos of lognormal duration (clipped to least_s .. most_s) and some ``sizes``.

    ``most_tokens`` bounds a whole video: it is cut there, every frame as in a short video; or with ``resize`` its
    frames shrink to fit, as qwen-vl-utils does it (down to a least size, at which long videos exceed the bound).
    """

    median_s: float
    log_sd: float
    sizes: tuple[str, ...]
    weights: tuple[float, ...]
    least_s: float = 2.0
    most_s: float = 600.0
    fps: float = VIDEO_FPS
    model: str = "qwen2.5-vl"
    most_tokens: int = QWEN_UTILS_VIDEO_CELLS
    resize: bool = False

    def __post_init__(self) -> None:
        check_weights(self.weights, len(self.sizes), "sizes")
        if not (0 < self.median_s < math.inf and 0 <= self.log_sd < math.inf and 0 < self.fps < math.inf):
            raise ValueError(
                f"median_s is {self.median_s}, log_sd {self.log_sd} and fps {self.fps}: they must be finite, "
                f"log_sd at least 0 and the others above"
            )
        if not 0 <= self.least_s <= self.most_s:
            raise ValueError(
                f"least_s is {self.least_s} and most_s is {self.most_s}, it must be 0 <= least_s <= most_s"
            )
        if self.most_tokens < 1:
            raise ValueError(f"most_tokens is {self.most_tokens}, it must be at least 1")
        if self.model not in QWEN_MODELS:
            raise ValueError(f"model is {self.model!r}, it must be one of {', '.join(QWEN_MODELS)}")
        for size in self.sizes:
            self._video(size, self.least_s)

    def _video(self, size: str, duration_s: float) -> VideoTokens:
        # Without resizing the bound on the whole video must not reach the frames.
        return qwen_video_tokens(
            *parse_size(size),
            video_frames(duration_s, self.fps),
            cell=QWEN_MODELS[self.model].cell,
            total_cells=self.most_tokens if self.resize else math.inf,
        )

    def draw(self, generator: numpy.random.Generator, count: int) -> Counts:
        """``count`` values."""
        return self.draw_visual(generator, count)[0]

    def draw_visual(self, generator: numpy.random.Generator, count: int) -> tuple[Counts, Counts]:
        """Tokens of ``count`` videos, and for each the tokens its tokens attend to: those of their own frame pair."""
        durations_s = numpy.clip(
            generator.lognormal(math.log(self.median_s), self.log_sd, count), self.least_s, self.most_s
        )
        picked = pick(generator, self.weights, count)
        videos = [
            self._video(self.sizes[size], duration_s)
            for size, duration_s in zip(picked.tolist(), durations_s.tolist(), strict=True)
        ]
        tokens = numpy.asarray([video.tokens for video in videos], dtype=numpy.int64)
        pair_tokens = numpy.asarray([video.pair_tokens for video in videos], dtype=numpy.int64)
        if not self.resize:
            tokens = numpy.minimum(tokens, self.most_tokens)
        return tokens, tokens * pair_tokens


class Frames(_Model, frozen=True, tag="frames"):
    """A video of always ``frames`` frames of ``frame_tokens`` tokens, as InternVL samples them."""

    frames: int
    frame_tokens: int

    def __post_init__(self) -> None:
        if min(self.frames, self.frame_tokens) < 1:
            raise ValueError(
                f"frames is {self.frames} and frame_tokens is {self.frame_tokens}, both must be at least 1"
            )

    def draw(self, generator: numpy.random.Generator, count: int) -> Counts:
        """``count`` values."""
        return numpy.full(count, self.frames * self.frame_tokens, dtype=numpy.int64)

    def draw_visual(self, generator: numpy.random.Generator, count: int) -> tuple[Counts, Counts]:
        """Tokens of ``count`` videos, and for each the tokens its tokens attend to: those of their own frame."""
        tokens = self.draw(generator, count)
        return tokens, tokens * self.frame_tokens


class Mixture(_Model, frozen=True, tag="mixture"):
    """One of ``parts`` by their ``weights``, then a value of that."""

    parts: tuple[Length, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        check_weights(self.weights, len(self.parts), "parts")

    def draw(self, generator: numpy.random.Generator, count: int) -> Counts:
        """``count`` values."""
        return self.draw_visual(generator, count)[0]

    def draw_visual(self, generator: numpy.random.Generator, count: int) -> tuple[Counts, Counts]:
        """Tokens of ``count`` images, and for each the tokens that its tokens attend to."""
        picked = pick(generator, self.weights, count)
        # Every part draws for everybody: wasteful, but a part's draws then depend on nothing but the block.
        drawn = [part.draw_visual(generator, count) for part in self.parts]
        everybody = numpy.arange(count)
        tokens, squares = (numpy.stack(columns)[picked, everybody] for columns in zip(*drawn, strict=True))
        return tokens, squares


Length = Constant | Uniform | LogNormal | Geometric | Choice | Quantiles | Pictures | Video | Frames | Mixture
WithQuantiles = Constant | Choice | Quantiles
"""Distributions whose quantiles are known, so that two of them can be drawn together."""


def check_weights(weights: Iterable[float], count: int, what: str) -> None:
    """Raise ValueError unless there are ``count`` weights, none negative, with a finite sum above 0."""
    listed = list(weights)
    if len(listed) != count or not listed or min(listed) < 0 or not 0 < sum(listed) < math.inf:
        raise ValueError(f"weights are {listed}: there must be one for each of the {count} {what}, none below 0")


def pick(generator: numpy.random.Generator, weights: Sequence[float], count: int) -> Counts:
    """``count`` places of ``weights``, each with the probability that its weight says."""
    return pick_at(generator.random(count), weights)


def pick_at(levels: Reals, weights: Sequence[float]) -> Counts:
    """The place of ``weights`` in which each of ``levels`` (in [0, 1)) falls when they are stacked."""
    # The last edge is the exact sum, so a draw just below 1 stays inside.
    return numpy.searchsorted(_edges(tuple(weights)), levels, side="right").astype(numpy.int64)


@cache
def _edges(weights: tuple[float, ...]) -> Reals:
    edges = numpy.cumsum(numpy.asarray(weights, dtype=float))
    return edges[:-1] / edges[-1]


def _rises(numbers: Sequence[float]) -> bool:
    return all(first <= second for first, second in pairwise(numbers))
