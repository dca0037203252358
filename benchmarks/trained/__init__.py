"""What `hybridopt train` does on a real device: the peak beside its plan, tokens a second, and the loss."""
