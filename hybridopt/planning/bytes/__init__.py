"""Bytes by closed forms: weights, state, and what updates take for a moment."""
