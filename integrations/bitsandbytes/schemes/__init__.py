"""Schemes of frozen weights, one a file."""
