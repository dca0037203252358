"""Counter-based random numbers, random directions, rounding, quantization grids."""
