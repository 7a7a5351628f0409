"""Tokens of images and videos, against published counts."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bufferlab.sim.workload.vision import (
    QWEN_MODELS,
    image_tokens,
    internvl_image_tokens,
    parse_size,
    qwen_image_tokens,
    qwen_video_tokens,
    resized,
    video_frames,
)

SIDES = st.integers(1, 5000)


@pytest.mark.parametrize(
    ("size", "qwen2_5", "capped", "qwen3", "internvl"),
    [
        ("224x224", 64, 64, 64, 256),
        ("336x336", 144, 144, 100, 256),
        ("448x448", 256, 256, 196, 256),
        ("640x480", 391, 391, 300, 3328),
        ("1024x768", 999, 999, 768, 3328),
        ("1024x1024", 1369, 1225, 1024, 2560),
        ("1280x720", 1196, 1196, 880, 2304),
        ("1920x1080", 2691, 1222, 2040, 2304),
        ("1240x1754", 2772, 1260, 2145, 1792),
        ("1700x2200", 4819, 1240, 3657, 3328),
        ("2560x1440", 4641, 1222, 3600, 2304),
        ("4032x3024", 15552, 1230, 11844, 3328),
        ("3840x2160", 10549, 1222, 8160, 2304),
    ],
)
def test_worked_examples(size: str, qwen2_5: int, capped: int, qwen3: int, internvl: int) -> None:
    width, height = parse_size(size)
    assert image_tokens("qwen2.5-vl", width, height) == qwen2_5
    assert image_tokens("qwen2.5-vl", width, height, 1280) == capped
    assert image_tokens("qwen3-vl", width, height) == qwen3
    assert image_tokens("internvl", width, height) == internvl


def test_totals_that_were_observed() -> None:
    # sglang pull request #12263: 32 requests of eight 720p images, 306688 vision tokens with two around each image.
    assert 32 * 8 * (image_tokens("qwen2.5-vl", 1280, 720) + 2) == 306_688
    # sglang issue #17423: 294 images of 1080p and 64 prompts of 69 tokens, 604770 tokens.
    assert abs(294 * (image_tokens("qwen3-vl", 1920, 1080) + 2) + 64 * 69 - 604_770) < 64
    # vLLM issue #41267: one 1080p image, 2718 prompt tokens of which 27 are text.
    assert image_tokens("qwen2.5-vl", 1920, 1080) + 27 == 2718


@pytest.mark.parametrize(
    ("size", "total_cells", "tokens"),
    [
        ((1280, 720), 115_200, (3600, 7200, 21600, 43200, 86400, 109200)),
        ((1280, 720), 24_576, (3600, 7200, 21600, 23400, 22800, 36000)),
        ((640, 360), 115_200, (1495, 2990, 8970, 17940, 35880, 89700)),
    ],
)
def test_videos_of_two_frames_a_second(size: tuple[int, int], total_cells: int, tokens: tuple[int, ...]) -> None:
    found = [
        qwen_video_tokens(*size, video_frames(seconds), total_cells=total_cells).tokens
        for seconds in (5, 10, 30, 60, 120, 300)
    ]
    assert tuple(found) == tokens


def test_internvl_videos_fill_a_default_buffer_exactly() -> None:
    assert 32 * internvl_image_tokens(448, 448) == 8192


def test_frames_are_even_and_bounded() -> None:
    assert [video_frames(seconds) for seconds in (0, 1, 2.4, 2.9, 383.9, 10_000)] == [4, 4, 4, 4, 766, 768]
    assert video_frames(3.0, fps=1.5) == 4


@given(SIDES, SIDES, st.sampled_from(sorted(QWEN_MODELS)), st.integers(256, 16_384))
def test_a_cap_holds_and_no_image_is_empty(width: int, height: int, model: str, cap: int) -> None:
    if max(width, height) > 200 * min(width, height):
        with pytest.raises(ValueError, match="one side must be at most 200 times the other"):
            image_tokens(model, width, height)
        return
    # From 256 cells on even an image of 200 to 1 has a whole cell across.
    assert 1 <= image_tokens(model, width, height, cap) <= cap
    assert image_tokens(model, width, height, cap) <= image_tokens(model, width, height) <= 16_384


@given(SIDES, SIDES)
def test_the_shape_is_kept(width: int, height: int) -> None:
    if max(width, height) > 20 * min(width, height) or min(width, height) < 28:
        return
    wide, high = resized(width, height, 28, 4 * 28**2, 1280 * 28**2)
    assert wide % 28 == high % 28 == 0
    # Each side is off by at most one cell of what it would be at the exact shape: its own, or that of the largest image
    # allowed, if its sides rounded to cells would be above that.
    above = round(width / 28) * round(height / 28) > 1280
    scale = math.sqrt(1280 * 28**2 / (width * height)) if above else 1.0
    assert abs(wide - width * scale) <= 28
    assert abs(high - height * scale) <= 28


@given(st.integers(100, 4000), st.integers(100, 4000), st.floats(1.0, 600.0))
def test_longer_videos_have_more_pairs_and_no_larger_frames(width: int, height: int, seconds: float) -> None:
    short = qwen_video_tokens(width, height, video_frames(seconds))
    long = qwen_video_tokens(width, height, video_frames(seconds * 1.5))
    assert long.pairs >= short.pairs
    assert long.pair_tokens <= short.pair_tokens


def test_what_is_wrong_with_a_size() -> None:
    with pytest.raises(ValueError, match="size is '1920', it must be width and height in pixels such as 1920x1080"):
        parse_size("1920")
    with pytest.raises(ValueError, match="size is '0x5'"):
        parse_size("0x5")
    with pytest.raises(ValueError, match="size is 0x5, both must be at least 1 pixel"):
        qwen_image_tokens(0, 5, QWEN_MODELS["qwen3-vl"])
    with pytest.raises(ValueError, match=r"model is 'gpt', it must be one of qwen2.5-vl, qwen3-vl, internvl"):
        image_tokens("gpt", 5, 5)
    with pytest.raises(ValueError, match="most_tokens is 0, it must be at least 1"):
        image_tokens("qwen3-vl", 5, 5, 0)
    with pytest.raises(ValueError, match="most_tokens is given, it must be left out for internvl"):
        image_tokens("internvl", 5, 5, 100)
    with pytest.raises(ValueError, match="frames is 3, it must be even"):
        qwen_video_tokens(100, 100, 3)
    with pytest.raises(ValueError, match="duration_s is nan"):
        video_frames(math.nan)
