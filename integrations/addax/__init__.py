"""Addax: which rows are probed and which go through a backward pass, by length and memory."""
