"""Ready policies: each file is a table of routes under the method's own name."""
