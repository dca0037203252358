"""Models read from a folder tensor by tensor, and quantized while they are read."""
