"""Every combination of parts, trained on a tiny task and held to what was asked for."""
