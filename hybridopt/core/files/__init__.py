"""JSON and tensor files, read strictly: no file can name code or run any."""
