"""Gradients before they are used: checked, measured, clipped."""
