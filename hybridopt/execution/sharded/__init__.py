"""Updates of parameters that FSDP2 (`fully_shard`) has sharded over ranks."""
