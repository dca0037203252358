"""A training step on tensors without memory, and the most bytes that are alive in it."""
