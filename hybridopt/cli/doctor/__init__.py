"""The command `hybridopt doctor`: what this machine has, how fast it is, and whether results are right on it."""
