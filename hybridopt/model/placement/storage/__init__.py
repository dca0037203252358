"""Where weights rest: memory of the host, files, and how they are read and written."""
