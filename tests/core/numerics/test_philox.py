"""Philox4x32-10 gives the published numbers, and what the paper's text gives, for every key and counter."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hybridopt.core.numerics.philox import fill_, words
from support.philox import MASK, restated

CPU = torch.device("cpu")
KEYS, WORDS = st.integers(0, (1 << 64) - 1), st.integers(0, MASK)


def unsigned(bits):
    return [[word & MASK for word in block] for block in bits.tolist()]


@pytest.mark.parametrize(
    ("counter", "key", "known"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_known_answers(counter, key, known):
    low, high, step, index = (int(word, 16) for word in counter.split())
    left, right = (int(word, 16) for word in key.split())
    block = (high << 32 | low) - ((high >> 31) << 64)  # as int64
    found = unsigned(words(right << 32 | left, block, 1, step, index, CPU))
    assert found == [[int(word, 16) for word in known.split()]] == [restated((low, high, step, index), (left, right))]


@given(KEYS, st.integers(0, (1 << 63) - 9), st.integers(1, 8), WORDS, WORDS)
def test_words_are_those_of_the_paper(key, first, count, step, index):
    halves = key & MASK, key >> 32
    counters = [(block & MASK, block >> 32, step, index) for block in range(first, first + count)]
    assert unsigned(words(key, first, count, step, index, CPU)) == [restated(c, halves) for c in counters]


@given(KEYS, st.integers(0, (1 << 63) - 9), st.integers(1, 8), WORDS, WORDS)
def test_what_is_compiled_writes_the_same(key, first, count, step, index):
    out = torch.empty(count, 4, dtype=torch.int32)
    fill_(out, torch.tensor([key & MASK, key >> 32, step, index]), torch.tensor(first))
    assert out.equal(words(key, first, count, step, index, CPU))


def test_no_blocks_are_none():
    assert words(1, 7, 0, 0, 0, CPU).shape == (0, 4)
