"""Weights that rest on the host or on disk, and are fetched layer by layer."""
