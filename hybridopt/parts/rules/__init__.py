"""Gradient to direction: one update rule per file; a rule without slots is state-free."""
