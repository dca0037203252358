"""Fine-tuning with every policy, all weights or LoRA: which learning rate, how good, how many bytes of state."""
