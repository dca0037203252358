"""What a step costs beside the backend: microseconds and calls a tensor."""
