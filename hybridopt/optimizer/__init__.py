"""The torch optimizer: groups, windows, hooks, probes, saved state."""
