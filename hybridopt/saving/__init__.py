"""What is written of a trained model, and how it is read back."""
