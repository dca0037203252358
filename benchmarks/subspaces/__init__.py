"""What a new subspace of a gradient costs, and how much of the gradient lies in it."""
