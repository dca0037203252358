"""Fine-tuning all-MiniLM-L6-v2 on SST-2: accuracy against bytes of state."""
