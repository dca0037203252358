"""A rule's own Python, printed as the loop body of a kernel in another language."""
