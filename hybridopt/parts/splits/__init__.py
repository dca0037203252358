"""Which part of a parameter is state-full: one split per file."""
