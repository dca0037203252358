"""LoRA and its relatives, by PEFT."""
