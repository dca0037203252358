"""Where gradients come from: one source per file."""
