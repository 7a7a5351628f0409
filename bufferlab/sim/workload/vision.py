"""How many tokens an image or a video becomes, by the rules of the models' own preprocessors.

Qwen: ``smart_resize`` and the video rules of qwen-vl-utils (QwenLM/Qwen2.5-VL, Apache-2.0), with the constants of the
serving stack (sgl-project/sglang, ``multimodal/processors/qwen_vl.py``, Apache-2.0). An image is resized to a multiple
of ``cell`` pixels a side, within bounds on its pixels, and every cell becomes one token. A video becomes frames, two of
which share their tokens. InternVL: ``dynamic_preprocess`` (OpenGVLab/InternVL, MIT), square tiles of a fixed number of
tokens. Text around the images (two tokens an image for Qwen, timestamps in videos for Qwen3-VL) is not counted here.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

MAX_ASPECT_RATIO = 200
"""Qwen refuses images that are longer than this many times their width."""

VIDEO_FPS = 2.0
LEAST_VIDEO_FRAMES = 4
MOST_VIDEO_FRAMES = 768
TEMPORAL_PATCH = 2
"""Frames that share their tokens."""
LEAST_FRAME_CELLS = 128
MOST_FRAME_CELLS = 768
SGLANG_VIDEO_CELLS = 115_200
"""Cells of a whole video in sglang: VIDEO_TOTAL_PIXELS defaults to 128000 · 28 · 28 · 0.9."""
QWEN_UTILS_VIDEO_CELLS = 24_576
"""The same in older qwen-vl-utils: 24576 · 28 · 28."""

INTERNVL_TILE = 448
INTERNVL_TILE_TOKENS = 256
"""A tile has (448 / 14)² patches, of which four become one token."""
INTERNVL_MOST_TILES = 12


class QwenVision(NamedTuple):
    """The image rules of one model: pixels a side of a cell, and bounds on the pixels of an image."""

    cell: int
    least_pixels: int
    most_pixels: int

    def capped(self, most_tokens: int) -> QwenVision:
        """The same with at most ``most_tokens`` cells, as deployments configure it (often 1280)."""
        if most_tokens < 1:
            raise ValueError(f"most_tokens is {most_tokens}, it must be at least 1")
        most_pixels = min(self.most_pixels, most_tokens * self.cell**2)
        return self._replace(least_pixels=min(self.least_pixels, most_pixels), most_pixels=most_pixels)


QWEN_MODELS: dict[str, QwenVision] = {
    # Patch 14, merged 2 × 2; 4 to 16384 tokens.
    "qwen2.5-vl": QwenVision(28, 4 * 28**2, 16384 * 28**2),
    # Patch 16, merged 2 × 2; 64 to 16384 tokens.
    "qwen3-vl": QwenVision(32, 65_536, 16_777_216),
}


def parse_size(text: str) -> tuple[int, int]:
    """Width and height of "1920x1080" in pixels. Raises ValueError."""
    width, sign, height = text.partition("x")
    if not (sign and width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise ValueError(f"size is {text!r}, it must be width and height in pixels such as 1920x1080")
    return int(width), int(height)


def resized(width: int, height: int, cell: int, least_pixels: float, most_pixels: float) -> tuple[int, int]:
    """Width and height after resizing, both multiples of ``cell``, as near the original's shape as that allows.

    Raises ValueError for an empty image or one that is longer than 200 times its width.
    """
    if min(width, height) < 1:
        raise ValueError(f"size is {width}x{height}, both must be at least 1 pixel")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise ValueError(f"size is {width}x{height}, one side must be at most {MAX_ASPECT_RATIO} times the other")
    # round() takes halves to the even neighbour, as the original does.
    wide = max(cell, round(width / cell) * cell)
    high = max(cell, round(height / cell) * cell)
    if wide * high > most_pixels:
        shrink = math.sqrt(width * height / most_pixels)
        wide = max(cell, math.floor(width / shrink / cell) * cell)
        high = max(cell, math.floor(height / shrink / cell) * cell)
    elif wide * high < least_pixels:
        grow = math.sqrt(least_pixels / (width * height))
        wide = math.ceil(width * grow / cell) * cell
        high = math.ceil(height * grow / cell) * cell
    return wide, high


def qwen_image_tokens(width: int, height: int, vision: QwenVision) -> int:
    """Tokens of one image of ``width`` × ``height`` pixels."""
    wide, high = resized(width, height, vision.cell, vision.least_pixels, vision.most_pixels)
    return wide // vision.cell * (high // vision.cell)


def video_frames(duration_s: float, fps: float = VIDEO_FPS) -> int:
    """Frames taken from a video: an even number, from 4 to 768."""
    if not (0 <= duration_s < math.inf and 0 < fps < math.inf):
        raise ValueError(f"duration_s is {duration_s} and fps is {fps}, they must be at least 0 and above 0")
    frames = min(max(duration_s * fps, LEAST_VIDEO_FRAMES), MOST_VIDEO_FRAMES)
    return math.floor(frames / TEMPORAL_PATCH) * TEMPORAL_PATCH


class VideoTokens(NamedTuple):
    """Frame pairs of a video and the tokens of each; the encoder attends within a pair."""

    pairs: int
    pair_tokens: int

    @property
    def tokens(self) -> int:
        """All of them."""
        return self.pairs * self.pair_tokens


@cache
def qwen_video_tokens(
    width: int, height: int, frames: int, *, cell: int = 28, total_cells: float = SGLANG_VIDEO_CELLS
) -> VideoTokens:
    """Tokens of a video of ``frames`` frames (see ``video_frames``).

    A frame has at most 768 cells; a long video shares ``total_cells`` among its frame pairs, so its frames shrink, down
    to 1.05 · 128 cells each, at which the total is exceeded.
    """
    if frames < TEMPORAL_PATCH or frames % TEMPORAL_PATCH:
        raise ValueError(f"frames is {frames}, it must be even and at least {TEMPORAL_PATCH}")
    shared = total_cells / frames * TEMPORAL_PATCH
    most_cells = max(min(MOST_FRAME_CELLS, shared), 1.05 * LEAST_FRAME_CELLS)
    wide, high = resized(width, height, cell, LEAST_FRAME_CELLS * cell**2, most_cells * cell**2)
    return VideoTokens(frames // TEMPORAL_PATCH, wide // cell * (high // cell))


def internvl_tiles(width: int, height: int, most_tiles: int = INTERNVL_MOST_TILES) -> int:
    """Tiles of one image: the grid of at most ``most_tiles`` whose shape is closest, and a thumbnail if it has several.

    Of equally close grids the larger one is taken if the image has more than half of its pixels.
    """
    if min(width, height, most_tiles) < 1:
        raise ValueError(f"size is {width}x{height} and most_tiles is {most_tiles}, all must be at least 1")
    grids = sorted(
        (columns * rows, columns, rows)
        for columns in range(1, most_tiles + 1)
        for rows in range(1, most_tiles // columns + 1)
    )
    best, best_difference = 1, math.inf
    for tiles, columns, rows in grids:
        difference = abs(width / height - columns / rows)
        if difference < best_difference:
            best, best_difference = tiles, difference
        elif difference == best_difference and width * height > 0.5 * INTERNVL_TILE**2 * tiles:
            best = tiles
    return best + 1 if best > 1 else 1


def internvl_image_tokens(width: int, height: int, most_tiles: int = INTERNVL_MOST_TILES) -> int:
    """Tokens of one image for InternVL 2 and later."""
    return internvl_tiles(width, height, most_tiles) * INTERNVL_TILE_TOKENS


def image_tokens(model: str, width: int, height: int, most_tokens: int | None = None) -> int:
    """Tokens of one image for ``model``: qwen2.5-vl (2 is alike), qwen3-vl, internvl.

    ``most_tokens``: the deployment's own cap on a Qwen image. Raises ValueError for an unknown model or a bad size.
    """
    if model == "internvl":
        if most_tokens is not None:
            raise ValueError("most_tokens is given, it must be left out for internvl, whose tiles it does not bound")
        return internvl_image_tokens(width, height)
    if model not in QWEN_MODELS:
        raise ValueError(f"model is {model!r}, it must be one of {', '.join(QWEN_MODELS)}, internvl")
    vision = QWEN_MODELS[model]
    return qwen_image_tokens(width, height, vision if most_tokens is None else vision.capped(most_tokens))
