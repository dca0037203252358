"""Rebuilding checkpoint files from replay adapters: what `hybridopt replay` does."""
