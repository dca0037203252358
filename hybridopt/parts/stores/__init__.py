"""How a weight is kept and written: one store per file."""
