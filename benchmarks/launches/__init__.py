"""What a step asks of a CUDA device, counted without one."""
