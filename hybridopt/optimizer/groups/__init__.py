"""Param groups: which parameter is trained how, and by which numbers."""
