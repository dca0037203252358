"""What reaches for weights that rest elsewhere gets right values, or is refused."""
