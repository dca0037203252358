"""Lightning: automatic and manual optimization."""
