"""Reward functions, by whose names runs find them."""

import os


def capitals(completions, **_):
    """Return more for answers with more capital letters."""
    return [sum(letter.isupper() for letter in text) / 8 for text in completions]


if mark := os.environ.get("HYBRIDOPT_TEST_IMPORTED"):  # tells a test that this module was imported
    open(mark, "w").close()
