"""When updates happen: one release per file."""
