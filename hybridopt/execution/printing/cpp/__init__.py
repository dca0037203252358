"""Traced rules as the text of C++ kernels."""
