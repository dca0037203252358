"""Schemes of kept inputs: one a file."""
