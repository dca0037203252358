"""Reward functions, by whose names runs find them."""


def short(completions, **_):
    """Return more for shorter answers."""
    return [-float(len(text)) for text in completions]
