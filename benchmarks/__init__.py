"""Measurements of hybridopt, a package a table; run one as `python -m benchmarks.<table>`."""
