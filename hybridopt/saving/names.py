"""The names of the files in a saved folder; adapters have PEFT's names."""

__all__ = ["CONFIG", "DELTA", "REPLAY"]

CONFIG, DELTA = "hybridopt_config.json", "hybridopt_delta.safetensors"
REPLAY = "hybridopt_replay.safetensors"
