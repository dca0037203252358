"""How updates are carried out: torch's own kernels, banks of small parameters, compiled, or eagerly in slices."""
