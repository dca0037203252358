"""Rank the ways to train a model, and search for those that fit a memory."""
