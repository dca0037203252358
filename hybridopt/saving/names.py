"""The names of the files in a saved folder that are no adapters; those have names of their library."""

__all__ = ["CONFIG", "DELTA", "REPLAY"]

CONFIG, DELTA = "hybridopt_config.json", "hybridopt_delta.safetensors"
REPLAY = "hybridopt_replay.safetensors"
