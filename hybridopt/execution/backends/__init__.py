"""Ways to carry out updates, one a file."""
