"""Zeroth-order runs saved as scalars: the log, its file, and the weights rebuilt from it."""
