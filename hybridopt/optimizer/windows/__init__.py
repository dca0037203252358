"""Windows of steps: what of a parameter's training holds until the window ends."""
