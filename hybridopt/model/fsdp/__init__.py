"""Models that FSDP2 (`fully_shard`) has sharded over ranks, and what its modules keep of that."""
