"""The optimizer's state dict: written, and matched by name when it is loaded."""
