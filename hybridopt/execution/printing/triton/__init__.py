"""Traced rules as the text of Triton kernels."""
