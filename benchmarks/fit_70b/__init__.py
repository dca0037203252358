"""Whole training steps of a model of Llama-3-70B's shape on one GPU: memory and speed beside the plan."""
