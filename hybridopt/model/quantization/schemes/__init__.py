"""Schemes of hybridopt's own, one a file."""
