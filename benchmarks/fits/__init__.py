"""Which way to train fits on which GPU, by the planner alone."""
