"""Talking to a model that was trained: what `hybridopt chat` does."""
