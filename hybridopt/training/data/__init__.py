"""Examples: read from files or the hub, recognized by their columns, and checked row by row."""
