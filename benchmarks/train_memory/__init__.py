"""Peak memory of a whole training step by first-order methods."""
