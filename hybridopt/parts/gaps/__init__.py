"""Lengths of windows that follow the loss: one schedule per file."""
