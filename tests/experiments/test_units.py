import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bufferlab.experiments.units import (
    BYTES,
    DURATIONS,
    RATES,
    format_duration,
    format_number,
    format_size,
    parse_duration,
    parse_rate,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [("4MiB", 4 << 20), ("4MB", 4_000_000), ("1.5 KiB", 1536), ("512", 512), ("0B", 0), ("1e3kB", 10**6)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "rate"), [("200Gbps", 25e9), ("25GB/s", 25e9), ("8bps", 1.0), ("1MiB/s", 2**20), ("100MBps", 1e8)]
)
def test_rates_tell_bits_from_bytes(text: str, rate: float) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5ms", 0.005),
        ("250us", 0.00025),
        ("250µs", 0.00025),
        ("3min", 180.0),
        ("1h", 3600.0),
        ("7 ns", 7e-9),
        ("2", 2.0),
    ],
)
def test_durations_are_exact(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "MiB", "4 QiB", "-1MiB", "nan", "inf", "1e999", "4MiB/s", "four", "4 M iB", "0x10"]
)
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"^must be a size such as 512KiB, 4MiB or 2GB"):
        parse_size(text)


@pytest.mark.parametrize("value", [True, math.nan, math.inf, -1.0])
def test_numbers_are_checked_too(value: float) -> None:
    with pytest.raises(ValueError, match=r"^must be a duration"):
        parse_duration(value)


@given(st.integers(0, 10**6), st.sampled_from(sorted(set(BYTES) - {""})))
def test_a_whole_number_of_any_unit_of_size(number: int, unit: str) -> None:
    assert parse_size(f"{number}{unit}") == number * int(BYTES[unit])
    assert parse_size(f" {number} {unit} ") == parse_size(f"{number}{unit}")


@given(st.floats(0, 1e6, allow_nan=False), st.sampled_from(sorted(DURATIONS)))
def test_durations_scale_with_their_unit(number: float, unit: str) -> None:
    assert parse_duration(f"{number!r}{unit}") == pytest.approx(number * DURATIONS[unit], rel=1e-12)


@given(st.floats(0, 1e6, allow_nan=False), st.sampled_from(sorted(RATES)))
def test_rates_scale_with_their_unit(number: float, unit: str) -> None:
    assert parse_rate(f"{number!r}{unit}") == pytest.approx(number * RATES[unit], rel=1e-12)


@given(st.text(max_size=12))
def test_any_text_is_a_number_or_a_value_error(text: str) -> None:
    for parse in (parse_size, parse_rate, parse_duration):
        try:
            value = parse(text)
        except ValueError:
            continue
        assert 0 <= value < math.inf


@given(st.floats(1e-6, 1e6))
def test_a_shown_duration_reads_back(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=0.006)


@given(st.integers(0, 1 << 50))
def test_a_shown_size_reads_back(size: int) -> None:
    assert parse_size(format_size(size)) == pytest.approx(size, rel=0.006, abs=1)


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1000, "1000 B"), (1024, "1 KiB"), (1023 * 1024, "1023 KiB"), (5 << 30, "5 GiB")]
)
def test_sizes_have_no_powers_of_ten(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("number", "text"), [(8.0914, "8.091"), (9999.4, "9999"), (9999.5, "10,000"), (1.2345e6, "1,234,500")]
)
def test_large_numbers_have_no_powers_of_ten(number: float, text: str) -> None:
    assert format_number(number) == text


@given(st.floats(0, 1e15))
def test_no_size_and_no_number_has_an_exponent_that_needs_none(value: float) -> None:
    assert "e+" not in format_size(value)
    assert "e+" not in format_number(value)
