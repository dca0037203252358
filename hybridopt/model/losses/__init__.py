"""Losses in pieces."""
