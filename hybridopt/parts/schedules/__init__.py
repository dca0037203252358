"""A density that changes over the run: one schedule per file."""
