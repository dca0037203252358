"""What ranks send each other in a training step, and what a step takes beside torch's own AdamW."""
