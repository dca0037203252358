"""Training of replicas: what DistributedDataParallel (DDP) averages, and when."""
