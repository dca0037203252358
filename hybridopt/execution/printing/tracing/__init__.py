"""A rule's Python, traced to lines about elements, rows and columns that any language can be printed from."""
