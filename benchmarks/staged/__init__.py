"""Layers that rest on the host beside the same layers on the device, training LoRA on nf4."""
