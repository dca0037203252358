"""Planned against measured peaks of training steps on a CPU."""
