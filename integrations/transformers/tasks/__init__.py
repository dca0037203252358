"""Tasks that transformers' own trainer does, one a file."""
