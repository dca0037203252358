"""What the tables share: records, README marks, bytes of tensors, times, worker processes."""
