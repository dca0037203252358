"""The parameters that an optimizer trains, kept the same as those of its model."""
