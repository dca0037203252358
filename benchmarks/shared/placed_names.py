"""What rows are about."""

RESIDENT, PLACED, GRADIENTS = "on the device", "on the host", "gradients"
