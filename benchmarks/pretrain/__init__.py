"""A small Llama from random weights with every policy: validation loss against bytes of state."""
