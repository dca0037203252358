"""Memory, time and bytes of training with layers that rest on disk, against bounds."""
