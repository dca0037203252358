"""Frozen base weights in 4 and 8 bits, by bitsandbytes."""
