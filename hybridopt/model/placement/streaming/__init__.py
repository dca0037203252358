"""Layers are fetched before they are computed with, and given back afterwards."""
