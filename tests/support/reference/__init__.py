"""Plain restatements of the published algorithms, in NumPy, from the papers' equations."""
