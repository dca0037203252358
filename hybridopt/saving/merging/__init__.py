"""Model folders in full precision, made of a base and what training has changed: what `hybridopt merge` does."""
