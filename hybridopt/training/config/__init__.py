"""A run as plain data, and the YAML file it is read from and written to."""
