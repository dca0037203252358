"""Checks of the doctor, one a file; a new file is found by itself."""
