"""What a training run leaves behind: a folder that others load as it is, with a model card."""
