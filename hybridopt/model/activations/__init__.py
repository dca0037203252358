"""What is kept of the inputs of trained linear layers until the backward pass."""
