"""The command `hybridopt`: one file a command."""
