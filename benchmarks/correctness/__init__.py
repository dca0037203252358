"""Whether results on a device are those of the CPU: every policy, adapters, quantization, and what is saved."""
