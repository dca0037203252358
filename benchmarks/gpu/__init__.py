"""All that needs a GPU, part by part, within minutes: what was measured survives whatever stops it."""
