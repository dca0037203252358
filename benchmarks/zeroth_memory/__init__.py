"""Peak memory and time of a step by zeroth-order methods."""
