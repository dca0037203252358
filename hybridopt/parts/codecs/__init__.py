"""How optimizer state is kept between two steps: one codec per file."""
