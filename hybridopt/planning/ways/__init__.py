"""The ways to train a model, in the order in which they are tried."""
