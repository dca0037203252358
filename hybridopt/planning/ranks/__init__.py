"""What a rank takes where several GPUs train one model: shards of FSDP2, or replicas of DDP."""
