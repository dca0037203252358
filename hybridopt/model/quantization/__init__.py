"""Weights kept as codes, and the scales of codes as parameters."""
