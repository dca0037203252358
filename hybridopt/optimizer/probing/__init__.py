"""Training from losses at shifted weights: the machinery around directions."""
