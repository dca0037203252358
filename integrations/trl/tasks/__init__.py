"""Tasks that a trainer of TRL does, one a file."""
