"""accelerate, and so the transformers `Trainer`."""
