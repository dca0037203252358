"""Complete Hugging Face model folders of trained models: written from the live model, and read back onto one."""
