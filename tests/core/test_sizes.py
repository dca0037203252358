"""Sizes are read as people write them, and never guessed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridopt import HybridOptError
from hybridopt.core.sizes import UNITS, bytes_of, gib, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [("24GiB", 24 * 2**30), ("80GB", 80 * 10**9), (" 1.5 tib ", 3 * 2**39), ("512mib", 2**29), ("7 B", 7)],
)
def test_units_are_told_apart(text, size):
    assert parse_size(text) == size


@given(st.integers(1, 10**6), st.sampled_from(sorted(UNITS)))
def test_every_number_with_every_unit(number, unit):
    assert parse_size(f"{number} {unit}") == number * UNITS[unit]


@pytest.mark.parametrize("value", ["24", 24, "24.5"])
def test_a_size_without_unit_is_refused_with_both_cures(value):
    with pytest.raises(HybridOptError, match=rf"--gpu={value!r} has no unit; write '{value}GiB' .*or '{value}GB'"):
        parse_size(value, "--gpu")


@pytest.mark.parametrize("value", ["GiB", "-3GiB", "lots", "", None, "3 GiB GiB", "nanGiB", "nan", -1.5, True, [24]])
def test_what_is_no_size_is_refused(value):
    with pytest.raises(HybridOptError, match="is no size; write a number with a unit"):
        parse_size(value)


def test_unknown_units_and_nothing_at_all_are_refused():
    with pytest.raises(HybridOptError, match="the unit 'gigs' is not known"):
        parse_size("24gigs")
    with pytest.raises(HybridOptError, match="above zero"):
        parse_size("0GiB")


@pytest.mark.parametrize("value", ["0", "0.0", 0, 0.0, "0GB", "0.2B", " 0 "])
def test_nothing_at_all_is_never_advised(value):
    with pytest.raises(HybridOptError, match="is nothing at all; give a size above zero, such as '24GiB'"):
        parse_size(value, "--gpu")


def test_advice_is_a_size_that_would_be_taken():
    with pytest.raises(HybridOptError, match="--gpu='25769803776' has no unit; write '25769803776B' if") as caught:
        parse_size("25769803776", "--gpu")
    assert parse_size(str(caught.value).split("'")[3]) == 24 * 2**30


@pytest.mark.parametrize("value", [0, -1, 2**61, True, 1.5, None, "0GiB"])
def test_bytes_are_a_whole_number_above_zero(value):
    assert bytes_of(7, "it") == 7 and bytes_of("2KiB", "it") == 2048
    with pytest.raises(HybridOptError, match="it="):
        bytes_of(value, "it")


@pytest.mark.parametrize("text", ["9" * 320 + "GiB", "2000000TiB", "9" * 30])
def test_more_than_any_device_has_is_refused_in_few_words(text):
    with pytest.raises(HybridOptError, match="more memory than any device has; give at most") as caught:
        parse_size(text)
    assert len(str(caught.value)) < 120


def test_gib_says_two_decimals():
    assert gib(3 * 2**29) == "1.50 GiB"
    assert gib(2**30 / 5) == "0.20 GiB"


@pytest.mark.parametrize(("size", "text"), [(2**20, "1.00 MiB"), (3 * 2**9, "1.50 KiB"), (7, "7.00 B")])
def test_small_sizes_are_not_rounded_to_nothing(size, text):
    assert gib(size) == text
